"""A data set and teachers for everything that needs a detector, made once for each process of the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before any test module: whoever imports pip first keeps setuptools from standing in for distutils, and mmcv then
# refuses to be imported.
import setuptools  # noqa: F401
from hypothesis import settings

from mutineck.study.jobs import Job
from mutineck.study.manifest import revision
from mutineck.study.stage import Study
from tests.web import Host

# Of annotation files; of what takes longer, in proportion. `make fuzz MINUTES=...` says how many.
settings.register_profile("fuzz", max_examples=int(os.environ.get("FUZZ_FILES", "12000")))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Write the revision into what `--junitxml` keeps: docs/reliability.md says of which code its counts are."""
    for plugin in session.config.pluginmanager.get_plugins():
        if hasattr(plugin, "add_global_property"):
            code = revision()
            plugin.add_global_property("revision", f"{code['git']}{' with edits' if code['dirty'] else ''}")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with 20 generated scenes and a teacher of random weights of each family; tests only read it."""
    from mutineck.dataset.stage import convert
    from tests.detection.tiny import experiment_of, write_teachers

    study = Study(experiment_of(), tmp_path_factory.mktemp("tiny"), Job("dataset"))
    convert(study)
    write_teachers(study)
    return study


@pytest.fixture
def host() -> Iterator[Host]:
    """A web server with no files yet."""
    host = Host()
    yield host
    host.close()
