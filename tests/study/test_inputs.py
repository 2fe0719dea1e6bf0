"""Files outside a study that its jobs were made from: changed, the job is stale; touched, moved or gone, it is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mutineck.dataset import convert
from mutineck.dataset.detect import find_layout, layout_inputs
from mutineck.detection.configs import own_config_files
from mutineck.running.status import table
from mutineck.study.experiment import Experiment, load_experiment
from mutineck.study.inputs import INPUTS, ExternalInput, changed_inputs, external_input
from mutineck.study.jobs import Job, jobs
from mutineck.study.manifest import read_manifest
from mutineck.study.stage import Study
from mutineck.study.staleness import State, inspect
from mutineck.system.files import read_json, write_json
from tests.dataset.conftest import VocRoot
from tests.dataset.test_stage import fill, make_coco

TEACHER = Job("teachers", "mine")


class Finished:
    """A study up to its teacher, as far as its manifests say, of a data set and a teacher that lie outside it."""

    def __init__(self, folder: Path, data: Path, form: str) -> None:
        self.data, self.weights, self.config = data, folder / "mine.pth", folder / "mine.py"
        self.weights.write_bytes(b"weights")
        (folder / "base.py").write_text("model = dict(type='FasterRCNN')")
        self.config.write_text("_base_ = ['base.py']\n")
        settings = [f"dataset.format={form}", f"dataset.root={data}", "arms={student: }"]
        settings += [f"teachers=[{{name: mine, config: {self.config}, checkpoint: {self.weights}}}]"]
        self.experiment: Experiment = load_experiment("smoke", settings)
        self.root = folder / "study"
        for job in jobs(self.experiment, "teachers"):
            study = Study(self.experiment, self.root, job)
            if job == TEACHER:
                study.note(self.weights, *own_config_files(self.config))
            else:
                convert(study)
            write_json(study.folder / "notebook.ipynb", {})
            study.finish()

    def states(self) -> dict[Job, State]:
        return {state.job: state for state in inspect(self.experiment, self.root, code={})}

    def reasons(self, job: Job) -> tuple[str, ...]:
        return self.states()[job].reasons


@pytest.fixture(scope="module")
def voc_study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("voc")
    fill(VocRoot(folder / "data" / "VOC2007"), 12)
    (folder / "current").symlink_to("data")
    return Finished(folder, folder / "current", "voc")


@pytest.fixture(scope="module")
def coco_study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("coco")
    make_coco(folder / "data")
    return Finished(folder, folder / "data", "coco")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Finished], Finished]:
    """Return a study of a test's own: everything copied, with its times, and the paths in its manifests turned here."""

    def copy(study: Finished) -> Finished:
        mine = object.__new__(Finished)
        old, new = study.root.parent, tmp_path / "copy"
        shutil.copytree(old, new, symlinks=True)
        mine.__dict__ |= {
            name: new / value.relative_to(old) if isinstance(value, Path) else value
            for name, value in vars(study).items()
        }
        text = json.dumps(study.experiment.model_dump(mode="json", by_alias=True)).replace(str(old), str(new))
        mine.experiment = type(study.experiment).model_validate_json(text)
        for path in mine.root.rglob("manifest.json"):
            turned = json.loads(path.read_text().replace(str(old), str(new)))
            write_json(path, turned | {"revision": {}})  # of no revision is no note
        for path in mine.root.rglob("*"):
            os.utime(path, (path.stat().st_mtime, 1e9))  # alike: no job is newer than another
        assert all(state.done for state in list(mine.states().values())[:2]), mine.states()
        return mine

    return copy


def annotation(data: Path) -> Path:
    return data / "VOC2007" / "Annotations" / "003.xml"


def correct(path: Path, before: bytes, after: bytes) -> None:
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after))


class Here(VocRoot):
    """A folder that is there already."""

    def __init__(self, root: Path) -> None:
        self.root = root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


VOC_CHANGES = {
    "a corrected annotation": (lambda data: correct(annotation(data), b"dog", b"cat"), "VOC2007/Annotations"),
    "an annotation less": (lambda data: annotation(data).unlink(), "VOC2007/Annotations"),
    "a picture more": (lambda data: Here(data / "VOC2007").picture("new.jpg"), "VOC2007/JPEGImages"),
    "a list that was not there": (
        lambda data: write(data / "VOC2007/ImageSets/Main/train.txt", "003"),
        "VOC2007/ImageSets/Main/train.txt",
    ),
    "masks that were not there": (
        lambda data: write(data / "VOC2007/SegmentationObject/003.png", ""),
        "VOC2007/SegmentationObject",
    ),
    "another year beside it": (lambda data: VocRoot(data / "VOC2012"), ""),
}


