"""Augmentation and order depend on seed, epoch and picture, and on nothing that else is drawn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from mutineck.detection.configs import dataset_config, pipelines
from mutineck.detection.prepare import prepare
from mutineck.detection.specs import InputSpec
from mutineck.study.stage import Study
from mutineck.system.files import read_json
from mutineck.system.seeding import derive_seed, seed_everything


def dataset_of(tiny: Study, seed: int = 0, epoch: int = 0, categories: list[str] | None = None, **changes: Any) -> Any:
    prepare()
    from mmcv.utils import import_modules_from_strings
    from mmdet.datasets import build_dataset

    import_modules_from_strings(["mutineck.detection.repeatable"])
    categories = categories or tiny.dataset.categories
    annotations = tiny.path("dataset", "train.json")
    train = pipelines(tiny.experiment.input.model_copy(update=changes))[0]
    dataset = build_dataset(
        dataset_config(annotations, tiny.dataset.pictures, categories, train, seed=seed, test=False)
    )
    dataset.epoch = epoch
    return dataset


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(2, 0, -1)])
def test_labels_are_positions_in_the_classes_that_are_asked_for(tiny: Study, order: slice) -> None:
    content = read_json(tiny.path("dataset", "train.json"))
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    wanted = list(name_of.values())[order]
    dataset = dataset_of(tiny, categories=wanted)
    seen = 0
    for index, info in enumerate(dataset.data_infos):
        rows = [a for a in content["annotations"] if a["image_id"] == info["id"] and not a["iscrowd"]]
        expected = [name_of[a["category_id"]] for a in rows if name_of[a["category_id"]] in wanted]
        assert [wanted[label] for label in dataset.get_ann_info(index)["labels"]] == expected
        seen += len(expected)
    assert seen > 0


def test_a_class_that_the_file_has_not_is_refused(tiny: Study) -> None:
    with pytest.raises(Exception, match="unicorn"):
        dataset_of(tiny, categories=["unicorn"])


def pictures(dataset: Any) -> list[np.ndarray]:
    return [dataset[i]["img"].data.numpy() for i in range(8)]


def flips(dataset: Any) -> list[bool]:
    return [bool(dataset[i]["img_metas"].data["flip"]) for i in range(len(dataset))]


@pytest.mark.parametrize("disturb", [1, 2, 3])
def test_what_else_is_drawn_moves_nothing(tiny: Study, disturb: int) -> None:
    expected = pictures(dataset_of(tiny))
    seed_everything(disturb)
    dataset = dataset_of(tiny)
    for i in reversed(range(8)):
        random.random()
        np.random.rand(disturb)
        torch.rand(disturb)
        assert np.array_equal(dataset[i]["img"].data.numpy(), expected[i])


def test_the_random_state_outside_is_left_as_it_was(tiny: Study) -> None:
    dataset = dataset_of(tiny)
    seed_everything(4)
    expected = random.random(), np.random.rand(), float(torch.rand(1))
    seed_everything(4)
    dataset[0]
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected


def test_seed_and_epoch_each_change_the_augmentation(tiny: Study) -> None:
    found = [flips(dataset_of(tiny, seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert found[0] == found[3] and found[0] != found[1] and found[0] != found[2]
    assert 0 < sum(found[0]) < len(found[0])


WAYS: list[dict[str, Any]] = [{"multiscale": (0.5, 1.5)}, {"photometric": True}, {"crop": 0.4}]


@pytest.mark.parametrize("way", [*WAYS, {name: value for way in WAYS for name, value in way.items()}])
def test_every_augmentation_repeats_by_seed_epoch_and_picture(tiny: Study, way: dict[str, Any]) -> None:
    def seen(seed: int, epoch: int, disturb: int) -> list[np.ndarray]:
        seed_everything(disturb)
        return pictures(dataset_of(tiny, seed, epoch, flip=0.0, **way))

    first = seen(0, 0, 1)
    again, later, other, plain = seen(0, 0, 2), seen(0, 1, 1), seen(1, 0, 1), pictures(dataset_of(tiny, flip=0.0))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for changed in (later, other, plain):
        assert sum(not np.array_equal(a, b) for a, b in zip(first, changed, strict=True)) > len(first) / 2


def test_augmentation_that_is_off_leaves_the_pipeline_as_it_was(tiny: Study) -> None:
    train = pipelines(tiny.experiment.input)[0]
    assert [step["type"] for step in train][:4] == ["LoadImageFromFile", "LoadAnnotations", "Resize", "RandomFlip"]
    assert train[2] == {"type": "Resize", "img_scale": tiny.experiment.input.scale, "keep_ratio": True}


def test_pictures_are_scaled_and_cropped_within_their_bounds_and_boxes_go_with_them() -> None:
    """One bright box on black: wherever the picture was cut and however scaled, the box is where it is bright."""
    from mmcv.utils import build_from_cfg
    from mmdet.datasets import PIPELINES

    prepare()
    black = np.zeros((120, 160, 3), np.uint8)
    black[30:90, 40:120] = 255
    spec = InputSpec(scale=(160, 120), flip=0.0, multiscale=(0.5, 1.5), crop=0.6)
    steps = [build_from_cfg(step, PIPELINES) for step in pipelines(spec)[0][2:4]]
    sizes = []
    for seed in range(40):
        np.random.seed(seed)
        row: dict[str, Any] = {"img": black, "img_fields": ["img"], "bbox_fields": ["gt_bboxes"]}
        row |= {"img_shape": black.shape, "gt_labels": np.array([0])}
        row["gt_bboxes"] = np.array([[40.0, 30, 120, 90]], np.float32)
        for step in steps:
            row = step(row)
            if type(step).__name__ == "RandomCrop":
                height, width = row["img"].shape[:2]
                assert 96 <= width <= 160 and 72 <= height <= 120
        y, x = np.nonzero(row["img"][:, :, 0] > 127)
        assert row["gt_bboxes"][0] == pytest.approx([x.min(), y.min(), x.max() + 1, y.max() + 1], abs=1)
        sizes.append(max(row["img"].shape[:2]))
    assert 80 <= min(sizes) < 110 and 200 < max(sizes) <= 240


def epoch_of(tiny: Study, workers: int, epoch: int, disturb: int = 0) -> list[tuple[str, bool]]:
    """Return the pictures of an epoch in their order, each with whether it was flipped."""
    from mmdet.datasets import build_dataloader

    from mutineck.detection.repeatable import RepeatableHook

    dataset = dataset_of(tiny)
    loader = build_dataloader(dataset, 4, workers, dist=False, seed=0)
    seed_everything(disturb)
    runner = type("Runner", (), {"data_loader": loader, "epoch": epoch})()
    RepeatableHook(0).before_train_epoch(runner)
    metas = [meta for batch in loader for meta in batch["img_metas"].data[0]]
    return [(meta["ori_filename"], bool(meta["flip"])) for meta in metas]


def test_loader_workers_and_other_draws_change_neither_order_nor_augmentation(tiny: Study) -> None:
    alone = epoch_of(tiny, 0, 3)
    assert len({name for name, _ in alone}) == len(dataset_of(tiny))
    assert epoch_of(tiny, 2, 3, disturb=9) == alone
    assert epoch_of(tiny, 0, 3, disturb=5) == alone
    other = epoch_of(tiny, 0, 4)
    assert [n for n, _ in other] != [n for n, _ in alone] and sorted(other) != sorted(alone)


def test_each_step_and_process_draws_its_own() -> None:
    from mutineck.detection.repeatable import RepeatableHook

    hook = RepeatableHook(7)
    drawn = []
    for iteration in (0, 1, 0):
        torch.rand(3)
        hook.before_train_iter(type("Runner", (), {"iter": iteration})())
        drawn.append(float(torch.rand(1)))
    assert drawn[0] == drawn[2] != drawn[1]
    assert derive_seed(7, "step", 0, 0) != derive_seed(7, "step", 0, 1)


def test_states_of_a_training_are_measured_on_what_pictures_are_labelled_for(tmp_path):
    """The best state is chosen by the same AP as everything else is measured by."""
    from mutineck.detection.evaluation import measure
    from mutineck.detection.repeatable import RepeatableCocoDataset
    from tests.detection.test_evaluation import IDS, PARTLY, partly

    file = partly(tmp_path / "truth.json")
    names = ("cat", "dog")
    data = RepeatableCocoDataset(str(file), [], classes=names, test_mode=True)
    results = [
        [
            np.array(
                [
                    [x, y, x + w, y + h, row["score"]]
                    for row in PARTLY
                    if row["image_id"] == image and row["category_id"] == IDS[name]
                    for x, y, w, h in [row["bbox"]]
                ]
            ).reshape(-1, 5)
            for name in names
        ]
        for image in (1, 2, 3)
    ]
    expected = {row["metric"]: row["value"] for row in measure(file, PARTLY, names)}
    assert data.evaluate(results)["bbox_mAP"] == pytest.approx(expected["bbox_mAP"], abs=1e-3)
    assert data.evaluate(results)["bbox_mAP"] > 0.6
