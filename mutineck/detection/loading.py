"""Checkpoints: read as data only, matched strictly, reported in counts, and written so that they repeat."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mutineck.detection.checkpoint_layouts import find_detector, some, split_foreign
from mutineck.detection.compat import mend
from mutineck.detection.protocols import Detector, Module, box_heads, dense_head, is_two_stage
from mutineck.system.files import write_bytes


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names file, counts and remedy."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's weights.

    Attributes:
        source: the file.
        matched: names loaded.
        missing: names that the model has and the checkpoint lacks.
        unexpected: names that the checkpoint has and the model lacks.
        mismatched: names with the two shapes, where they differ.
        layout: where in the file the weights were found, if they are not all there is.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    layout: str = ""

    @property
    def complete(self) -> bool:
        """Whether every weight of the model came from the checkpoint and none was left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} of another shape"
        ]
        lines += [f"  read as: {self.layout}"] if self.layout else []
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            lines += [f"  {title}: {some(names)}"] if names else []
        shapes = [f"{name} (checkpoint {a}, model {b})" for name, (a, b) in self.mismatched.items()]
        lines += [f"  another shape: {some(shapes)}"] if shapes else []
        return "\n".join(lines)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU without running any code from it.

    Raises:
        CheckpointError: missing, truncated, or holding objects that are neither tensors nor plain data.
    """
    mend()
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own first lines advise to trust the file.
        said = str(error)
        reason = re.search(r"GLOBAL (\S+) was not", said) or re.search(r"WeightsUnpickler error: (.*)", said)
        what = reason.group(1) if reason else said.splitlines()[0]
        raise CheckpointError(
            f"{path}: not read, because it holds more than tensors and plain data, or is damaged ({what}). "
            "Nothing of it was executed. Save its state_dict alone: torch.save(model.state_dict(), PATH)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        if "maximum supported version" in str(error):
            raise CheckpointError(
                f"{path}: written by a newer torch, which this {torch.__version__} cannot read. There, write its "
                "weights anew: torch.save(state_dict, PATH, _use_new_zipfile_serialization=False)"
            ) from error
        size = path.stat().st_size
        raise CheckpointError(
            f"{path}: damaged or truncated ({size} bytes): {error}. Fetch or write it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a mapping of weights, got {type(content).__name__}")
    return content


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write a checkpoint atomically and return the path; equal content makes equal files, whose hash names it.

    Left to itself, torch writes the file's own name into it, and that of an atomic write is a random one; nor does it
    say why it could not write.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return write_bytes(path, buffer.getbuffer())


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the weights of the detector in a checkpoint, named as mmdet names them (see `find_detector`).

    Raises:
        CheckpointError: no weights, those of several detectors, or non-finite ones; names them.
    """
    return _read_detector(path)[0]


def _read_detector(path: str | Path, wanted: Iterable[str] = ()) -> tuple[dict[str, Tensor], str]:
    """Return the weights that a model of the ``wanted`` names can use, and where they were."""
    try:
        weights, layout = find_detector(read_checkpoint(path), _needed(wanted))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if broken := non_finite(weights):
        raise CheckpointError(f"{path}: non-finite weights in {len(broken)} tensors: {some(broken)}")
    return weights, layout


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold a NaN or an infinity."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]


def match_weights(model: Module, weights: Mapping[str, Tensor], source: str) -> LoadReport:
    """Compare weights with a model's, changing nothing."""
    own = model.state_dict()
    shared = own.keys() & weights.keys()
    mismatched = {
        name: (tuple(weights[name].shape), tuple(own[name].shape))
        for name in sorted(shared)
        if weights[name].shape != own[name].shape
    }
    missing = sorted(_needed(own) - weights.keys())
    return LoadReport(
        source=source,
        matched=tuple(sorted(shared - mismatched.keys())),
        missing=tuple(missing),
        unexpected=tuple(sorted(weights.keys() - own.keys())),
        mismatched=mismatched,
    )


