"""A study in which every arm can be built, made once for each process of the tests."""

from __future__ import annotations

import pytest

from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from tests.detection.tiny import derive
from tests.distillation.tiny import ARMS, plant_centroids


@pytest.fixture(scope="session")
def ready(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of a two-stage and a one-stage teacher with all arms, an intermediate teacher and centroids; only read."""
    from mutineck.teachers.intermediate import prepare_intermediate

    study = derive(
        tiny,
        tmp_path_factory.mktemp("ready") / "study",
        arms=ARMS,
        distillation={"centroid_cosine": -1.0, "logits": 1.0},
    )
    # As `staged` has it, but for the training.
    untrained = study.experiment.intermediate.model_copy(update={"mode": "joint"})
    starting = Study(study.experiment.model_copy(update={"intermediate": untrained}), study.root, Job("teachers"))
    prepare_intermediate(starting.at("teachers", "intermediate"))
    plant_centroids(study)
    return study


@pytest.fixture(scope="session")
def prior(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study whose intermediate teacher is not trained: the proposals' quality mixes the maps that teach; only read."""
    from mutineck.teachers.intermediate import prepare_intermediate

    study = derive(
        tiny,
        tmp_path_factory.mktemp("prior") / "study",
        arms=("mutineck", "pkd:intermediate"),
        intermediate={"mode": "prior", "gate": 1.0, "alignment_images": 4},
        distillation={"centroid_cosine": -1.0, "logits": 1.0},
    )
    prepare_intermediate(study.at("teachers", "intermediate"))
    plant_centroids(study)
    return study


@pytest.fixture(scope="session")
def joint(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same with a merge neck that learns in the student's run; only read."""
    from mutineck.teachers.intermediate import prepare_intermediate

    study = derive(
        tiny,
        tmp_path_factory.mktemp("joint") / "study",
        arms=("mutineck", "fgd:intermediate", "pkd:intermediate"),
        intermediate={"mode": "joint", "prior": True, "gate": 1.0, "alignment_images": 4},
        distillation={"centroid_cosine": -1.0, "logits": 1.0},
    )
    prepare_intermediate(study.at("teachers", "intermediate"))
    plant_centroids(study)
    return study
