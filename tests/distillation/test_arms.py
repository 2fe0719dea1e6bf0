"""Every arm builds, steps with finite losses, leaves its teachers alone, and starts from the same student."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutineck.detection.configs import model_config, read_config, write_config
from mutineck.detection.frozen import build_model
from mutineck.detection.loading import read_checkpoint, write_checkpoint
from mutineck.detection.specs import DetectorSpec
from mutineck.detectors.folders import load_frozen
from mutineck.distillation.guidance import confidence_shares
from mutineck.distillation.losses.fgd import fgd_masks
from mutineck.distillation.stage import (
    distiller_config,
    save_student,
    student_detector,
    teacher_folder,
    train_student,
)
from mutineck.distillation.teacher_loss import Levels, TeacherLoss, omega_masks, without_ignored
from mutineck.study.experiment import DistillationSpec
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.teachers.regions import Targets
from tests.detection.tiny import derive, detector, first_batch
from tests.distillation.tiny import ARMS, build, link_intermediate, plant_centroids, step, teachers_of

FGD = {"attention", "global"}
MASKS = {"foreground", "background"}
REGIONS = {"centre", "boundary", "background"}
CENTROIDS = {"direction", "distance"}
HEADS = {"logits", "deltas"}
TERMS = {
    "student": set(),
    "mutineck": FGD | REGIONS | CENTROIDS | HEADS,
    "mutineck-intermediate": FGD | REGIONS | CENTROIDS,
    "mutineck-regions": FGD | MASKS | CENTROIDS,
    "mutineck-centroids": FGD | REGIONS | HEADS,
    "adapters": FGD | MASKS,
    "fgd:sequential": FGD | MASKS | {"idle"},
}


def kd_terms(losses: dict[str, Tensor]) -> set[str]:
    return {name.removeprefix("loss_kd_") for name in losses if name.startswith("loss_kd_")}


@pytest.fixture(scope="module")
def first_weights(ready: Study) -> dict[str, Tensor]:
    return build(ready, "student").student.state_dict()


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_takes_a_step(ready: Study, first_weights: dict[str, Tensor], arm: str) -> None:
    distiller = build(ready, arm)
    for name, value in distiller.student.state_dict().items():
        assert torch.equal(value, first_weights[name]), f"the student starts elsewhere: {name}"
    teachers = teachers_of(distiller)
    assert bool(teachers) == (arm != "student")
    before = [{n: v.clone() for n, v in t.state_dict().items()} for t in teachers]
    optimiser = torch.optim.SGD(distiller.parameters(), lr=0.01)
    distiller.epoch = 1.0
    losses = step(distiller, ready)
    expected = TERMS.get(arm, FGD | MASKS if arm.startswith("fgd") else {arm.split(":")[0]})
    assert kd_terms(losses) == expected
    for name, value in losses.items():
        for part in value if isinstance(value, list) else [value]:
            assert part.isfinite().all(), name
    for term in expected - {"idle"}:
        assert float(losses[f"loss_kd_{term}"]) > 0 or term in ("boundary", "global"), term
    # Distributed training stops at a parameter that takes no part.
    idle = [name for name, p in distiller.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    optimiser.step()
    for teacher, state in zip(teachers, before, strict=True):
        assert not any(module.training for module in teacher.modules())
        assert all(p.grad is None for p in teacher.parameters())
        assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("arm", ["mutineck", "adapters", "fgd:sequential"])
def test_a_checkpoint_holds_neither_teachers_nor_maps(ready: Study, arm: str) -> None:
    distiller = build(ready, arm)
    keys, sizes = set(distiller.state_dict()), {n: v.shape for n, v in distiller.state_dict().items()}
    step(distiller, ready)
    assert set(distiller.state_dict()) == keys and {n: v.shape for n, v in distiller.state_dict().items()} == sizes
    assert {name.split(".")[0] for name in keys} == {"student", "guidance"}
    # Beside the student only what learns with it: adapters and FGD's relation blocks.
    assert {name.split(".")[1] for name in keys if name.startswith("guidance.")} == {"teacher_losses"}
    assert {name.split(".")[3] for name in keys if name.startswith("guidance.")} <= {
        "adapters",
        "losses",
        "centroid_loss",
    }
    assert set(distiller.student.state_dict()) == set(build(ready, "student").student.state_dict())


def test_another_seed_is_another_student(ready: Study, first_weights: dict[str, Tensor]) -> None:
    other = build(ready, "student", seed=1).student.state_dict()
    assert not torch.equal(other["backbone.conv1.weight"], first_weights["backbone.conv1.weight"])


class TestSequential:
    @pytest.mark.parametrize(
        ("epoch", "active"), [(0.0, "retinanet"), (1.9, "retinanet"), (2.0, "faster_rcnn"), (4.0, "faster_rcnn")]
    )
    def test_the_anchor_has_the_last_word(self, ready: Study, epoch: float, active: str) -> None:
        distiller = build(ready, "fgd:sequential")
        distiller.epoch, distiller.epochs = epoch, 4
        losses = step(distiller, ready)
        logged = {name.split("/")[1] for name in losses if name.startswith("kd/") and not name.endswith("idle")}
        assert logged == {active}
        for loss in distiller.guidance.teacher_losses:
            moved = any(p.grad.abs().sum() > 0 for p in loss.parameters())
            assert moved == (loss.name == active)


class TestWarmUp:
    def test_centroids_fade_in_over_the_first_epoch(self, ready: Study) -> None:
        distiller = build(ready, "mutineck")
        values = []
        for epoch in (0.0, 0.25, 1.0, 3.0):
            distiller.epoch = epoch
            values.append({name: float(v) for name, v in step(distiller, ready).items() if name.startswith("loss_kd")})
        assert [v["loss_kd_direction"] / values[-1]["loss_kd_direction"] for v in values] == pytest.approx(
            [0, 0.25, 1, 1]
        )
        assert [v["loss_kd_distance"] / values[-1]["loss_kd_distance"] for v in values] == pytest.approx(
            [0, 0.25, 1, 1]
        )
        assert len({v["loss_kd_attention"] for v in values}) == 1

    def test_the_whole_guidance_may_fade_in(self, tiny: Study, ready: Study, tmp_path: Path) -> None:
        study = derive(tiny, tmp_path / "s", arms=["fgd:mean"], distillation={"warmup_epochs": 2.0})
        plain, warm = build(ready, "fgd:mean"), build(study, "fgd:mean")
        plain.epoch = warm.epoch = 0.5
        full, quarter = step(plain, ready), step(warm, study)
        for term in FGD | MASKS:
            assert float(quarter[f"loss_kd_{term}"]) == pytest.approx(float(full[f"loss_kd_{term}"]) / 4, rel=1e-5)


def test_the_mean_is_the_mean_of_single_teachers(tiny: Study, tmp_path: Path) -> None:
    """On levels that all have. The trainable parts start at random but for FGD's global term."""
    arms = ("fgd:mean", "fgd:faster_rcnn", "fgd:retinanet")
    study = derive(tiny, tmp_path / "s", arms=arms, distillation={"strides": [8, 16, 32, 64]})
    values = {arm: step(build(study, arm), study) for arm in arms}
    for term in ("attention", "foreground", "background"):
        single = [float(values[a][f"loss_kd_{term}"]) for a in ("fgd:faster_rcnn", "fgd:retinanet")]
        assert float(values["fgd:mean"][f"loss_kd_{term}"]) == pytest.approx(sum(single) / 2, rel=1e-5)


