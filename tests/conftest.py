"""A data set and teachers for everything that needs a detector, made once for each process of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

# Before any test module: whoever imports pip first keeps setuptools from standing in for distutils, and mmcv then
# refuses to be imported.
import setuptools  # noqa: F401
from hypothesis import settings

from mutineck.stage import Study
from tests.web import Host

settings.register_profile("fuzz", max_examples=30_000)  # of annotation files; of what takes longer, in proportion


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with 20 generated scenes and a teacher of random weights of each family; tests only read it."""
    from mutineck.dataset.stage import convert
    from tests.detection.tiny import experiment_of, write_teachers

    study = Study(experiment_of(), tmp_path_factory.mktemp("tiny"), "dataset")
    convert(study)
    write_teachers(study)
    return study


@pytest.fixture
def host() -> Iterator[Host]:
    """A web server with no files yet."""
    host = Host()
    yield host
    host.close()