def _needed(names: Iterable[str]) -> set[str]:
    # BatchNorm's step counter is absent from checkpoints of old torch versions, and no output depends on it.
    return {name for name in names if not name.endswith("num_batches_tracked")}


def load_strictly(model: Module, path: str | Path) -> LoadReport:
    """Load a checkpoint into a model, all of it or nothing.

    Returns:
        The report, which is complete.

    Raises:
        CheckpointError: any weight is missing, left over or of another shape; the message counts and names them.
            What no detector has, as adapters that a student was trained with, is left aside and reported.
    """
    weights, layout = _read_detector(path, model.state_dict())
    report = replace(match_weights(model, weights, str(path)), layout=layout)
    if not report.missing and not report.mismatched:
        unexpected, aside = split_foreign(report.unexpected)
        report = replace(report, unexpected=unexpected, layout=", ".join(filter(None, (layout, aside))))
    if not report.complete:
        raise CheckpointError(
            f"{report}\nThe checkpoint does not fit this {type(model).__name__}; nothing was loaded. Check that "
            "config and checkpoint belong together, and the number of categories."
        )
    model.load_state_dict({name: weights[name] for name in report.matched}, strict=False)
    return report


# Layers that have rows for each category, and how the rows lie.
# A two-stage head has K + 1 rows of scores and K blocks of 4 box rows; a one-stage one has, for each anchor, K rows.
CATEGORY_LAYERS = {
    "fc_cls": "scores",
    "fc_reg": "boxes",
    "retina_cls": "anchors",
    "conv_cls": "anchors",
    "atss_cls": "anchors",
    "gfl_cls": "anchors",
}


def inherit_weights(target: Detector, donor: Detector, label_map: Tensor) -> LoadReport:
    """Copy every weight outside the backbone that two detectors of one type share, rows of categories by their names.

    What differs in shape stays the target's own and is listed; so do the rows of categories that the donor lacks.

    Args:
        target: the detector that inherits.
        donor: a detector of the same type.
        label_map: `(K,)` int64, the target's label of each of the donor's categories, -1 where it has none.
    """
    own = target.state_dict()
    device = next(iter(own.values())).device  # the donor may be on a GPU already
    aside = ("backbone.", "roi_head.mask_head.")
    offered = {n: v.to(device) for n, v in donor.state_dict().items() if not n.startswith(aside)}
    label_map, categories = label_map.to(device), _categories_of(target)
    if not torch.equal(label_map, torch.arange(categories, device=device)):
        for name in list(offered):
            layout = CATEGORY_LAYERS.get(name.split(".")[-2]) if "." in name else None
            # Layers of another width share nothing: they stay the target's own and are listed below.
            if layout and name in own and offered[name].shape[1:] == own[name].shape[1:]:
                offered[name] = _remap_rows(own[name], offered[name], label_map, categories, layout)
    report = match_weights(target, offered, f"inherited from {type(donor).__name__}")
    target.load_state_dict({name: offered[name] for name in report.matched}, strict=False)
    return report


def _categories_of(model: Detector) -> int:
    return int((box_heads(model.roi_head)[0] if is_two_stage(model) else dense_head(model)).num_classes)


def _remap_rows(own: Tensor, offered: Tensor, label_map: Tensor, categories: int, layout: str) -> Tensor:
    """Return `own` with the rows of the categories that `offered` knows replaced by its rows."""
    source = (label_map >= 0).nonzero().squeeze(1)
    goal = label_map[source]
    result = own.clone()
    known = len(label_map)
    if layout == "anchors":
        anchors = own.shape[0] // categories
        result.view(anchors, categories, *own.shape[1:])[:, goal] = offered.view(anchors, known, *own.shape[1:])[
            :, source
        ]
    elif layout == "scores":
        result[goal] = offered[source]
        result[categories] = offered[known]
    elif own.shape[0] == 4 * categories and offered.shape[0] == 4 * known:
        result.view(categories, 4, *own.shape[1:])[goal] = offered.view(known, 4, *own.shape[1:])[source]
    else:
        # Boxes regressed for all categories alike have no rows to map.
        result = offered.clone()
    return result
