"""What is put in the place of mmcv's own does the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mutineck.detection.prepare import prepare


def test_a_training_told_cpu_is_wrapped_for_no_gpu_whatever_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdet.utils import build_dp

    prepare()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    model = torch.nn.Linear(2, 2)
    wrapped = build_dp(model, "cpu", device_ids=[0])
    assert wrapped.device_ids == [] and wrapped.module is model
    assert wrapped(torch.ones(1, 2)).device.type == "cpu"


def test_modulated_deformable_convolutions_read_maps_as_they_lie() -> None:
    """mmcv's operator takes channels-last memory for channels-first: another result, and no error."""
    prepare()
    from mmcv.ops.modulated_deform_conv import ModulatedDeformConv2d, ModulatedDeformConv2dFunction

    generator = torch.Generator().manual_seed(0)
    layer = ModulatedDeformConv2d(8, 4, 3, padding=1, bias=False)
    given = [torch.randn(1, channels, 6, 7, generator=generator) for channels in (8, 18, 9)]
    turned = [each.contiguous(memory_format=torch.channels_last) for each in given]
    with torch.no_grad():
        expected = layer(*given)
        torch.testing.assert_close(layer(*turned), expected)
        raw = ModulatedDeformConv2dFunction.apply(*turned, layer.weight, None, 1, 1, 1, 1, 1)
    assert not torch.allclose(raw, expected), "mmcv reads them itself: what mends it is no longer needed"


def test_nothing_is_warned_of_that_nobody_can_mend() -> None:
    """In a process of its own: every module is imported, and detectors are built and looked through."""
    code = """
import importlib, inspect, pkgutil
import mutineck
for module in pkgutil.walk_packages(mutineck.__path__, "mutineck."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from mutineck.detection.configs import model_config
from mutineck.detection.frozen import build_model
from mutineck.study.experiment import DetectorSpec
for family in ("faster_rcnn", "gfl"):
    model = build_model(model_config(DetectorSpec(family=family, base_channels=8, neck_channels=16), 3))
    inspect.getmembers(model.rpn_head if family == "faster_rcnn" else model.bbox_head)
"""
    environ = os.environ | {"CUDA_HOME": "/usr/local"}
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert finished.stderr == ""
