from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from mutineck.clusters.centroids import Centroids, load_centroids, save_centroids

NAMES = ("mean", "std", "centroids", "category", "size")


def some(**changes):
    tensors = {
        "mean": torch.arange(3.0),
        "std": torch.tensor([1.0, 2.0, 0.5]),
        "centroids": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
        "category": torch.tensor([0, 0, 1, 2]),
        "size": torch.tensor([7, 3, 9, 1]),
    }
    return Centroids(**(tensors | changes), about={"teacher": "faster", "categories": ["a", "b", "c"], "k": 2})


def test_round_trip_keeps_every_bit(tmp_path):
    centroids = some()
    loaded = load_centroids(save_centroids(centroids, tmp_path / "x.safetensors"), ["a", "b", "c"])
    for name in NAMES:
        assert torch.equal(getattr(loaded, name), getattr(centroids, name))
        assert getattr(loaded, name).dtype == getattr(centroids, name).dtype
    assert loaded.about == centroids.about


def test_same_centroids_same_bytes(tmp_path):
    one, two = (save_centroids(some(), tmp_path / name) for name in ("1.safetensors", "2.safetensors"))
    assert one.read_bytes() == two.read_bytes()


def test_file_is_what_other_programs_are_promised(tmp_path):
    with safe_open(save_centroids(some(), tmp_path / "x.safetensors"), framework="numpy") as file:
        assert sorted(file.keys()) == sorted(NAMES)
        assert json.loads(file.metadata()["mutineck"])["teacher"] == "faster"


def test_standardise():
    vectors = torch.tensor([[1.0, 5.0, 3.0]])
    torch.testing.assert_close(some().standardise(vectors), torch.tensor([[1.0, 2.0, 2.0]]))
    assert some().standardise(vectors.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": torch.zeros(2)}, r"mean must be \(3,\).*got \(2,\)"),
        ({"category": torch.zeros(3, dtype=torch.int64)}, r"category must be \(4,\)"),
        ({"std": torch.tensor([1.0, 0.0, 1.0])}, "above 0, but is not in 1 of 3"),
        ({"centroids": torch.full((4, 3), torch.nan)}, "centroids holds numbers that are not finite"),
        ({"centroids": torch.zeros(0, 3)}, "M at least 1"),
    ],
    ids=["mean", "category", "std", "nan", "none"],
)
def test_bad_tensors_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        some(**changes)


def test_other_categories_are_refused_with_both_named(tmp_path):
    path = save_centroids(some(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"a, b, c.*a, c, b"):
        load_centroids(path, ["a", "c", "b"])


@pytest.mark.parametrize("content", [b"", b"garbage" * 10, None], ids=["empty", "garbage", "cut"])
def test_damaged_file_is_named(tmp_path, content):
    path = save_centroids(some(), tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        load_centroids(path)


def test_missing_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="--until clusters"):
        load_centroids(tmp_path / "x.safetensors")
