"""Nobody is let in: what the sources may not do with text and files that come from elsewhere."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mutineck.study.experiment import load_experiment
from mutineck.study.experiment_file import repository
from mutineck.system.errors import ExperimentError

PARTS = ("mutineck", "scripts", "benchmarks")
SOURCES = [path for part in PARTS for path in sorted((repository() / part).rglob("*.py"))]
FORBIDDEN = {
    "eval": "runs text",
    "exec": "runs text",
    "os.system": "hands text to a shell",
    "os.popen": "hands text to a shell",
    "subprocess.getoutput": "hands text to a shell",
    "subprocess.getstatusoutput": "hands text to a shell",
    "yaml.load": "may build any object: safe_load",
    "yaml.load_all": "may build any object: safe_load_all",
    "yaml.full_load": "may build objects: safe_load",
    "yaml.unsafe_load": "builds any object: safe_load",
    "pickle.load": "runs what the file says",
    "pickle.loads": "runs what the bytes say",
    "joblib.load": "runs what the file says",
    "pd.read_pickle": "runs what the file says",
    "load_checkpoint": "loads what fits, as mmcv sees fit: mutineck.detection.loading",
    "ET.parse": "expands entities: defusedxml",
    "xml.etree.ElementTree.parse": "expands entities: defusedxml",
}
MUST_NOT = {"shell": True, "verify": False, "allow_pickle": True, "weights_only": False}


def faults(source: str) -> Iterator[str]:
    """Yield what a source does that it may not, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        for forbidden, why in FORBIDDEN.items():
            # A method `eval` is torch's; any `load_checkpoint` is mmcv's.
            if name == forbidden or (forbidden == "load_checkpoint" and name.endswith(".load_checkpoint")):
                yield f"line {node.lineno}: {name} {why}"
        for word, value in MUST_NOT.items():
            if given.get(word) is value:
                yield f"line {node.lineno}: {name}({word}={value})"
        if name == "torch.load" and given.get("weights_only") is not True:
            yield f"line {node.lineno}: torch.load without weights_only=True"
        if name.startswith("subprocess.") and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
            yield f"line {node.lineno}: {name} of a text instead of a list of words"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(repository()).as_posix())
def test_a_source_hands_nothing_to_a_shell_and_reads_data_as_data(path: Path) -> None:
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run(['ls'], shell=True)",
        "subprocess.run(f'ls {path}')",
        "os.system('ls')",
        "eval(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pickle.load(file)",
        "runner.load_checkpoint(path)",
        "requests.get(url, verify=False)",
        "ET.parse(path)",
    ],
)
def test_the_rules_notice(source: str) -> None:
    assert list(faults(source))


def test_sound_sources_pass() -> None:
    sound = "model.eval()\nyaml.safe_load(text)\ntorch.load(path, weights_only=True)\nsubprocess.run(['ls', path])"
    assert list(faults(sound)) == []


def test_annotations_are_parsed_hardened_alone() -> None:
    for path in (repository() / "mutineck").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xml"):
                names = {alias.name for alias in node.names}
                assert not names & {"parse", "fromstring", "iterparse", "XML", "XMLParser"}, f"{path}: use defusedxml"


def smoke(tmp_path: Path, **changes: object) -> Path:
    fields = yaml.safe_load((repository() / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "hostile.yaml"
    path.write_text(yaml.safe_dump(fields | changes))
    return path


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "a b", "$(touch x)", "a'b", "", "a\nb", "{item}"])
def test_an_arms_name_is_a_folder_and_no_path(name: str, tmp_path: Path) -> None:
    file = smoke(tmp_path, arms={name: {"feature": "fgd", "source": "mean"}})
    with pytest.raises(ExperimentError, match=r"arms: the name .* may have letters, digits"):
        load_experiment(file)


@pytest.mark.parametrize("name", ["../x", "a b", "$(touch x)", ""])
@pytest.mark.parametrize("field", ["name", "teachers.1.name"])
def test_other_names_are_folders_too(field: str, name: str) -> None:
    with pytest.raises(ExperimentError, match="name: string should match pattern"):
        load_experiment("smoke", [f"{field}={json.dumps(name)}"])


@pytest.mark.parametrize(
    "value", ["$(touch hacked)", '\'; import os; os.mkdir("hacked") #', "{x}{0}", "`touch hacked`", "\u2028\x00é"]
)
def test_a_value_that_looks_like_code_is_a_string(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_experiment(smoke(tmp_path, description=value)).description == value
    assert load_experiment("smoke", [f"description={json.dumps(value)}"]).description == value
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:os.mkdir"])
def test_yaml_builds_no_objects(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError, match="not valid YAML"):
        load_experiment("smoke", [f"seeds=[!!{tag} [hacked]]"])
    assert load_experiment("smoke", [f"description=!!{tag} [hacked]"]).description == f"!!{tag} [hacked]"
    assert not (tmp_path / "hacked").exists()
