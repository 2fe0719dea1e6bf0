"""Second stages that are compared: which can be, at which boxes, and who learns from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mutineck.detection.frozen import Proposals
from mutineck.distillation.heads import SecondStage, comparable, compare_heads, comparison_boxes
from mutineck.study.jobs import Job
from mutineck.study.settings import settings_of
from mutineck.study.stage import Study
from tests.detection.tiny import derive, first_batch, random_detector
from tests.distillation.test_gradients import moved
from tests.distillation.tiny import build, link_intermediate, plant_centroids, step

STRIDES = (4, 8, 16, 32, 64)


def second_stage(
    family: str = "faster_rcnn", categories: int = 2, *, per_category: bool = True, scale: float = 1.0
) -> SecondStage | None:
    """Return the second stage of a detector of random weights, `scale` times as large in its first layer."""
    two_stage = family in ("faster_rcnn", "mask_rcnn")
    model, _ = random_detector(family, categories, box_per_category=per_category and two_stage)
    stage = SecondStage.of(model, STRIDES)
    if stage is not None:
        with torch.no_grad():
            stage.head.shared_fcs[0].weight.mul_(scale)
    return stage


def maps(seed: int, channels: int = 32) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {s: torch.randn(2, channels, 128 // s, 128 // s, generator=generator) for s in STRIDES}


def test_proposals_in_ignored_boxes_are_not_compared() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [52, 52, 80, 80]])
    own = Proposals(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64))
    truth, ignored = torch.tensor([[50.0, 50, 61, 61]]), torch.tensor([[48.0, 48, 62, 62]])
    (asked,) = comparison_boxes([[own]], [truth], [ignored], most=2)
    assert asked.tolist() == [truth[0].tolist(), boxes[0].tolist()], "the truth stays, wherever it lies"
    (all_of_them,) = comparison_boxes([[own]], [truth], [ignored[:0]], most=2)
    assert len(all_of_them) == 3


BOXES = [torch.tensor([[8.0, 8, 40, 56], [0, 0, 120, 100]]), torch.tensor([[60.0, 20, 90, 60]])]


@pytest.mark.parametrize("family", ["faster_rcnn", "mask_rcnn"])
def test_a_second_stage_reads_each_box_from_its_own_image(family: str) -> None:
    stage = second_stage(family)
    assert stage is not None and stage.strides == (4, 8, 16, 32)
    scores, refinements = stage.predict(maps(0), BOXES)
    assert scores.shape == (3, 3) and refinements.shape == (3, 8)
    alone, _ = stage.predict({s: m[1:] for s, m in maps(0).items()}, BOXES[1:])
    assert torch.allclose(alone, scores[2:], atol=1e-6)


@pytest.mark.parametrize("family", ["cascade_rcnn", "retinanet", "fcos", "gfl", "atss"])
def test_whoever_has_no_plain_second_stage_has_none(family: str) -> None:
    assert second_stage(family) is None
    assert why_not(second_stage(), None).endswith("plain box head: intermediate teacher")
    assert why_not(None, second_stage()).endswith("plain box head: student")


def why_not(student: SecondStage | None, teacher: SecondStage | None) -> str:
    pair, why = comparable(student, teacher)
    assert (pair is None) == bool(why)
    return why


def test_heads_that_speak_of_other_things_are_told_apart() -> None:
    own, other = second_stage(), second_stage()
    assert comparable(own, second_stage(scale=2))[0] is not None
    assert "reg_class_agnostic" in why_not(own, second_stage(per_category=False))
    expected = "num_classes of the student's box head is 2, of the intermediate teacher's 3"
    assert expected in why_not(own, second_stage(categories=3))
    assert other is not None
    other.head.bbox_coder.stds = (1.0, 1.0, 1.0, 1.0)
    assert "(1.0, 1.0, 1.0, 1.0)" in why_not(own, other)


@pytest.mark.parametrize(
    "config", ["sabl/sabl_faster_rcnn_r50_fpn_1x_coco.py", "double_heads/dh_faster_rcnn_r50_fpn_1x_coco.py"]
)
def test_heads_of_other_kinds_have_none(config: str) -> None:
    """SABL's codes boxes by buckets; a double head normalises by the batch."""
    from mutineck.detection.configs import read_config
    from mutineck.detection.frozen import build_model

    assert SecondStage.of(build_model(read_config(config).model), STRIDES) is None


