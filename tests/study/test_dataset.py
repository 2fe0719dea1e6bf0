"""What a data set says of the pictures that a category is measured on, and what figures and tables make of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mutineck.figures.split_data import Split
from mutineck.study.dataset import Dataset
from mutineck.system.files import write_json
from mutineck.teachers import compare

IDS = {"cat": 1, "dog": 2}


@pytest.fixture
def study(tmp_path: Path) -> SimpleNamespace:
    """Three pictures of val, labelled for both, for cats, for nothing; test is complete."""
    images = [{"id": n, "file_name": f"{n}.png"} for n in (1, 2, 3)]
    images[1]["labelled_category_ids"], images[2]["labelled_category_ids"] = [1], []
    document = {"images": images, "annotations": [], "categories": [{"id": n, "name": name} for name, n in IDS.items()]}
    write_json(tmp_path / "dataset" / "val.json", document)
    splits = {"val": {"images": 3, "labelled": {"cat": 2, "dog": 1}}, "test": {"images": 4}}
    Dataset(("cat", "dog"), tmp_path, splits=splits, source={"sources": {"red": ["dog"]}}).write(tmp_path)
    return SimpleNamespace(
        root=tmp_path,
        dataset=Dataset.read(tmp_path),
        need=tmp_path.joinpath,
        path=tmp_path.joinpath,
        experiment=SimpleNamespace(teachers=[SimpleNamespace(name="one")]),
    )


def test_it_says_over_how_many_pictures_a_category_is_measured(study: SimpleNamespace) -> None:
    data = study.dataset
    assert not data.complete("val") and data.complete("test")
    assert data.measured_on("test") == ""
    expected = "AP of a category is over the pictures of val that are labelled for it, of 3; cat 2, dog 1."
    assert data.measured_on("val") == expected
    assert data.labelled("val") == {1: {1, 2}, 2: {1}, 3: set()}
    assert data.pictures_labelled("test") == {"cat": 4, "dog": 4}
    assert data.of_source("red") == ("dog",) and data.of_source(None) == ("cat", "dog")


def test_figures_leave_out_what_a_picture_is_not_labelled_for(study: SimpleNamespace) -> None:
    rows = [
        {"image_id": image, "category_id": category, "score": 0.1 * category, "bbox": [0, 0, 1, 1]}
        for image in (1, 2, 3)
        for category in (1, 2)
    ]
    found = Split(study, "val").predictions(write_json(study.root / "predictions.json", rows))
    assert {image: [row["category_id"] for row in items] for image, items in found.items()} == {1: [2, 1], 2: [1]}


def test_the_table_of_teachers_says_how_many_pictures_each_row_is_of(study: SimpleNamespace) -> None:
    rows = [{"split": split, "metric": "AP", "category": "cat", "value": 0.5} for split in ("val", "test")]
    write_json(study.root / "teachers" / "one" / "metrics.json", rows)
    assert list(compare(study, "val").index) == ["all", "cat (2 of 3 pictures)", "dog (1 of 3 pictures)"]
    assert list(compare(study, "test").index) == ["all", "cat", "dog"]
