"""Convolutions by minimal filtering, against those that they replace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mutineck.detection.cpu.winograd import TILES, WinogradConv2d, convolve, transform, with_winograd

SHAPES = {
    "whole_tiles": (2, 8, 12, 16, 20),
    "parts_of_tiles": (3, 5, 7, 13, 18),
    "one_cell": (1, 4, 4, 1, 1),
    "less_than_a_tile": (2, 3, 9, 3, 2),
    "many_rows_of_tiles": (1, 4, 6, 4 * 2 * TILES, 5),
    "a_row_of_more_tiles_than_fit": (1, 4, 6, 5, 4 * TILES + 3),
    "several_pictures_at_once": (9, 4, 4, 9, 9),
}


def convolution(c: int, k: int, *, bias: bool = True, **changes: object) -> nn.Conv2d:
    torch.manual_seed(c + k)
    return nn.Conv2d(c, k, **{"kernel_size": 3, "padding": 1, "bias": bias, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_it_is_the_convolution_to_rounding(name: str, bias: bool) -> None:
    n, c, k, height, width = SHAPES[name]
    plain = convolution(c, k, bias=bias)
    maps = torch.randn(n, c, height, width)
    with torch.no_grad():
        expected = plain.double()(maps.double())
    found = convolve(maps, transform(plain.weight), None if plain.bias is None else plain.bias.float())
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 3e-5 * float(expected.abs().max())


def large() -> tuple[WinogradConv2d, nn.Conv2d, torch.Tensor]:
    plain = convolution(128, 128)
    return WinogradConv2d(plain), plain, torch.randn(2, 128, 32, 32)


def test_large_maps_take_the_short_way_and_the_rest_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from mutineck.detection.cpu import winograd

    taken: list[int] = []
    monkeypatch.setattr(winograd, "convolve", lambda maps, *rest: taken.append(len(maps)) or convolve(maps, *rest))
    ours, plain, maps = large()
    with torch.no_grad():
        torch.testing.assert_close(ours(maps), plain(maps), rtol=1e-4, atol=1e-4)
        assert taken == [2]
        assert torch.equal(ours(maps[:1, :, :2, :3]), plain(maps[:1, :, :2, :3])), "too small to gain"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ours(maps).dtype == torch.bfloat16
        assert ours.double()(maps.double()).dtype == torch.float64
    ours, plain, maps = large()
    assert ours(maps.requires_grad_()).requires_grad
    assert taken == [2]


def test_changed_weights_count() -> None:
    ours, plain, maps = large()
    with torch.no_grad():
        before = ours(maps)
        plain.weight.mul_(2)
        plain.bias.mul_(2)  # type: ignore[union-attr]
        torch.testing.assert_close(ours(maps), 2 * before)


def test_weights_keep_their_names_and_only_what_suits_is_replaced() -> None:
    network = nn.Sequential(
        convolution(3, 4),
        nn.Sequential(convolution(4, 4, stride=2), convolution(4, 4, kernel_size=1, padding=0)),
        convolution(4, 4, groups=2),
        convolution(4, 4, dilation=2, padding=2),
        convolution(4, 4, padding_mode="reflect"),
        convolution(4, 4, padding=0),
        convolution(4, 5, bias=False),
    ).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = with_winograd(network)
    replaced = [name for name, module in found.named_modules() if isinstance(module, WinogradConv2d)]
    assert replaced == ["0", "6"]
    assert not any(module.training for module in found.modules())
    assert found.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())
