"""What lies in an ignored box takes no part in any family's losses, and objects lose nothing by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mutineck.detection.configs import dataset_config, model_config, pipelines
from mutineck.detection.ignored import ignoring
from mutineck.detection.overlap import holds, lies_in
from mutineck.detection.specs import FAMILIES, DetectorSpec
from mutineck.detection.training import prepare
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json, write_json
from mutineck.system.seeding import seeded
from tests.detection.tiny import derive, detector

OBJECT = torch.tensor([[10.0, 20, 50, 60]])
CROWD = torch.tensor([[66.3, 8.7, 125.9, 90.1]])
"""No anchor lies in it to exactly a half."""
EVERYWHERE = torch.tensor([[-200.0, -200, 400, 400]])
"""Beyond the picture, since anchors reach beyond it."""
NOTHING = torch.zeros(0, 4)
TWO_STAGE = [family for family in FAMILIES if family.endswith("rcnn")]


def built(family: str) -> Any:
    from mutineck.detection.frozen import build_model

    with seeded(0):
        model = build_model(ignoring(model_config(DetectorSpec(**detector(family)), 2)))
        model.init_weights()
    return model.train()


def batch(boxes: Tensor) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shape = (96, 128, 3)
    return {
        "img": torch.randn(1, 3, *shape[:2], generator=generator),
        "img_metas": [{"img_shape": shape, "pad_shape": shape, "ori_shape": shape, "scale_factor": 1.0}],
        "gt_bboxes": [boxes],
        "gt_labels": [torch.ones(len(boxes), dtype=torch.int64)],
    }


def dense_gradients(family: str, boxes: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return whether each place's class scores, and its box, take a gradient `(P,)`, and the places: anchors or points."""
    model, given = built(family), batch(boxes)
    head = model.rpn_head if family in TWO_STAGE else model.bbox_head
    outputs = head(model.extract_feat(given["img"]))
    labels = [] if family in TWO_STAGE else [given["gt_labels"]]
    ignore = None if ignored is None else [ignored]
    torch.manual_seed(0)
    losses = head.loss(*outputs, given["gt_bboxes"], *labels, given["img_metas"], gt_bboxes_ignore=ignore)
    total = torch.stack([torch.stack(list(v)).sum() if isinstance(v, list) else v for v in losses.values()]).sum()
    priors = head.prior_generator.grid_priors([level.shape[2:] for level in outputs[0]], device="cpu")
    moved = []
    for maps in outputs[:2]:
        gradients = torch.autograd.grad(total, maps, retain_graph=True, allow_unused=True)
        levels = zip(gradients, maps, priors, strict=True)
        rows = [(m * 0 if g is None else g).permute(0, 2, 3, 1).reshape(len(p), -1) for g, m, p in levels]
        moved.append((torch.cat(rows) != 0).any(dim=1))
    return moved[0], moved[1], torch.cat(priors)


def lies_mostly_in(place: list[float], box: list[float]) -> bool:
    """Whether a point lies in a box, or an anchor to at least a half of its area."""
    if len(place) == 2:
        return all(low <= value <= high for value, low, high in zip(place, box[:2], box[2:], strict=True))
    sides = [min(place[i + 2], box[i + 2]) - max(place[i], box[i]) for i in (0, 1)]
    area = (place[2] - place[0]) * (place[3] - place[1])
    return max(0, sides[0]) * max(0, sides[1]) >= 0.5 * area


@pytest.mark.parametrize("family", FAMILIES)
def test_background_in_an_ignored_box_takes_no_gradient_and_all_else_does(family: str) -> None:
    before, _, places = dense_gradients(family, OBJECT, None)
    after, boxes, _ = dense_gradients(family, OBJECT, CROWD)
    inside = torch.tensor([lies_mostly_in(place, CROWD[0].tolist()) for place in places.tolist()])
    assert not (after & inside).any()
    assert (before & inside).sum() > 20, "without it, the same places learn that nothing is there"
    if family not in TWO_STAGE:  # an RPN samples among what is left, the others take all of it
        assert torch.equal(after, before & ~inside)
    assert boxes.any() and (after & boxes).sum() == boxes.sum(), "the object is learnt"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_object_in_a_crowd_keeps_all_that_is_assigned_to_it(family: str) -> None:
    """With mmdet's own `ignore_iof_thr` an object in a crowd region would have no anchor left."""
    _, alone, _ = dense_gradients(family, OBJECT, None)
    scores, boxes, _ = dense_gradients(family, OBJECT, EVERYWHERE)
    assert boxes.any() and torch.equal(boxes, alone)
    assert torch.equal(scores, boxes), "nothing but the object is left to learn"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_of_nothing_but_crowd_teaches_nothing(family: str) -> None:
    """To mmdet's assigners, where no object is all is background, whatever is ignored."""
    scores, boxes, _ = dense_gradients(family, NOTHING, EVERYWHERE)
    assert not scores.any() and not boxes.any()
    assert dense_gradients(family, NOTHING, NOTHING)[0].any()


