from __future__ import annotations

import random
from collections import Counter

import pytest

from mutineck.dataset.split import first_by_hash, stratified_split


def pictures(count: int = 500) -> dict[str, set[str]]:
    generator = random.Random(0)
    rates = {"common": 0.9, "half": 0.5, "rare": 0.06, "scarce": 0.02}
    return {
        f"{index:04d}.jpg": {name for name, rate in rates.items() if generator.random() < rate}
        for index in range(count)
    }


def test_every_category_is_divided_in_proportion():
    labels = pictures()
    parts = stratified_split(labels, (8, 1, 1), seed=0)
    assert parts.keys() == labels.keys()
    sizes = Counter(parts.values())
    assert [sizes[part] for part in range(3)] == pytest.approx([400, 50, 50], abs=1)
    for category in ("common", "half", "rare", "scarce"):
        held = Counter(parts[name] for name, found in labels.items() if category in found)
        total = sum(held.values())
        for part, share in enumerate((0.8, 0.1, 0.1)):
            assert held[part] == pytest.approx(share * total, abs=max(1.5, 0.02 * total)), category


def test_better_than_chance_for_the_scarce_category():
    labels = pictures()
    holders = [name for name, found in labels.items() if "scarce" in found]
    for seed in range(10):
        parts = stratified_split(labels, (8, 1, 1), seed)
        assert {parts[name] for name in holders} == {0, 1, 2}


def test_the_order_of_the_files_does_not_matter_but_the_seed_does():
    labels = pictures(200)
    shuffled = list(labels.items())
    random.Random(1).shuffle(shuffled)
    parts = stratified_split(labels, (8, 1, 1), seed=3)
    assert stratified_split(dict(shuffled), (8, 1, 1), seed=3) == parts
    assert stratified_split(labels, (8, 1, 1), seed=4) != parts


def test_the_division_is_the_same_on_every_platform():
    labels = {name: {"ab"[index % 2]} for index, name in enumerate("ghijklmnop")}
    parts = stratified_split(labels, (8, 1, 1), seed=0)
    assert "".join(str(parts[name]) for name in "ghijklmnop") == "0210000000"


def test_shares_are_relative_and_may_be_zero():
    labels = pictures(100)
    assert stratified_split(labels, (80, 10, 10), 0) == stratified_split(labels, (8, 1, 1), 0)
    assert set(stratified_split(labels, (1, 1, 0), 0).values()) == {0, 1}


@pytest.mark.parametrize("count", [3, 4, 7])
def test_no_part_of_a_tiny_set_is_empty(count):
    labels = {f"{index}.jpg": {"cat"} for index in range(count)}
    assert set(stratified_split(labels, (8, 1, 1), 0).values()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("labels", "shares", "match"),
    [
        pytest.param({"a": {"x"}}, (8, 1, 1), "only 1 usable", id="fewer images than parts"),
        pytest.param({"a": {"x"}}, (0, 0, 0), "non-negative", id="no share"),
        pytest.param({"a": {"x"}}, (1, -1, 1), "non-negative", id="negative share"),
    ],
)
def test_impossible_divisions_are_refused(labels, shares, match):
    with pytest.raises(ValueError, match=match):
        stratified_split(labels, shares, 0)


def test_copies_of_a_photograph_stay_in_one_part():
    labels = {f"{shot:02d}-{copy}": {"cat", "dog"} if shot % 3 else set() for shot in range(40) for copy in range(3)}
    together = {name: name[:2] for name in labels}
    parts = stratified_split(labels, (8, 1, 1), 0, together)
    assert all(len({parts[f"{shot:02d}-{copy}"] for copy in range(3)}) == 1 for shot in range(40))
    sizes = Counter(parts.values())
    assert [sizes[part] for part in range(3)] == pytest.approx([96, 12, 12], abs=3)
    held = Counter(parts[name] for name, found in labels.items() if found)
    assert [held[part] for part in range(3)] == pytest.approx([62, 8, 8], abs=3)
    assert stratified_split(labels, (8, 1, 1), 0, {name: name for name in labels}) == stratified_split(
        labels, (8, 1, 1), 0
    )
    with pytest.raises(ValueError, match=r"3 parts asked for, but there are only 2 usable images \(6 with copies"):
        stratified_split({name: found for name, found in labels.items() if name < "02"}, (8, 1, 1), 0, together)


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_every_part_has_objects_where_there_are_enough(count):
    labels = {f"{index:02d}": {"cat"} if index < count else set() for index in range(60)}
    for seed in range(5):
        parts = stratified_split(labels, (8, 1, 1), seed)
        assert {parts[name] for name, found in labels.items() if found} == {0, 1, 2}
        assert [Counter(parts.values())[part] for part in range(3)] == [48, 6, 6]


def test_one_picture_with_an_object_stays_where_it_is():
    labels = {f"{index:02d}": {"cat"} if not index else set() for index in range(30)}
    assert stratified_split(labels, (8, 1, 1), 0)["00"] == 0


def test_a_limit_chooses_by_seed_alone():
    names = [f"{index}" for index in range(50)]
    chosen = first_by_hash(names, 10, seed=0)
    assert len(chosen) == 10 and chosen == first_by_hash(names[::-1], 10, seed=0)
    assert chosen != first_by_hash(names, 10, seed=1)
    assert first_by_hash(names, 99, seed=0) == sorted(names)
