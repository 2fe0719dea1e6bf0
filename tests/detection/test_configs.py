"""Configs: every family at every width, published sizes untouched, schedules that scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mutineck.detection.configs import (
    has_masks,
    model_config,
    pipelines,
    read_config,
    training_config,
    write_config,
)
from mutineck.detection.frozen import build_model
from mutineck.detection.specs import FAMILIES, DetectorSpec, InputSpec, ScheduleSpec
from mutineck.detection.training import _take_share
from mutineck.system.errors import ExperimentError
from tests.detection.tiny import detector


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [16, 48])
def test_every_family_builds_at_every_width(family: str, channels: int) -> None:
    model = build_model(model_config(DetectorSpec(**detector(family, neck_channels=channels)), 3)).eval()
    with torch.no_grad():
        # One picture whose coarsest map is one cell: the least that normalisation may see.
        maps = model.extract_feat(torch.zeros(1, 3, 64, 64))
        found = model.forward_dummy(torch.zeros(1, 3, 64, 64))
    assert {m.shape[1] for m in maps} == {channels} and len(found)
    for head in (m for m in model.modules() if isinstance(m, nn.GroupNorm)):
        assert head.num_channels // head.num_groups >= 8


@pytest.mark.parametrize("family", FAMILIES)
def test_at_published_width_a_family_is_the_published_network(family: str) -> None:
    from mutineck.detection.configs import FAMILY_CONFIGS

    ours = build_model(model_config(DetectorSpec(family=family, depth=50), 80))
    published = read_config(FAMILY_CONFIGS[family]).model
    published.backbone.init_cfg = None
    if family in ("faster_rcnn", "mask_rcnn"):
        # The one difference: boxes are regressed for all categories alike.
        published.roi_head.bbox_head.reg_class_agnostic = True
    theirs = build_model(published)
    shapes = {name: tuple(value.shape) for name, value in ours.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    groups = [(m.num_groups, m.num_channels) for m in ours.modules() if isinstance(m, nn.GroupNorm)]
    assert groups == [(m.num_groups, m.num_channels) for m in theirs.modules() if isinstance(m, nn.GroupNorm)]


@pytest.mark.parametrize("pretrained", [None, "torchvision://resnet18"], ids=["random", "pretrained"])
def test_only_a_pretrained_backbone_has_frozen_stages(pretrained: str | None) -> None:
    model = build_model(model_config(DetectorSpec(family="faster_rcnn", depth=18, pretrained=pretrained), 3))
    assert all(p.requires_grad for p in model.backbone.parameters()) == (pretrained is None)
    assert model.backbone.norm_eval == (pretrained is not None)


def test_a_config_is_looked_for_in_mmdets_folder_and_near_ones_are_named() -> None:
    assert read_config("retinanet/retinanet_r50_fpn_1x_coco.py").model.type == "RetinaNet"
    with pytest.raises(ExperimentError, match=r"did you mean .*'retinanet_r50_fpn_1x_coco\.py'"):
        read_config("retinanet/retinanet_r50_fpn_1x_cocoo.py")


def test_masks_are_read_only_for_who_needs_them() -> None:
    assert has_masks(model_config(DetectorSpec(**detector("mask_rcnn")), 3))
    assert not has_masks(model_config(DetectorSpec(**detector("faster_rcnn")), 3))
    train, test = pipelines(InputSpec(), masks=True)
    assert "gt_masks" in train[-1]["keys"] and train[1]["with_mask"]
    assert "gt_masks" not in pipelines(InputSpec())[0][-1]["keys"]
    assert [s["type"] for s in test] == ["LoadImageFromFile", "MultiScaleFlipAug"]


def config_of(**changes: Any) -> Any:
    schedule = {"epochs": 12, "batch": 8, "base_batch": 16, "learning_rate": 0.02}
    return training_config(
        model={},
        train={},
        val={},
        schedule=ScheduleSpec(**schedule),
        seed=3,
        work_dir=Path("/nowhere/training"),
        **changes,
    )


def test_the_learning_rate_scales_with_the_batch_and_steps_with_the_epochs() -> None:
    config = config_of()
    assert config.optimizer.lr == pytest.approx(0.01)
    assert config.lr_config.step == [8, 11]
    assert config.data.samples_per_gpu == 8
    assert config.find_unused_parameters is False


def test_processes_share_the_batch_or_are_refused_with_both_numbers() -> None:
    config = config_of()
    _take_share(config, 4)
    assert config.data.samples_per_gpu == config.data.val_dataloader.samples_per_gpu == 2
    with pytest.raises(ExperimentError, match=r"schedule\.batch=2 does not divide by 3 processes"):
        _take_share(config, 3)


def test_a_written_config_is_read_as_it_was(tmp_path: Path) -> None:
    fields = {
        "model": {"type": "RetinaNet", "neck": None, "sizes": [(1,), (), [], {}], "rate": 1e-05, "on": True},
        "long": [{"type": "LoadImageFromFile", "path": '/it\'s/a "folder"/{of}/pictures\\n' * 3}] * 3,
        "loss": {"lambda": 1, "two words": 2, "nested": {"a": {"b": {"c": -0.5}}}},
    }
    written = read_config(write_config(tmp_path / "config.py", fields))
    assert written._cfg_dict.to_dict() == fields
    whole = read_config("faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py")._cfg_dict.to_dict()
    assert read_config(write_config(tmp_path / "whole.py", whole))._cfg_dict.to_dict() == whole
    assert all(len(line) <= 120 for line in (tmp_path / "whole.py").read_text().splitlines())
