"""FGD and the region loss's degenerate case against FGD's published loop, written again from the formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from mutineck.distillation.losses.fgd import FGDLoss, FGDWeights
from mutineck.distillation.losses.region import RegionLoss, RegionWeights
from mutineck.teachers.regions import RegionSettings, build_regions, match_batch

WEIGHTS = FGDWeights(alpha=1e-3, beta=5e-4, gamma=1e-3, lambda_=5e-6)
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
    total = 0.0
    for i in range(n):
        foreground = [[0.0] * w for _ in range(h)]
        for x1, y1, x2, y2 in boxes[i].tolist():
            height, width = image_sizes[i]
            left, right = math.floor(x1 / width * w), math.ceil(x2 / width * w)
            top, bottom = math.floor(y1 / height * h), math.ceil(y2 / height * h)
            area = (right + 1 - left) * (bottom + 1 - top)
            for y in range(max(top, 0), min(bottom, h - 1) + 1):
                for x in range(max(left, 0), min(right, w - 1) + 1):
                    foreground[y][x] = max(foreground[y][x], 1 / area)
        empty = sum(v == 0 for row in foreground for v in row)
        spatial, channel = slow_attention(teacher[i], WEIGHTS.temperature)
        spatial_s, channel_s = slow_attention(student[i], WEIGHTS.temperature)
        f, g = student[i].tolist(), teacher[i].tolist()
        for y in range(h):
            for x in range(w):
                error = sum(channel[k] * (g[k][y][x] - f[k][y][x]) ** 2 for k in range(c)) * spatial[y][x]
                inside = foreground[y][x]
                total += WEIGHTS.alpha * inside * error if inside else WEIGHTS.beta * error / empty
                total += WEIGHTS.gamma * abs(spatial[y][x] - spatial_s[y][x])
        total += WEIGHTS.gamma * sum(abs(a - b) for a, b in zip(channel, channel_s, strict=True))
        total += WEIGHTS.lambda_ * (rebuilt[1][i] - rebuilt[0][i]).square().sum().item()
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


def learned(loss: FGDLoss | RegionLoss) -> None:
    """Give both contexts weights that do something, the same for every loss."""
    generator = torch.Generator().manual_seed(5)
    for parameter in loss.compare.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3)


def expected(batch: Batch, loss: FGDLoss | RegionLoss) -> float:
    rebuilt = (loss.compare.student_context(batch.student), loss.compare.teacher_context(batch.teacher))
    return slow_fgd(batch.student, batch.teacher, batch.boxes, batch.image_sizes.tolist(), rebuilt)


def test_fgd_equals_its_published_loop(batch):
    loss = FGDLoss(6, compat=True).double()
    learned(loss)
    terms = loss(batch.student, batch.teacher, batch.boxes, STRIDE, batch.image_sizes)
    total = sum(WEIGHTS.weigh(terms).values()).item()
    assert total == pytest.approx(expected(batch, loss), rel=1e-6)


@dataclass
class Silent:
    """A teacher without proposals."""

    boxes = torch.zeros(0, 4)
    scores = torch.zeros(0)
    labels = torch.zeros(0, dtype=torch.int64)


def region_total(batch: Batch, loss: RegionLoss, settings: RegionSettings, compat: bool) -> float:
    labels = [torch.zeros(len(b), dtype=torch.int64) for b in batch.boxes]
    targets = match_batch([[Silent()]] * len(batch.boxes), batch.boxes, labels, settings)
    regions = build_regions(targets, SIZE, STRIDE, settings, image_sizes=batch.image_sizes, compat=compat)
    terms = loss(batch.student, batch.teacher, regions)
    return sum(RegionWeights.from_fgd(WEIGHTS).weigh(terms).values()).item()


def test_one_teacher_without_proposals_is_fgd(batch):
    loss = RegionLoss(6).double()
    learned(loss)
    total = region_total(batch, loss, RegionSettings(rho=0.0), compat=True)
    assert total == pytest.approx(expected(batch, loss), rel=1e-6)


def test_ours_differs_from_the_published_loop_only_by_padding_and_the_border(batch):
    """Away from the border the two agree; where the batch is padded the published masks are displaced."""
    interior = [b[b[:, 2] < 50] for b in batch.boxes]
    inside = Batch(batch.student, batch.teacher, interior, batch.image_sizes)
    padded = batch.image_sizes[0].tolist() != batch.image_sizes[1].tolist()
    loss = RegionLoss(6).double()
    learned(loss)
    ours = region_total(inside, loss, RegionSettings(rho=0.0), compat=False)
    published = expected(inside, loss)
    assert (ours == pytest.approx(published, rel=1e-6)) != padded
    if padded:  # the same boxes, had the second image filled the batch
        inside.image_sizes = torch.tensor([IMAGE, IMAGE])
        assert ours == pytest.approx(expected(inside, loss), rel=1e-6)
