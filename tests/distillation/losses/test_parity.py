"""FGD and the region loss's degenerate case against FGD's published loop, written again from the formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from mutineck.detection.cells import cell_ranges
from mutineck.distillation.losses.fgd import FGDLoss
from mutineck.distillation.weights import term_weights
from mutineck.study.experiment import DistillationSpec
from mutineck.teachers.regions import Regions, RegionSettings, Targets, build_regions, match_batch
from tests.distillation.losses.published import as_published, published_masks

SPEC = DistillationSpec(alpha=1e-3, beta=5e-4, gamma=1e-3, lambda_=5e-6)
WEIGHTS = term_weights(SPEC, "fgd", two_stage=True)
STRIDE, SIZE, IMAGE = 4, (12, 16), (48, 64)


def slow_attention(features: torch.Tensor, temperature: float) -> tuple[list[list[float]], list[float]]:
    """Attention of one image's map `(C, H, W)`, number by number."""
    c, h, w = features.shape
    values = features.abs().tolist()
    strength = [[sum(values[k][i][j] for k in range(c)) / c for j in range(w)] for i in range(h)]
    total = sum(math.exp(v / temperature) for row in strength for v in row)
    spatial = [[h * w * math.exp(v / temperature) / total for v in row] for row in strength]
    mean = [sum(map(sum, values[k])) / (h * w) for k in range(c)]
    total = sum(math.exp(v / temperature) for v in mean)
    return spatial, [c * math.exp(v / temperature) / total for v in mean]


def slow_fgd(student, teacher, boxes, image_sizes, rebuilt) -> float:
    """FGD's published loss on doubles: a loop over images, boxes, cells and channels."""
    n, c, h, w = student.shape
    masks = {name: mask.tolist() for name, mask in published_masks(boxes, image_sizes, (h, w)).items()}
    total = 0.0
    for i in range(n):
        spatial, channel = slow_attention(teacher[i], SPEC.temperature)
        spatial_s, channel_s = slow_attention(student[i], SPEC.temperature)
        f, g = student[i].tolist(), teacher[i].tolist()
        for y in range(h):
            for x in range(w):
                error = sum(channel[k] * (g[k][y][x] - f[k][y][x]) ** 2 for k in range(c)) * spatial[y][x]
                total += SPEC.alpha * masks["foreground"][i][y][x] * error
                total += SPEC.beta * masks["background"][i][y][x] * error
                total += SPEC.gamma * abs(spatial[y][x] - spatial_s[y][x])
        total += SPEC.gamma * sum(abs(a - b) for a, b in zip(channel, channel_s, strict=True))
        total += SPEC.lambda_ * (rebuilt[1][i] - rebuilt[0][i]).square().sum().item()
    return total / n


@dataclass
class Batch:
    student: torch.Tensor
    teacher: torch.Tensor
    boxes: list[torch.Tensor]
    image_sizes: torch.Tensor


@pytest.fixture(params=["unpadded", "padded"])
def batch(request) -> Batch:
    """Two images: overlapping boxes, a point, a box over the border; none in the second when unpadded."""
    generator = torch.Generator().manual_seed(11)
    student, teacher = torch.randn(2, 2, 6, *SIZE, generator=generator, dtype=torch.float64)
    boxes = torch.tensor([[4.0, 6, 30, 31], [20, 9, 47, 39], [13, 13, 13, 13], [40, 30, 64, 48]])
    if request.param == "unpadded":
        return Batch(student, teacher, [boxes, boxes[:0]], torch.tensor([IMAGE, IMAGE]))
    return Batch(student, teacher, [boxes, boxes[:2]], torch.tensor([IMAGE, (40, 50)]))


def learned(loss: FGDLoss) -> FGDLoss:
    """Give both contexts weights that do something, the same for every loss."""
    generator = torch.Generator().manual_seed(5)
    for parameter in loss.double().parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3)
    return loss


def expected(batch: Batch, loss: FGDLoss) -> float:
    rebuilt = (loss.student_context(batch.student), loss.teacher_context(batch.teacher))
    return slow_fgd(batch.student, batch.teacher, batch.boxes, batch.image_sizes, rebuilt)


def weighted(batch: Batch, loss: FGDLoss, masks: dict[str, torch.Tensor]) -> float:
    terms = loss(batch.student, batch.teacher, masks)
    return sum(WEIGHTS[name] * value.item() for name, value in terms.items())


def test_fgd_under_the_published_masks_equals_its_published_loop(batch):
    loss = learned(FGDLoss(6))
    found = weighted(batch, loss, published_masks(batch.boxes, batch.image_sizes, SIZE))
    assert found == pytest.approx(expected(batch, loss), rel=1e-6)


@dataclass
class Silent:
    """A teacher without proposals."""

    boxes = torch.zeros(0, 4)
    scores = torch.zeros(0)
    labels = torch.zeros(0, dtype=torch.int64)


EVEN = RegionSettings(rho=0.0)


def unproposed(boxes: list[torch.Tensor]) -> Targets:
    """One teacher, no proposals."""
    labels = [torch.zeros(len(b), dtype=torch.int64) for b in boxes]
    return match_batch([[Silent()]] * len(boxes), boxes, labels, EVEN)


def masks_of(regions: Regions) -> dict[str, torch.Tensor]:
    return {name: getattr(regions, name) for name in ("centre", "boundary", "background")}


def test_one_teacher_without_proposals_is_fgd_on_the_published_cells(batch):
    targets = unproposed(batch.boxes)
    targets = replace(targets, boxes=as_published(targets.boxes, batch.image_sizes, STRIDE, SIZE))
    regions = build_regions(targets, SIZE, STRIDE, EVEN)
    # The published code divides by a box's cells on and off the map.
    first, last = (targets.boxes[..., :2] / STRIDE).floor(), (targets.boxes[..., 2:] / STRIDE).ceil()
    on_map = cell_ranges(targets.boxes, STRIDE, *SIZE).count / (last - first + 1).prod(dim=-1)
    centre = (regions.mass * regions.centres * on_map[..., None, None]).amax(dim=1)
    loss = learned(FGDLoss(6))
    found = weighted(batch, loss, masks_of(regions) | {"centre": centre})
    assert not regions.boundary.any()
    assert found == pytest.approx(expected(batch, loss), rel=1e-6)


def test_ours_differs_from_the_published_loop_only_by_padding_and_the_border(batch):
    """Away from the border the two agree; where the batch is padded the published masks are displaced."""
    interior = [b[b[:, 2] < 50] for b in batch.boxes]
    inside = Batch(batch.student, batch.teacher, interior, batch.image_sizes)
    padded = batch.image_sizes[0].tolist() != batch.image_sizes[1].tolist()
    loss = learned(FGDLoss(6))
    ours = weighted(inside, loss, masks_of(build_regions(unproposed(interior), SIZE, STRIDE, EVEN)))
    published = expected(inside, loss)
    assert (ours == pytest.approx(published, rel=1e-6)) != padded
    if padded:  # the same boxes, had the second image filled the batch
        inside.image_sizes = torch.tensor([IMAGE, IMAGE])
        assert ours == pytest.approx(expected(inside, loss), rel=1e-6)