def test_every_level_that_an_extractor_pools_from_is_asked() -> None:
    from mutineck.detection.configs import read_config
    from mutineck.detection.frozen import build_model

    model = read_config("groie/faster_rcnn_r50_fpn_groie_1x_coco.py").model
    stage = SecondStage.of(build_model(model), STRIDES)
    assert stage is not None and stage.predict(maps(0, 256), BOXES)[0].shape == (3, 81)


def test_a_head_with_running_statistics_is_left_alone() -> None:
    model, _ = random_detector("faster_rcnn", 2)
    model.roi_head.bbox_head.shared_fcs.append(torch.nn.BatchNorm1d(4))
    assert SecondStage.of(model, STRIDES) is None


def test_equal_heads_on_equal_maps_have_nothing_to_learn() -> None:
    own, same, other = second_stage(), second_stage(), second_stage(scale=2)
    assert own is not None and same is not None and other is not None
    terms = compare_heads((own, same), maps(0), maps(0), BOXES)
    assert {name: round(value.item(), 6) for name, value in terms.items()} == {"logits": 0, "deltas": 0}
    for name, value in compare_heads((own, other), maps(0), maps(1), BOXES).items():
        assert value.item() > 0, name


def test_without_a_box_both_terms_are_zero_and_the_means_are_taken_all_the_same() -> None:
    own, called = second_stage(), []
    assert own is not None
    learning = {s: m.requires_grad_() for s, m in maps(0).items()}

    def reduce(value: torch.Tensor) -> torch.Tensor:
        called.append(value.tolist())
        return value

    terms = compare_heads((own, own), learning, maps(0), [torch.zeros(0, 4)] * 2, reduce=reduce)
    assert all(value.item() == 0 and value.requires_grad for value in terms.values())
    assert called == [[0, 0]]


def test_boxes_of_several_processes_count_alike() -> None:
    """With the mean of the divisors, the mean of two processes' terms is the term of both batches at once."""
    own, other = second_stage(), second_stage(scale=2)
    assert own is not None and other is not None
    whole = compare_heads((own, other), maps(0), maps(1), BOXES)
    halves, divisors = [], []
    for keep in (lambda value: divisors.append(value) or value, lambda _: torch.stack(divisors).mean(dim=0)):
        halves = [
            compare_heads(
                (own, other),
                *({s: m[i : i + 1] for s, m in maps(seed).items()} for seed in (0, 1)),
                BOXES[i : i + 1],
                reduce=keep,
            )
            for i in range(2)
        ]
    for name, value in whole.items():
        assert (halves[0][name] + halves[1][name]).item() / 2 == pytest.approx(value.item(), rel=1e-5), name


def test_asked_are_the_ground_truth_and_each_teachers_best() -> None:
    def proposals(first: float, scores: list[float]) -> Proposals:
        boxes = torch.tensor([[first + i, 0, first + i + 1, 1] for i in range(len(scores))]).reshape(-1, 4)
        return Proposals(boxes, torch.tensor(scores), torch.zeros(len(scores), dtype=torch.long))

    asked = comparison_boxes(
        [[proposals(10, [0.2, 0.9, 0.5]), proposals(20, [0.3])], [proposals(30, []), proposals(40, [0.1, 0.2, 0.3])]],
        [torch.tensor([[1.0, 1, 2, 2]]), torch.zeros(0, 4)],
        most=2,
    )
    assert asked[0][:, 0].tolist() == [1, 11, 12, 20]
    assert asked[1][:, 0].tolist() == [42, 41]


