"""The same picture twice: found by name, content or photograph, in one split or two, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutineck.dataset.records import Defect
from mutineck.dataset.repeats import IN_TWO_SPLITS, REPEATED, TAIL, find_repeats, photograph, same_content


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train/shot_jpg.rf.0a1b2c3d.jpg", "shot_jpg"),
        ("shot_jpg.rf.0a1b2c3d.jpg", "shot_jpg"),
        ("a.b.rf.Xy_-9.png", "a.b"),
        ("train/shot.jpg", "train/shot.jpg"),
        ("shot.rf.jpg", "shot.rf.jpg"),
        ("surf.rf/a.jpg", "surf.rf/a.jpg"),
    ],
)
def test_copies_go_by_their_photograph(name, key):
    assert photograph(name) == key


def test_the_same_bytes_are_found_and_nothing_else(tmp_path):
    long = b"x" * 3 * TAIL
    contents = {"a": b"1", "b": b"2", "sub/c": b"1", "d": b"1", "e": b"1" + long, "f": b"2" + long, "g": b"2" + long}
    (tmp_path / "sub").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert same_content(tmp_path, [*contents, "a"]) == {"d": "a", "sub/c": "a", "g": "f"}


def documents(**names: str) -> dict[str, dict[str, list[dict[str, str]]]]:
    found = {split: {"images": [{"file_name": name} for name in words.split()]} for split, words in names.items()}
    return found | ({} if "test" in found else {"test": found["val"]})


@pytest.mark.parametrize(
    ("given", "copies", "expected"),
    [
        pytest.param(documents(train="a b", val="c"), {}, [], id="none"),
        pytest.param(
            documents(train="a b", val="c a", test="d"),
            {},
            [("a", IN_TWO_SPLITS, "in val, the same bytes as a in train")],
            id="by name",
        ),
        pytest.param(
            documents(train="a b", val="c", test="d e"),
            {"d": "a", "e": "c"},
            [
                ("d", IN_TWO_SPLITS, "in test, the same bytes as a in train"),
                ("e", IN_TWO_SPLITS, "in test, the same bytes as c in val"),
            ],
            id="by content",
        ),
        pytest.param(
            documents(train="a b", val="c"), {"b": "a"}, [("b", REPEATED, "the same bytes as a")], id="in one"
        ),
        pytest.param(
            documents(train="x.rf.1234.jpg x.rf.5678.jpg", val="x.rf.9999.jpg"),
            {},
            [("x.rf.9999.jpg", IN_TWO_SPLITS, "in val, from the same photograph as x.rf.1234.jpg in train")],
            id="by photograph; copies in one split are what they are for",
        ),
    ],
)
def test_what_is_there_twice_is_named(given, copies, expected):
    defects, hints = find_repeats(given, copies)
    assert defects == [Defect(name, "file", reason, "kept", detail) for name, reason, detail in expected]
    assert bool(hints) == bool(expected)


def test_how_many_are_shared_is_said():
    _, hints = find_repeats(documents(train="a b c", val="a b d", test="c"), {})
    assert hints[0].startswith("2 of 3 pictures of val are in train, too, such as a: what is measured on val")
    assert hints[1].startswith("1 of 1 pictures of test are in train, too, such as c")


def test_nothing_is_read_of_files_of_their_own_size(tmp_path, monkeypatch):
    for index in range(3):
        (tmp_path / str(index)).write_bytes(b"x" * (index + 1))
    monkeypatch.setattr(Path, "open", None)
    assert same_content(tmp_path, ["0", "1", "2"]) == {}
