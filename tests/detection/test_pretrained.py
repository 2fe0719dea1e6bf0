"""Published weights that a backbone starts from: fetched by their hash, as data, whole."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mutineck.detection.configs import model_config
from mutineck.detection.frozen import build_model
from mutineck.detection.loading import CheckpointError
from mutineck.detection.pretrained import published_file
from mutineck.detection.specs import DetectorSpec
from mutineck.system.download import DownloadError
from tests.detection.test_loading import Payload
from tests.detection.tiny import detector
from tests.web import Host


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def started_from(pretrained: str, **changes: Any) -> nn.Module:
    model = build_model(model_config(DetectorSpec(**detector("faster_rcnn", pretrained=pretrained, **changes)), 3))
    model.init_weights()
    return model.backbone


def publish(host: Host, content: Any, digits: str | None = None) -> str:
    """Put a checkpoint on the host, under its hash if no digits are given; return its address."""
    file = io.BytesIO()
    torch.save(content, file)
    digits = hashlib.sha256(file.getvalue()).hexdigest()[:8] if digits is None else digits
    path = f"/resnet18{'-' if digits else ''}{digits}.pth"
    host.files[path] = file.getvalue()
    return host.url + path


@pytest.fixture(scope="module")
def backbone() -> dict[str, torch.Tensor]:
    model = build_model(model_config(DetectorSpec(**detector("faster_rcnn")), 3))
    state = {name: value + 1 for name, value in model.backbone.state_dict().items()}
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def test_a_backbone_starts_from_what_the_hash_says(host: Host, backbone: dict[str, torch.Tensor]) -> None:
    classifier = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    address = publish(host, backbone | classifier)
    found = started_from(address).state_dict()
    assert all(torch.equal(found[name], value) for name, value in backbone.items())
    host.files.clear()
    assert torch.equal(started_from(address).conv1.weight, backbone["conv1.weight"]), "fetched once"


@pytest.mark.parametrize(
    ("digits", "error", "message"),
    [
        pytest.param("00000000", DownloadError, "00000000", id="another hash"),
        pytest.param("", ValueError, "no checksum is given and its name states none", id="no hash"),
    ],
)
def test_what_is_not_what_its_name_says_is_not_used(
    digits: str,
    error: type[Exception],
    message: str,
    host: Host,
    backbone: dict[str, torch.Tensor],
) -> None:
    with pytest.raises(error, match=message):
        started_from(publish(host, backbone, digits))


def test_a_payload_behind_a_right_hash_is_not_executed(host: Host, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Nothing of it was executed"):
        started_from(publish(host, {"state_dict": {}, "meta": Payload(tmp_path / "owned")}))
    assert not (tmp_path / "owned").exists()


def test_weights_of_another_network_are_refused_not_loaded_in_part(
    backbone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(backbone, tmp_path / "small.pth")
    with pytest.raises(CheckpointError, match=r"(?s)of another shape.*check `pretrained`, depth and widths"):
        started_from(str(tmp_path / "small.pth"), base_channels=16)
    with pytest.raises(CheckpointError, match=r"(?s)missing.*check `pretrained`"):
        started_from(str(tmp_path / "small.pth"), depth=34)


def test_a_name_that_nobody_publishes_is_refused() -> None:
    with pytest.raises(CheckpointError, match="torchvision://resnet5: there are no published weights of that name"):
        published_file("torchvision://resnet5")
