"""Suppression by torchvision, against mmcv's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from mutineck.detection.cpu.suppression import suppression_limit
from mutineck.detection.prepare import prepare

CASES = ("spread", "crowded", "equal_scores", "levels_far_apart", "empty_boxes", "none")


def candidates(case: str, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = {"none": 0}.get(case, 600)
    corner = torch.rand(count, 2, generator=generator) * (20 if case == "crowded" else 150)
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 60], dim=1)
    scores = torch.rand(count, generator=generator)
    if case == "equal_scores":
        scores = (scores * 4).round() / 4
    if case == "levels_far_apart":
        boxes += 211.0 * (torch.arange(count) % 5)[:, None]
    if case == "empty_boxes":
        boxes[::3, 2:] = boxes[::3, :2]
    return boxes, scores


@pytest.mark.parametrize("case", CASES)
def test_suppression_keeps_the_boxes_of_mmcvs_own_in_their_order(case: str) -> None:
    prepare()
    from mmcv.ops.nms import ext_module

    (published,) = ext_module.nms.args
    for seed in range(3):
        boxes, scores = candidates(case, seed)
        for threshold in (0.3, 0.7):
            expected = published(boxes, scores, iou_threshold=threshold, offset=0)
            assert torch.equal(ext_module.nms(boxes, scores, iou_threshold=threshold, offset=0), expected)
            for count in (1, 40, 300):
                with suppression_limit(count), suppression_limit(1000):
                    found = ext_module.nms(boxes, scores, iou_threshold=threshold, offset=0)
                assert torch.equal(found, expected[:count])


def test_the_switch_leaves_mmcvs_operators() -> None:
    code = (
        "from mutineck.detection.prepare import prepare; prepare()\n"
        "from mmcv.ops import RoIAlign; from mmcv.ops.nms import ext_module\n"
        "print(hasattr(ext_module.nms, 'args'), hasattr(vars(RoIAlign)['forward'], 'args'))"
    )
    for switch, taken in (("on", "True True"), ("off", "False False")):
        environ = os.environ | {"MUTINECK_CPU": switch}
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
        assert told.stdout.strip() == taken
