from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from mutineck.features.shards import (
    COLUMNS,
    draw_annotations,
    find_shards,
    load_features,
    mean_vectors,
    read_features,
    read_index,
)
from tests.features.planted import plant


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    return plant(tmp_path / "faster", draw.normal(size=(100, 6)).astype(np.float16), draw.integers(0, 3, 100))


def test_rows_come_back_bit_for_bit(tmp_path):
    vectors = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float16)
    category = np.arange(50) % 3
    rows = load_features(plant(tmp_path, vectors, category))
    assert list(rows) == list(COLUMNS)
    assert rows["vector"].dtype == np.float16
    np.testing.assert_array_equal(rows["vector"], vectors)
    np.testing.assert_array_equal(rows["category"], category)
    np.testing.assert_array_equal(rows["annotation_id"], np.arange(1, 51))
    assert set(rows["teacher"]) == {"faster"}


def test_schema_is_what_other_programs_are_promised(folder):
    schema = pq.read_schema(sorted(folder.glob("*.parquet"))[0])
    kinds = {field.name: str(field.type) for field in schema}
    assert kinds["image_id"] == kinds["annotation_id"] == "int64"
    assert kinds["category"] == kinds["stride"] == "int16"
    assert kinds["level"] == "int8"
    assert kinds["x1"] == "float"
    assert "halffloat" in kinds["vector"]
    assert "dictionary" in kinds["teacher"]


@pytest.mark.parametrize("batch_rows", [1, 7, 1000], ids=["one-row", "odd", "all"])
def test_streaming_gives_the_same_rows_whatever_the_batch(folder, batch_rows):
    batches = list(read_features(folder, ["annotation_id", "vector"], batch_rows=batch_rows))
    assert max(len(batch["annotation_id"]) for batch in batches) <= batch_rows
    assert all(set(batch) == {"annotation_id", "vector"} for batch in batches)
    whole = load_features(folder, ["vector"])["vector"]
    np.testing.assert_array_equal(np.concatenate([batch["vector"] for batch in batches]), whole)


def test_categories_are_filtered_while_streaming(folder):
    whole = load_features(folder, ["annotation_id", "category"])
    some = np.concatenate([b["annotation_id"] for b in read_features(folder, ["annotation_id"], categories=[2])])
    np.testing.assert_array_equal(some, whole["annotation_id"][whole["category"] == 2])


def test_sample_is_balanced_repeatable_and_the_same_for_every_teacher(tmp_path):
    draw = np.random.default_rng(0)
    category = np.array([0] * 70 + [1] * 25 + [2] * 5)
    draw.shuffle(category)
    one = plant(tmp_path / "one", draw.normal(size=(100, 4)), category, teacher="one")
    two = plant(tmp_path / "two", draw.normal(size=(100, 9)), category, teacher="two", shards=5)
    samples = [load_features(folder, per_category=10, seed=3) for folder in (one, two, one)]
    assert np.bincount(samples[0]["category"]).tolist() == [10, 10, 5]
    for sample in samples[1:]:
        np.testing.assert_array_equal(sample["annotation_id"], samples[0]["annotation_id"])
    other = load_features(one, per_category=10, seed=4)
    assert other["annotation_id"].tolist() != samples[0]["annotation_id"].tolist()


def test_draw_does_not_depend_on_the_order_of_rows():
    ids, category = np.arange(40), np.arange(40) % 2
    turned = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(
        draw_annotations(ids, category, 5, 0), draw_annotations(ids[turned], category[turned], 5, 0)
    )


def test_misspelt_column_names_the_near_one(folder):
    with pytest.raises(ValueError, match="did you mean 'vector'"):
        next(read_features(folder, ["vectr"]))


def test_unfinished_extraction_is_refused_with_the_command(folder):
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match="mutineck run"):
        list(read_features(folder))


def test_foreign_damaged_and_stale_files_are_no_shards(folder):
    first = sorted(folder.glob("*.parquet"))[0]
    (folder / "part-0000-0007.parquet").write_bytes(b"PAR1 cut short")
    (folder / "part-copy.parquet").write_bytes(first.read_bytes())
    current, stale = find_shards(folder, "planted")
    assert sorted(current) == [0, 1, 2]
    assert sorted(path.name for path in stale) == ["part-0000-0007.parquet", "part-copy.parquet"]
    current, stale = find_shards(folder, "another checkpoint")
    assert not current
    assert len(stale) == 5


def test_infinite_vector_is_refused_by_annotation(tmp_path):
    vectors = np.zeros((4, 2))
    vectors[2, 1] = 1e6
    with pytest.raises(ValueError, match=r"annotations \[3\]"), np.errstate(over="ignore"):
        plant(tmp_path, vectors, np.zeros(4), shards=1)


def test_mean_of_full_vectors(tmp_path):
    cells = np.random.default_rng(0).normal(size=(6, 3, 49)).astype(np.float16)
    folder = plant(tmp_path, cells.reshape(6, -1), np.zeros(6), pooled="full")
    got = mean_vectors(load_features(folder)["vector"], read_index(folder))
    np.testing.assert_allclose(got, cells.astype(np.float64).mean(axis=2), atol=1e-6)
