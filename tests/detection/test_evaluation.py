"""Measuring: against pycocotools on a case made by hand, and at its ends."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mutineck.detection.evaluation import _run_lengths, category_ids, measure, predict
from mutineck.detectors.folders import load_model
from mutineck.detectors.loaders import evaluation_loader
from mutineck.study.stage import Study
from mutineck.system.files import read_json, write_json

IDS = {"cat": 17, "dog": 18, "kite": 38}  # COCO's ids have gaps


def truth(path: Path) -> Path:
    rows = [
        (1, "cat", [10, 10, 40, 30], 0),
        (1, "dog", [60, 20, 20, 20], 0),
        (2, "cat", [5, 5, 100, 100], 0),
        (2, "dog", [0, 0, 120, 120], 1),
        (3, "cat", [30, 40, 12, 50], 0),
    ]
    return write_json(
        path,
        {
            "images": [{"id": n, "file_name": f"{n}.png", "width": 128, "height": 128} for n in (1, 2, 3)],
            "annotations": [
                {"id": k + 1, "image_id": n, "category_id": IDS[c], "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
                for k, (n, c, b, crowd) in enumerate(rows)
            ],
            "categories": [{"id": i, "name": name} for name, i in IDS.items()],
        },
    )


def found(n: int, category: str, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": n, "category_id": IDS[category], "bbox": box, "score": score}


HAND_MADE = [
    found(1, "cat", [12, 11, 40, 30], 0.9),
    found(1, "cat", [70, 70, 20, 20], 0.8),
    found(1, "dog", [61, 20, 20, 20], 0.3),
    found(2, "cat", [5, 5, 80, 100], 0.6),
    found(2, "dog", [0, 0, 60, 60], 0.7),
    found(3, "dog", [30, 40, 12, 50], 0.5),
]


def by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["metric"], row["category"]): row["value"] for row in rows}


@pytest.mark.parametrize("chosen", [None, ("cat",), ("dog", "cat")], ids=["all", "cat", "two"])
def test_it_equals_pycocotools(tmp_path: Path, chosen: tuple[str, ...] | None) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = truth(tmp_path / "truth.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
        reference = COCOeval(coco, coco.loadRes(HAND_MADE), "bbox")
        reference.params.catIds = sorted(IDS[name] for name in chosen or IDS)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    values = by_name(measure(path, HAND_MADE, chosen))
    assert values["bbox_mAP", ""] == pytest.approx(reference.stats[0], abs=1e-5)
    assert values["bbox_mAP_50", ""] == pytest.approx(reference.stats[1], abs=1e-5)
    assert values["bbox_mAP_m", ""] == pytest.approx(reference.stats[4], abs=1e-5)
    assert 0.1 < values["bbox_mAP", ""] < 0.9
    assert ("AP", "kite") not in values, "no kite was there to be found"
    assert {category for metric, category in values if metric == "AP"} == set(chosen or ("cat", "dog"))


def test_each_category_has_its_own_ap_whatever_the_files_order(tmp_path: Path) -> None:
    path = truth(tmp_path / "truth.json")
    in_order = measure(path, HAND_MADE)
    document = read_json(path)
    write_json(path, document | {"categories": document["categories"][::-1]})
    assert by_name(measure(path, HAND_MADE)) == by_name(in_order)


def test_the_mean_is_over_the_categories(tmp_path: Path) -> None:
    values = by_name(measure(truth(tmp_path / "truth.json"), HAND_MADE))
    assert values["bbox_mAP", ""] == pytest.approx((values["AP", "cat"] + values["AP", "dog"]) / 2, abs=2e-5)


def test_perfect_predictions_are_worth_one_and_crowds_cost_nothing(tmp_path: Path) -> None:
    path = truth(tmp_path / "truth.json")
    perfect = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for a in read_json(path)["annotations"]
        if not a["iscrowd"]
    ]
    assert set(by_name(measure(path, perfect)).values()) == {1.0}
    # Inside the crowd of dogs any number of dogs may be found.
    assert set(by_name(measure(path, [*perfect, found(2, "dog", [10, 10, 20, 20], 1.0)])).values()) == {1.0}


def test_nothing_found_is_worth_nothing(tmp_path: Path) -> None:
    path = truth(tmp_path / "truth.json")
    nothing, wrong = by_name(measure(path, [])), by_name(measure(path, [found(1, "kite", [0, 0, 5, 5], 0.9)]))
    assert set(nothing.values()) == {0.0}
    assert nothing["bbox_mAP", ""] == wrong["bbox_mAP", ""] == 0.0
    assert {key for key in nothing if key[0] == "AP"} == {key for key in wrong if key[0] == "AP"}


def test_masks_are_measured_beside_boxes_and_by_themselves(tmp_path: Path) -> None:
    """The upper left triangle of a box is half of it: IoU 1 of boxes, 0.5 of masks with the whole box."""
    path = truth(tmp_path / "truth.json")
    content = read_json(path)
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        a |= {"segmentation": [[x, y, x + w, y, x, y + h]], "area": w * h / 2}
    write_json(path, content)
    boxes = [
        found(a["image_id"], "cat", a["bbox"], 1.0) for a in content["annotations"] if a["category_id"] == IDS["cat"]
    ]

    def masked(rows: list[dict[str, Any]], *, whole: bool) -> list[dict[str, Any]]:
        drawn = []
        for row in rows:
            x, y, w, h = map(int, row["bbox"])
            mask = np.zeros((128, 128), bool)
            for line in range(h):
                mask[y + line, x : x + (w if whole else round(w * (1 - (line + 0.5) / h)))] = True
            drawn.append(row | {"segmentation": _run_lengths(mask)})
        return drawn

    right, wrong = (by_name(measure(path, masked(boxes, whole=whole), ("cat",))) for whole in (False, True))
    assert right["bbox_mAP", ""] == wrong["bbox_mAP", ""] == 1.0
    assert right["segm_mAP", ""] > 0.9 and wrong["segm_mAP_75", ""] == 0.0
    assert ("segm_mAP", "") not in by_name(measure(path, boxes, ("cat",))), "boxes say nothing of masks"
    assert "segmentation" not in boxes[0], "what was given is left as it was"
    assert ("segm_mAP", "") not in by_name(measure(truth(tmp_path / "boxes.json"), masked(boxes, whole=True)))


def test_a_mask_branch_predicts_masks_of_the_pictures_size(tiny: Study) -> None:
    model = load_model(tiny.path("teachers", "mask_rcnn"))[0]
    ids = category_ids(tiny.path("dataset", "val.json"), tiny.dataset.categories)
    rows = predict(model, evaluation_loader(tiny, "val"), ids, device=torch.device("cpu"))
    sizes = {i["id"]: [i["height"], i["width"]] for i in read_json(tiny.path("dataset", "val.json"))["images"]}
    assert rows and all(row["segmentation"]["size"] == sizes[row["image_id"]] for row in rows)
    assert ("segm_mAP", "") in by_name(measure(tiny.path("dataset", "val.json"), rows))


def test_labels_meet_ids_by_name(tmp_path: Path) -> None:
    assert category_ids(truth(tmp_path / "truth.json"), ["kite", "cat"]) == [38, 17]


def test_the_loader_gives_boxes_in_the_inputs_pixels_and_keeps_crowds_apart(tiny: Study) -> None:
    loader = evaluation_loader(tiny, "train", batch=3)
    document = read_json(tiny.path("dataset", "train.json"))
    rows = {a["id"]: a for a in document["annotations"]}
    categories = tiny.dataset.categories
    names = {c["id"]: c["name"] for c in document["categories"]}
    seen = []
    for batch in loader:
        assert batch.image.dtype == torch.float32 and batch.image.shape[1] == 3
        assert batch.image.shape[2] % 32 == batch.image.shape[3] % 32 == 0
        for i, image_id in enumerate(batch.image_ids):
            seen.append(image_id)
            scale = np.asarray(batch.metas[i]["scale_factor"])
            for box, label, number, crowd in zip(
                batch.boxes[i], batch.labels[i], batch.annotation_ids[i], batch.crowd[i], strict=True
            ):
                row = rows[int(number)]
                x, y, w, h = row["bbox"]
                height, width = batch.metas[i]["img_shape"][:2]
                expected = (np.array([x, y, x + w, y + h]) * scale).clip(0, [width, height, width, height])
                assert box.numpy() == pytest.approx(expected, abs=1e-3)
                assert categories[int(label)] == names[row["category_id"]]
                assert bool(crowd) == bool(row["iscrowd"]) and row["image_id"] == image_id
    assert seen == sorted(image["id"] for image in document["images"])


def test_shares_divide_a_split_without_rest(tiny: Study) -> None:
    shares = [
        i for rank in range(3) for batch in evaluation_loader(tiny, "train", share=(rank, 3)) for i in batch.image_ids
    ]
    whole = [i for batch in evaluation_loader(tiny, "train") for i in batch.image_ids]
    assert sorted(shares) == whole and len(set(whole)) == len(whole)


def test_predictions_lie_in_the_pictures_own_pixels_and_leave_the_mode_alone(tiny: Study) -> None:
    model = load_model(tiny.path("teachers", "fcos"))[0].train()
    ids = category_ids(tiny.path("dataset", "val.json"), tiny.dataset.categories)
    rows = predict(model, evaluation_loader(tiny, "val"), ids, device=torch.device("cpu"))
    assert model.training
    sizes = {i["id"]: (i["width"], i["height"]) for i in read_json(tiny.path("dataset", "val.json"))["images"]}
    assert rows and {row["category_id"] for row in rows} <= set(ids)
    for row in rows:
        x, y, w, h = row["bbox"]
        assert (
            x >= 0
            and y >= 0
            and x + w <= sizes[row["image_id"]][0] + 0.02
            and y + h <= sizes[row["image_id"]][1] + 0.02
        )
    fewer = predict(
        model, evaluation_loader(tiny, "val"), [ids[0], *[None] * (len(ids) - 1)], device=torch.device("cpu")
    )
    assert fewer == [row for row in rows if row["category_id"] == ids[0]]


# Worked out by hand. Picture 1 is labelled for everything, 2 for dogs alone, 3 for cats alone.
PARTLY = [
    found(1, "cat", [10, 10, 40, 30], 0.6),  # a cat, found
    found(1, "dog", [0, 0, 10, 10], 0.9),  # wrong: picture 1 is labelled for dogs
    found(1, "dog", [60, 20, 20, 20], 0.8),  # a dog, found, second of two
    found(2, "cat", [5, 5, 100, 100], 0.95),  # unknown: nobody has looked for cats in picture 2
    found(3, "cat", [80, 80, 10, 10], 0.5),  # wrong, below every hit but the last
    found(3, "cat", [30, 40, 12, 50], 0.4),  # a cat, found, third of three
    found(3, "dog", [30, 40, 12, 50], 0.99),  # unknown
]


def partly(path: Path) -> Path:
    """Write the truth of `PARTLY`: without the cat of picture 2, which it is not labelled for."""
    document = read_json(truth(path))
    document["images"][1]["labelled_category_ids"] = [IDS["dog"]]
    document["images"][2]["labelled_category_ids"] = [IDS["cat"]]
    document["annotations"] = [a for a in document["annotations"] if (a["image_id"], a["category_id"]) != (2, 17)]
    return write_json(path, document)


def test_a_category_is_measured_on_the_pictures_that_are_labelled_for_it(tmp_path: Path) -> None:
    path = partly(tmp_path / "truth.json")
    values = by_name(measure(path, PARTLY))
    # Cats: hit at recall 1/2 with precision 1, then a miss, then a hit at recall 1 with precision 2/3. Of COCO's 101
    # recalls 0.00 to 0.50 are the first 51.
    cat = (51 * 1 + 50 * 2 / 3) / 101
    # Dogs: one is there to be found (the other is a crowd region), the second detection finds it.
    assert values["AP", "cat"] == pytest.approx(cat, abs=1e-5)
    assert values["AP", "dog"] == pytest.approx(1 / 2, abs=1e-5)
    assert values["bbox_mAP", ""] == pytest.approx((cat + 1 / 2) / 2, abs=1e-5)
    whole = read_json(path)
    for image in whole["images"]:
        image.pop("labelled_category_ids", None)
    counted = by_name(measure(write_json(tmp_path / "whole.json", whole), PARTLY))
    assert counted["AP", "cat"] < values["AP", "cat"] and counted["AP", "dog"] < values["AP", "dog"]


def test_said_or_not_a_picture_that_is_labelled_for_everything_is_measured_alike(tmp_path: Path) -> None:
    path = truth(tmp_path / "truth.json")
    plain, document = measure(path, HAND_MADE), read_json(path)
    for image in document["images"]:
        image["labelled_category_ids"] = sorted(IDS.values())
    assert measure(write_json(tmp_path / "said.json", document), HAND_MADE) == plain


def test_an_object_that_its_picture_is_not_labelled_for_is_refused(tmp_path: Path) -> None:
    document = read_json(truth(tmp_path / "truth.json"))
    document["images"][0]["labelled_category_ids"] = [IDS["dog"]]
    with pytest.raises(ValueError, match=r"annotation 1: image 1 is not labelled for its category 17"):
        measure(write_json(tmp_path / "stray.json", document), HAND_MADE)
