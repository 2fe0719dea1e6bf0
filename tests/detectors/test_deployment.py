"""Detectors as ONNX files: onnxruntime finds the boxes that PyTorch finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mutineck import cli
from mutineck.detection import graph
from mutineck.detection.evaluation import device_of, predict
from mutineck.detection.graph import (
    UntraceableError,
    box_differences,
    detections,
    export_graph,
    graph_latency,
    open_session,
)
from mutineck.detection.specs import FAMILIES
from mutineck.detection.training import save_detector
from mutineck.detectors.deployment import export_onnx
from mutineck.detectors.folders import input_normalisation, load_model
from mutineck.detectors.loaders import evaluation_loader
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from tests.detection.tiny import random_detector

QUICK = ("faster_rcnn", "gfl")


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_onnxruntime_detects_on_pictures_what_pytorch_does(tiny: Study, tmp_path: Path, family: str) -> None:
    folder = tmp_path / family
    model, config = random_detector(family, len(tiny.dataset.categories))
    if family == "retinanet":
        with torch.no_grad():  # else its scores are all but the same, and which are the best is a matter of rounding
            model.bbox_head.retina_cls.weight.mul_(30)
    folder.mkdir()
    about = {"categories": tiny.dataset.categories, "normalisation": input_normalisation(tiny)}
    save_detector(folder, model, config, **about)
    file, compared = export_onnx(folder, tmp_path / f"{family}.onnx", scale=(128, 96))
    assert compared > 0
    session = open_session(file)
    if hasattr(getattr(model, "roi_head", None), "mask_head"):
        model.roi_head.mask_head = None
    found = 0
    for batch in evaluation_loader(tiny, "val", batch=1):
        # Not of a size or shape that was traced.
        image, (height, width) = batch.image[:, :, :64], batch.metas[0]["img_shape"][:2]
        for picture, shape in ((batch.image, (height, width)), (image, (61, width - 3))):
            ours = session.run(None, {"image": picture.numpy(), "shape": np.array(shape, np.int64)})
            theirs = detections(model, picture, shape)
            assert len(ours[0]) == len(theirs[0])
            assert box_differences(theirs, ours).max(initial=0) < 1e-3
            assert (np.diff(ours[1]) <= 0).all() and ours[2].dtype == np.int64
            found += len(ours[0])
    assert found > 20


def test_the_file_says_how_to_use_it_and_the_snippet_of_the_documents_runs(tiny: Study, tmp_path: Path) -> None:
    """The code in docs/detectors.md, on a picture of the study, gives what `mutineck predict` measures by."""
    folder = tiny.path("teachers", "faster_rcnn")
    file = tmp_path / "student.onnx"
    assert cli.main(["export", str(folder), "--onnx", str(file), "--scale", "128x96"]) == 0
    said = {row.key: json.loads(row.value) for row in onnx.load(str(file)).metadata_props}
    spec = tiny.experiment.input
    assert said["categories"] == list(tiny.dataset.categories) and said["scale"] == [128, 96]
    assert (said["mean"], said["std"], said["to_rgb"]) == (list(spec.mean), list(spec.std), True)
    assert (said["keep_ratio"], said["size_divisor"]) == (True, 32)
    text = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    batch = next(iter(evaluation_loader(tiny, "val", batch=1)))
    names = {"FILE": str(file), "PICTURE": batch.metas[0]["filename"]}
    for name, value in names.items():
        code = code.replace(f'"{name}"', repr(value))
    space: dict[str, np.ndarray] = {}
    exec(code, space)
    rows = predict(load_model(folder)[0], [batch], range(len(said["categories"])), device=device_of("cpu"))
    corners = np.array([row["bbox"] for row in rows])
    corners[:, 2:] += corners[:, :2]
    theirs = [corners, np.array([row["score"] for row in rows]), np.array([row["category_id"] for row in rows])]
    assert len(rows) and box_differences(theirs, [space["boxes"], space["scores"], space["labels"]]).max() < 0.05


def test_a_picture_without_any_detection_gives_no_box(tmp_path: Path) -> None:
    for family in QUICK:
        model, _ = random_detector(family, 2)
        head = model.roi_head.bbox_head.fc_cls if family == "faster_rcnn" else model.bbox_head.gfl_cls
        with torch.no_grad():
            head.weight.zero_()
            head.bias.fill_(-9.0)
            head.bias[-1] = 9.0 if family == "faster_rcnn" else -9.0
        assert export_graph(model, tmp_path / "a.onnx", {}) == 0
        found = open_session(tmp_path / "a.onnx").run(
            None, {"image": np.zeros((1, 3, 64, 96), np.float32), "shape": np.array([64, 96])}
        )
        assert [part.shape for part in found] == [(0, 4), (0,), (0,)]


def test_time_in_onnxruntime_is_measured_on_a_picture_of_the_study(tiny: Study) -> None:
    batch = next(iter(evaluation_loader(tiny, "val", batch=1)))
    model = load_model(tiny.path("teachers", "gfl"))[0]
    height, width = batch.metas[0]["img_shape"][:2]
    assert 0 < graph_latency(model, batch.image, (height, width), passes=1, threads=1) < 10


def test_what_cannot_be_exported_is_refused_with_its_reason(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = random_detector("faster_rcnn", 2)
    model.roi_head.test_cfg.nms = {"type": "soft_nms", "iou_threshold": 0.5}
    with pytest.raises(UntraceableError, match="ONNX has no suppression of the kind 'soft_nms'"):
        export_graph(model, tmp_path / "a.onnx", {})
    model.roi_head.__class__ = type("HTCRoIHead", (type(model.roi_head),), {})
    with pytest.raises(UntraceableError, match="FasterRCNN: its second stage is a HTCRoIHead"):
        export_graph(model, tmp_path / "a.onnx", {})
    # A graph that detects other things is not left behind.
    monkeypatch.setattr(graph, "regions", lambda head, features, shape: features[0].new_tensor([[1.0, 1.0, 9.0, 9.0]]))
    folder = tiny.path("teachers", "faster_rcnn")
    with pytest.raises(ExperimentError, match=r"faster_rcnn cannot be exported to ONNX: .* onnxruntime has 0 as"):
        export_onnx(folder, tmp_path / "b.onnx", scale=(128, 96))
    assert not (tmp_path / "b.onnx").exists()
    for given in ([], ["out", "--onnx", "b.onnx"]):
        assert cli.main(["export", str(folder), *given]) == 2
        assert "say one of OUT (for stock mmdet: OUT.pth and OUT.py) and --onnx FILE" in capsys.readouterr().err


def test_sets_of_boxes_are_compared_whatever_their_order() -> None:
    one = [np.array([[0.0, 0, 9, 9], [1, 1, 5, 5]]), np.array([0.9, 0.8]), np.array([0, 1])]
    moved = one[0][::-1] + np.array([0, 0, 0, 0.5])
    other = [moved, one[1][::-1], one[2][::-1]]
    assert box_differences(one, other) == pytest.approx([0.5, 0.5])
    assert np.isinf(box_differences(one, [one[0], one[1], np.array([0, 0])])).sum() == 1
    assert len(box_differences(one, [part[:0] for part in one])) == 2