@pytest.fixture(scope="module")
def asked(tiny: Study, ready: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = derive(
        tiny,
        tmp_path_factory.mktemp("asked") / "study",
        arms=["mutineck", "mutineck-regions", "mutineck-centroids", "mutineck-intermediate", "fgd:intermediate"],
        distillation={"logits": 2.0},
    )
    link_intermediate(study, ready.root)
    plant_centroids(study)
    return study


@pytest.mark.parametrize("arm", ["mutineck", "mutineck-centroids"])
def test_the_terms_reach_the_students_second_stage_and_its_maps(asked: Study, arm: str) -> None:
    distiller = build(asked, arm)
    distiller.epoch = 1.0
    losses = distiller.forward_train(**first_batch(asked))
    (losses["loss_kd_logits"] + losses["loss_kd_deltas"]).backward()
    learnt = moved(distiller.student)
    assert {name.split(".")[0] for name in learnt} == {"backbone", "neck", "roi_head"}
    assert any("fc_cls" in name for name in learnt) and any("fc_reg" in name for name in learnt)
    assert all(p.grad is None for p in distiller.guidance.ensemble.intermediate.model.parameters())


@pytest.mark.parametrize("arm", ["mutineck-regions", "mutineck-intermediate", "fgd:intermediate"])
def test_arms_without_regions_or_intermediate_teacher_do_not_ask(asked: Study, arm: str) -> None:
    assert not {"loss_kd_logits", "loss_kd_deltas"} & set(step(build(asked, arm), asked))


def test_the_weight_scales_both_terms_and_leaves_the_others_alone(
    tiny: Study, ready: Study, asked: Study, tmp_path: Path
) -> None:
    half = derive(tiny, tmp_path / "half", arms=["mutineck"], distillation={"logits": 1.0})
    none = derive(tiny, tmp_path / "none", arms=["mutineck"])
    for study in (half, none):
        link_intermediate(study, ready.root)
        plant_centroids(study)
    whole, some, plain = (step(build(study, "mutineck"), study) for study in (asked, half, none))
    assert set(whole) - set(plain) == {"loss_kd_logits", "loss_kd_deltas"}
    for name in ("logits", "deltas"):
        assert whole[f"loss_kd_{name}"].item() == pytest.approx(2 * some[f"loss_kd_{name}"].item(), rel=1e-6) != 0
    for name in plain:
        if name.startswith("loss_kd_"):
            assert torch.equal(plain[name], whole[name]), name


def test_a_student_without_second_stage_learns_by_maps_alone_and_it_is_said(
    tiny: Study, ready: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = derive(
        tiny,
        tmp_path / "gfl",
        arms=["mutineck"],
        distillation={"logits": 1.0},
        student="gfl",
    )
    link_intermediate(study, ready.root)
    plant_centroids(study)
    distiller = build(study, "mutineck")
    assert "distillation.logits compares nothing here: no second stage" in capsys.readouterr().out
    assert "loss_kd_logits" not in step(distiller, study)


def test_only_arms_that_ask_depend_on_the_weight(asked: Study, tiny: Study, tmp_path: Path) -> None:
    def weights(study: Study, arm: str) -> set[str]:
        settings = settings_of(study.experiment, Job("distillation", f"{arm}/seed0"))
        return {key for key in settings["distillation"] if key.startswith("logit")}

    assert weights(asked, "mutineck") == {"logits", "logit_proposals"}
    assert weights(asked, "mutineck-regions") == weights(asked, "fgd:intermediate") == set()
    plain = derive(
        tiny,
        tmp_path / "plain",
        arms={
            "mutineck": None,
            "asks": {"feature": "fgd", "source": "intermediate", "regions": True, "weights": {"logits": 1.0}},
        },
    )
    assert weights(plain, "mutineck") == set()
    one_stage = derive(tiny, tmp_path / "one_stage", arms=["mutineck"], student="gfl", distillation={"logits": 1.0})
    assert weights(one_stage, "mutineck") == set()
    assert weights(plain, "asks") == {"logits", "logit_proposals"}
