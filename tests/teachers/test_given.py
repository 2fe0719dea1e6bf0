"""A teacher that a user brings: an mmdet config, which is code and said to be, and a checkpoint, which never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mutineck.detection.configs import pipelines
from mutineck.detection.loading import CheckpointError
from mutineck.detection.prepare import prepare
from mutineck.detectors.folders import load_model
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.teachers.stage import prepare_teacher
from tests.detection.test_loading import Payload
from tests.detection.tiny import experiment_of, random_detector


def brought(tiny: Study, folder: Path, content: Any, family: str = "faster_rcnn") -> Study:
    """Return the stage of a teacher `mine` whose config is a user's and whose checkpoint holds ``content``."""
    prepare()
    from mmcv import Config

    categories = tiny.dataset.categories
    _, model = random_detector(family, len(categories))
    test = pipelines(tiny.experiment.input)[1]
    config = Config({"model": model, "data": {"train": {"classes": categories}, "test": {"pipeline": test}}})
    config.dump(str(folder / "mine.py"))
    torch.save(content, folder / "MutiNeck-KD.pth")
    teacher = {"name": "mine", "config": str(folder / "mine.py"), "checkpoint": str(folder / "MutiNeck-KD.pth")}
    experiment = experiment_of().model_dump(by_alias=True) | {"teachers": [teacher]}
    (folder / "study").mkdir()
    (folder / "study" / "dataset").symlink_to(tiny.path("dataset"))
    return Study(type(tiny.experiment).model_validate(experiment), folder / "study", "teachers", "mine")


def test_the_student_in_a_published_checkpoint_is_found_loaded_reported_and_measured(
    tiny: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(tiny.path("teachers", "faster_rcnn", "checkpoint.pth"), weights_only=True)["state_dict"]
    both = {f"student.{name}": value for name, value in weights.items()}
    both |= {f"teacher.{name}": value + 1 for name, value in weights.items()} | {"multi_neck.w": torch.ones(1)}
    study = brought(tiny, tmp_path, {"state_dict": both, "meta": {"config": "raise SystemExit"}})
    rows = prepare_teacher(study)
    said = capsys.readouterr().out
    assert f"reading {tmp_path}/mine.py (an mmdet config is Python code and is executed)" in said
    assert f"MutiNeck-KD.pth: {len(weights)} matched, 0 missing, 0 unexpected" in said
    assert "read as: the part 'student.'" in said
    state = load_model(study.folder)[0].state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert {row["name"] for row in rows} == {"mine"} and "bbox_mAP" in {row["metric"] for row in rows}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            "retinanet",
            r"(?s)missing.*bbox_head.*does not fit this FasterRCNN; nothing was loaded",
            id="another architecture",
        ),
        pytest.param("payload", "Nothing of it was executed", id="a payload"),
    ],
)
def test_what_does_not_fit_or_is_no_data_is_refused(content: str, message: str, tiny: Study, tmp_path: Path) -> None:
    other = torch.load(tiny.path("teachers", "retinanet", "checkpoint.pth"), weights_only=True)
    study = brought(tiny, tmp_path, other if content == "retinanet" else other | {"meta": Payload(tmp_path / "owned")})
    with pytest.raises(CheckpointError, match=message) as caught:
        prepare_teacher(study)
    assert "MutiNeck-KD.pth" in str(caught.value)
    assert not (tmp_path / "owned").exists() and not (study.folder / "checkpoint.pth").exists()


def test_a_teacher_of_other_names_is_told_how_to_name_them_before_anything_is_loaded(
    tiny: Study, tmp_path: Path
) -> None:
    own = tiny.dataset.categories
    theirs = [f"their {name}" for name in own]
    study = brought(tiny, tmp_path, {"state_dict": {}, "meta": {"CLASSES": tuple(theirs)}})
    said = f"it knows {', '.join(theirs[:5])} and 5 more; the data set has {', '.join(own[:5])} and 5 more"
    with pytest.raises(
        ExperimentError, match=rf"teacher 'mine' shares no category .* {said}.*teachers\.mine\.aliases: \{{"
    ):
        prepare_teacher(study)
