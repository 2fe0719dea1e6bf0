"""The merge neck: gates that sum to one and start at the prior, levels and channels that differ, identity with one teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mutineck.detection.frozen import build_model
from mutineck.detectors.folders import load_frozen, load_model
from mutineck.study.stage import Study
from mutineck.teachers.intermediate import prepare_intermediate
from mutineck.teachers.merge import MergedTeachers, MergeNeck, shared_levels
from mutineck.teachers.regions import build_regions, match_batch, quality_prior
from tests.detection.tiny import derive, first_batch

CHANNELS = (8, 6, 8)
LEVELS = {8: (0, 1, 2), 16: (0, 1, 2), 4: (0,), 128: (1, 2)}
SIZES = {4: (24, 32), 8: (12, 16), 16: (6, 8), 128: (1, 1)}


def maps_of(seed: int = 0, *, order: tuple[int, ...] = (0, 1, 2)) -> list[dict[int, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        {s: torch.randn(2, c, *SIZES[s], generator=generator) for s, own in LEVELS.items() if n in own}
        for n, c in enumerate(CHANNELS)
    ]
    return [drawn[n] for n in order]


def stirred(neck: MergeNeck, seed: int = 0) -> MergeNeck:
    """Give a neck's parameters values as training might."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return neck


def neck_of(**settings: Any) -> MergeNeck:
    return MergeNeck(CHANNELS, LEVELS, 8, **settings)


@pytest.mark.parametrize("stride", [8, 128])
@pytest.mark.parametrize("prior", [False, True], ids=["no-prior", "prior"])
def test_gates_sum_to_one_at_every_cell_and_channel(stride: int, prior: bool) -> None:
    neck = stirred(neck_of())
    aligned = neck.aligned(maps_of(), stride)
    n = len(LEVELS[stride])
    added = torch.rand(2, n, *SIZES[stride]) * 4 if prior else None
    weights = neck.weights(aligned, stride, added)
    assert weights.shape == (2, n, 8, *SIZES[stride])
    assert (weights > 0).all() and weights.std() > 0.01
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 8, *SIZES[stride]))


@pytest.mark.parametrize("gates", [True, False], ids=["gates", "prior-alone"])
def test_at_the_start_gates_are_the_priors_softmax_or_uniform(gates: bool) -> None:
    neck = neck_of(gates=gates)
    aligned = neck.aligned(maps_of(), 8)
    uniform = neck.weights(aligned, 8).expand(2, 3, 8, *SIZES[8])
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / 3))
    prior = torch.rand(2, 3, *SIZES[8]) * 4
    weights = neck.weights(aligned, 8, prior).expand(2, 3, 8, *SIZES[8])
    torch.testing.assert_close(weights, prior.softmax(dim=1)[:, :, None].expand_as(weights))


def test_without_gates_only_alignment_and_convolution_have_parameters() -> None:
    assert {name.split(".")[0] for name, _ in neck_of(gates=False).named_parameters()} == {"align", "mix"}


@dataclass
class Proposed:
    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


def test_the_prior_is_omega_inside_targets_and_uniform_outside() -> None:
    box, label = torch.tensor([[16.0, 16.0, 80.0, 72.0]]), torch.tensor([2])
    sure, unsure = (Proposed(box + d, torch.tensor([s]), label) for d, s in ((0.5, 0.9), (5.0, 0.3)))
    targets = match_batch([[sure, unsure]], [box], [label])
    regions = build_regions(targets, SIZES[8], 8)
    prior = quality_prior(targets, regions, 0.25)
    neck = MergeNeck((4, 4), {8: (0, 1)}, 4)
    weights = neck.weights(neck.aligned([{8: torch.randn(1, 4, *SIZES[8])}] * 2, 8), 8, prior)[0, :, 0]
    inside = (regions.centre + regions.boundary)[0] > 0
    omega = targets.weights[0, 0]
    assert omega[0] > 0.6
    torch.testing.assert_close(weights[:, inside], omega[:, None].expand(2, int(inside.sum())))
    torch.testing.assert_close(weights[:, ~inside], torch.full((2, int((~inside).sum())), 0.5))


def test_levels_that_only_some_teachers_have_are_merged_from_those() -> None:
    neck = stirred(neck_of())
    maps = maps_of()
    merged = neck(maps)
    assert {s: m.shape for s, m in merged.items()} == {s: (2, 8, *SIZES[s]) for s in LEVELS}
    alone = neck.mix["4"](neck.align["4"]["0"](maps[0][4]))
    torch.testing.assert_close(merged[4], alone)
    changed = [maps[0], maps[1], {s: m + 1 for s, m in maps[2].items()}]
    again = neck(changed)
    assert torch.equal(again[4], merged[4]) and not torch.equal(again[128], merged[128])


def test_the_prior_of_a_teacher_without_the_level_is_not_read() -> None:
    neck = stirred(neck_of())
    prior = {s: torch.rand(2, 3, *SIZES[s]) for s in LEVELS}
    merged = neck(maps_of(), prior)
    prior[128] = torch.cat([torch.full((2, 1, 1, 1), torch.nan), prior[128][:, 1:]], dim=1)
    torch.testing.assert_close(neck(maps_of(), prior)[128], merged[128])


