from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import silhouette_score

from mutineck.clusters.centroids import load_centroids
from mutineck.clusters.clustering import cluster, cluster_teacher, extracted_teachers, teaching_teacher
from mutineck.features.shards import load_features
from mutineck.study.experiment import ClustersSpec, load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from tests.features.planted import CATEGORIES, plant

WIDTH = 12


def planted_rows(seed=0):
    """Two of three categories, each of two kinds, in a space of strange means and scales."""
    draw = np.random.default_rng(seed)
    kinds = np.repeat([0, 1, 2, 3], [60, 30, 40, 10])
    z = 6 * np.eye(WIDTH)[kinds] + 0.3 * draw.normal(size=(len(kinds), WIDTH))
    order = draw.permutation(len(kinds))
    scale, shift = draw.uniform(0.2, 3, WIDTH), draw.uniform(-5, 5, WIDTH)
    return (z * scale + shift)[order].astype(np.float16), np.array([0, 0, 2, 2])[kinds][order], kinds[order]


@pytest.fixture
def study(tmp_path):
    study = Study(load_experiment("smoke", ["clusters.k=2"]), tmp_path, Job("clusters"))
    for place, name in enumerate(("faster", "retina")):
        vectors, category, _ = planted_rows(place)
        plant(tmp_path / "features" / name, vectors, category, teacher=name)
    return study


def test_planted_kinds_are_found_in_their_own_space(tmp_path):
    vectors, category, kinds = planted_rows()
    folder = plant(tmp_path, vectors, category)
    centroids, table, _ = cluster_teacher(folder, "faster", ClustersSpec(k=2))
    assert centroids.category.tolist() == [0, 0, 2, 2]
    assert centroids.size.tolist() == [60, 30, 40, 10]
    z = centroids.standardise(torch.from_numpy(vectors))
    for index in range(4):
        expected = z[torch.from_numpy(kinds == index)].mean(dim=0)
        torch.testing.assert_close(centroids.centroids[index], expected, atol=1e-3, rtol=1e-3)
    assert table["share"].tolist() == pytest.approx([2 / 3, 1 / 3, 0.8, 0.2])
    own = category == 0
    expected = silhouette_score(z[torch.from_numpy(own)], kinds[own])
    assert table["silhouette"][0] == table["silhouette"][1] == pytest.approx(expected, abs=1e-4)
    assert centroids.about["counts"] == {"disc": 90, "ring": 0, "star": 50}


def test_study_gets_tables_and_files(study):
    statistics = cluster(study).found
    assert statistics.groupby("teacher", sort=False).size().to_dict() == {"faster": 4, "retina": 4}
    stored = pd.read_csv(study.path("clusters", "statistics.csv"))
    assert stored["size"].tolist() == statistics["size"].tolist()
    for name in ("faster", "retina"):
        centroids = load_centroids(study.path("clusters", "centroids", f"{name}.safetensors"), CATEGORIES)
        assert centroids.about["teacher"] == name


def test_nearest_targets_are_the_nearest_by_cosine(study):
    cluster(study)
    near = pd.read_parquet(study.path("clusters", "nearest.parquet"))
    centroids = load_centroids(study.path("clusters", "centroids", "faster.safetensors"))
    rows = load_features(study.path("features", "faster"))
    unit = torch.nn.functional.normalize(centroids.standardise(torch.from_numpy(rows["vector"])), dim=1)
    cosine = unit @ torch.nn.functional.normalize(centroids.centroids, dim=1).T
    for index in range(4):
        category = CATEGORIES[int(centroids.category[index])]
        mine = (near["teacher"] == "faster") & (near["category"] == category)
        part = near[mine & (near["cluster"] == index % 2)]
        assert part["place"].tolist() == list(range(8))
        assert (np.diff(part["cosine"]) <= 0).all()
        rows_of = {int(a): i for i, a in enumerate(rows["annotation_id"])}
        for annotation_id, value in zip(part["annotation_id"], part["cosine"], strict=True):
            assert cosine[rows_of[annotation_id], index].item() == pytest.approx(value, abs=1e-4)
        assert part["cosine"].iloc[0] == pytest.approx(
            cosine[torch.from_numpy(rows["category"] == int(centroids.category[index])), index].max().item(),
            abs=1e-4,
        )
    assert {"image_id", "x1", "y1", "x2", "y2"} <= set(near)


def test_running_again_writes_the_same_bytes(study):
    files = ("statistics.csv", "nearest.parquet", "centroids/faster.safetensors")
    cluster(study)
    before = [study.path("clusters", file).read_bytes() for file in files]
    cluster(study)
    assert [study.path("clusters", file).read_bytes() for file in files] == before


def test_missing_features_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="--until features"):
        cluster(Study(load_experiment("smoke"), tmp_path, Job("clusters")))


def test_the_intermediate_teacher_teaches_where_there_is_one(study):
    assert extracted_teachers(study) == ["faster", "retina"]
    assert teaching_teacher(study.experiment, ["faster", "retina"]) == "faster"
    assert teaching_teacher(study.experiment, ["faster", "intermediate"]) == "intermediate"
