"""Labels that an experiment hides: what stays, what is kept for measuring, and that nothing is lost or doubled."""

from __future__ import annotations

import pytest

from mutineck.dataset import DatasetError, convert
from mutineck.dataset.hidden import hide_labels
from mutineck.detection.labelled import labelled_categories, pictures_labelled
from mutineck.study.dataset import Dataset
from mutineck.study.sources import HideSpec
from mutineck.system.files import read_json
from tests.dataset.test_stage import make_study

TEAMS = {"parts": [{"name": "cats", "categories": ["cat"]}, {"name": "others", "categories": ["dog", "kite"]}]}


def document(pictures: int = 24) -> dict:
    """Return pictures of a cat each, every second with a dog and every third with a kite; category ids have gaps."""
    ids = {"cat": 17, "dog": 18, "kite": 38}
    there = {n: ["cat", *["dog"] * (n % 2 == 0), *["kite"] * (n % 3 == 0)] for n in range(1, pictures + 1)}
    rows = [(n, name) for n, names in there.items() for name in names]
    return {
        "images": [{"id": n, "file_name": f"{n:02d}.png"} for n in there],
        "annotations": [
            {"id": k, "image_id": n, "category_id": ids[name]} for k, (n, name) in enumerate(rows, start=1)
        ],
        "categories": [{"id": i, "name": name} for name, i in ids.items()],
    }


def test_each_part_keeps_its_own_labels_and_the_rest_is_kept_apart() -> None:
    whole = document()
    visible, hidden = hide_labels(whole, HideSpec.model_validate(TEAMS))
    assert pictures_labelled(visible) == {"cat": 12, "dog": 12, "kite": 12}
    for seen, unseen in zip(visible["images"], hidden["images"], strict=True):
        own, lost = set(seen["labelled_category_ids"]), set(unseen["labelled_category_ids"])
        assert (
            own == ({17} if seen["sources"] == ["cats"] else {18, 38}) and own | lost == {17, 18, 38} and not own & lost
        )
    for each in (visible, hidden):
        labelled = labelled_categories(each)
        assert all(a["category_id"] in labelled[a["image_id"]] for a in each["annotations"])
    both = [*visible["annotations"], *hidden["annotations"]]
    assert sorted(a["id"] for a in both) == [a["id"] for a in whole["annotations"]]
    # Stratified: each team has half of the pictures with a dog, and of those with a kite.
    assert [sum(a["category_id"] == n for a in visible["annotations"]) for n in (17, 18, 38)] == [12, 6, 4]


def test_the_division_depends_on_the_seed_alone() -> None:
    def parts(seed: int, reverse: bool = False) -> dict[str, list[str]]:
        whole = document()
        if reverse:
            whole["images"].reverse()
        visible, _ = hide_labels(whole, HideSpec.model_validate(TEAMS | {"seed": seed}))
        return {image["file_name"]: image["sources"] for image in visible["images"]}

    assert parts(0) == parts(0, reverse=True) != parts(1)


def test_copies_are_of_one_part() -> None:
    together = {"01.png": "02.png", "02.png": "02.png", "03.png": "02.png"}
    visible, _ = hide_labels(document(), HideSpec.model_validate(TEAMS), together)
    assert len({tuple(image["sources"]) for image in visible["images"][:3]}) == 1


def test_a_tenth_is_labelled_and_the_rest_is_left_alone(tmp_path) -> None:
    parts = [{"name": "labelled", "share": 1}, {"name": "spare", "categories": [], "share": 3}]
    study = make_study(
        tmp_path / "out", format="shapes", shapes={"images": 50, "size": (96, 72)}, hide={"parts": parts}
    )
    summary = convert(study)
    train = read_json(study.path("dataset", "train.json"))
    data = Dataset.read(study.root)
    assert data.source["sources"] == {"labelled": list(data.categories), "spare": []}
    assert set(data.pictures_labelled("train").values()) == {10} and not data.complete("train")
    assert data.complete("val") and data.pictures_labelled("val")["disc"] == 5
    assert [len(ids) for ids in data.labelled("train").values()].count(0) == 30 == len(train["images"]) - 10
    hidden = read_json(study.path("dataset", "hidden_train.json"))
    assert [image["id"] for image in hidden["images"]] == [image["id"] for image in train["images"]]
    assert not study.path("dataset", "hidden_val.json").exists() and len(hidden["annotations"]) > 60
    assert study.path("dataset", "hidden_train.json") in summary.writes
    study.experiment.dataset = study.experiment.dataset.model_copy(update={"hide": None})
    convert(study)
    assert not study.path("dataset", "hidden_train.json").exists(), "what an earlier run hid is no truth of this one"
    whole = read_json(study.path("dataset", "train.json"))
    assert len(whole["annotations"]) == len(train["annotations"]) + len(hidden["annotations"])
    assert Dataset.read(study.root).complete("train") and "labelled" not in Dataset.read(study.root).splits["train"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parts": [{"name": "cats", "categories": ["cats"]}]},
            r"parts\.cats\.categories: unknown category 'cats'; did",
        ),
        ({"parts": [{"name": f"p{n}"} for n in range(30)]}, r"30 parts of 24 pictures"),
    ],
    ids=["unknown category", "more parts than pictures"],
)
def test_what_cannot_be_hidden_is_refused(changes, message) -> None:
    with pytest.raises(DatasetError, match=message):
        hide_labels(document(), HideSpec.model_validate(TEAMS | changes))


def test_parts_have_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="names must differ, and a stands there twice"):
        HideSpec.model_validate({"parts": [{"name": "a"}, {"name": "a"}]})