def test_permuting_teachers_other_than_the_anchor_changes_nothing() -> None:
    neck = stirred(neck_of())
    swapped = MergeNeck((8, 8, 6), {8: (0, 1, 2), 16: (0, 1, 2), 4: (0,), 128: (1, 2)}, 8)
    exchange = {"0": "0", "1": "2", "2": "1"}

    def renamed(name: str) -> str:
        part, stride, *rest = name.split(".")
        return ".".join([part, stride, *(exchange[rest[0]] if part != "mix" else rest[0], *rest[1:])])

    swapped.load_state_dict({renamed(name): value for name, value in neck.state_dict().items()})
    prior = {s: torch.rand(2, 3, *SIZES[s]) for s in LEVELS}
    expected = neck(maps_of(), prior)
    found = swapped(maps_of(order=(0, 2, 1)), {s: p[:, [0, 2, 1]] for s, p in prior.items()})
    for stride in LEVELS:
        torch.testing.assert_close(found[stride], expected[stride], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("strides", "wanted", "expected"),
    [
        pytest.param([(4, 8), (8, 16)], None, {4: (0,), 8: (0, 1), 16: (1,)}, id="all"),
        pytest.param([(4, 8), (8, 16)], (8, 16, 32), {8: (0, 1), 16: (1,)}, id="wanted"),
        pytest.param([(4, 8)], (64,), {}, id="none"),
    ],
)
def test_levels_are_matched_by_stride(strides: Any, wanted: Any, expected: Any) -> None:
    assert shared_levels(strides, wanted) == expected


def merged_teachers(study: Study) -> MergedTeachers:
    from mutineck.teachers.intermediate import intermediate_config

    teachers = [load_frozen(study, t.name) for t in study.experiment.teachers]
    return build_model(intermediate_config(study, teachers)).merged


def test_teachers_stand_outside_the_module_tree(tiny: Study, tmp_path: Path) -> None:
    merged = merged_teachers(derive(tiny, tmp_path / "s"))
    assert {name.split(".")[0] for name in merged.state_dict()} == {"neck"}
    merged.train()
    assert not any(module.training for teacher in merged.teachers for module in teacher.model.modules())


def test_one_teacher_with_its_own_heads_is_that_teacher_exactly(tiny: Study, tmp_path: Path) -> None:
    study = derive(tiny, tmp_path / "s", "faster_rcnn", intermediate={"head": "anchor", "gate": 1.0}).at(
        "teachers", "intermediate"
    )
    prepare_intermediate(study)
    assert not (study.folder / "training").exists(), "there is nothing to train"
    batch = first_batch(tiny)
    whole, alone = load_frozen(study, "intermediate"), load_frozen(study, "faster_rcnn")
    found, expected = whole.maps(batch["img"]), alone.maps(batch["img"])
    for stride in alone.strides:
        assert torch.equal(found[stride], expected[stride])
    # Detections: the same heads on the same maps.
    for ours, theirs in zip(
        whole.model.simple_test(batch["img"], batch["img_metas"]),
        alone.model.simple_test(batch["img"], batch["img_metas"]),
        strict=True,
    ):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert sum(len(rows) for rows in ours) > 0


def test_an_anchors_heads_are_refused_where_it_lacks_a_category(tiny: Study, tmp_path: Path) -> None:
    from mutineck.detection.training import save_detector
    from mutineck.detectors.folders import input_normalisation
    from mutineck.system.errors import ExperimentError
    from tests.detection.tiny import random_detector

    study = derive(tiny, tmp_path / "s", "faster_rcnn", intermediate={"head": "anchor"})
    (study.root / "teachers" / "faster_rcnn").unlink()
    folder = study.root / "teachers" / "faster_rcnn"
    folder.mkdir()
    model, config = random_detector("faster_rcnn", 2)
    save_detector(folder, model, config, categories=["disc", "ring"], normalisation=input_normalisation(study))
    with pytest.raises(
        ExperimentError, match=r"intermediate\.head: the anchor 'faster_rcnn' does not know .*star.*head: own"
    ):
        prepare_intermediate(study.at("teachers", "intermediate"))


@pytest.mark.parametrize("mode", ["prior", "joint"])
def test_modes_that_do_not_train_now_leave_the_neck_as_it_starts(tiny: Study, tmp_path: Path, mode: str) -> None:
    study = derive(tiny, tmp_path / "s", intermediate={"mode": mode, "alignment_images": 4}).at(
        "teachers", "intermediate"
    )
    rows = prepare_intermediate(study)
    assert {row["metric"] for row in rows} >= {"bbox_mAP", "AP"} and {row["name"] for row in rows} == {"intermediate"}
    model, _ = load_model(study.folder)
    gated = [name for name, _ in model.merged.neck.named_parameters() if name.startswith(("spatial", "channel"))]
    assert bool(gated) == (mode == "joint")
    neck = model.merged.neck
    identity = torch.zeros(32, 32, 1, 1)
    identity[range(32), range(32)] = 1
    assert torch.equal(neck.align["8"]["0"].weight, identity), "the anchor's maps are the reference"
    assert not torch.equal(neck.align["8"]["1"].weight, identity), "the others start from the regression"
    assert neck.levels == {4: (0,), 8: (0, 1), 16: (0, 1), 32: (0, 1), 64: (0, 1)}
