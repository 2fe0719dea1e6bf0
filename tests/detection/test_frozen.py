"""Frozen detectors of every family: their maps, their proposals, their labels, their input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mutineck.detection.configs import read_config
from mutineck.detection.frozen import (
    LEAST_SCORE,
    TWO_STAGE_PROPOSALS,
    FrozenDetector,
    Normalisation,
    _spread_categories,
    build_model,
    detector_strides,
    map_labels,
    renormaliser,
)
from mutineck.detection.specs import FAMILIES
from mutineck.detectors.folders import load_frozen, load_model
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.seeding import seeded
from tests.detection.tiny import experiment_of, first_batch, random_detector

TWO_STAGE = ("faster_rcnn", "mask_rcnn", "cascade_rcnn")
RGB = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True)
CAFFE = Normalisation((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False)


def frozen(tiny: Study, family: str) -> FrozenDetector:
    return load_frozen(Study(experiment_of((family,)), tiny.root, Job("teachers")), family)


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_the_networks_own_at_strides_that_fit(tiny: Study, family: str) -> None:
    batch = first_batch(tiny)
    image = batch["img"]
    teacher = frozen(tiny, family)
    assert teacher.strides == ((4, 8, 16, 32, 64) if family in TWO_STAGE else (8, 16, 32, 64, 128))
    assert teacher.channels == 32
    maps = teacher.maps(image)
    plain = load_model(tiny.path("teachers", family))[0].eval()
    with torch.no_grad():
        expected = dict(zip(detector_strides(plain), plain.extract_feat(image), strict=True))
    height, width = image.shape[2:]
    for stride, found in maps.items():
        assert found.shape == (2, 32, -(-height // stride), -(-width // stride))
        assert not found.requires_grad
        # BatchNorm is folded into the convolutions: equal to rounding.
        torch.testing.assert_close(found, expected[stride], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_proposals_are_many_and_in_the_coordinates_of_the_input(tiny: Study, family: str) -> None:
    batch = first_batch(tiny)
    teacher = frozen(tiny, family)
    # As if the picture had been resized: proposals must not be brought back to its original size.
    metas = [meta | {"scale_factor": np.array([0.25] * 4, dtype=np.float32)} for meta in batch["img_metas"]]
    maps, proposals = teacher.maps_and_proposals(batch["img"], metas)
    plain = load_model(tiny.path("teachers", family))[0].eval()
    with torch.no_grad():
        after = plain.simple_test(batch["img"], batch["img_metas"], rescale=False)
    for meta, found, result in zip(metas, proposals, after, strict=True):
        kept = np.concatenate(result[0] if isinstance(result, tuple) else result)
        kept = kept[kept[:, 4] >= LEAST_SCORE]
        assert len(found.boxes) > len(kept) > 0, "before non-maximum suppression there are more"
        assert len(found.boxes) == len(found.scores) == len(found.labels)
        height, width = meta["img_shape"][:2]
        assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([width, height, width, height])).all()
        assert (found.boxes[:, 2:] > width / 2).any(), "they reach over the whole picture"
        assert (found.scores >= LEAST_SCORE).all() and (found.scores <= 1).all()
        assert not found.scores.requires_grad
        # What survives suppression was among the proposals, box by box.
        distance = torch.cdist(torch.from_numpy(kept[:, :4]), found.boxes, p=torch.inf).amin(dim=1)
        assert (distance < 0.05).float().mean() > 0.95
    if family in TWO_STAGE[:2]:
        rows = torch.unique(proposals[0].boxes.round(decimals=2), dim=0)
        assert len(rows) <= TWO_STAGE_PROPOSALS * len(teacher.categories)


def test_a_mask_branch_is_cut_off(tiny: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = frozen(tiny, "mask_rcnn")
    assert teacher.model.roi_head.mask_head is None
    assert not any("mask" in name for name, _ in teacher.model.named_parameters())


@pytest.mark.parametrize("family", ["faster_rcnn", "cascade_rcnn", "retinanet"])
def test_proposals_of_a_batch_are_those_of_its_pictures(tiny: Study, family: str) -> None:
    batch = first_batch(tiny)
    teacher = frozen(tiny, family)
    together = teacher.maps_and_proposals(batch["img"], batch["img_metas"])[1]
    for index, found in enumerate(together):
        alone = teacher.maps_and_proposals(batch["img"][index : index + 1], batch["img_metas"][index : index + 1])[1][0]
        assert abs(len(alone.boxes) - len(found.boxes)) <= 0.01 * len(found.boxes)
        torch.testing.assert_close(
            alone.scores.sort().values[-50:], found.scores.sort().values[-50:], rtol=0, atol=1e-4
        )


def test_boxes_of_each_category_go_with_its_score(tiny: Study) -> None:
    model, _ = random_detector("faster_rcnn", 3, box_per_category=True)
    teacher = FrozenDetector("t", model, categories="abc", student_categories="cab")
    batch = first_batch(tiny)
    maps, proposals = teacher.maps_and_proposals(batch["img"], batch["img_metas"])
    features = tuple(maps.values())
    regions = [r[:TWO_STAGE_PROPOSALS] for r in model.rpn_head.simple_test_rpn(features, batch["img_metas"])]
    boxes, scores = model.roi_head.simple_test_bboxes(features, batch["img_metas"], regions, None, rescale=False)
    assert boxes[0].shape[1] == 12
    for label, own in ((1, 0), (2, 1), (0, 2)):  # a, b, c in the student's numbering
        kept = scores[0][:, own] >= LEAST_SCORE
        found = proposals[0].labels == label
        assert kept.any()
        assert torch.equal(proposals[0].boxes[found], boxes[0][kept, 4 * own : 4 * own + 4])
        assert torch.equal(proposals[0].scores[found], scores[0][kept, own])


class TestLabels:
    def test_names_and_aliases_meet_in_the_students_numbering(self) -> None:
        labels = map_labels("t", ["aeroplane", "cat", "dog"], ["dog", "airplane"], {"aeroplane": "airplane"})
        assert labels.tolist() == [1, -1, 0]

    def test_two_categories_may_mean_one(self) -> None:
        assert map_labels("t", ["car", "truck"], ["vehicle"], {"car": "vehicle", "truck": "vehicle"}).tolist() == [0, 0]

    def test_nothing_in_common_is_refused_with_both_lists(self) -> None:
        with pytest.raises(ExperimentError, match=r"Teacher: cat, dog\. Student: disc, ring\..*aliases"):
            map_labels("t", ["cat", "dog"], ["disc", "ring"], {})

    def test_an_alias_of_an_unknown_category_names_near_ones(self) -> None:
        with pytest.raises(
            ExperimentError, match=r"teacher 't', aliases: unknown category 'aeroplan'; did you mean 'aeroplane'"
        ):
            map_labels("t", ["aeroplane"], ["airplane"], {"aeroplan": "airplane"})

    def test_a_category_that_the_student_lacks_has_no_proposals(self, tiny: Study) -> None:
        own = tiny.dataset.categories
        batch = first_batch(tiny)
        whole = frozen(tiny, "faster_rcnn").maps_and_proposals(batch["img"], batch["img_metas"])[1][0]
        second, first = whole.labels.bincount().argsort()[-2:].tolist()
        model = load_model(tiny.path("teachers", "faster_rcnn"))[0]
        teacher = FrozenDetector("t", model, categories=own, student_categories=[own[first], own[second]])
        part = teacher.maps_and_proposals(batch["img"], batch["img_metas"])[1][0]
        assert set(part.labels.unique().tolist()) == {0, 1}
        for ours, theirs in ((0, first), (1, second)):
            assert torch.equal(part.scores[part.labels == ours], whole.scores[whole.labels == theirs])


class TestNormalisation:
    @pytest.mark.parametrize(
        ("given", "wanted"),
        [(RGB, CAFFE), (CAFFE, RGB), (RGB, Normalisation((0.0,) * 3, (255.0,) * 3, True)), (RGB, RGB)],
        ids=["rgb-to-caffe", "caffe-to-rgb", "other-scale", "same"],
    )
    def test_the_affine_equals_the_teachers_own_normalisation(
        self, given: Normalisation, wanted: Normalisation
    ) -> None:
        import mmcv

        pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)  # BGR, as it is read

        def normalised(how: Normalisation) -> torch.Tensor:
            image = mmcv.imnormalize(pixels, np.array(how.mean), np.array(how.std), how.to_rgb)
            return torch.from_numpy(image).permute(2, 0, 1)[None]

        found = renormaliser(given, wanted)(normalised(given))
        expected = normalised(wanted)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()

    def test_a_teachers_maps_do_not_depend_on_how_the_student_normalises(self, tiny: Study) -> None:
        categories = tiny.dataset.categories
        model = load_model(tiny.path("teachers", "fcos"))[0]
        image = first_batch(tiny)["img"]
        expected = frozen(tiny, "fcos").maps(image)
        teacher = FrozenDetector(
            "fcos",
            model,
            categories=categories,
            student_categories=categories,
            normalisation=RGB,
            student_normalisation=CAFFE,
        )
        found = teacher.maps(renormaliser(RGB, CAFFE)(image))
        for stride in teacher.strides:
            torch.testing.assert_close(found[stride], expected[stride], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("pipeline", "shown"),
        [
            ([{"type": "LoadImageFromFile"}, {"type": "Pad"}], "LoadImageFromFile"),
            ([{"type": "Normalize", "mean": [1.0], "std": [1.0]}], r"\[1\.0\]"),
            ([{"type": "Normalize", "mean": [1.0] * 3, "std": [1.0, 0.0, 1.0]}], r"\[1\.0, 0\.0, 1\.0\]"),
            ([{"type": "Normalize", "mean": [1.0] * 3, "std": [1.0] * 3}] * 2, "Normalize"),
        ],
        ids=["none", "one-channel", "zero-deviation", "twice"],
    )
    def test_what_is_no_affine_is_refused_by_name(self, pipeline: list[dict[str, Any]], shown: str) -> None:
        with pytest.raises(ExperimentError, match=rf"(?s)teacher 'odd'.*{shown}"):
            Normalisation.of(pipeline, "teacher 'odd'")

    def test_it_is_read_from_within_test_time_augmentation(self) -> None:
        step = {"type": "Normalize", "mean": list(CAFFE.mean), "std": list(CAFFE.std), "to_rgb": False}
        assert Normalisation.of([{"type": "MultiScaleFlipAug", "transforms": [step]}], "x") == CAFFE

    def test_it_is_read_from_whatever_a_config_tests_on(self) -> None:
        step = {"type": "Normalize", "mean": list(CAFFE.mean), "std": list(CAFFE.std), "to_rgb": False}
        one = {"type": "CocoDataset", "pipeline": [step]}
        repeated = {"type": "RepeatDataset", "times": 2, "dataset": one}
        for data in (
            {"test": one},
            {"test": [one, one]},
            {"test": {"type": "ConcatDataset", "datasets": [one, repeated]}},
            {"test": {"type": "ClassBalancedDataset", "oversample_thr": 0.1, "dataset": repeated}},
            {"val": one, "test": {}},
            {"train": [repeated]},
        ):
            assert self.of({"data": data}) == CAFFE, data
        assert self.of({"normalisation": RGB.fields, "data": {"test": one}}) == RGB
        other = {**one, "pipeline": [{**step, "to_rgb": True}]}
        with pytest.raises(ExperimentError, match=r"it: its config's data\.test is normalised by .* and .*; say"):
            self.of({"data": {"test": [one, other]}})
        with pytest.raises(ExperimentError, match=r"it: its config has no data set with a pipeline .*; say it"):
            self.of({})

    @staticmethod
    def of(config: dict[str, Any]) -> Normalisation:
        from mmcv import Config

        return Normalisation.of_config(Config(config), owner="it", remedy="say it")


def test_a_frozen_detector_is_no_module(tiny: Study) -> None:
    teacher = frozen(tiny, "faster_rcnn")
    assert not isinstance(teacher, torch.nn.Module)
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())


def test_a_missing_teacher_names_the_command(tiny: Study, tmp_path: Path) -> None:
    (tmp_path / "dataset").symlink_to(tiny.path("dataset"))
    with pytest.raises(FileNotFoundError, match="mutineck run tiny --until teachers"):
        load_frozen(Study(experiment_of(("faster_rcnn",)), tmp_path, Job("features")), "faster_rcnn")


def test_a_frozen_teacher_with_deformable_convolutions_sees_the_same() -> None:
    config = read_config("dcn/faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco.py")
    config.model.backbone.update(init_cfg=None, base_channels=8)
    config.model.neck.update(in_channels=[32, 64, 128, 256], out_channels=32)
    with seeded(0):
        plain = build_model(config)
        plain.init_weights()
        for module in plain.modules():
            if hasattr(module, "conv_offset"):
                torch.nn.init.normal_(module.conv_offset.weight, std=0.1)
        image = torch.randn(1, 3, 128, 160)
    plain.eval()
    names = ("a",)
    teacher = FrozenDetector("dcn", copy.deepcopy(plain), categories=names, student_categories=names)
    with torch.no_grad():
        for found, expected in zip(teacher.maps(image).values(), plain.extract_feat(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_no_setting_asks_for_proposals_that_frozen_detectors_leave_out() -> None:
    from mutineck.study.experiment import RegionsSpec

    (bound,) = [rule.ge for rule in RegionsSpec.model_fields["score"].metadata if hasattr(rule, "ge")]
    assert bound == LEAST_SCORE


@pytest.mark.parametrize("columns", [4, 12])
def test_a_picture_without_regions_has_no_proposals(columns: int) -> None:
    boxes, scores, labels = _spread_categories(torch.zeros(0, columns), torch.zeros(0, 4))
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