def test_an_arm_may_contrast_centroids(tiny: Study, ready: Study, tmp_path: Path) -> None:
    arms = {"mutineck": {"weights": {"centroid_loss": "contrast", "centroid": 2.0}}, "mutineck-regions": None}
    study = derive(tiny, tmp_path / "s", arms=arms, distillation={"centroid_cosine": -1.0})
    link_intermediate(study, ready.root)
    plant_centroids(study)
    distiller = build(study, "mutineck")
    values = []
    for distiller.epoch in (0.5, 1.0):
        losses = step(distiller, study)
        assert kd_terms(losses) == FGD | REGIONS | {"contrast"}
        values.append(float(losses["loss_kd_contrast"]))
    assert values[0] == pytest.approx(values[1] / 2) and values[1] > 0
    assert kd_terms(step(build(study, "mutineck-regions"), study)) >= CENTROIDS


def test_an_arms_weights_override_the_experiments(tiny: Study, ready: Study, tmp_path: Path) -> None:
    arms = {"fgd:mean": {"weights": {"alpha": 5e-4, "gamma": 0.0, "strides": [8, 16]}}}
    study = derive(tiny, tmp_path / "s", arms=arms)
    distiller = build(study, "fgd:mean")
    assert [loss.levels.compared for loss in distiller.guidance.teacher_losses] == [(8, 16), (8, 16)]
    losses = step(distiller, study)
    assert float(losses["loss_kd_attention"]) == 0.0
    same_levels = derive(tiny, tmp_path / "p", arms=["fgd:mean"], distillation={"strides": [8, 16]})
    plain = step(build(same_levels, "fgd:mean"), same_levels)
    assert float(losses["loss_kd_foreground"]) == pytest.approx(10 * float(plain["loss_kd_foreground"]), rel=1e-5)
    assert float(losses["loss_kd_background"]) == pytest.approx(float(plain["loss_kd_background"]), rel=1e-5)


