"""Instance vectors against closed forms."""

from __future__ import annotations

import pytest
import torch

from mutineck.detection.roi import instance_features, instance_vectors


def pyramid(n: int = 2, c: int = 3, strides=(4, 8)) -> dict[int, torch.Tensor]:
    """Maps whose value is the x coordinate (channel 0), the y coordinate (1) and the stride (2)."""
    maps = {}
    for stride in strides:
        height, width = 256 // stride, 320 // stride
        x = (torch.arange(width) + 0.5) * stride
        y = (torch.arange(height) + 0.5) * stride
        channels = [
            x.expand(height, width),
            y[:, None].expand(height, width),
            torch.full((height, width), stride),
        ]
        maps[stride] = torch.stack(channels[:c]).float().expand(n, c, height, width)
    return maps


def test_the_mean_of_a_linear_map_is_its_value_at_the_centre():
    boxes = [torch.tensor([[20.0, 30, 60, 50], [40, 40, 200, 180]]), torch.tensor([[8.0, 8, 24, 40]])]
    vectors = instance_vectors(pyramid(), boxes)
    flat = torch.cat(boxes)
    expected = torch.stack(
        [(flat[:, 0] + flat[:, 2]) / 2, (flat[:, 1] + flat[:, 3]) / 2, torch.tensor([4.0, 8.0, 4.0])], dim=1
    )
    torch.testing.assert_close(vectors, expected)


@pytest.mark.parametrize("strides", [(4, 8, 16), (8,)], ids=str)
def test_vectors_are_the_mean_of_the_pooled_maps_with_the_same_gradient(strides):
    generator = torch.Generator().manual_seed(0)
    # Boxes of all sizes, some over the border, some wholly beside the map, some without area.
    corners = torch.rand(2, 40, 2, generator=generator) * torch.tensor([240.0, 200]) - 30
    sides = torch.rand(2, 40, 2, generator=generator).pow(3) * 200
    boxes = list(torch.cat([corners, corners + sides], dim=2))
    boxes[0][:3] = torch.tensor([[-300.0, 5, -100, 60], [20, 20, 20, 50], [600, 600, 700, 700]])
    maps = {s: torch.randn(2, 5, 160 // s, 192 // s, generator=generator).requires_grad_() for s in strides}
    weights = torch.randn(80, 5, generator=generator)
    found = instance_vectors(maps, boxes)
    slow = instance_features(maps, boxes).mean(dim=(2, 3))
    torch.testing.assert_close(found, slow, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad((v * weights).sum(), list(maps.values())) for v in (found, slow)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_come_in_the_order_of_images_and_boxes_whatever_their_levels():
    maps = pyramid()
    boxes = torch.tensor([[0.0, 0, 200, 200], [0, 0, 30, 30], [50, 50, 250, 250], [9, 9, 40, 30]])
    order = torch.tensor([2, 0, 3, 1])
    together = instance_features(maps, [boxes, boxes[:1]])
    torch.testing.assert_close(instance_features(maps, [boxes[order], boxes[:1]])[:4], together[:4][order])
    torch.testing.assert_close(together[4], together[0])


def test_an_image_is_pooled_from_its_own_map():
    maps = {4: torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])}
    box = torch.tensor([[8.0, 8, 40, 40]])
    assert instance_vectors(maps, [box, box]).flatten().tolist() == [0.0, 1.0]


def test_no_box_gives_no_row_but_still_reaches_the_maps():
    maps = {s: m.clone().requires_grad_() for s, m in pyramid().items()}
    vectors = instance_vectors(maps, [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert vectors.shape == (0, 3)
    vectors.sum().backward()
    assert all(m.grad is not None and not m.grad.any() for m in maps.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_maps_are_pooled_in_single_precision(dtype):
    maps = {s: m.to(dtype) for s, m in pyramid().items()}
    vectors = instance_vectors(maps, [torch.tensor([[20.0, 30, 60, 50]]), torch.zeros(0, 4)])
    assert vectors.dtype == torch.float32 and vectors.isfinite().all()


def test_maps_of_another_batch_are_refused():
    with pytest.raises(ValueError, match="3 images"):
        instance_features(pyramid(), [torch.zeros(0, 4)] * 3)
