"""Boxes that a training ignores: neither object nor background, in every family of detectors.

mmdet 2 has an `ignore_iof_thr` in its assigners, off by default. It is not used here: it takes from an object the
anchors that lie in a crowd region, it is skipped for a picture without any object, and FCOS has no assigner at all.
Here objects keep what they are assigned, as in COCO's evaluation a detection meets objects before crowds; what is
assigned to the background and lies in an ignored box is left out of the loss.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.core.bbox.assigners import ATSSAssigner, MaxIoUAssigner
from mmdet.core.bbox.builder import BBOX_ASSIGNERS
from mmdet.models import HEADS
from mmdet.models.dense_heads import FCOSHead
from torch import Tensor

from mutineck.detection.configs import dicts_in
from mutineck.detection.overlap import holds, lies_in
from mutineck.system.errors import ExperimentError

SILENT = -100.0
"""Logit of a background place at which a focal loss and its gradient are exactly 0."""


class _LeavesOutIgnored:
    """Makes an assigner of mmdet's leave out the background boxes that lie in ignored ones."""

    def assign(self, bboxes: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return mmdet's `AssignResult`, with -1 (neither object nor background) for what lies in an ignored box.

        Args:
            bboxes: `(n, 4)` or more columns, anchors or proposals as `(x_min, y_min, x_max, y_max)`.
            args: as for mmdet's own, `gt_bboxes_ignore` among them.
            kwargs: as for mmdet's own.
        """
        own = super().assign  # type: ignore[misc]
        given = inspect.signature(own).bind(bboxes, *args, **kwargs)
        ignored = given.arguments.pop("gt_bboxes_ignore", None)
        result = own(*given.args, **given.kwargs)
        if ignored is not None:
            result.gt_inds[(result.gt_inds == 0) & lies_in(bboxes[:, :4], ignored)] = -1
        return result


@BBOX_ASSIGNERS.register_module()
class IgnoringMaxIoUAssigner(_LeavesOutIgnored, MaxIoUAssigner):
    """Of RPN, second stages, and RetinaNet."""


@BBOX_ASSIGNERS.register_module()
class IgnoringATSSAssigner(_LeavesOutIgnored, ATSSAssigner):
    """Of ATSS and GFL."""


@HEADS.register_module()
class IgnoringFCOSHead(FCOSHead):
    """FCOS's head, whose background points inside of ignored boxes take no part in the loss. Its weights are FCOS's."""

    def loss(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        gt_bboxes: Sequence[Tensor],
        gt_labels: Sequence[Tensor],
        img_metas: Any,
        gt_bboxes_ignore: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return mmdet's losses; `gt_bboxes_ignore` are each image's ignored boxes `(m, 4)`, input pixels."""
        if gt_bboxes_ignore is not None and any(len(boxes) for boxes in gt_bboxes_ignore):
            cls_scores = self._silenced(cls_scores, gt_bboxes, gt_labels, gt_bboxes_ignore)
        return super().loss(cls_scores, bbox_preds, centernesses, gt_bboxes, gt_labels, img_metas)

    def _silenced(
        self, scores: list[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor], ignored: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the scores `(N, K, H, W)` of each level, with those to leave out such that they cost nothing."""
        sizes = [tuple(level.shape[2:]) for level in scores]
        points = self.prior_generator.grid_priors(sizes, dtype=boxes[0].dtype, device=scores[0].device)
        assigned, _ = self.get_targets(points, boxes, labels)
        found = []
        for level, places, own in zip(scores, points, assigned, strict=True):
            # A point is a box of no size: doubled, it would be one of no area, so it is told apart here.
            inside = torch.stack([holds(each, places) for each in ignored])  # (N, HW)
            left_out = inside & (own.view(len(ignored), -1) == self.num_classes)
            found.append(level.masked_fill(left_out.view(-1, 1, *level.shape[2:]), SILENT))
        return found


ASSIGNERS = {"MaxIoUAssigner": IgnoringMaxIoUAssigner.__name__, "ATSSAssigner": IgnoringATSSAssigner.__name__}


def ignoring(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `model` dict whose training leaves ignored boxes (`gt_bboxes_ignore`) out of its losses.

    What it saves is the same: assigners have no weights, and FCOS's head keeps its names.

    Raises:
        ExperimentError: it has an assigner of another kind, for which that is not known.
    """
    changed = copy.deepcopy(dict(model))
    for node in dicts_in(changed):
        if node.get("type") == FCOSHead.__name__:
            node["type"] = IgnoringFCOSHead.__name__
        assigner = node.get("assigner")
        if isinstance(assigner, dict) and assigner.get("type") not in ASSIGNERS.values():
            if assigner.get("type") not in ASSIGNERS:
                raise ExperimentError(
                    f"a detector with a {assigner.get('type')}: how it ignores crowd regions and difficult objects is "
                    f"not known (only for {', '.join(ASSIGNERS)} and FCOS). Set dataset.crowd: background"
                )
            assigner["type"] = ASSIGNERS[assigner["type"]]
            assigner.pop("ignore_iof_thr", None)
    return changed
