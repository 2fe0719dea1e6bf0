"""Files that build on one another, and files that name several studies."""

import pytest
import yaml

from mutineck import cli
from mutineck.running import study_run
from mutineck.study.experiment import load_experiment, load_series
from mutineck.study.experiment_file import (
    find_file,
    find_path,
    merge,
    read_fields,
    read_value,
    repository,
    study_files,
)
from mutineck.study.jobs import Job
from mutineck.study.settings import settings_of
from mutineck.study.stage import write_experiment
from mutineck.system.errors import ExperimentError

DETECTOR = {"family": "faster_rcnn", "depth": 34}
PLAIN = {
    "name": "plain",
    "dataset": {"format": "shapes", "shapes": {"images": 40}},
    "teachers": [{"name": "big", "detector": DETECTOR}],
    "student": {"detector": DETECTOR, "inherit": True},
    "arms": {"student": None, "fgd:big": None},
}


@pytest.fixture
def write(tmp_path):
    def written(**files):
        for name, content in files.items():
            text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return written


@pytest.mark.parametrize(
    ("under", "over", "expected"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"arms": {"student": None}}, {"arms": {"mutineck": None}}, {"arms": {"mutineck": None}}),
    ],
    ids=["added", "deeper", "list replaced", "emptied", "filled", "arms replaced"],
)
def test_merge(under, over, expected):
    before = yaml.safe_dump([under, over])
    assert merge(under, over) == expected
    assert yaml.safe_dump([under, over]) == before


@pytest.mark.parametrize("given", ["smoke", "smoke.yaml", "experiments/smoke.yaml", "experiments/smoke"])
def test_the_repositorys_own_experiments_are_found_from_anywhere(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file(given) == repository() / "experiments" / "smoke.yaml"


@pytest.mark.parametrize("folder", ["nowhere/at/all", "/nowhere", "..", "./elsewhere"])
def test_a_mistyped_folder_runs_no_experiment_of_the_same_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError, match=r"smoke\.yaml: no such file; .* is 'smoke', without a folder"):
        find_file(f"{folder}/smoke.yaml")


def test_a_path_is_looked_for_beside_the_experiment_then_here_then_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("there", "there/weights", "weights"):
        (tmp_path / folder).mkdir()
    there = tmp_path / "there"
    assert find_path("a", "weights", there) == there / "weights"
    (there / "weights").rmdir()
    assert find_path("a", "weights", there) == tmp_path / "weights"
    assert find_path("a", "docs", there) == repository() / "docs"
    assert find_path("a", tmp_path / "weights", None) == tmp_path / "weights"
    message = rf"^a\.b: x/y is not there \(looked for {there}/x/y and {tmp_path}/x/y and {repository()}/x/y\); do so$"
    with pytest.raises(ExperimentError, match=message):
        find_path("a.b", "x/y", there, hint="; do so")


def test_paths_keep_their_meaning_wherever_the_experiment_is_read_from(write, tmp_path, monkeypatch):
    teachers = [{"name": "big", "config": "big.py", "checkpoint": "/big.pth"}, {"name": "red", "study": "~/red"}]
    changes = {"teachers": teachers, "arms": {"student": None}, "dataset": {"format": "voc", "root": "data"}}
    folder = write(plain=PLAIN | changes, beside={"base": "plain.yaml", "name": "beside"})
    (folder / "big.py").touch()
    (folder / "over").mkdir()
    (folder / "over" / "over.yaml").write_text(yaml.safe_dump({"base": "../plain.yaml", "name": "over"}))
    over, beside = load_experiment(folder / "over" / "over.yaml"), load_experiment(folder / "beside.yaml")
    assert over.teachers[0].config == "../big.py" and beside.teachers[0].config == "big.py"
    assert over.teachers[0].checkpoint == "/big.pth" and over.teachers[1].study == "~/red"
    assert over.dataset.root == "data", "what is not there is not there"
    resolved = write_experiment(over, tmp_path / "outputs" / "over")
    again = load_experiment(resolved)
    monkeypatch.chdir("/")
    for experiment in (over, beside, again):
        assert experiment.find("x", experiment.teachers[0].config) == folder / "big.py"
    assert again == over and settings_of(again, Job("teachers", "big")) == settings_of(over, Job("teachers", "big"))


def test_an_experiment_builds_on_another_that_builds_on_a_third(write):
    folder = write(
        plain=PLAIN,
        more={"base": "plain.yaml", "name": "more", "seeds": [0, 1], "arms": {"mutineck": None}},
        most={"base": "more.yaml", "name": "most", "dataset": {"shapes": {"max_objects": 3}}},
    )
    most = load_experiment(folder / "most.yaml", ["seeds=[7]"])
    assert (most.name, most.seeds, list(most.arms)) == ("most", (7,), ["mutineck"])
    assert (most.dataset.shapes.images, most.dataset.shapes.max_objects) == (40, 3)
    assert load_experiment(folder / "more.yaml").dataset.shapes.max_objects != 3


