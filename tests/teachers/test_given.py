"""A teacher that a user brings: an mmdet config, which is code and said to be, and a checkpoint, which never is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mutineck.detection.configs import pipelines, read_config, write_config
from mutineck.detection.loading import CheckpointError, write_checkpoint
from mutineck.detection.prepare import prepare
from mutineck.detectors.folders import load_frozen, load_model
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.inputs import changed_inputs
from mutineck.study.jobs import MANIFEST, Job
from mutineck.study.stage import EXPERIMENT_FILE, Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import write_json, write_text
from mutineck.teachers.intermediate import prepare_intermediate
from mutineck.teachers.stage import prepare_teacher
from tests.detection.test_loading import Payload
from tests.detection.tiny import derive, experiment_of, random_detector


def study_with(tiny: Study, folder: Path, **teacher: Any) -> Study:
    """Return the stage of a teacher `mine` in a study of its own on the tiny data set."""
    fields = {"teachers": [{"name": "mine", **teacher}], "relative_to": str(folder)}
    experiment = type(tiny.experiment).model_validate(experiment_of().model_dump(by_alias=True) | fields)
    (folder / "study").mkdir()
    (folder / "study" / "dataset").symlink_to(tiny.path("dataset"))
    return Study(experiment, folder / "study", Job("teachers", "mine"))


def brought(tiny: Study, folder: Path, content: Any, family: str = "faster_rcnn", **fields: Any) -> Study:
    """Return the stage of a teacher `mine` whose config is a user's and whose checkpoint holds ``content``.

    Args:
        tiny: the study with the data set.
        folder: for config, checkpoint and the study.
        content: of the checkpoint.
        family: of the detector.
        fields: of the config, over those that a user's has; None leaves one out.
    """
    prepare()

    categories = tiny.dataset.categories
    _, model = random_detector(family, len(categories))
    test = pipelines(tiny.experiment.input)[1]
    config = {"model": model, "data": {"train": {"classes": categories}, "test": {"pipeline": test}}} | fields
    write_config(folder / "mine.py", {key: value for key, value in config.items() if value is not None})
    torch.save(content, folder / "MutiNeck-KD.pth")
    return study_with(tiny, folder, config="mine.py", checkpoint="MutiNeck-KD.pth")


def weights_of(tiny: Study, family: str = "faster_rcnn") -> dict[str, Any]:
    """Return the checkpoint of a teacher of the tiny study."""
    return torch.load(tiny.path("teachers", family, "checkpoint.pth"), weights_only=True)


def test_the_student_in_a_published_checkpoint_is_found_loaded_reported_and_measured(
    tiny: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_of(tiny)["state_dict"]
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
    other = weights_of(tiny, "retinanet")
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


BGR = {"mean": [103.5, 116.3, 123.7], "std": [1.0, 1.0, 2.0], "to_rgb": False}


@pytest.fixture
def other(tiny: Study, tmp_path: Path) -> Path:
    """The folder of another study: two finished detectors, one that is not, and an intermediate teacher."""
    root = tmp_path / "outputs" / "other"
    write_text(root / EXPERIMENT_FILE, "")
    for name in ("red", "blue", "intermediate"):
        write_detector(tiny, root / "teachers" / name, "checkpoint.pth")
    write_detector(tiny, root / "distillation" / "fgd-red" / "seed0", "student.pth")
    (root / "teachers" / "blue" / MANIFEST).unlink()
    config = root / "teachers" / "intermediate" / "config.py"
    write_config(config, {**read_config(config), "model": {"type": "IntermediateTeacher"}})
    return root


def write_detector(tiny: Study, folder: Path, weights: str) -> None:
    """Write a finished detector with names and a normalisation of its own."""
    own = read_config(tiny.path("teachers", "faster_rcnn", "config.py"))
    write_config(folder / "config.py", {**own, "categories": own.categories[::-1], "normalisation": BGR})
    write_checkpoint(folder / weights, {"state_dict": weights_of(tiny)["state_dict"]})
    write_json(folder / MANIFEST, {"writes": {}})


@pytest.mark.parametrize("named", ["red", "teachers/red", "fgd:red/seed0", "distillation/fgd-red/seed0", None])
def test_a_detector_of_another_study_teaches_as_it_is(
    named: str | None, tiny: Study, other: Path, tmp_path: Path
) -> None:
    if named is None:
        (other / "teachers" / "red").rename(other / "teachers" / "mine")
    study = study_with(tiny, tmp_path, study="outputs/other", teacher=named)
    prepare_teacher(study)
    model, config = load_model(study.folder)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights_of(tiny)["state_dict"].items())
    categories = list(tiny.dataset.categories)
    assert config.categories == categories[::-1] and config.normalisation == BGR
    assert load_frozen(study, "mine").label_map.tolist() == list(range(len(categories)))[::-1]
    manifest = study.finish()
    (weights,) = [path for path in manifest["inputs"] if path.endswith(".pth")]
    assert sorted(manifest["inputs"]) == sorted([weights, str(Path(weights).with_name("config.py"))])
    assert Path(weights).name == ("student.pth" if "seed0" in str(named) else "checkpoint.pth")
    Path(weights).write_bytes(b"trained anew")
    assert changed_inputs(manifest) == ([weights], [])


@pytest.mark.parametrize(
    ("study", "teacher", "message"),
    [
        ("outputs/othr", "red", r"teachers\.mine\.study: outputs/othr is not there \(looked for {0}/outputs/othr and "),
        ("outputs", "red", r"outputs is no study's folder: it has no experiment\.yaml, and no detectors"),
        (
            "outputs/other",
            "rad",
            r"unknown detector 'rad'; did you mean 'red'\? \(known: intermediate, red, fgd-red/seed0\)",
        ),
        ("outputs/other", "fgd-red", r"did you mean .*'fgd-red/seed0'"),
        (
            "outputs/other",
            "blue",
            r"teachers/blue is not finished \(it has no manifest\.json\); make it with: mutineck run ",
        ),
        ("outputs/other", "intermediate", r"is an intermediate teacher: .* which lie elsewhere\. Name one of those"),
        ("study", "red", r"study is this study itself"),
    ],
)
def test_what_is_no_detector_of_another_study_is_said(
    study: str, teacher: str, message: str, tiny: Study, other: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError, match=message.format(tmp_path)):
        prepare_teacher(study_with(tiny, tmp_path, study=study, teacher=teacher))


def test_a_detector_that_lost_a_file_is_no_teacher(tiny: Study, other: Path, tmp_path: Path) -> None:
    write_json(other / "teachers" / "red" / MANIFEST, {"writes": {"teachers/red/metrics.json": ""}})
    with pytest.raises(
        ExperimentError, match=r"teachers/red is not whole: teachers/red/metrics\.json is gone; make it"
    ):
        prepare_teacher(study_with(tiny, tmp_path, study="outputs/other", teacher="red"))


def test_a_config_that_this_project_wrote_is_as_good_as_a_users(tiny: Study, other: Path, tmp_path: Path) -> None:
    red = other / "teachers" / "red"
    study = study_with(
        tiny, tmp_path, config="outputs/other/teachers/red/config.py", checkpoint=str(red / "checkpoint.pth")
    )
    prepare_teacher(study)
    assert (study.folder / "config.py").read_text() == (red / "config.py").read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"data": None},
            r"teachers\.mine: neither its config nor .* says its categories; set teachers\.mine\.categories to",
        ),
        (
            {"data": None, "classes": list("abcdefghij")},
            r"its config has no data set with .*; set teachers\.mine\.normalisation to \{mean: ",
        ),
        (
            {"data": {"test": {"pipeline": []}}, "classes": ["a"]},
            r"1 categories are named \(a\), but it tells 10 apart",
        ),
        ({"model": None}, r"teachers\.mine: .*mine\.py has no `model`: it is no detector's config"),
    ],
    ids=["categories", "normalisation", "as many as it tells apart", "no model"],
)
def test_what_a_config_does_not_say_is_asked_for(
    fields: dict[str, Any], message: str, tiny: Study, tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError, match=message):
        prepare_teacher(brought(tiny, tmp_path, weights_of(tiny) | {"meta": {}}, **fields))


def test_what_a_config_does_not_say_can_be_said(tiny: Study, tmp_path: Path) -> None:
    study = brought(tiny, tmp_path, weights_of(tiny) | {"meta": {}}, data=None)
    categories = list(tiny.dataset.categories)
    said = study.experiment.teacher("mine").model_dump() | {"categories": categories, "normalisation": BGR}
    fields = study.experiment.model_dump(by_alias=True) | {"teachers": [said]}
    study = Study(type(study.experiment).model_validate(fields), study.root, Job("teachers", "mine"))
    prepare_teacher(study)
    config = read_config(study.folder / "config.py")
    assert config.normalisation == BGR and config.categories == categories


ODD = """
from mmdet.models.builder import HEADS
from mmdet.models.dense_heads import RetinaHead

