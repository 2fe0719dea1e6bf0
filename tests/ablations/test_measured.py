"""What is measured with networks: weights, vectors, responses, costs, on random detectors and against closed forms."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mutineck.ablations import vectors
from mutineck.ablations.costs import measure_costs
from mutineck.ablations.omega import measure_omega
from mutineck.ablations.responses import measure_responses
from mutineck.ablations.vectors import measure_vectors, nearest_centroids, standardised, tightness, turned
from mutineck.clusters.centroids import Centroids
from mutineck.clusters.embedding import project
from mutineck.detection.complexity import multiply_adds, parameters
from mutineck.detectors.folders import load_model
from mutineck.distillation.observation import inspect_image
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json
from tests.ablations.tiny import write_manifest
from tests.detection.tiny import derive
from tests.distillation.tiny import plant_centroids


@pytest.fixture(scope="module")
def study(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = derive(tiny, tmp_path_factory.mktemp("measured") / "study")
    for teacher in study.experiment.teachers:
        folder = study.path("teachers", teacher.name)
        folder.unlink()  # a link: results of this study need a manifest of their own
        shutil.copytree(tiny.path("teachers", teacher.name), folder)
        write_manifest(study, folder)
    return study


def test_weights_of_every_target(study: Study) -> None:
    table = measure_omega(study).found
    document = read_json(study.path("dataset", "val.json"))
    targets = [item["id"] for item in document["annotations"] if not item.get("iscrowd")]
    assert sorted(set(table["annotation_id"])) == sorted(targets)
    assert np.allclose(table.groupby("annotation_id")["omega"].sum(), 1)
    found = table["quality"] > 0
    assert (table.loc[found, "x2"] > table.loc[found, "x1"]).all() and table.loc[~found, "x1"].isna().all()
    stored = pd.read_csv(study.path("ablations", "omega.csv"))
    assert np.allclose(stored["omega"], table["omega"], atol=1e-5)


def test_fewer_pictures_are_looked_at_if_asked(study: Study) -> None:
    assert measure_omega(study, pictures=1).found["image_id"].nunique() == 1


def test_responses_of_one_picture(study: Study) -> None:
    with np.load(measure_responses(study).found) as seen:
        assert list(seen["teachers"]) == ["faster_rcnn", "retinanet"] and len(seen["students"]) == 0
        assert seen["attention/faster_rcnn/8"].mean() == pytest.approx(1, abs=1e-4)
        assert seen["response/8"].min() >= 0 and seen["response/8"].max() <= 1 + 1e-6
        assert "attention/retinanet/4" not in seen


def test_a_detector_has_no_error_against_itself(tiny: Study, tmp_path: Path) -> None:
    study = derive(tiny, tmp_path / "study")
    folder = study.path("distillation", "student", "seed0")
    folder.mkdir(parents=True)
    (folder / "student.pth").symlink_to(tiny.path("teachers", "faster_rcnn", "checkpoint.pth"))
    (folder / "config.py").symlink_to(tiny.path("teachers", "faster_rcnn", "config.py"))
    seen = inspect_image(study, ["faster_rcnn"], merged=False, students=["student/seed0"])
    assert np.abs(seen["error/student/seed0/8"]).max() == 0
    with pytest.raises(ExperimentError, match="no picture with id 12345"):
        inspect_image(study, ["faster_rcnn"], merged=False, image=12345)


def test_vectors_of_teachers(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_centroids(study)
    monkeypatch.setattr(vectors, "project", lambda points, method, seed: project(points, "pca", seed))
    table = measure_vectors(study).found.set_index("detector")
    assert list(table.index) == ["faster_rcnn", "retinanet"] and list(table["kind"]) == ["teacher"] * 2
    assert table["cosine"].between(-1, 1).all() and (table["distance"] > 0).all()
    layout = pd.read_csv(study.path("ablations", "layout.csv"), keep_default_na=False)
    assert set(layout["detector"]) == {"faster_rcnn", "retinanet", ""}
    first = study.path("ablations", "layout.csv").read_bytes()
    measure_vectors(study)
    assert study.path("ablations", "layout.csv").read_bytes() == first


def test_a_turned_copy_is_turned_back() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(200, 6)).astype(np.float32)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    assert np.allclose(turned(target @ rotation, target, np.arange(200) // 4), target, atol=1e-4)


def test_turning_never_stretches() -> None:
    rng = np.random.default_rng(1)
    values, target = rng.normal(size=(80, 5)), rng.normal(size=(80, 9))
    found = turned(values.astype(np.float32), target.astype(np.float32), np.arange(80) // 4)
    assert np.allclose(np.linalg.norm(found, axis=1), np.linalg.norm(values, axis=1), rtol=1e-4)


def test_a_target_is_not_turned_by_itself() -> None:
    rng = np.random.default_rng(2)
    values, target = (rng.normal(size=(40, 4)).astype(np.float32) for _ in range(2))
    changed = target.copy()
    changed[:4] = 50
    group = np.arange(40) // 4
    assert np.allclose(turned(values, target, group)[:4], turned(values, changed, group)[:4], atol=1e-5)


def test_categories_count_alike_in_the_moments() -> None:
    values = np.concatenate([np.zeros((90, 2)), np.full((10, 2), 4.0)]).astype(np.float32)
    z = standardised(values, np.repeat([0, 1], [90, 10]))
    assert np.allclose(z[0], -1) and np.allclose(z[-1], 1)


def test_tightness_in_closed_form() -> None:
    centroids = Centroids(
        torch.zeros(2), torch.ones(2), torch.tensor([[2.0, 0], [0, 2], [0, -3]]), torch.tensor([0, 0, 1]), torch.ones(3)
    )
    target = np.array([[1, 0], [0.1, 1], [0, -1]], np.float32)
    label = np.array([0, 0, 1])
    nearest = nearest_centroids(target, label, centroids)
    assert np.allclose(nearest, [[2, 0], [0, 2], [0, -3]])
    found = tightness(target, nearest + np.array([0, np.sqrt(2)]), nearest, label, 2)
    assert found["distance"] == pytest.approx(1)
    assert tightness(target, nearest, nearest, label, 2)["cosine"] == pytest.approx(1)


def test_a_category_without_centroid_is_left_out() -> None:
    centroids = Centroids(torch.zeros(1), torch.ones(1), torch.ones(1, 1), torch.tensor([0]), torch.ones(1))
    nearest = nearest_centroids(np.ones((2, 1), np.float32), np.array([0, 1]), centroids)
    assert nearest[0] == 1 and np.isnan(nearest[1])


def test_costs_of_teachers(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from mutineck.ablations import costs

    timed: list[torch.nn.Module] = []
    latency = costs.latency
    monkeypatch.setattr(
        costs, "latency", lambda model, *given, **more: timed.append(model) or latency(model, *given, **more)
    )
    table = measure_costs(study, passes=1).found.set_index("detector")
    assert list(table.index) == ["faster_rcnn", "retinanet"]
    assert (table[["parameters", "multiply_adds", "milliseconds"]] > 0).all(axis=None)
    # Counted as it is, timed as a teacher beneath another runs.
    plain = load_model(study.path("teachers", "retinanet"))[0]
    assert table.loc["retinanet", "parameters"] == parameters(plain)
    assert not [m for model in timed for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_multiply_adds_of_one_convolution() -> None:
    class Detector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)

        def forward_dummy(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image)

        def extract_feat(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image[:, :, ::2, ::2])

    model = Detector()
    assert parameters(model) == 3 * 8 * 9
    assert multiply_adds(model, (10, 20)) == 3 * 8 * 9 * 200
    assert multiply_adds(model, (10, 20), maps_only=True) == 3 * 8 * 9 * 50
    assert "forward" not in vars(model)