def test_what_yaml_says_once_for_several_is_set_for_one(write):
    text = yaml.safe_dump(PLAIN | {"teachers": []}, sort_keys=False)
    teachers = """teachers:
- name: first
  detector: &detector {family: faster_rcnn, depth: 34}
  schedule: &schedule {epochs: 8}
- {name: second, detector: *detector, schedule: *schedule}
"""
    file = write(plain=text.replace("teachers: []\n", teachers).replace("fgd:big", "fgd:first")) / "plain.yaml"
    changed = load_experiment(file, ["teachers.second.schedule.epochs=24", "teachers.0.detector.depth=18"])
    assert [teacher.schedule.epochs for teacher in changed.teachers] == [8, 24]
    assert [teacher.detector.depth for teacher in changed.teachers] == [18, 34]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"it": {"base": "plian.yaml"}}, "base: unknown file 'plian.yaml'; did you mean 'plain.yaml'"),
        ({"it": {"base": ["plain.yaml"]}}, "base: expected the name of a file"),
        ({"it": {"base": "it.yaml"}}, "builds on itself: it.yaml -> it.yaml"),
        ({"it": {"base": "b.yaml"}, "b": {"base": "it.yaml"}}, "builds on itself: it.yaml -> b.yaml -> it.yaml"),
        ({"it": {"base": "plain.yaml", "basis": 1}}, "basis: unknown key 'basis'"),
        ({"it": {"base": "b.yaml"}, "b": "- 1"}, "expected a mapping of fields, got list"),
    ],
    ids=["misspelt", "list", "itself", "circle", "unknown key", "no mapping"],
)
def test_what_cannot_be_built_on(write, files, message):
    folder = write(plain=PLAIN, **files)
    with pytest.raises(ExperimentError) as error:
        load_experiment(folder / "it.yaml")
    assert message in str(error.value)


def test_a_series_names_its_studies(write):
    folder = write(
        plain=PLAIN, other={"base": "plain.yaml", "name": "other"}, both={"studies": ["plain.yaml", "other.yaml"]}
    )
    assert [file.stem for file in study_files(folder / "both.yaml")] == ["plain", "other"]
    assert study_files(folder / "plain.yaml") == [folder / "plain.yaml"]
    assert [e.seeds for e in load_series(folder / "both.yaml", ["seeds=[3]"])] == [(3,), (3,)]
    with pytest.raises(ExperimentError, match="this is a series of studies; name one of them"):
        load_experiment(folder / "both.yaml")
    with pytest.raises(ExperimentError, match="need names of their own"):
        load_series(folder / "both.yaml", ["name=same"])


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({"studies": ["plain"]}, "studies: unknown file 'plain'; did you mean 'plain.yaml'"),
        ({"studies": []}, "studies: expected a list of experiments"),
        ({"studies": "plain.yaml"}, "studies: expected a list of experiments"),
        ({"studies": ["it.yaml"]}, "it.yaml is a series itself"),
        ({"studies": ["plain.yaml"], "seeds": [1]}, "unknown key 'seeds'"),
    ],
    ids=["misspelt", "empty", "text", "nested", "field"],
)
def test_what_is_no_series(write, series, message):
    folder = write(plain=PLAIN, it=series)
    with pytest.raises(ExperimentError) as error:
        study_files(folder / "it.yaml")
    assert message in str(error.value)


def test_run_goes_on_with_the_next_study_and_tells_what_failed(write, tmp_path, monkeypatch, capsys):
    folder = write(
        plain=PLAIN, other={"base": "plain.yaml", "name": "other"}, both={"studies": ["plain.yaml", "other.yaml"]}
    )
    seen = []

    def run(experiment, outputs, **options):
        seen.append((experiment.name, options["overrides"]))
        if experiment.name == "plain":
            raise study_run.StudyFailed("teachers big stopped: too weak")
        return outputs / experiment.name

    monkeypatch.setattr(study_run, "run_study", run)
    given = ["run", str(folder / "both.yaml"), "--outputs", str(tmp_path / "out"), "--set", "seeds=[2]"]
    assert cli.main(given) == cli.MISTAKE
    assert seen == [("plain", ["seeds=[2]"]), ("other", ["seeds=[2]"])]
    assert "plain: teachers big stopped: too weak" in capsys.readouterr().err


def test_status_of_a_series(write, tmp_path, capsys):
    folder = write(
        plain=PLAIN, other={"base": "plain.yaml", "name": "other"}, both={"studies": ["plain.yaml", "other.yaml"]}
    )
    assert cli.main(["status", str(folder / "both.yaml"), "--outputs", str(tmp_path / "out")]) == 1
    text = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'plain'}: 0 of" in text and f"{tmp_path / 'out' / 'other'}: 0 of" in text


def test_a_base_is_no_field_that_can_be_set(write):
    folder = write(plain=PLAIN)
    with pytest.raises(ExperimentError, match="base: unknown key 'base'"):
        load_experiment(folder / "plain.yaml", ["base=plain.yaml"])
    assert "base" not in read_fields(folder / "plain.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/data/set #1", "/data/set #1"),
        ("C:\\sets: new", "C:\\sets: new"),
        ("*all", "*all"),
        ("&one", "&one"),
        ("@home", "@home"),
        ("!tag", "!tag"),
        ("#1", "#1"),
        ("- a", "- a"),
        ("=", "="),
        ("<<", "<<"),
        ("2026-01-01", "2026-01-01"),
        ("two words ", "two words "),
        ("3", 3),
        ("1.e-4", 1e-4),
        ("true", True),
        ("off", False),
        ("null", None),
        ("", None),
        ("[1, a b]", [1, "a b"]),
        ("{student: null}", {"student": None}),
        ("'x # y'", "x # y"),
    ],
)
def test_the_value_of_the_command_line_is_the_value(text: str, value: object) -> None:
    found = read_value(text)
    assert found == value and type(found) is type(value)


def test_a_folder_of_any_name_is_that_folder(write):
    file = write(plain=PLAIN) / "plain.yaml"
    for folder in ("/data/set #1", "7", "2026-01-01"):
        assert load_experiment(file, [f"dataset.root={folder}", "dataset.format=voc"]).dataset.root == folder