@pytest.mark.parametrize("arm", ["fgd:faster_rcnn", "mutineck"])
def test_cwd_comes_beside_fgds_terms_and_leaves_them_alone(tiny: Study, ready: Study, tmp_path: Path, arm: str) -> None:
    losses = {}
    for weight in (0.0, 3.0, 6.0):
        study = derive(tiny, tmp_path / f"s{weight}", arms=[arm, "cwd:faster_rcnn"], distillation={"cwd": weight})
        link_intermediate(study, ready.root)
        plant_centroids(study)
        losses[weight] = step(build(study, arm), study)
    assert kd_terms(losses[6.0]) - kd_terms(losses[0.0]) == {"cwd"}
    assert float(losses[6.0]["loss_kd_cwd"]) == pytest.approx(2 * float(losses[3.0]["loss_kd_cwd"]), rel=1e-6) != 0
    for term in kd_terms(losses[0.0]):
        assert torch.equal(losses[0.0][f"loss_kd_{term}"], losses[6.0][f"loss_kd_{term}"]), term
    if arm == "fgd:faster_rcnn":  # and it is what that loss is worth by itself, at its published weight of 10
        alone = step(build(study, "cwd:faster_rcnn"), study)
        assert float(losses[3.0]["loss_kd_cwd"]) == pytest.approx(0.3 * float(alone["loss_kd_cwd"]), rel=1e-5)


def test_instance_vectors_come_from_the_levels_of_the_centroids_whatever_is_distilled(
    tiny: Study, ready: Study, tmp_path: Path
) -> None:
    values = []
    for strides in (None, [32, 64]):
        study = derive(tiny, tmp_path / f"s{strides}", arms=["mutineck"], distillation={"strides": strides})
        link_intermediate(study, ready.root)
        plant_centroids(study)
        distiller = build(study, "mutineck")
        distiller.epoch = 1.0
        values.append(step(distiller, study))
    assert float(values[0]["loss_kd_attention"]) != float(values[1]["loss_kd_attention"])
    for term in CENTROIDS:
        assert float(values[1][f"loss_kd_{term}"]) == float(values[0][f"loss_kd_{term}"]) > 0


def test_a_target_of_a_level_that_the_student_lacks_has_no_vector_to_compare() -> None:
    loss = TeacherLoss(
        "t",
        student_channels=4,
        teacher_channels=4,
        levels=Levels(compared=(8, 16), shared=(8, 16), teacher=(4, 8, 16)),
        feature="fgd",
        weights=DistillationSpec(),
    )
    small, medium, large = [0.0, 0, 30, 30], [0.0, 0, 120, 120], [0.0, 0, 300, 300]  # pooled at 4, 8 and 16
    boxes, labels = loss._poolable(
        [torch.tensor([small, large]), torch.tensor([medium, small])], [torch.tensor([0, 1]), torch.tensor([2, 3])]
    )
    assert [b.tolist() for b in boxes] == [[large], [medium]] and [label.tolist() for label in labels] == [[1], [2]]


def targets_with(goodness: Tensor, boxes: Tensor | None = None) -> Targets:
    from mutineck.teachers.regions import teacher_weights

    n, j = goodness.shape[:2]
    boxes = torch.tensor([0.0, 0.0, 16.0, 16.0]).expand(n, j, 4) if boxes is None else boxes
    return Targets(
        boxes=boxes,
        valid=torch.ones(n, j, dtype=torch.bool),
        proposals=boxes[:, :, None, None].expand(*goodness.shape, 4),
        goodness=goodness,
        weights=teacher_weights(goodness.amax(dim=-1), 0.25),
    )