@HEADS.register_module()
class OddHead(RetinaHead):
    pass
"""


def forget_odd() -> None:
    """Leave this process as one that has not read the teacher's config yet."""
    from mmdet.models.builder import HEADS

    HEADS._module_dict.pop("OddHead", None)
    sys.modules.pop("odd_head", None)


def test_what_a_teachers_config_imports_is_imported_wherever_it_is_read(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_head.py").write_text(ODD)
    _, model = random_detector("retinanet", 10)
    model["bbox_head"]["type"] = "OddHead"
    imports = {"imports": ["odd_head"], "allow_failed_imports": False}
    study = brought(tiny, tmp_path, weights_of(tiny, "retinanet"), model=model, custom_imports=imports)
    with pytest.raises(
        ExperimentError, match=rf"the module 'odd_head' cannot .* it lies below {tmp_path}: export PYTHON"
    ):
        prepare_teacher(study)
    monkeypatch.syspath_prepend(tmp_path)
    prepare_teacher(study)
    # Each of these is a process of its own.
    for read in (lambda: load_frozen(study, "mine"), lambda: prepare_intermediate(study.at("teachers", INTERMEDIATE))):
        forget_odd()
        read()
    forget_odd()
    assert type(load_model(study.path("teachers", INTERMEDIATE))[0].detector.bbox_head).__name__ == "OddHead"
    training = read_config(study.path("teachers", INTERMEDIATE, "config.py"))
    assert training.custom_imports.imports == ["mutineck.teachers.merge", "odd_head"]
    forget_odd()


def test_a_type_that_nobody_registered_is_said_to_want_an_import(tiny: Study, tmp_path: Path) -> None:
    _, model = random_detector("retinanet", 10)
    model["bbox_head"]["type"] = "NoSuchHead"
    with pytest.raises(
        ExperimentError, match=r"mine\.py: .*NoSuchHead is not in the .*: custom_imports = dict\(imports="
    ):
        prepare_teacher(brought(tiny, tmp_path, weights_of(tiny, "retinanet"), model=model))


def test_a_moved_study_reads_its_own_teachers(tiny: Study, tmp_path: Path) -> None:
    study = derive(tiny, tmp_path / "before", intermediate={"mode": "prior", "alignment_images": 4})
    prepare_intermediate(study.at("teachers", INTERMEDIATE))
    for teacher in study.experiment.teachers:
        link = study.path("teachers", teacher.name)
        link.unlink()
        shutil.copytree(tiny.path("teachers", teacher.name), link)
    (tmp_path / "before").rename(tmp_path / "after")
    folder = tmp_path / "after" / "teachers" / INTERMEDIATE
    assert len(load_model(folder)[0].merged.teachers) == 2
    old = read_config(folder / "config.py")
    for teacher in old.model.backbone.teachers:
        teacher.folder = f"/long/gone/teachers/{teacher.name}"
    write_config(folder / "config.py", old._cfg_dict.to_dict())
    assert len(load_model(folder)[0].merged.teachers) == 2