@pytest.mark.parametrize("change", VOC_CHANGES)
def test_a_changed_voc_folder_makes_the_data_set_stale(change: str, voc_study: Finished, copied) -> None:
    study = copied(voc_study)
    act, where = VOC_CHANGES[change]
    act(study.data)
    assert study.reasons(Job("dataset")) == (f"input changed: {study.data / where}",)
    teacher = study.states()[TEACHER]
    assert teacher.done and teacher.note == "stays, if the data set comes out with the same content"
    lines = table(list(study.states().values())).splitlines()
    assert f"input changed: {study.data}" in lines[1] and lines[1].split()[:2] == ["dataset", "stale"]


def test_a_job_of_a_revision_that_did_not_note_its_data_goes_by_times(voc_study: Finished, copied) -> None:
    study = copied(voc_study)
    path = study.root / TEACHER.manifest
    write_json(path, read_json(path) | {"data": {}})
    os.utime(path, (1e9, 1e9))
    assert study.reasons(TEACHER) == ()
    os.utime(study.root / "dataset" / "manifest.json", (2e9, 2e9))
    assert study.reasons(TEACHER) == ("dataset is newer",)
    correct(annotation(study.data), b"dog", b"cat")
    assert study.reasons(TEACHER) == ("dataset has to be run first",)


def test_a_data_set_made_again_is_compared_by_its_content_and_not_by_time(voc_study: Finished, copied) -> None:
    study = copied(voc_study)

    def again() -> None:
        dataset = Study(study.experiment, study.root, Job("dataset"))
        convert(dataset)
        dataset.finish()
        os.utime(dataset.folder / "manifest.json", (2e9, 2e9))

    again()
    assert all(state.done for state in list(study.states().values())[:2])
    correct(annotation(study.data), b"dog", b"cat")
    again()
    (reason,) = study.reasons(TEACHER)
    assert reason.startswith("the data set has changed: ") and study.states()[Job("dataset")].done


def test_data_that_a_relative_path_finds_elsewhere_now_are_read_again(voc_study: Finished, copied) -> None:
    study = copied(voc_study)
    path = study.root / "dataset" / "dataset.json"
    write_json(path, read_json(path) | {"image_root": "/not/here/any/more"})
    assert study.reasons(Job("dataset")) == (f"its pictures are in {study.data} now",)
    assert study.states()[TEACHER].done
    shutil.rmtree(study.data.resolve())
    assert study.states()[Job("dataset")].done, "there is nothing to make it from"


def test_a_link_to_other_data_is_a_change(voc_study: Finished, copied, tmp_path: Path) -> None:
    study = copied(voc_study)
    shutil.copytree(study.data.resolve(), tmp_path / "second")
    study.data.unlink()
    study.data.symlink_to(tmp_path / "second")
    assert study.states()[Job("dataset")].done, "the same content"
    correct(annotation(tmp_path / "second"), b"dog", b"cat")
    assert study.reasons(Job("dataset")) == (f"input changed: {study.data / 'VOC2007/Annotations'}",)


COCO_CHANGES = {
    "corrected boxes": (
        lambda data: correct(data / "annotations/instances_val2017.json", b"toothbrush", b"toothbrusk"),
        "annotations/instances_val2017.json",
    ),
    "a test split that was not there": (
        lambda data: write(data / "annotations/test.json", "{}"),
        "annotations/test.json",
    ),
    "a picture less": (lambda data: (data / "train2017" / f"{1:012d}.jpg").unlink(), "train2017"),
}


@pytest.mark.parametrize("change", COCO_CHANGES)
def test_a_changed_coco_folder_makes_the_data_set_stale(change: str, coco_study: Finished, copied) -> None:
    study = copied(coco_study)
    act, where = COCO_CHANGES[change]
    act(study.data)
    assert study.reasons(Job("dataset")) == (f"input changed: {study.data / where}",)


def test_one_file_of_all_pictures_and_the_pictures_beside_it_count(tmp_path: Path) -> None:
    make_coco(tmp_path / "coco")
    shutil.copytree(tmp_path / "coco" / "train2017", tmp_path / "data")
    shutil.copy(tmp_path / "coco" / "annotations" / "instances_train2017.json", tmp_path / "data" / "all.json")
    inputs = [*map(external_input, layout_inputs(find_layout(tmp_path / "data", "coco")))]
    manifest = {INPUTS: {each.path: each.note() for each in inputs}}
    write(tmp_path / "data" / "outputs" / "figure.png", "")
    assert changed_inputs(manifest) == ([], [])
    write(tmp_path / "data" / "new.jpg", "")
    write(tmp_path / "data" / "all.json", "{}")
    assert sorted(changed_inputs(manifest)[0]) == [str(tmp_path / "data"), str(tmp_path / "data" / "all.json")]
    write(tmp_path / "data" / "annotations" / "train.json", "{}")
    assert str(tmp_path / "data/annotations/train.json") in changed_inputs(manifest)[0], "it is divided now"