class TestConfidence:
    def test_weights_are_ca_mkds_of_each_pictures_cross_entropies(self) -> None:
        # (2, 2, 2, 1): two pictures with two targets each, two teachers
        quality = torch.tensor([[[[0.9], [0.3]], [[0.8], [0.0]]], [[[0.5], [0.5]], [[0.1], [0.4]]]])
        first = torch.tensor([-(math.log(0.9) + math.log(0.8)) / 2, -(math.log(0.3) + math.log(0.01)) / 2])
        second = torch.tensor([-(math.log(0.5) + math.log(0.1)) / 2, -(math.log(0.5) + math.log(0.4)) / 2])
        expected = torch.stack([(1 - losses.softmax(dim=0)) / 1 for losses in (first, second)])
        found = confidence_shares(targets_with(quality))
        torch.testing.assert_close(found, expected)
        assert found[0, 0] > found[0, 1] and found[1, 0] < found[1, 1], "another teacher leads in each picture"

    def test_they_sum_to_one_and_are_even_for_three_equal_teachers(self) -> None:
        shares = confidence_shares(targets_with(torch.full((2, 3, 3, 1), 0.7)))
        torch.testing.assert_close(shares, torch.full((2, 3), 1 / 3))
        shares = confidence_shares(targets_with(torch.rand(2, 3, 3, 1)))
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))

    def test_padded_targets_do_not_count_and_a_picture_without_any_weighs_evenly(self) -> None:
        targets = targets_with(torch.tensor([[[[0.9], [0.1]], [[0.1], [0.9]]]]).repeat(2, 1, 1, 1))
        some = Targets(**(vars(targets) | {"valid": torch.tensor([[True, False], [False, False]])}))
        first = (1 - torch.tensor([-math.log(0.9), -math.log(0.1)]).softmax(dim=0)).tolist()
        torch.testing.assert_close(confidence_shares(some), torch.tensor([first, [0.5, 0.5]]))

    def test_a_step_is_the_sum_of_the_teachers_terms_by_picture(
        self, tiny: Study, ready: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One teacher has the first picture and the other the second; what remains is each on its own picture."""
        study = derive(tiny, tmp_path / "s", arms=["cwd:confidence"], distillation={"strides": [8, 16]})
        found = {}
        for name, shares in {
            "both": [[1.0, 0.0], [0.0, 1.0]],
            "first": [[1.0, 0], [1, 0]],
            "second": [[0.0, 1], [0, 1]],
        }.items():
            monkeypatch.setattr(
                "mutineck.distillation.guidance.confidence_shares", lambda _targets, s=shares: torch.tensor(s)
            )
            distiller = build(study, "cwd:confidence")
            batch, parts = first_batch(study), {}
            for part in (slice(0, 2), slice(0, 1), slice(1, 2)):
                maps = {
                    s: m[part]
                    for s, m in zip((4, 8, 16, 32, 64), distiller.student.extract_feat(batch["img"]), strict=True)
                }
                frozen = [
                    {s: m[part] for s, m in t.maps(batch["img"]).items()} for t in distiller.guidance.ensemble.teachers
                ]
                losses = [
                    loss(maps, own, [torch.zeros(0, 4)] * 2, [torch.zeros(0)] * 2, shares={8: 1.0, 16: 1.0})["cwd"]
                    for loss, own in zip(distiller.guidance.teacher_losses, frozen, strict=True)
                ]
                parts[part.start, part.stop] = [float(v) for v in losses]
            torch.manual_seed(0)
            found[name] = float(distiller.forward_train(**batch)["loss_kd_cwd"]), parts
        value, parts = found["both"]
        assert value == pytest.approx((parts[0, 1][0] + parts[1, 2][1]) / 2, rel=1e-4)
        assert found["first"][0] == pytest.approx(found["first"][1][0, 2][0], rel=1e-4)
        assert found["second"][0] == pytest.approx(found["second"][1][0, 2][1], rel=1e-4)


class TestLevels:
    """The Faster R-CNN has strides 4 to 64, the RetinaNet 8 to 128: stride 4 is the first one's alone."""

    def test_those_who_have_a_level_divide_all_of_it(self, ready: Study) -> None:
        guidance = build(ready, "fgd:mean").guidance
        assert guidance._level_shares(0, [0.5, 0.5]) == {4: 2.0, 8: 1.0, 16: 1.0, 32: 1.0, 64: 1.0}
        assert guidance._level_shares(1, [0.5, 0.5]) == {8: 1.0, 16: 1.0, 32: 1.0, 64: 1.0}
        assert set(guidance._level_shares(0, [1.0, 0.0]).values()) == {1.0}, "one after the other"
        shares = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
        assert guidance._level_shares(0, shares)[4].tolist() == [1.0, 1.0]
        torch.testing.assert_close(guidance._level_shares(1, shares)[8], torch.tensor([0.2, 0.6]))

    def test_a_level_of_one_teacher_alone_keeps_its_full_weight(
        self, tiny: Study, ready: Study, tmp_path: Path
    ) -> None:
        values = {}
        for name, arm, strides in (
            ("all", "fgd:mean", None),
            ("shared", "fgd:mean", [8, 16, 32, 64]),
            ("alone", "fgd:faster_rcnn", [4]),
        ):
            study = derive(tiny, tmp_path / name, arms=[arm], distillation={"strides": strides})
            values[name] = step(build(study, arm), study)
        for term in ("attention", "foreground", "background"):
            parts = [float(values[name][f"loss_kd_{term}"]) for name in ("shared", "alone")]
            assert float(values["all"][f"loss_kd_{term}"]) == pytest.approx(sum(parts), rel=1e-5), term

    def test_omega_counts_among_those_who_have_the_level(self) -> None:
        boxes = torch.tensor([[[8.0, 8.0, 24.0, 24.0], [40.0, 8.0, 60.0, 30.0]]])
        targets = targets_with(torch.tensor([[[[0.9], [0.3], [0.6]], [[0.0], [0.0], [0.7]]]]), boxes)
        whole = fgd_masks(boxes, targets.valid, 4, (12, 20))
        torch.testing.assert_close(omega_masks(targets, 0, 4, (12, 20), [0]), whole)
        first, second = (omega_masks(targets, n, 4, (12, 20), [0, 1])["foreground"] for n in range(2))
        torch.testing.assert_close((first + second) / 2, whole["foreground"])
        share = float(targets.weights[0, 0, 0] / targets.weights[0, 0, :2].sum())
        assert float(first[0, 4, 4] / whole["foreground"][0, 4, 4]) == pytest.approx(2 * share)
        everybody = omega_masks(targets, 0, 4, (12, 20), [0, 1, 2])
        assert torch.equal(everybody["foreground"], omega_masks(targets, 0, 4, (12, 20))["foreground"])


class TestAdapters:
    def test_every_teacher_has_a_neck_of_its_own(self, ready: Study) -> None:
        losses = build(ready, "adapters").guidance.teacher_losses
        assert [loss.name for loss in losses] == ["faster_rcnn", "retinanet"]
        assert [set(loss.adapters) for loss in losses] == [{"4", "8", "16", "32", "64"}, {"8", "16", "32", "64"}]

    def test_a_targets_mass_is_divided_among_the_teachers(self) -> None:
        boxes = torch.tensor([[[8.0, 8.0, 24.0, 24.0], [40.0, 8.0, 60.0, 30.0]]])
        targets = targets_with(torch.tensor([[[[0.9], [0.3]], [[0.2], [0.7]]]]), boxes)
        first, second = (omega_masks(targets, n, 4, (12, 20)) for n in range(2))
        whole = fgd_masks(boxes, targets.valid, 4, (12, 20))
        torch.testing.assert_close((first["foreground"] + second["foreground"]) / 2, whole["foreground"])
        torch.testing.assert_close(first["background"], whole["background"])
        torch.testing.assert_close(second["background"], whole["background"])
        ratio = first["foreground"][0, 4, 4] / whole["foreground"][0, 4, 4]
        assert float(ratio) == pytest.approx(2 * float(targets.weights[0, 0, 0]))

    @pytest.mark.parametrize("arm", ["adapters", "cwd:adapters"])
    def test_two_identical_teachers_teach_what_one_does(self, tiny: Study, tmp_path: Path, arm: str) -> None:
        study = derive(tiny, tmp_path / "s", arms=[arm], distillation={"cwd": 3.0})
        losses = {}
        for copies in (1, 2):
            distiller = build(study, arm)
            guidance = distiller.guidance
            guidance.teacher_losses = torch.nn.ModuleList([guidance.teacher_losses[0]] * copies)
            guidance.ensemble.teachers = [guidance.ensemble.teachers[0]] * copies
            losses[copies] = step(distiller, study)
        assert kd_terms(losses[1]) == (FGD | MASKS | {"cwd"} if arm == "adapters" else {"cwd"})
        for term in kd_terms(losses[1]):
            assert float(losses[2][f"loss_kd_{term}"]) == pytest.approx(
                float(losses[1][f"loss_kd_{term}"]), rel=1e-5
            ), term


def weights_of(model: torch.nn.Module, *, neck: bool) -> dict[str, Tensor]:
    """Return a detector's weights of its neck, or of its heads."""
    return {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith("backbone.") and name.startswith("neck.") == neck
    }


class TestStarts:
    def test_neck_and_heads_come_from_the_teacher_where_types_agree(
        self, tiny: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arms = ["fgd:faster_rcnn", "fgd:retinanet", "student", "student@faster_rcnn"]
        study = derive(tiny, tmp_path / "s", arms=arms, inherit=True)
        first = build(study, "student").student.state_dict()
        heir = build(study, "fgd:faster_rcnn")
        donor = heir.guidance.ensemble.teachers[0].model.state_dict()
        for name, value in heir.student.state_dict().items():
            assert torch.equal(value, first[name] if name.startswith("backbone.") else donor[name]), name
        assert [len(report.mismatched) for report in heir.inherited] == [0]
        untaught = build(study, "student@faster_rcnn")
        assert untaught.guidance is None, "nobody teaches it"
        assert all(torch.equal(v, heir.student.state_dict()[n]) for n, v in untaught.student.state_dict().items())
        other = build(study, "fgd:retinanet")
        assert other.inherited == []
        assert all(torch.equal(value, first[name]) for name, value in other.student.state_dict().items())

    def test_what_only_files_tell_is_refused_there_if_it_was_asked_for(self, tiny: Study, tmp_path: Path) -> None:
        study = derive(tiny, tmp_path / "s", arms=["student"])
        config = distiller_config(study.at("distillation", "student/seed0"))
        config["start"] = [teacher_folder(study, "retinanet")]
        own = build(study, "student").student.state_dict()
        with pytest.raises(
            ExperimentError, match=r"'retinanet' is a RetinaNet with strides \(8.*the student a FasterRCNN"
        ):
            build_model(config | {"start_is_asked_for": True}).init_weights()
        default = build_model(config)
        default.init_weights()
        assert all(torch.equal(v, own[n]) for n, v in default.student.state_dict().items())

    def test_a_narrower_backbones_laterals_stay_its_own(self, tiny: Study, tmp_path: Path) -> None:
        narrow = detector("faster_rcnn", base_channels=16)
        study = derive(tiny, tmp_path / "s", student=narrow, arms=["fgd:faster_rcnn"], inherit=True)
        distiller = build(study, "fgd:faster_rcnn")
        assert set(distiller.inherited[0].mismatched) == {f"neck.lateral_convs.{i}.conv.weight" for i in range(4)}

    @pytest.mark.parametrize("arm", ["fgd:intermediate", "student@intermediate", "fgd:mean@intermediate"])
    def test_the_intermediate_teachers_head_lies_over_the_anchors_neck(
        self, tiny: Study, ready: Study, tmp_path: Path, arm: str
    ) -> None:
        study = derive(tiny, tmp_path / "s", arms=[arm], inherit=True)
        folder = study.path("teachers", "intermediate")
        shutil.copytree(ready.path("teachers", "intermediate"), folder)
        content = read_checkpoint(folder / "checkpoint.pth")
        content["state_dict"]["detector.rpn_head.rpn_cls.bias"] += 1  # as it starts, its head is the anchor's
        write_checkpoint(folder / "checkpoint.pth", content)
        own = build(study, arm).student.state_dict()
        anchor, merged = (load_frozen(study, name).model for name in ("faster_rcnn", "intermediate"))
        for name, value in (weights_of(anchor, neck=True) | weights_of(merged, neck=False)).items():
            assert torch.equal(own[name], value), name

    def test_so_it_does_where_it_learns_in_the_students_run(self, tiny: Study, joint: Study, tmp_path: Path) -> None:
        study = derive(tiny, tmp_path / "s", arms=["fgd:intermediate"], inherit=True, intermediate={"mode": "joint"})
        link_intermediate(study, joint.root)
        distiller = build(study, "fgd:intermediate")
        own = distiller.student.state_dict()
        anchor, start = (
            distiller.guidance.ensemble.merged.teachers[0],
            torch.load(joint.path("teachers", "intermediate", "start.pth")),
        )
        expected = {n: v for n, v in anchor.model.state_dict().items() if n.startswith("neck.")}
        expected |= {n: v for n, v in start["state_dict"].items() if not n.startswith("backbone.")}
        assert set(expected) == {name for name in own if not name.startswith("backbone.")}
        assert all(torch.equal(own[name], value) for name, value in expected.items())


class TestPrior:
    def test_the_proposals_quality_mixes_the_maps_that_teach(self, prior: Study) -> None:
        ensemble = build(prior, "pkd:intermediate").guidance.ensemble
        ensemble.cache = None  # it rounds
        batch = first_batch(prior)
        image, metas, boxes, labels = (batch[key] for key in ("img", "img_metas", "gt_bboxes", "gt_labels"))
        (mixed,), proposals, _ = ensemble(image, metas, boxes, labels, proposals=False)
        assert proposals == [], "the arm itself asks for none"
        merged = ensemble.merged
        with torch.no_grad(), merged.targets(metas, boxes, labels):
            expected = merged(image)
        assert all(torch.equal(own, other) for own, other in zip(mixed.values(), expected, strict=True))
        even = ensemble.intermediate.maps(image)
        assert [torch.equal(mixed[s], even[s]) for s in (8, 16)] == [False, False]
        none = [b[:0] for b in boxes], [v[:0] for v in labels]
        (without,), _, _ = ensemble(image, metas, *none, proposals=False)
        assert all(torch.equal(without[s], even[s]) for s in even), "where nothing is, nobody is better"

    def test_its_arms_take_a_step(self, prior: Study) -> None:
        losses = step(build(prior, "mutineck"), prior)
        assert kd_terms(losses) == TERMS["mutineck"]
        assert all(v.isfinite().all() for name, v in losses.items() if name.startswith("loss_kd"))


@pytest.mark.parametrize("channels", [16, 64])
def test_maps_of_another_width_are_adapted(tiny: Study, ready: Study, tmp_path: Path, channels: int) -> None:
    student = detector("faster_rcnn", neck_channels=channels)
    study = derive(
        tiny, tmp_path / "s", student=student, arms=["mutineck"], distillation={"centroid_cosine": -1.0, "logits": 1.0}
    )
    link_intermediate(study, ready.root)
    plant_centroids(study)
    distiller = build(study, "mutineck")
    convolution = distiller.guidance.teacher_losses[0].adapters["8"]
    assert (convolution.in_channels, convolution.out_channels) == (channels, 32)
    losses = step(distiller, study)
    assert kd_terms(losses) == TERMS["mutineck"]
    assert not [name for name, p in distiller.named_parameters() if p.requires_grad and p.grad is None]


def test_pictures_without_targets_pass(ready: Study) -> None:
    for arm in ("mutineck", "adapters", "fgd:confidence"):
        distiller = build(ready, arm)
        batch = first_batch(ready)
        batch["gt_bboxes"] = [torch.zeros(0, 4), batch["gt_bboxes"][1]]
        batch["gt_labels"] = [torch.zeros(0, dtype=torch.int64), batch["gt_labels"][1]]
        losses = distiller.forward_train(**batch)
        assert all(v.isfinite().all() for name, v in losses.items() if name.startswith("loss_kd"))
        batch["gt_bboxes"], batch["gt_labels"] = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
        losses = distiller.forward_train(**batch)
        assert all(v.isfinite().all() for name, v in losses.items() if name.startswith("loss_kd"))


class TestIgnored:
    def test_its_cells_are_no_background(self) -> None:
        masks = {"foreground": torch.zeros(1, 3, 4), "background": torch.full((1, 3, 4), 1 / 11)}
        masks["foreground"][0, 0, 0], masks["background"][0, 0, 0] = 1.0, 0.0
        found = without_ignored(masks, [torch.tensor([[0.0, 0, 15, 7]])], 8)  # cells (0..1, 0..2), ends included
        expected = torch.full((3, 4), 1 / 6)
        expected[:2, :3] = 0
        assert torch.allclose(found["background"][0], expected) and found["foreground"] is masks["foreground"]

    @pytest.mark.parametrize("arm", ["fgd:mean", "adapters", "mutineck"])
    def test_objects_keep_their_masks(self, ready: Study, arm: str) -> None:
        distiller = build(ready, arm)
        everywhere, nowhere = [torch.tensor([[0.0, 0, 500, 500]])] * 2, [torch.zeros(0, 4)] * 2
        found = {}
        for name, ignored in (("none", None), ("empty", nowhere), ("all", everywhere)):
            losses = distiller.forward_train(**first_batch(ready), gt_bboxes_ignore=ignored)
            found[name] = {term: float(v) for term, v in losses.items() if term.startswith("loss_kd_")}
        assert found["empty"] == found["none"]
        assert found["none"].pop("loss_kd_background") > 0 and found["all"].pop("loss_kd_background") == 0
        boxes = {"loss_kd_logits", "loss_kd_deltas"}  # fewer proposals are compared
        assert {term: found["all"][term] for term in found["none"] if term not in boxes} == {
            term: value for term, value in found["none"].items() if term not in boxes
        }
        assert all(found["all"][term] != found["none"][term] for term in boxes & set(found["none"]))

    def test_an_intermediate_teacher_that_learns_meanwhile_leaves_it_out_too(self, joint: Study) -> None:
        from mutineck.detection.ignored import ignoring

        config = ignoring(distiller_config(joint.at("distillation", "pkd-intermediate/seed0")))
        distiller = build_model(config)
        distiller.init_weights()
        batch = first_batch(joint) | {"gt_bboxes": [torch.zeros(0, 4)] * 2}
        batch["gt_labels"] = [torch.zeros(0, dtype=torch.int64)] * 2
        for size, silent in ((0.0, False), (500.0, True)):
            ignored = [torch.tensor([[-size, -size, size, size]])] * 2
            losses = distiller.train().forward_train(**batch, gt_bboxes_ignore=ignored)
            for name in ("loss_rpn_cls", "merge.loss_rpn_cls"):
                assert all((float(v) == 0) == silent for v in losses[name]), name


def test_detectors_without_a_common_stride_are_refused_naming_both(tiny: Study, tmp_path: Path) -> None:
    study = derive(tiny, tmp_path / "s", arms=["fgd:retinanet"], distillation={"strides": [4]})
    with pytest.raises(
        ExperimentError,
        match=r"student has strides \(4, 8, 16, 32, 64\), 'retinanet' has \(8, 16, 32, 64, 128\).*asks for \(4,\)",
    ):
        build(study, "fgd:retinanet")


def test_a_student_of_ones_own_config_names_what_it_is_made_of(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_nothing.py").touch()
    model = model_config(DetectorSpec(**detector("retinanet")), 10)
    imports = {"imports": ["of_nothing"], "allow_failed_imports": False}
    write_config(tmp_path / "mine.py", {"model": model, "custom_imports": imports})
    start = {f"backbone.{n}": v for n, v in build_model(model).backbone.state_dict().items()}
    write_checkpoint(tmp_path / "start.pth", {"state_dict": start})
    monkeypatch.syspath_prepend(tmp_path)
    named = {"family": "retinanet", "config": "mine.py", "pretrained": "start.pth"}
    study = derive(tiny, tmp_path / "study", student=named, relative_to=str(tmp_path)).at(
        "distillation", "student/seed0"
    )
    monkeypatch.setattr("mutineck.distillation.stage.train", lambda config, **_: None)
    _, config = train_student(study)
    assert config.model.student.backbone.init_cfg.checkpoint == str(tmp_path / "start.pth")
    assert config.custom_imports.imports[-1] == "of_nothing"
    save_student(study, build_model(model), study.dataset.categories)
    kept = read_config(study.folder / "config.py")
    assert kept.model.backbone.init_cfg is None and kept.custom_imports.imports == ["of_nothing"]
    assert sorted(study.finish()["inputs"]) == [str(tmp_path / "mine.py"), str(tmp_path / "start.pth")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.pth").unlink()
    with pytest.raises(
        ExperimentError, match=rf"^student\.detector\.pretrained: start\.pth is not there \(looked for {tmp_path}"
    ):
        student_detector(study)
