"""Two processes with half a batch each move the weights as one process with the whole batch does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mutineck.distillation.stage import distiller_config
from mutineck.study.experiment_file import repository
from mutineck.study.stage import Study
from tests.detection.tiny import first_batch
from tests.distillation.two_processes import IMAGES, gradients


@pytest.mark.slow
@pytest.mark.parametrize("balance", [0, 1], ids=["fixed", "balanced"])
def test_gradients_of_mutineck_with_joint_merging(
    joint: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balance: int
) -> None:
    """Equal to 1e-5, L_merge and detection losses with them.

    mmdet divides by the number of samples in a process, and its samplers fill every picture to the same number (256
    anchors, 64 regions), so halves average to the whole. Two things would differ for reasons that are not ours: which
    samples are drawn (here always the first ones) and BatchNorm's statistics (here the running ones).
    """
    from mmdet.core.bbox.samplers import RandomSampler

    monkeypatch.setattr(RandomSampler, "random_choice", RandomSampler.random_choice)  # restored after the test
    config = distiller_config(joint.at("distillation", "mutineck/seed0"))
    config["student"]["backbone"]["norm_eval"] = True
    config["guidance"]["weights"]["balance"] = balance
    data = first_batch(joint, IMAGES)
    torch.save(config, tmp_path / "config.pt")
    torch.save(data, tmp_path / "data.pt")
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(repository()), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    one, two = gradients(config, data), torch.load(tmp_path / "two.pt", weights_only=True)
    assert one["gradients"].keys() == two["gradients"].keys()
    assert any(name.startswith("guidance.ensemble.joint.detector.backbone.neck.spatial") for name in one["gradients"])
    for name, value in one["gradients"].items():
        other = two["gradients"][name]
        assert value is not None and other is not None, f"unused: {name}"
        scale = max(1.0, float(value.abs().max()))
        assert float((value - other).abs().max()) <= 1e-5 * scale, name
    for term, value in one["terms"].items():
        if "loss" in term:
            assert two["terms"][term] == pytest.approx(value, rel=1e-4, abs=1e-6), term
    assert two["shares"] == pytest.approx(one["shares"], rel=1e-4, abs=1e-9) and len(one["shares"]) > 8