def test_what_coco_does_not_read_does_not_count(coco_study: Finished, copied) -> None:
    study = copied(coco_study)
    for name in ("annotations/captions_train2017.json", "annotations/train.json", "train2017/.thumbs.jpg", "notes.txt"):
        write(study.data / name, "{}")
    assert study.states()[Job("dataset")].done


@pytest.mark.parametrize("name", ["mine.pth", "mine.py", "base.py"])
def test_a_teacher_that_is_saved_anew_is_stale_and_nothing_before_it(name: str, coco_study: Finished, copied) -> None:
    study = copied(coco_study)
    path = study.weights.parent / name
    times = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))  # of the same size, a moment later
    assert study.reasons(TEACHER) == (f"input changed: {path}",)
    assert study.states()[Job("dataset")].done


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_what_was_only_touched_is_up_to_date(kind: str, copied, request: pytest.FixtureRequest) -> None:
    study = copied(request.getfixturevalue(f"{kind}_study"))
    outside = [study.weights, study.config, *(path for path in study.data.resolve().rglob("*") if path.is_file())]
    for path in outside:
        os.utime(path, (2e9, 2e9))
    assert [(state.reasons, state.note) for state in list(study.states().values())[:2]] == [((), "")] * 2


def test_what_has_not_been_touched_is_not_read(coco_study: Finished, copied, monkeypatch: pytest.MonkeyPatch) -> None:
    study = copied(coco_study)
    monkeypatch.setattr(ExternalInput, "digest", lambda self: pytest.fail(f"{self.path} was read"))
    assert study.states()[TEACHER].done


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_manifest_from_before_there_were_inputs_stays_valid(
    kind: str, copied, request: pytest.FixtureRequest
) -> None:
    study = copied(request.getfixturevalue(f"{kind}_study"))
    for path in study.root.rglob("manifest.json"):
        write_json(path, {key: value for key, value in read_json(path).items() if key != INPUTS})
        os.utime(path, (1e9, 1e9))
    shutil.rmtree(study.data.resolve())
    study.weights.write_bytes(b"better weights")
    assert [(state.reasons, state.note) for state in list(study.states().values())[:2]] == [((), "")] * 2


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_what_is_missing_is_noted_and_no_reason(kind: str, copied, request: pytest.FixtureRequest) -> None:
    study = copied(request.getfixturevalue(f"{kind}_study"))
    shutil.rmtree(study.data.resolve())
    study.weights.unlink()
    states = study.states()
    assert states[Job("dataset")].done and states[TEACHER].done
    assert states[Job("dataset")].note.startswith(f"input missing, not compared: {study.data}/")
    assert states[TEACHER].note == f"input missing, not compared: {study.weights}"


def test_a_folder_without_its_pictures_misses_them(voc_study: Finished, copied) -> None:
    study = copied(voc_study)
    pictures = study.data / "VOC2007" / "JPEGImages"
    for path in pictures.iterdir():
        path.unlink()
    state = study.states()[Job("dataset")]
    assert state.done and state.note == f"input missing, not compared: {pictures}"


def test_what_is_replaced_while_the_stage_is_at_work_is_not_what_it_read(tmp_path: Path) -> None:
    path = tmp_path / "latest.pth"
    path.write_bytes(b"first")
    study = Study(load_experiment("smoke"), tmp_path / "smoke", Job("dataset"))
    study.note(path)
    path.write_bytes(b"second")
    study.finish(reads=[path])
    manifest = read_manifest(study.root, Job("dataset"))
    assert manifest is not None and manifest["reads"][str(path)] == manifest[INPUTS][str(path)]["sha256"]
    (state, *_) = inspect(study.experiment, study.root, code={})
    assert f"input changed: {path}" in state.reasons


def test_files_of_the_study_are_no_inputs_by_whatever_way_they_are_named(tmp_path: Path) -> None:
    inside, link = tmp_path / "base" / "train.json", tmp_path / "smoke" / "dataset"
    write(inside, "{}")
    link.parent.mkdir()
    link.symlink_to(inside.parent)
    study = Study(load_experiment("smoke"), tmp_path / "smoke", Job("features"))
    assert study.finish(reads=[link / "train.json"])[INPUTS] == {}
    assert list(study.finish(reads=[tmp_path / "base"])[INPUTS]) == [str(tmp_path / "base")]


def test_a_configs_own_files(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "_base_ = ['sub/b.py', 'gone.py']\nraise SystemExit")
    write(tmp_path / "sub" / "b.py", "_base_ = '../a.py'")  # in a ring: whoever reads it says so
    write(tmp_path / "c.py", "_base_ = [7]\n")
    assert own_config_files(tmp_path / "a.py") == [tmp_path / "a.py", tmp_path / "sub" / "b.py"]
    assert own_config_files(tmp_path / "c.py") == [tmp_path / "c.py"]
    assert own_config_files("faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py") == []
