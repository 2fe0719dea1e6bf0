"""A whole detector as one ONNX graph, from a normalised picture to its boxes.

What mmdet computes is traced as it is. Replaced are the steps whose Python decides by values, which a trace would fix
as they are for one picture: choosing by score, regions, and suppression.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mutineck.detection.complexity import median_seconds
from mutineck.detection.frozen import gives_dense_boxes
from mutineck.detection.prepare import prepare
from mutineck.detection.protocols import box_heads, drop_masks

INPUTS, OUTPUTS = ("image", "shape"), ("boxes", "scores", "labels")
OPSET = 17
EXAMPLE = (96, 128)
"""Height and width of the picture that is traced; any multiple of 32 runs."""
TOLERANCE = 1e-3
"""How far a box may be from PyTorch's (pixels), and a score."""
LEAST_ALIKE = 0.95
"""Share of the boxes that must be PyTorch's for a graph to pass: a wrong one has none of them, and a right one may
lose some where an overlap is as good as the threshold."""


class UntraceableError(RuntimeError):
    """The detector has no such graph; the message says why."""


class DetectionGraph(nn.Module):
    """A detector on one picture, free of decisions that a trace would freeze.

    Masks are not computed.

    Args:
        model: an mmdet detector: one-stage, or with an RPN and a plain or cascaded second stage.

    Raises:
        UntraceableError: it is of another kind.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        from mmdet.models.dense_heads import RPNHead
        from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead

        kind = type(model).__name__
        self.model = model
        self.roi_head: Any = getattr(model, "roi_head", None)
        if self.roi_head is None:
            head = getattr(model, "bbox_head", None)
            if not gives_dense_boxes(head):
                raise UntraceableError(
                    f"{kind}: its head is a {type(head).__name__}, which chooses boxes in its own way"
                )
        elif type(self.roi_head) not in (StandardRoIHead, CascadeRoIHead):
            raise UntraceableError(f"{kind}: its second stage is a {type(self.roi_head).__name__}")
        elif type(getattr(model, "rpn_head", None)) is not RPNHead:
            raise UntraceableError(f"{kind}: its regions do not come from an RPNHead")
        self.eval()

    def forward(self, image: Tensor, shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            image: `(1, 3, H, W)` float32, normalised, H and W multiples of 32.
            shape: `(2,)` int64, height and width of the picture in it, from the upper left; boxes end there.

        Returns:
            Boxes `(n, 4)` float32 as `(x_min, y_min, x_max, y_max)` in pixels of `image`, scores `(n,)`, labels `(n,)`
            int64; best first.
        """
        features = self.model.extract_feat(image)
        if self.roi_head is None:
            found = self._one_stage(features, shape)
        else:
            found = self._second_stage(features, regions(self.model.rpn_head, features, shape), shape)
        return found

    def _one_stage(self, features: tuple[Tensor, ...], shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        head = self.model.bbox_head
        meta = {"img_shape": shape, "scale_factor": 1.0}
        with _choosing_by(best_scores, head):
            boxes, scores, labels = head.get_bboxes(*head(features), img_metas=[meta], rescale=False, with_nms=False)[0]
        return suppressed(boxes, scores, labels, head.test_cfg.nms, head.test_cfg.max_per_img)

    def _second_stage(
        self, features: tuple[Tensor, ...], boxes: Tensor, shape: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)  # (R, 5): picture 0, box
        cascaded = isinstance(self.roi_head.bbox_head, nn.ModuleList)
        stages: list[Any] = [*box_heads(self.roi_head)]
        scores = []
        for number, stage in enumerate(stages):
            result = self.roi_head._bbox_forward(*([number] if cascaded else []), features, rois)
            scores.append(result["cls_score"])
            if number < len(stages) - 1:
                best = result["cls_score"][:, :-1].argmax(1)
                rois = stage.regress_by_class(rois, best, result["bbox_pred"], {"img_shape": shape})
        mean = (sum(scores) / float(len(scores))).softmax(-1)  # type: ignore[union-attr]
        decoded = stages[-1].bbox_coder.decode(rois[:, 1:], result["bbox_pred"], max_shape=shape)
        return self._by_category(decoded, mean[:, :-1])

    def _by_category(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections among boxes `(R, 4 or 4K)` by their scores `(R, K)`."""
        settings = self.roi_head.test_cfg
        count = scores.shape[1]
        each = boxes.reshape(-1, boxes.shape[1] // 4, 4).expand(-1, count, 4).reshape(-1, 4)
        flat = scores.reshape(-1)
        kept = (flat > settings.score_thr).nonzero().squeeze(1)
        labels = torch.remainder(kept, count)
        return suppressed(each[kept], flat[kept], labels, settings.nms, settings.max_per_img)


def regions(head: Any, features: tuple[Tensor, ...], shape: Tensor) -> Tensor:
    """Return an RPN's regions `(R, 4)` on one picture, as `RPNHead.get_bboxes` does."""
    settings = head.test_cfg
    scores, deltas = head(features)
    sizes = [level.shape[-2:] for level in scores]
    anchors = head.prior_generator.grid_priors(sizes, dtype=scores[0].dtype, device=scores[0].device)
    rows = []
    for number, (score, delta, anchor) in enumerate(zip(scores, deltas, anchors, strict=True)):
        flat = score[0].permute(1, 2, 0).reshape(-1).sigmoid()
        best, order = flat.sort(descending=True)
        best, order = best[: settings.nms_pre], order[: settings.nms_pre]
        rows.append(
            (best, delta[0].permute(1, 2, 0).reshape(-1, 4)[order], anchor[order], torch.full_like(best, number))
        )
    score, delta, anchor, level = (torch.cat(parts) for parts in zip(*rows, strict=True))
    boxes = head.bbox_coder.decode(anchor, delta, max_shape=shape)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    kept = ((width > settings.min_bbox_size) & (height > settings.min_bbox_size)).nonzero().squeeze(1)
    return suppressed(boxes[kept], score[kept], level[kept], settings.nms, settings.max_per_img)[0]


def suppressed(
    boxes: Tensor, scores: Tensor, labels: Tensor, settings: Mapping[str, Any], most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels after non-maximum suppression within each label, the best of them.

    Raises:
        UntraceableError: the suppression is of another kind, such as soft NMS.
    """
    from torchvision.ops import nms

    if (kind := settings.get("type", "nms")) != "nms":
        raise UntraceableError(f"ONNX has no suppression of the kind {kind!r}")
    largest = torch.cat([boxes, boxes.new_zeros(1, 4)]).max()  # there may be no box
    apart = boxes if settings.get("class_agnostic") else boxes + (labels.to(boxes) * (largest + 1))[:, None]
    kept = nms(apart, scores, float(settings["iou_threshold"]))[:most]
    return boxes[kept], scores[kept], labels[kept]


def best_scores(scores: Tensor, score_thr: float, topk: int, results: Any = None) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Return what mmdet's `filter_scores_and_topk` does: the best of scores `(M, K)`, their labels and rows."""
    flat, order = scores.reshape(-1).sort(descending=True)
    flat, order = flat[:topk], order[:topk]
    kept = (flat > score_thr).nonzero().squeeze(1)
    flat, order = flat[kept], order[kept]
    rows = torch.div(order, scores.shape[1], rounding_mode="floor")
    if isinstance(results, Mapping):
        results = {name: value[rows] for name, value in results.items()}
    elif results is not None:
        results = [value[rows] for value in results] if isinstance(results, list) else results[rows]
    return flat, order - rows * scores.shape[1], rows, results


@contextlib.contextmanager
def _choosing_by(choose: Callable[..., Any], head: nn.Module) -> Iterator[None]:
    """Within the block, a head chooses its boxes by another function than mmdet's `filter_scores_and_topk`."""
    name = "filter_scores_and_topk"
    modules = [sys.modules[kind.__module__] for kind in type(head).__mro__]
    published = {module: getattr(module, name) for module in modules if hasattr(module, name)}
    try:
        for module in published:
            setattr(module, name, choose)
        yield
    finally:
        for module, original in published.items():
            setattr(module, name, original)


def export_graph(model: Any, to: Path, metadata: Mapping[str, str]) -> int:
    """Write a detector as an ONNX file, and compare what onnxruntime detects with it.

    Args:
        model: an mmdet detector; its mask branch is taken off.
        to: the file.
        metadata: texts that the file carries.

    Returns:
        How many boxes were compared: those of three random pictures of different sizes.

    Raises:
        UntraceableError: the detector is of a kind that cannot be exported, or the boxes differ.
    """
    import onnx

    prepare()
    drop_masks(model)
    model = model.cpu().float().eval()
    graph = DetectionGraph(model)
    example = (torch.randn(1, 3, *EXAMPLE, generator=torch.Generator().manual_seed(0)), torch.tensor(EXAMPLE))
    free = {"image": {2: "height", 3: "width"}, **{name: {0: "detections"} for name in OUTPUTS}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer: what it fixes is fixed on purpose
        try:
            torch.onnx.export(
                graph, example, str(to), input_names=INPUTS, output_names=OUTPUTS, dynamic_axes=free,
                opset_version=OPSET, dynamo=False,
            )  # fmt: skip
        except UntraceableError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            raise UntraceableError(f"{type(model).__name__}: torch cannot export it ({reason})") from error
    file = onnx.load(str(to))
    onnx.helper.set_model_props(file, dict(metadata))
    onnx.save(file, str(to))
    return _compare(model, to)


def open_session(file: Path, threads: int = 0) -> Any:
    """Return onnxruntime's session of a file on the CPU, with so many threads (0: its own choice)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of names that it renames
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def graph_latency(model: Any, image: Tensor, shape: tuple[int, int], *, passes: int, threads: int) -> float:
    """Return the median seconds that onnxruntime takes on a CPU for what `latency` measures of PyTorch.

    Args:
        model: an mmdet detector, as it was trained.
        image: one picture `(1, 3, H, W)`, normalised, on the CPU.
        shape: height and width of the picture in it.
        passes: measured passes.
        threads: of onnxruntime.

    Raises:
        UntraceableError: the detector cannot be exported.
    """
    with tempfile.TemporaryDirectory() as folder:
        export_graph(model, Path(folder) / "graph.onnx", {})
        session = open_session(Path(folder) / "graph.onnx", threads)
    given = {"image": image.numpy(), "shape": np.array(shape, np.int64)}
    return median_seconds(lambda: session.run(None, given), passes)


def _compare(model: Any, file: Path) -> int:
    session = open_session(file)
    generator = torch.Generator().manual_seed(1)
    alike = count = 0
    for height, width in (EXAMPLE, EXAMPLE[::-1], (160, 192)):
        image = 2 * torch.randn(1, 3, height, width, generator=generator)
        shape = (height - 5, width - 9)
        ours = session.run(None, {"image": image.numpy(), "shape": np.array(shape, np.int64)})
        differences = box_differences(detections(model, image, shape), ours)
        alike += int((differences <= TOLERANCE).sum())
        count += len(differences)
    if alike < LEAST_ALIKE * count:
        raise UntraceableError(
            f"{type(model).__name__}: of {count} boxes on random pictures onnxruntime has {alike} as PyTorch has them"
        )
    return count


@torch.no_grad()
def detections(model: Any, image: Tensor, shape: tuple[int, int]) -> list[np.ndarray]:
    """Return what PyTorch detects, as the graph gives it: boxes `(n, 4)`, scores, labels."""
    whole = (*shape, 3)
    meta = {"img_shape": whole, "ori_shape": whole, "pad_shape": whole, "scale_factor": np.ones(4, np.float32)}
    meta["batch_input_shape"] = tuple(image.shape[-2:])
    result = model.simple_test(image, [meta], rescale=False)[0]
    each = result[0] if isinstance(result, tuple) else result
    rows = np.concatenate(each)
    return [rows[:, :4], rows[:, 4], np.repeat(np.arange(len(each)), [len(r) for r in each])]


def box_differences(one: list[np.ndarray], other: list[np.ndarray]) -> np.ndarray:
    """Return how far each of two sets of detections is from the other's, paired as well as can be.

    Args:
        one: boxes `(n, 4)`, scores `(n,)`, labels `(n,)`.
        other: the same, m of them.

    Returns:
        `(max(n, m),)`: the larger difference of coordinates and scores; infinite without a partner of the same label.
    """
    from scipy.optimize import linear_sum_assignment

    n, m = len(one[0]), len(other[0])
    most = max(n, m)
    far = np.full((most, most), 1e9)
    boxes = np.abs(one[0][:, None] - other[0][None]).max(-1, initial=0)
    scores = np.abs(one[1][:, None] - other[1][None])
    same = one[2][:, None] == other[2][None]
    far[:n, :m] = np.where(same, np.maximum(boxes, scores), 1e9)
    rows, columns = linear_sum_assignment(far)
    found = far[rows, columns]
    return np.where(found < 1e9, found, np.inf)
