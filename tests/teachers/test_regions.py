"""Regions of stacked proposals: an independent slow reference, invariants, edges."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from mutineck.teachers.regions import (
    Regions,
    RegionSettings,
    Targets,
    build_regions,
    match_batch,
    match_proposals,
    quality_prior,
    teacher_weights,
)

STRIDE, SIZE = 4, (15, 20)  # input 60 x 80


@dataclass
class Proposed:
    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


NONE = Proposed(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
ALL = RegionSettings()


def jittered(boxes: torch.Tensor, labels: torch.Tensor, seed: int, copies: int = 15) -> Proposed:
    """Proposals around the boxes, of their label or another, some good, some bad."""
    generator = torch.Generator().manual_seed(seed)
    base = boxes.repeat_interleave(copies, dim=0)
    side = (base[:, 2:] - base[:, :2]).repeat(1, 2)
    moved = base + side * 0.12 * torch.randn(base.shape, generator=generator)
    scores = torch.rand(len(base), generator=generator)
    other = torch.rand(len(base), generator=generator) < 0.2
    names = torch.where(other, torch.tensor(7), labels.repeat_interleave(copies))
    return Proposed(moved, scores, names)


BOXES = [
    torch.tensor([[6.0, 5, 37, 41], [22, 14, 60, 50], [50, 2, 57, 9], [60, 40, 95, 70]]),
    torch.zeros(0, 4),
    torch.tensor([[10.0, 10, 12, 12], [5, 5, 70, 55]]),
]
LABELS = [torch.tensor([0, 1, 0, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([3, 1])]


def teachers(n: int = 3) -> list[list[Proposed]]:
    """n teachers on three images; the second knows only category 1."""
    batch = [
        [jittered(b, c, seed=10 * i + t) for t in range(n)] for i, (b, c) in enumerate(zip(BOXES, LABELS, strict=True))
    ]
    for image in batch:
        if n > 1:
            known = image[1].labels == 1
            image[1] = Proposed(image[1].boxes[known], image[1].scores[known], image[1].labels[known])
    return batch


@pytest.fixture(scope="module")
def targets() -> Targets:
    return match_batch(teachers(), BOXES, LABELS)


@pytest.fixture(scope="module")
def regions(targets) -> Regions:
    return build_regions(targets, SIZE, STRIDE)


# -- an independent reference: plain Python, one box, one cell, one proposal at a time ------------------


def slow_iou(a, b) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0.0


def slow_sets(image: list[Proposed], box, label) -> tuple[list[list[tuple[float, list[float]]]], list[float]]:
    sets = []
    for teacher in image:
        rows = zip(teacher.boxes.tolist(), teacher.scores.tolist(), teacher.labels.tolist(), strict=True)
        found = [
            (s**0.2 * slow_iou(b, box) ** 0.8, b)
            for b, s, c in rows
            if c == label and s >= 0.05 and slow_iou(b, box) >= 0.5
        ]
        sets.append(sorted(found, reverse=True)[:10])
    best = [max((u for u, _ in found), default=0.0) for found in sets]
    raw = [math.exp(q / 0.25) if q else 0.0 for q in best]
    return sets, [r / sum(raw) for r in raw] if sum(raw) else [1 / len(raw)] * len(raw)


def holds(box, row: int, column: int) -> bool:
    x1, y1, x2, y2 = (v / STRIDE for v in box)
    return math.floor(x1) <= column <= math.ceil(x2) and math.floor(y1) <= row <= math.ceil(y2)


def slow_target(image: list[Proposed], box, label) -> tuple[dict, dict]:
    """Centre and boundary weights of one target, by cell."""
    sets, weights = slow_sets(image, box, label)
    cells = [(y, x) for y in range(SIZE[0]) for x in range(SIZE[1])]
    any_found = any(sets)
    coverage, response = dict.fromkeys(cells, 0.0), dict.fromkeys(cells, 0.0)
    for y, x in cells:
        if not any_found:
            coverage[y, x] = float(holds(box, y, x))
        for found, weight in zip(sets, weights, strict=True):
            total = sum(u for u, _ in found)
            for u, b in found:
                share = weight * u / total
                coverage[y, x] += share * holds(b, y, x)
                sx, sy = (max((b[i + 2] - b[i]) / 4, STRIDE / 2) for i in (0, 1))
                dx, dy = (x + 0.5) * STRIDE - (b[0] + b[2]) / 2, (y + 0.5) * STRIDE - (b[1] + b[3]) / 2
                response[y, x] += share * math.exp(-(dx**2 / sx**2 + dy**2 / sy**2) / 2)
    peak = max(response.values()) or 1.0
    own = [c for c in cells if holds(box, *c)]
    highest = max((coverage[c] for c in own), default=0.0)
    bar = 0.8 if any(coverage[c] >= 0.8 for c in own) else 0.8 * highest
    centre = {c: 1 + response[c] / peak for c in own if coverage[c] >= bar - 1e-6}
    boundary = {
        c: 1.0 if c in own else coverage[c]
        for c in cells
        if (c in own or coverage[c] >= 0.2 - 1e-6) and c not in centre
    }
    mass = sum(centre.values()) + sum(boundary.values())
    return {c: w / mass for c, w in centre.items()}, {c: w / mass for c, w in boundary.items()}


def test_equals_a_slow_reference(regions):
    for i, (boxes, labels, image) in enumerate(zip(BOXES, LABELS, teachers(), strict=True)):
        centre, boundary = torch.zeros(SIZE), torch.zeros(SIZE)
        covered = set()
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            inner, outer = slow_target(image, box, label)
            covered |= inner.keys() | outer.keys()
            for (y, x), weight in inner.items():
                centre[y, x] = max(centre[y, x].item(), weight)
            for (y, x), weight in outer.items():
                boundary[y, x] = max(boundary[y, x].item(), weight)
        boundary[centre > 0] = 0
        background = torch.ones(SIZE)
        for y, x in covered:
            background[y, x] = 0
        torch.testing.assert_close(regions.centre[i], centre, atol=2e-6, rtol=2e-4)
        torch.testing.assert_close(regions.boundary[i], boundary, atol=2e-6, rtol=2e-4)
        torch.testing.assert_close(regions.background[i], background / background.sum())


def test_same_target_sets_equal_a_slow_reference(targets):
    for i, (boxes, labels, image) in enumerate(zip(BOXES, LABELS, teachers(), strict=True)):
        for j, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
            sets, weights = slow_sets(image, box, label)
            assert targets.weights[i, j].tolist() == pytest.approx(weights, rel=1e-4)
            for t, found in enumerate(sets):
                assert targets.goodness[i, j, t, : len(found)].tolist() == pytest.approx(
                    [u for u, _ in found], rel=1e-4
                )
                assert not targets.goodness[i, j, t, len(found) :].any()
                kept = targets.proposals[i, j, t, : len(found)]
                torch.testing.assert_close(kept, torch.tensor([b for _, b in found]).reshape(-1, 4))


# -- invariants ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, stride", [((15, 20), 4), ((8, 10), 8), ((1, 2), 64)], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_regions_are_disjoint_and_cover_and_targets_have_unit_mass(size, stride, n):
    targets = match_batch(teachers(n), BOXES, LABELS)
    found = build_regions(targets, size, stride)
    number = sum((weight > 0).long() for weight in (found.centre, found.boundary, found.background))
    assert (number == 1).all()
    mass = found.mass.sum(dim=(2, 3))
    torch.testing.assert_close(mass[targets.valid], torch.ones(int(targets.valid.sum())))
    assert not mass[~targets.valid].any()
    background = found.background.sum(dim=(1, 2))
    assert all(total == pytest.approx(1) or total == 0 for total in background.tolist())


def test_shares_and_coverage_and_response_stay_in_bounds(targets, regions):
    total = targets.shares.sum(dim=(2, 3))
    torch.testing.assert_close(total[targets.found], torch.ones(int(targets.found.sum())))
    assert regions.coverage.min() >= 0 and regions.coverage.max() <= 1
    peaks = regions.response.amax(dim=(2, 3))
    torch.testing.assert_close(peaks[targets.found], torch.ones(int(targets.found.sum())))


def test_every_target_has_a_centre_inside_its_box(targets, regions):
    assert regions.centres.flatten(2).any(dim=2)[targets.valid].all()


def shown(found: Regions) -> list[torch.Tensor]:
    return [found.centre, found.boundary, found.background]


def test_padding_the_batch_moves_no_region():
    boxes, labels = [BOXES[0][:3], BOXES[2][:1]], [LABELS[0][:3], LABELS[2][:1]]  # none near the far borders
    matched = match_batch([teachers()[0], teachers()[2]], boxes, labels)
    assert matched.found.any()
    small, large = build_regions(matched, SIZE, STRIDE), build_regions(matched, (24, 33), STRIDE)
    torch.testing.assert_close(large.centre[:, :15, :20], small.centre)
    torch.testing.assert_close(large.boundary[:, :15, :20], small.boundary)
    assert torch.equal(large.background[:, :15, :20] > 0, small.background > 0)
    assert not large.centre[:, 15:].any() and not large.centre[:, :, 20:].any()


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [3, 2, 1, 0]], ids=str)
def test_the_order_of_boxes_changes_nothing(order):
    image = teachers()[0]
    plain = build_regions(match_proposals(image, BOXES[0], LABELS[0]), SIZE, STRIDE)
    moved = build_regions(match_proposals(image, BOXES[0][order], LABELS[0][order]), SIZE, STRIDE)
    torch.testing.assert_close(shown(plain), shown(moved))


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 1, 0], [0, 2, 1]], ids=str)
def test_the_order_of_teachers_changes_nothing(order, targets, regions):
    moved = match_batch([[image[t] for t in order] for image in teachers()], BOXES, LABELS)
    torch.testing.assert_close(moved.weights, targets.weights[:, :, order])
    torch.testing.assert_close(shown(build_regions(moved, SIZE, STRIDE)), shown(regions))


def test_the_order_of_proposals_changes_nothing(regions):
    batch = [[Proposed(t.boxes.flip(0), t.scores.flip(0), t.labels.flip(0)) for t in image] for image in teachers()]
    torch.testing.assert_close(shown(build_regions(match_batch(batch, BOXES, LABELS), SIZE, STRIDE)), shown(regions))


def test_an_image_does_not_depend_on_its_batch(regions):
    for i in range(3):
        alone = build_regions(match_proposals(teachers()[i], BOXES[i], LABELS[i]), SIZE, STRIDE)
        torch.testing.assert_close([w[0] for w in shown(alone)], [w[i] for w in shown(regions)])


# -- edges ----------------------------------------------------------------------------------------------


def test_an_empty_image_is_all_background(regions):
    assert not regions.centre[1].any() and not regions.boundary[1].any()
    assert regions.background[1].unique().tolist() == pytest.approx([1 / 300])


def test_a_batch_without_any_box():
    found = build_regions(match_batch([[NONE], [NONE]], BOXES[1:2] * 2, LABELS[1:2] * 2), SIZE, STRIDE)
    assert not found.centre.any() and not found.boundary.any()
    assert found.background.sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])


def test_without_proposals_a_box_is_all_centre_and_even():
    box = torch.tensor([[8.0, 8, 20, 16]])  # 4 x 3 cells
    targets = match_proposals([NONE, NONE], box, torch.tensor([0]))
    assert targets.weights[0, 0].tolist() == [0.5, 0.5] and not targets.found.any()
    found = build_regions(targets, SIZE, STRIDE)
    assert found.centre[0, 2:5, 2:6].unique().tolist() == pytest.approx([1 / 12])
    assert (found.centre > 0).sum() == 12 and not found.boundary.any()


def test_a_one_cell_box_and_one_larger_than_the_map():
    boxes = torch.tensor([[9.0, 9, 9.5, 9.5], [-100.0, -100, 300, 300]])
    image = [jittered(boxes, torch.tensor([0, 1]), seed=1)]
    found = build_regions(match_proposals(image, boxes, torch.tensor([0, 1])), SIZE, 64)
    assert found.mass.sum(dim=(2, 3)).tolist() == [pytest.approx([1, 1])]
    assert all(weight.isfinite().all() for weight in shown(found))


def test_a_box_beside_the_map_has_no_cells_and_harms_nothing():
    box = torch.tensor([[500.0, 500, 520, 520]])
    found = build_regions(match_proposals([NONE], box, torch.tensor([0])), SIZE, STRIDE)
    assert found.background.sum().item() == pytest.approx(1) and not found.centre.any()


def test_an_exact_proposal_makes_the_box_its_centre():
    box, label = torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([5])
    image = [Proposed(box, torch.tensor([1.0]), label)]
    found = build_regions(match_proposals(image, box, label), SIZE, STRIDE)
    assert torch.equal(found.centre > 0, (found.coverage[:, 0] == 1)) and not found.boundary.any()
    peak = found.centre[0].flatten().argmax().item()
    assert divmod(peak, 20) in [(5, 5), (5, 6), (6, 5), (6, 6)]  # the centre (24, 24) lies on their corner


def test_cells_that_only_a_fifth_of_the_stack_covers_are_boundary_weighed_by_coverage():
    box, label = torch.tensor([[8.0, 8, 31, 31]]), torch.tensor([0])
    wide = torch.tensor([[8.0, 8, 47, 31], [8.0, 8, 31, 31]])
    image = [Proposed(wide, torch.tensor([1.0, 1.0]), torch.tensor([0, 0]))]
    targets = match_proposals(image, box, label)
    u = slow_iou(wide[0].tolist(), box[0].tolist()) ** 0.8
    found = build_regions(targets, SIZE, STRIDE, replace(ALL, rho=0.0))
    cells, extra = 7 * 7, 7 * 4  # rows 2..8; columns 2..8, and 9..12 of the wide one alone
    assert found.coverage[0, 0, 4, 10].item() == pytest.approx(u / (1 + u))
    share = u / (1 + u)
    assert found.boundary[0, 4, 10].item() == pytest.approx(share / (cells + extra * share))
    assert found.centre[0, 4, 4].item() == pytest.approx(1 / (cells + extra * share))


def test_where_no_cell_reaches_the_bar_the_highest_agreement_sets_it():
    box, label = torch.tensor([[8.0, 8, 39, 39]]), torch.tensor([0])
    apart = torch.tensor([[8.0, 8, 39, 24], [8.0, 26, 39, 39]])  # top and bottom half: coverage ~ 1/2 each
    image = [Proposed(apart, torch.ones(2), torch.zeros(2, dtype=torch.int64))]
    settings = replace(ALL, iou=0.3)
    found = build_regions(match_proposals(image, box, label, settings), SIZE, STRIDE, settings)
    inside = found.coverage[0, 0, 2:11, 2:11]
    expected = inside >= 0.8 * inside.max() - 1e-6
    assert torch.equal(found.centres[0, 0, 2:11, 2:11], expected)


@pytest.mark.parametrize(
    ("score", "overlap", "label", "kept"),
    [
        pytest.param(0.05, 1.0, 0, True, id="score at the threshold"),
        pytest.param(0.0499, 1.0, 0, False, id="score below it"),
        pytest.param(0.9, 0.5, 0, True, id="overlap at the threshold"),
        pytest.param(0.9, 0.49, 0, False, id="overlap below it"),
        pytest.param(0.9, 1.0, 1, False, id="another category"),
        pytest.param(0.9, 1.0, -1, False, id="a category the student lacks"),
    ],
)
def test_what_counts_as_the_same_target(score, overlap, label, kept):
    box = torch.tensor([[0.0, 0, 40, 40]])
    proposal = Proposed(torch.tensor([[0.0, 0, 40 * overlap, 40]]), torch.tensor([score]), torch.tensor([label]))
    targets = match_proposals([proposal], box, torch.tensor([0]))
    assert targets.found.item() == kept
    assert targets.quality.item() == pytest.approx(score**0.2 * overlap**0.8 if kept else 0.0)


def test_only_the_ten_best_are_kept():
    box = torch.tensor([[0.0, 0, 40, 40]])
    scores = torch.linspace(0.1, 1, 25)
    targets = match_proposals([Proposed(box.expand(25, 4), scores, torch.zeros(25).long())], box, torch.tensor([0]))
    torch.testing.assert_close(targets.goodness[0, 0, 0], scores.flip(0)[:10] ** 0.2)


def test_a_teacher_without_the_category_has_no_weight(targets):
    # Targets 0 and 2 are of category 0; the second teacher knows category 1 only.
    lacking = targets.weights[0, 0, 1], targets.weights[0, 2, 1]
    assert [w.item() for w in lacking] == [0, 0]
    assert targets.weights[0, 1, 1] > 0
    torch.testing.assert_close(targets.weights.sum(dim=2), torch.ones(3, 4))


def test_teacher_weights_by_closed_form():
    quality = torch.tensor([[0.5, 0.25, 0.0], [0.0, 0.0, 0.0], [0.7, 0.0, 0.0]])
    e = math.e
    expected = torch.tensor([[e / (1 + e), 1 / (1 + e), 0], [1 / 3] * 3, [1, 0, 0]])
    torch.testing.assert_close(teacher_weights(quality, 0.25), expected)


def test_prior_is_the_highest_quality_whose_region_covers_a_cell(targets, regions):
    prior = quality_prior(targets, regions)
    assert prior.shape == (3, 3, *SIZE)
    region = regions.mass > 0
    for t in range(3):
        expected = torch.zeros(3, *SIZE)
        for i in range(3):
            for j in range(4):
                quality = targets.quality[i, j, t].item() / 0.25
                expected[i] = torch.where(region[i, j] & (expected[i] < quality), quality, expected[i])
        torch.testing.assert_close(prior[:, t], expected)
    assert not prior.permute(0, 2, 3, 1)[regions.background > 0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_proposals_and_autocast_are_finite(dtype):
    image = [Proposed(t.boxes.to(dtype), t.scores.to(dtype), t.labels) for t in teachers()[0]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = build_regions(match_proposals(image, BOXES[0].to(dtype), LABELS[0]), SIZE, STRIDE)
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in shown(found))


def test_autocast_changes_nothing(regions):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = build_regions(match_batch(teachers(), BOXES, LABELS), SIZE, STRIDE)
    torch.testing.assert_close(shown(cast), shown(regions), atol=0, rtol=0)


# -- refusals -------------------------------------------------------------------------------------------


def test_images_with_different_teachers_are_refused():
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        match_batch([[NONE], [NONE, NONE]], BOXES[:2], LABELS[:2])


def test_lengths_that_disagree_are_refused():
    with pytest.raises(ValueError, match="2, 1 and 2"):
        match_batch([[NONE], [NONE]], BOXES[:1], LABELS[:2])
    with pytest.raises(ValueError, match="one length"):
        match_proposals([Proposed(BOXES[0], torch.ones(3), LABELS[0])], BOXES[0], LABELS[0])


@pytest.mark.parametrize(
    "wrong", [{"iou": 1.5}, {"top": 0}, {"quality_temperature": 0.0}, {"rho": -1.0}, {"region": 0.0}], ids=str
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"RegionSettings.{next(iter(wrong))}"):
        RegionSettings(**wrong)
