"""RoIAlign by rows, against torchvision's loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from mutineck.detection.cpu.pooling import align_rows
from mutineck.detection.prepare import prepare

SIZE, SCALE = (7, 5), 1 / 8


def maps_and_regions(count: int = 200) -> tuple[Tensor, Tensor]:
    """Return maps and regions, some of them empty, beside the maps or beyond them."""
    generator = torch.Generator().manual_seed(count)
    maps = torch.randn(3, 6, 9, 14, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * 160 - 40
    sides = torch.rand(count, 2, generator=generator) * 120
    sides[:20] = 0
    image = torch.randint(0, 3, (count, 1), generator=generator).float()
    return maps, torch.cat([image, corner, corner + sides], dim=1)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_values_and_gradients_are_torchvisions_to_rounding(samples: int, channels_last: bool) -> None:
    maps, regions = maps_and_regions()
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    ours, theirs = (maps.clone().requires_grad_() for _ in range(2))
    found = align_rows(ours, regions, SIZE, SCALE, samples)
    expected = roi_align(theirs, regions, SIZE, SCALE, samples, aligned=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    gradient = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    found.backward(gradient)
    expected.backward(gradient)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=2e-5)


def test_it_repeats_and_a_region_is_alike_in_whatever_company() -> None:
    maps, regions = maps_and_regions()
    whole = align_rows(maps, regions, SIZE, SCALE, 2)
    assert torch.equal(align_rows(maps, regions, SIZE, SCALE, 2), whole)
    assert torch.equal(align_rows(maps, regions[50:60], SIZE, SCALE, 2), whole[50:60])


def test_no_region_is_no_row_and_a_gradient_of_zeros() -> None:
    maps, regions = maps_and_regions()
    maps.requires_grad_()
    found = align_rows(maps, regions[:0], SIZE, SCALE, 2)
    assert found.shape == (0, 6, 7, 5)
    found.sum().backward()
    assert maps.grad is not None and not maps.grad.any()


def test_mmcvs_layer_takes_it_where_it_suits_and_its_own_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare()
    from mmcv.ops import RoIAlign

    from mutineck.detection.cpu import pooling

    taken: list[int] = []

    def counted(maps: Tensor, *rest: object) -> Tensor:
        taken.append(len(maps))
        return align_rows(maps, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pooling, "align_rows", counted)
    maps, regions = maps_and_regions()
    for layer in (RoIAlign(SIZE, SCALE, 2), RoIAlign(SIZE, SCALE, 2, use_torchvision=True)):
        torch.testing.assert_close(
            layer(maps, regions), roi_align(maps, regions, SIZE, SCALE, 2, aligned=True), rtol=0, atol=1e-5
        )
    assert taken == [3, 3]
    for layer in (RoIAlign(SIZE, SCALE, 0), RoIAlign(SIZE, SCALE, 2, "max"), RoIAlign(SIZE, SCALE, 2, aligned=False)):
        assert layer(maps, regions).shape == (200, 6, 7, 5)
    assert RoIAlign(SIZE, SCALE, 2, use_torchvision=True)(maps.double(), regions.double()).dtype == torch.float64
    assert taken == [3, 3]
