"""Inheriting weights: everything outside the backbone, rows of categories by their names."""

from __future__ import annotations

import pytest
import torch

from mutineck.detection.loading import inherit_weights
from tests.detection.tiny import random_detector

LABEL_MAP = torch.tensor([2, -1, 0])  # the donor's first category is the heir's third, its second is unknown there


def test_one_label_set_is_copied_whole_but_for_the_backbone() -> None:
    heir, donor = random_detector("faster_rcnn", 3)[0], random_detector("faster_rcnn", 3)[0]
    donor.load_state_dict({name: value + 1 for name, value in donor.state_dict().items()})
    before = {name: value.clone() for name, value in heir.state_dict().items()}
    report = inherit_weights(heir, donor, torch.arange(3))
    outside = [name for name in before if not name.startswith("backbone.")]
    assert sorted(report.matched) == sorted(outside) and not report.mismatched
    for name, value in heir.state_dict().items():
        expected = before[name] if name.startswith("backbone.") else donor.state_dict()[name]
        assert torch.equal(value, expected), name


def test_weights_of_another_shape_stay_the_heirs_own_and_are_listed() -> None:
    heir, donor = random_detector("faster_rcnn", 3)[0], random_detector("faster_rcnn", 3, base_channels=16)[0]
    before = {name: value.clone() for name, value in heir.state_dict().items()}
    report = inherit_weights(heir, donor, torch.arange(3))
    laterals = {f"neck.lateral_convs.{i}.conv.weight" for i in range(4)}
    assert set(report.mismatched) == laterals
    assert all(torch.equal(heir.state_dict()[name], before[name]) for name in laterals)


def test_rows_of_another_width_stay_the_heirs_own_and_are_listed() -> None:
    heir, donor = random_detector("faster_rcnn", 4)[0], random_detector("faster_rcnn", 3, head_channels=64)[0]
    before = {name: value.clone() for name, value in heir.state_dict().items()}
    report = inherit_weights(heir, donor, LABEL_MAP)
    rows = {f"roi_head.bbox_head.{name}.weight" for name in ("fc_cls", "fc_reg")}
    assert rows <= set(report.mismatched)
    assert all(torch.equal(heir.state_dict()[name], before[name]) for name in rows)


def test_a_two_stage_heads_rows_go_by_category() -> None:
    heir, donor = (random_detector("faster_rcnn", n, box_per_category=True)[0] for n in (4, 3))
    with torch.no_grad():
        for parameter in donor.roi_head.bbox_head.parameters():
            parameter.add_(7)
    own = {name: value.clone() for name, value in heir.roi_head.bbox_head.state_dict().items()}
    inherit_weights(heir, donor, LABEL_MAP)
    scores, given = heir.roi_head.bbox_head.fc_cls, donor.roi_head.bbox_head.fc_cls
    for name in ("weight", "bias"):
        ours, theirs, before = getattr(scores, name), getattr(given, name), own[f"fc_cls.{name}"]
        assert torch.equal(ours[2], theirs[0]) and torch.equal(ours[0], theirs[2])
        assert torch.equal(ours[4], theirs[3]), "background"
        assert torch.equal(ours[1], before[1]) and torch.equal(ours[3], before[3]), "categories that the donor lacks"
    boxes, given = heir.roi_head.bbox_head.fc_reg.weight, donor.roi_head.bbox_head.fc_reg.weight
    assert torch.equal(boxes[8:12], given[0:4]) and torch.equal(boxes[0:4], given[8:12])
    assert torch.equal(boxes[4:8], own["fc_reg.weight"][4:8]) and torch.equal(boxes[12:], own["fc_reg.weight"][12:])


@pytest.mark.parametrize(
    ("categories", "label_map"), [(4, LABEL_MAP), (1, torch.tensor([-1, -1, 0]))], ids=["four", "one"]
)
def test_boxes_regressed_for_all_categories_alike_are_copied_whole(categories: int, label_map: torch.Tensor) -> None:
    heir, donor = (random_detector("faster_rcnn", n)[0] for n in (categories, 3))
    with torch.no_grad():
        donor.roi_head.bbox_head.fc_reg.weight.add_(7)
    inherit_weights(heir, donor, label_map)
    assert torch.equal(heir.roi_head.bbox_head.fc_reg.weight, donor.roi_head.bbox_head.fc_reg.weight)


@pytest.mark.parametrize(
    ("family", "name"),
    [("retinanet", "retina_cls"), ("fcos", "conv_cls"), ("atss", "atss_cls"), ("gfl", "gfl_cls")],
    ids=["retinanet", "fcos", "atss", "gfl"],
)
def test_a_one_stage_heads_rows_go_by_category_for_every_anchor(family: str, name: str) -> None:
    heir, donor = random_detector(family, 4)[0], random_detector(family, 3)[0]
    ours, theirs = getattr(heir.bbox_head, name), getattr(donor.bbox_head, name)
    with torch.no_grad():
        theirs.weight.add_(7)
    before = ours.weight.clone()
    anchors = len(before) // 4
    report = inherit_weights(heir, donor, LABEL_MAP)
    assert f"bbox_head.{name}.weight" in report.matched
    for anchor in range(anchors):
        row, given = anchor * 4, anchor * 3
        assert torch.equal(ours.weight[row + 2], theirs.weight[given])
        assert torch.equal(ours.weight[row], theirs.weight[given + 2])
        assert torch.equal(ours.weight[row + 1], before[row + 1]) and torch.equal(ours.weight[row + 3], before[row + 3])
