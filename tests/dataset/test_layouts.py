"""Whatever layout a data set comes in, what was drawn is what is read; what could be two things is refused."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutineck.dataset.detect import find_layout, layout_inputs, read_layout
from mutineck.dataset.layouts import Layout
from mutineck.dataset.picture_files import alike
from mutineck.dataset.records import LEFT_OUT, CategoryNames, Reading, category_name
from tests.dataset import exports
from tests.dataset.exports import DIVIDED, TRUTH, UNDIVIDED, Shot, Truth

ALL = (*UNDIVIDED, *DIVIDED)
UNREAD = ("README", "captions_", "notes.json", "train.txt")
"""How files begin that lie in an export and are not read, or not by all."""
LOOSE = 1e-4
"""Pixels by which shares of nine digits may be off."""


def read(root: Path, form: str = "auto") -> tuple[Layout, Reading]:
    layout = find_layout(root, form)
    return layout, read_layout(root, layout, CategoryNames())


def given_back(reading: Reading) -> dict[str, tuple[str, list[tuple[str, list[float]]]]]:
    """Return picture -> its split, and its objects as category and box."""
    found = {}
    for split, document in reading.documents.items():
        names = {row["id"]: row["name"] for row in document["categories"]}
        for image in document["images"]:
            boxes = [
                (names[item["category_id"]], item["bbox"])
                for item in document["annotations"]
                if item["image_id"] == image["id"]
            ]
            name = unicodedata.normalize("NFC", image["file_name"].rpartition("/")[2])
            assert name not in found, "a picture is there twice"
            found[name] = split, sorted(boxes)
    return found


def check(reading: Reading, truth: Truth, *, divided: bool) -> None:
    found = given_back(reading)
    assert set(found) == {shot.name for shot in truth}
    for shot in truth:
        split, boxes = found[shot.name]
        assert split == shot.split if divided else len(reading.documents) == 1
        wanted = sorted((category_name(category), [*box]) for category, box in shot.boxes)
        assert [category for category, _ in boxes] == [category for category, _ in wanted]
        for (_, box), (_, drawn) in zip(boxes, wanted, strict=True):
            assert box == pytest.approx(drawn, abs=LOOSE)
    assert [str(defect) for defect in reading.defects if defect.action == LEFT_OUT] == []


@pytest.mark.parametrize("write", ALL, ids=lambda write: write.__name__)
def test_an_export_is_read_as_it_is_unpacked(write, tmp_path):
    write(tmp_path / "export", TRUTH)
    layout, reading = read(tmp_path / "export")
    check(reading, TRUTH, divided=write in DIVIDED)
    assert find_layout(tmp_path / "export", layout.format) == layout


@pytest.mark.parametrize("write", ALL, ids=lambda write: write.__name__)
def test_every_file_that_is_read_makes_the_data_set_stale_when_it_changes(write, tmp_path):
    write(tmp_path, TRUTH)
    inputs = [*layout_inputs(find_layout(tmp_path, "auto"))]
    assert len({each.path for each in inputs}) == len(inputs), "a manifest keeps one note a path"

    def digests() -> list[str | None]:
        return [None if each.stamp() is None else each.digest() for each in inputs]

    for path in sorted(tmp_path.rglob("*.*")):
        if path.suffix in (".xml", ".json", ".txt", ".yaml", ".names") and not path.name.startswith(UNREAD):
            before = digests()
            path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
            assert digests() != before, path


@pytest.mark.parametrize("write", ALL, ids=lambda write: write.__name__)
def test_so_is_an_archive_of_macos(write, tmp_path):
    truth = tuple(Shot(shot.name.replace("shot", "caf\u00e9"), shot.split, shot.boxes) for shot in TRUTH)
    write(tmp_path / "export", truth)
    exports.decompose(tmp_path / "export")
    exports.zip_of_macos(tmp_path / "export", tmp_path / "zip")
    check(read(tmp_path / "zip")[1], truth, divided=write in DIVIDED)


def test_a_file_of_instances_that_is_of_no_split_is_said_not_to_be_read(tmp_path):
    exports.coco_2017(tmp_path, TRUTH)
    (tmp_path / "annotations" / "instances_extra.json").write_text("{}")
    assert find_layout(tmp_path, "auto").remarks == ("instances_extra.json is not read: it is called as no split is",)


WORDS = (
    st.text(st.sampled_from("ab \u00e9\u4e2d'(#%&+,;=@[].1"), min_size=1, max_size=6)
    .map(str.strip)
    .filter(lambda word: word and word[0] != "." and word[-1] not in ". " and "  " not in word)
)
BOXES = st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(2, 24), st.integers(2, 18))


@st.composite
def truths(draw: st.DrawFn) -> Truth:
    categories = draw(st.lists(WORDS, min_size=1, max_size=3, unique_by=category_name))
    stems = draw(st.lists(WORDS, min_size=2, max_size=4, unique_by=alike))
    objects = st.lists(st.tuples(st.sampled_from(categories), BOXES), max_size=3, unique=True)
    splits = ["train", "val", *(draw(st.sampled_from(("train", "val", "test"))) for _ in stems[2:])]
    drawn = [draw(objects) for _ in stems]
    drawn[0] = drawn[0] or [(categories[0], (1, 2, 3, 4))]
    endings = [draw(st.sampled_from((".jpg", ".JPG", ".jpeg", ".jfif", ".png"))) for _ in stems]
    return tuple(
        Shot(stem + ending, split, tuple(boxes))
        for stem, ending, split, boxes in zip(stems, endings, splits, drawn, strict=True)
    )


@settings(max_examples=100, deadline=None)
@given(truth=truths(), write=st.sampled_from(ALL))
def test_any_data_set_in_any_layout_comes_back(truth, write):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "export", truth)
        check(read(Path(folder) / "export")[1], truth, divided=write in DIVIDED)