@pytest.mark.parametrize("family", TWO_STAGE)
def test_second_stages_sample_no_background_in_an_ignored_box(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def background(ignored: Tensor) -> list[int]:
        """Return how many background samples of each stage lie in the crowd."""
        model, found = built(family), []
        heads = model.roi_head.bbox_head
        for head in heads if isinstance(heads, torch.nn.ModuleList) else [heads]:
            own = head.loss

            def noted(scores: Tensor, deltas: Tensor, rois: Tensor, labels: Tensor, *rest: Any, **more: Any) -> Any:
                samples = rois[labels == 2, 1:].tolist()
                found.append(sum(lies_mostly_in(sample, CROWD[0].tolist()) for sample in samples))
                return own(scores, deltas, rois, labels, *rest, **more)  # noqa: B023

            monkeypatch.setattr(head, "loss", noted)
        given = batch(OBJECT)
        if family == "mask_rcnn":
            from mmdet.core import BitmapMasks

            given["gt_masks"] = [BitmapMasks(np.ones((1, 96, 128), np.uint8), 96, 128)]
        torch.manual_seed(0)
        model.forward_train(**given, gt_bboxes_ignore=[ignored])
        return found

    stages = 3 if family == "cascade_rcnn" else 1
    assert background(CROWD) == [0] * stages
    assert min(background(NOTHING)) > 0


def test_a_detector_of_which_it_is_not_known_is_refused() -> None:
    model = model_config(DetectorSpec(**detector("retinanet")), 2)
    model["train_cfg"]["assigner"] = {"type": "SimOTAAssigner"}
    with pytest.raises(ExperimentError, match=r"SimOTAAssigner.*not known.*dataset\.crowd: background"):
        ignoring(model)


def test_nothing_of_it_is_saved() -> None:
    for family in FAMILIES:
        spec = DetectorSpec(**detector(family))
        plain = model_config(spec, 2)
        assert ignoring(plain) != plain == model_config(spec, 2)
        assert ignoring(ignoring(plain)) == ignoring(plain)


def test_parts_of_boxes() -> None:
    others = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = torch.tensor([[5.0, 0, 15, 10], [6, 0, 16, 10], [0, 0, 100, 100], [22, 2, 24, 4], [7, 0, 23, 10]])
    assert lies_in(boxes, others).tolist() == [True, False, False, True, False]
    assert lies_in(boxes, NOTHING).tolist() == [False] * 5 and lies_in(NOTHING, others).shape == (0,)
    points = torch.tensor([[0.0, 0], [10, 10], [15, 5], [25, 11]])
    assert holds(others, points).tolist() == [True, True, False, False]
    assert holds(NOTHING, points).tolist() == [False] * 4


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_ignored_boxes_go_the_way_of_their_picture(tiny: Study, tmp_path: Path, flip: float) -> None:
    """Scaled and mirrored as the objects are; none lost, none taken for an object."""
    prepare()
    from mmcv.utils import import_modules_from_strings
    from mmdet.datasets import build_dataset

    import_modules_from_strings(["mutineck.detection.repeatable"])
    content = read_json(tiny.path("dataset", "train.json"))
    image = content["images"][0]
    (first, *_) = [a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
    rows = [first, first | {"id": 10**6, "iscrowd": 1, "bbox": [10, 20, 30, 40]}]
    file = write_json(tmp_path / "train.json", content | {"images": [image], "annotations": rows})
    spec = tiny.experiment.input.model_copy(update={"scale": (64, 48), "flip": flip})
    train, _ = pipelines(spec, ignored=True)
    dataset = build_dataset(
        dataset_config(file, tiny.dataset.pictures, tiny.dataset.categories, train, seed=0, test=False)
    )
    item = dataset[0]
    x1, y1, x2, y2 = 5.0, 10.0, 20.0, 30.0  # half of the size
    expected = [64 - x2, y1, 64 - x1, y2] if flip else [x1, y1, x2, y2]
    assert item["gt_bboxes_ignore"].data.tolist() == [pytest.approx(expected)]
    assert len(item["gt_bboxes"].data) == len(item["gt_labels"].data) == 1


def test_the_setting_decides(tiny: Study, tmp_path: Path) -> None:
    from mutineck.detectors.training import detector_training

    for crowd, collected, assigner in (("ignored", True, "IgnoringMaxIoU"), ("background", False, "MaxIoU")):
        study = derive(tiny, tmp_path / crowd)
        spec = study.experiment.dataset.model_copy(update={"crowd": crowd})
        study = Study(
            study.experiment.model_copy(update={"dataset": spec}), study.root, Job("distillation", "student/seed0")
        )
        model = model_config(study.experiment.student.detector, 2)
        config = detector_training(
            study, {"type": "Distiller", "student": model}, ["a"], study.experiment.student.schedule, seed=0
        )
        assert ("gt_bboxes_ignore" in config.data.train.pipeline[-1]["keys"]) == collected
        assert config.model.student.train_cfg.rpn.assigner.type == f"{assigner}Assigner"
