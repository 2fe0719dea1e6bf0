from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mutineck.clusters import embedding
from mutineck.clusters.clustering import cluster
from mutineck.clusters.embedding import ALL, embed, in_first_space, project
from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from tests.features.planted import CATEGORIES, plant


def planted_study(root):
    """Three categories of 40, 40 and 6 targets, seen by two teachers with different channels."""
    study = Study(load_experiment("smoke", ["clusters.sample_per_category=10"]), root, Job("clusters"))
    draw = np.random.default_rng(0)
    category = np.repeat([0, 1, 2], [40, 40, 6])
    latent = 4 * np.eye(5)[category] + draw.normal(size=(86, 5))
    for name, width in (("faster", 8), ("retina", 12)):
        plant(root / "features" / name, latent @ draw.normal(size=(5, width)), category, teacher=name)
    cluster(study)
    return study


@pytest.fixture
def study(tmp_path, monkeypatch):
    # UMAP compiles for half a minute; one slow test below runs the real one.
    monkeypatch.setattr(embedding, "_umap", lambda vectors, neighbours, seed: project(vectors, "pca", seed))
    return planted_study(tmp_path)


def test_panels_methods_and_sample(study):
    table = embed(study).found
    panels = table.groupby(["panel", "method"], sort=False).size().index.tolist()
    assert panels == [
        ("faster", "umap"),
        ("retina", "umap"),
        ("faster", "pca"),
        ("faster", "tsne"),
        (ALL, "umap"),
    ]
    own = table[(table["panel"] == "retina") & (table["kind"] == "instance")]
    assert own["category"].value_counts().to_dict() == {"disc": 10, "ring": 10, "star": 6}
    other = table[(table["panel"] == "faster") & (table["method"] == "umap") & (table["kind"] == "instance")]
    assert own["annotation_id"].tolist() == other["annotation_id"].tolist()
    assert np.isfinite(table[["x", "y"]].to_numpy()).all()
    pd.testing.assert_frame_equal(pd.read_parquet(study.path("clusters", "embedding.parquet")), table)


def test_every_centroid_is_there_with_its_number(study):
    statistics = pd.read_csv(study.path("clusters", "statistics.csv"))
    table = embed(study).found
    for panel in ("faster", "retina", ALL):
        marked = table[(table["panel"] == panel) & (table["method"] == "umap") & (table["kind"] == "centroid")]
        expected = statistics if panel == ALL else statistics[statistics["teacher"] == panel]
        columns = ["teacher", "category", "cluster"]
        assert marked[columns].to_numpy().tolist() == expected[columns].to_numpy().tolist()


def test_joint_panel_shows_each_target_once(study):
    table = embed(study).found
    joint = table[(table["panel"] == ALL) & (table["kind"] == "instance")]
    assert joint["annotation_id"].is_unique
    assert set(joint["teacher"]) == {"faster", "retina"}
    assert len(joint) == 26


def test_teachers_that_are_linear_images_of_each_other_meet_in_the_first_space(study):
    samples = [embedding._sample(study, name) for name in ("faster", "retina")]
    mapped = in_first_space(samples)
    first, second = mapped[0], mapped[1]
    target = samples[0].z[samples[0].rows["annotation_id"].isin(second.rows["annotation_id"])]
    cosine = (second.z * target).sum(1) / np.linalg.norm(second.z, axis=1) / np.linalg.norm(target, axis=1)
    assert np.median(cosine) > 0.9
    np.testing.assert_array_equal(
        first.z, samples[0].z[samples[0].rows["annotation_id"].isin(first.rows["annotation_id"])]
    )


def test_separation_is_high_where_categories_lie_apart(study):
    embed(study)
    table = pd.read_csv(study.path("clusters", "separation.csv"))
    assert table["teacher"].tolist() == ["faster", "retina"]
    assert (table["silhouette"] > 0.4).all()
    assert (table["instances"] == 26).all()


def test_twice_the_same_bytes(study):
    files = [study.path("clusters", name) for name in ("embedding.parquet", "separation.csv")]
    embed(study)
    before = [file.read_bytes() for file in files]
    embed(study)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("count", [1, 2, 4, 5, 40])
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projection_of_few_points(method, count):
    plane = project(np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32), method, 0)
    assert plane.shape == (count, 2)
    assert np.isfinite(plane).all()


def test_pca_keeps_the_two_widest_directions():
    draw = np.random.default_rng(0).normal(size=(50, 4)) * [9, 5, 0.1, 0.1]
    plane = project(draw.astype(np.float32), "pca", 0)
    centred = draw - draw.mean(axis=0)
    np.testing.assert_allclose(np.abs(plane), np.abs(centred[:, :2]), atol=0.6)


def test_unknown_projection_is_refused():
    with pytest.raises(ValueError, match="umap, tsne, pca"):
        project(np.zeros((9, 3)), "mds", 0)


@pytest.mark.slow
def test_real_umap_is_repeatable_and_keeps_planted_groups_apart(tmp_path):
    study = planted_study(tmp_path)
    table, again = embed(study).found, embed(study).found
    pd.testing.assert_frame_equal(table, again)
    panel = table[(table["panel"] == "faster") & (table["method"] == "umap") & (table["kind"] == "instance")]
    centre = panel.groupby("category")[["x", "y"]].transform("median")
    reach = np.hypot(panel["x"] - centre["x"], panel["y"] - centre["y"]).median()
    middles = panel.groupby("category")[["x", "y"]].median()
    apart = np.hypot(*(middles.loc["disc"] - middles.loc["ring"]))
    assert apart > 2 * reach
    assert set(panel["category"]) == set(CATEGORIES)
