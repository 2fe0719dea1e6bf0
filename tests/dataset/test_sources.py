"""Several folders as one data set: what each picture is labelled for, what is merged, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mutineck.dataset import DatasetError, convert
from mutineck.study.dataset import Dataset
from mutineck.study.experiment import DatasetSpec, TeacherSpec
from mutineck.system.files import read_json
from tests.dataset.conftest import Box, VocRoot
from tests.dataset.test_stage import make_study

CAT: Box = ("cat", (1, 1, 10, 10))
DOG: Box = ("dog", (20, 5, 30, 20))


def coco(root: Path, pictures: dict[str, Sequence[Box]], categories: Sequence[str] = ("dog",)) -> None:
    """Write a folder in COCO's layout; boxes are VOC's, so that a truth can be written in both."""
    made = VocRoot(root / "made")
    images, annotations = [], []
    for number, (name, boxes) in enumerate(pictures.items(), start=1):
        made.picture(name).rename(root / name)
        images.append({"id": number, "file_name": name, "width": 40, "height": 30})
        for category, (x1, y1, x2, y2) in boxes:
            bbox = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            row = {"image_id": number, "category_id": 5 + list(categories).index(category), "bbox": bbox}
            annotations.append({"id": len(annotations) + 1, **row, "area": bbox[2] * bbox[3], "iscrowd": 0})
    for folder in ("Annotations", "JPEGImages", ""):
        (root / "made" / folder).rmdir()
    rows = [{"id": number, "name": name} for number, name in enumerate(categories, start=5)]
    (root / "all.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": rows}))


@pytest.fixture
def folders(tmp_path: Path, make_voc_root: Callable[[str], VocRoot]) -> Path:
    """Twenty pictures labelled for cats (VOC), ten for dogs (COCO), five for nothing."""
    cats = make_voc_root("a/cats")
    for number in range(20):
        cats.add(f"c{number:02d}", [CAT])
    coco(tmp_path / "b" / "dogs", {f"d{number:02d}.jpg": [DOG] for number in range(10)})
    spare = VocRoot(tmp_path / "made")
    (tmp_path / "spare" / "deep").mkdir(parents=True)
    for number in range(5):
        spare.picture(f"s{number}.jpg").rename(tmp_path / "spare" / "deep" / f"s{number}.jpg")
    return tmp_path


def sources_of(folders: Path, **more: dict[str, Any]) -> list[dict[str, Any]]:
    found = [
        {"name": "cats", "root": str(folders / "a" / "cats"), "format": "voc"},
        {"name": "dogs", "root": str(folders / "b" / "dogs")},
        {"name": "spare", "root": str(folders / "spare"), "format": "pictures"},
    ]
    return [source | more.get(str(source["name"]), {}) for source in found]


def study_of(folders: Path, sources: list[dict[str, Any]], **dataset: Any) -> SimpleNamespace:
    return make_study(folders / "out", sources=sources, **dataset)


def documents(study: SimpleNamespace) -> dict[str, dict[str, Any]]:
    return {split: read_json(study.path("dataset", f"{split}.json")) for split in ("train", "val", "test")}


def test_each_picture_says_what_it_is_labelled_for(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of(folders, sources_of(folders))
    summary = convert(study)
    assert summary.sources().reset_index().to_numpy().tolist() == [
        ["cats", "cat", 16, 2, 2],
        ["dogs", "dog", 8, 1, 1],
        ["spare", "nothing", 5, 0, 0],
    ]
    found, data = documents(study), Dataset.read(study.root)
    assert data.categories == ("cat", "dog") and data.source["sources"] == {
        "cats": ["cat"],
        "dogs": ["dog"],
        "spare": [],
    }
    counts = {split: data.pictures_labelled(split) for split in found}
    # 8:1:1 of twenty and of ten, each divided for itself; what nobody labelled is trained on.
    assert counts == {"train": {"cat": 16, "dog": 8}, "val": {"cat": 2, "dog": 1}, "test": {"cat": 2, "dog": 1}}
    assert [len(document["images"]) for document in found.values()] == [16 + 8 + 5, 3, 3]
    ids = {category["name"]: category["id"] for category in found["train"]["categories"]}
    expected = {"cats": [ids["cat"]], "dogs": [ids["dog"]], "spare": []}
    for document in found.values():
        for image in document["images"]:
            (source,) = image["sources"]
            assert image["labelled_category_ids"] == expected[source]
            assert (data.pictures / image["file_name"]).is_file()
        sources = {image["id"]: image["sources"][0] for image in document["images"]}
        for item in document["annotations"]:
            cat = sources[item["image_id"]] == "cats"
            assert item["category_id"] == ids["cat" if cat else "dog"]
            assert item["bbox"] == ([0, 0, 10, 10] if cat else [19, 4, 11, 16])
    for kind in ("images", "annotations"):
        numbers = [row["id"] for document in found.values() for row in document[kind]]
        assert len(set(numbers)) == len(numbers)
    told = capsys.readouterr().out
    assert "cats: read as Pascal VOC's layout: 20 pictures" in told and "spare: read as pictures without labels" in told
    assert "over the pictures of val that are labelled for it, of 3; cat 2, dog 1." in told


def test_the_order_of_sources_changes_no_division(folders: Path) -> None:
    names = []
    for order in (1, -1):
        study = study_of(folders, sources_of(folders)[::order])
        convert(study)
        names.append({split: {i["file_name"] for i in d["images"]} for split, d in documents(study).items()})
    assert names[0] == names[1]


def test_a_source_may_have_its_own_categories_aliases_and_shares(folders: Path) -> None:
    sources = sources_of(
        folders,
        dogs={"aliases": {"dog": "cat"}, "split": [1, 1, 0]},
        cats={"categories": ["cat"]},
        spare={"split": [3, 1, 1]},
    )
    study = study_of(folders, sources, categories=["cat"])
    convert(study)
    data, found = Dataset.read(study.root), documents(study)
    assert data.categories == ("cat",)
    assert {split: data.pictures_labelled(split)["cat"] for split in found} == {"train": 21, "val": 7, "test": 2}
    assert [len(document["images"]) for document in found.values()] == [24, 8, 3]


def both(folders: Path, theirs: Sequence[Box], categories: Sequence[str]) -> SimpleNamespace:
    """Return a study in which COCO's folder has the first three pictures of VOC's as well, with other labels."""
    pictures: dict[str, Sequence[Box]] = {f"c{number:02d}.jpg": theirs for number in range(3)}
    coco(folders / "both", pictures | {f"e{number}.jpg": [DOG] for number in range(10)}, categories)
    sources = [*sources_of(folders)[:1], {"name": "both", "root": str(folders / "both")}]
    return study_of(folders, sources)


@pytest.mark.parametrize(
    ("theirs", "categories"),
    [([DOG], ("dog",)), ([("cat", (2, 1, 10, 10)), DOG], ("dog", "cat"))],
    ids=["other categories", "the same box as well"],
)
def test_a_picture_of_two_sources_is_one_with_the_labels_of_both(
    folders: Path, theirs: Sequence[Box], categories: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    study = both(folders, theirs, categories)
    convert(study)
    found = documents(study)
    images = [image for document in found.values() for image in document["images"]]
    twice = [image for image in images if image["sources"] == ["cats", "both"]]
    assert len(images) == 30 and len(twice) == 3
    assert all("labelled_category_ids" not in image for image in twice), "labelled for both categories: for all"
    names = {image["id"]: image["file_name"] for image in twice}
    assert sorted(names.values()) == [f"a/cats/JPEGImages/c0{number}.jpg" for number in range(3)]
    items = [item for document in found.values() for item in document["annotations"] if item["image_id"] in names]
    assert sorted(item["bbox"] for item in items) == [[0, 0, 10, 10]] * 3 + [[19, 4, 11, 16]] * 3
    assert "3 pictures of both are in an earlier source, too" in capsys.readouterr().out


@pytest.mark.parametrize(
    "theirs",
    [[], [("cat", (20, 1, 30, 10))], [CAT, DOG, ("cat", (20, 20, 30, 29))]],
    ids=["none", "elsewhere", "one more"],
)
def test_labels_that_contradict_each_other_are_refused(folders: Path, theirs: Sequence[Box]) -> None:
    study = both(folders, theirs, ("dog", "cat"))
    count = sum(name == "cat" for name, _ in theirs)
    message = (
        rf"JPEGImages/c00\.jpg of cats and c00\.jpg of both are the same picture and contradict each other in cat: "
        rf"1 and {count} boxes"
    )
    with pytest.raises(DatasetError, match=message):
        convert(study)


def test_names_that_differ_in_case_alone_are_refused_with_the_alias(folders: Path) -> None:
    coco(folders / "more", {f"m{number}.jpg": [("Cat", (1, 1, 9, 9))] for number in range(10)}, ("Cat",))
    sources = [*sources_of(folders), {"name": "more", "root": str(folders / "more")}]
    with pytest.raises(
        DatasetError, match=r"'cat' of cats and 'Cat' of more .*dataset\.sources\.more\.aliases=\{Cat: cat\}"
    ):
        convert(study_of(folders, sources))
    study = study_of(folders, [*sources[:-1], sources[-1] | {"aliases": {"Cat": "cat"}}])
    convert(study)
    assert Dataset.read(study.root).pictures_labelled("train") == {"cat": 24, "dog": 8}


def test_names_that_are_alike_are_asked_about(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco(folders / "more", {f"m{number}.jpg": [("kittens", (1, 1, 9, 9))] for number in range(10)}, ("kittens",))
    coco(folders / "most", {f"n{number}.jpg": [("kitten", (1, 1, 9, 9))] for number in range(10)}, ("kitten",))
    sources = [{"name": name, "root": str(folders / name)} for name in ("more", "most")]
    convert(study_of(folders, sources))
    assert "--set 'dataset.sources.most.aliases={kitten: kittens}'" in capsys.readouterr().out


def test_a_category_that_nobody_labels_needs_a_teacher_that_knows_it(folders: Path) -> None:
    study = study_of(folders, sources_of(folders), categories=["cat", "dog", "kite"])
    with pytest.raises(DatasetError, match="no training picture is labelled for kite, and no teacher knows it"):
        convert(study)
    given = {"name": "given", "config": "a.py", "checkpoint": "a.pth"}
    study.experiment.teachers = (TeacherSpec(**given, categories=("bird",), aliases={"bird": "kite"}),)
    convert(study)
    assert Dataset.read(study.root).pictures_labelled("val") == {"cat": 2, "dog": 1, "kite": 0}
    study.experiment.teachers = (TeacherSpec(**given, categories=("bird",)),)
    with pytest.raises(DatasetError, match="labelled for kite"):
        convert(study)


def test_pictures_alone_are_a_data_set_of_the_categories_that_are_named(folders: Path, capsys) -> None:
    study = make_study(folders / "out", format="pictures", root=str(folders / "spare"), categories=["cat"])
    study.experiment.teachers = (TeacherSpec(name="given", zoo="faster_rcnn_r101_fpn_2x_coco"),)
    convert(study)
    data, found = Dataset.read(study.root), documents(study)
    assert [len(document["images"]) for document in found.values()] == [3, 1, 1]
    assert all(image["labelled_category_ids"] == [] for document in found.values() for image in document["images"])
    assert not data.complete("val") and data.pictures_labelled("val") == {"cat": 0}
    assert "none is for cat: no number of it, and floors, gates and thresholds do without." in capsys.readouterr().out
    nameless = make_study(folders / "out", format="pictures", root=str(folders / "spare"))
    with pytest.raises(DatasetError, match=r"--set 'dataset\.categories=\[NAME, NAME\]'"):
        convert(nameless)


@pytest.mark.parametrize(
    ("more", "dataset", "message"),
    [
        ({"dogs": {"root": "nowhere"}}, {}, r"dataset\.sources\.dogs\.root: nowhere is no folder"),
        ({"dogs": {"format": "voc"}}, {}, r"dataset\.sources\.dogs\.root: .*dataset\.sources\.dogs\.format=coco"),
        ({"dogs": {"categories": ["ox"]}}, {}, r"dataset\.sources\.dogs\.categories: 'ox' is not among its categories"),
        ({"cats": {"categories": ["ox"]}}, {}, r"dataset\.sources\.cats\.categories: no object of ox"),
        (
            {"dogs": {"categories": ["dog"]}},
            {"categories": ["cat"]},
            r"dogs\.categories: dog is not among dataset\.cat",
        ),
        ({}, {"categories": ["cat"]}, r"dataset\.sources\.dogs: it is labelled for dog, and none of them"),
    ],
    ids=["no folder", "another format", "no such category", "nor in VOC", "contradiction", "nothing left"],
)
def test_what_is_wrong_with_a_source_is_said_with_its_own_setting(
    folders: Path, more: dict[str, Any], dataset: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        convert(study_of(folders, sources_of(folders, **more), **dataset))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"root": "a"}, "`sources` and `root` do not go together"),
        ({"format": "shapes"}, "`sources` and `format: shapes`"),
        ({"hide": {"parts": [{"name": "a"}]}}, "`sources` and `hide`"),
        ({"sources": [{"name": "a", "root": "a"}] * 2}, "a stands there twice"),
        ({"sources": [{"name": "a", "root": "a", "format": "pictures", "categories": ["b"]}]}, "no labels are read"),
        ({"sources": (), "format": "pictures"}, "name its folder"),
    ],
    ids=["root", "shapes", "hide", "twins", "labels of pictures", "pictures of nowhere"],
)
def test_settings_that_do_not_go_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetSpec(**({"sources": [{"name": "a", "root": "a"}]} | fields))
