"""The results that README and docs tell are those that are kept beside the experiments."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import yaml
from scipy import stats

from mutineck.ablations.table import write_tables
from mutineck.study.experiment import Experiment, slug
from mutineck.study.jobs import Job, jobs
from mutineck.study.last_run import note_last_run
from mutineck.study.settings import settings_of
from mutineck.study.stage import Study, write_experiment
from mutineck.system.files import write_json
from tests.scripts import load

ROOT = Path(__file__).resolve().parent.parent


def empty(*sections: str) -> str:
    """Return a document's sections with nothing between their markers."""
    return "".join(f"<!-- {name}: written by scripts/results.py -->\n<!-- end of {name} -->\n" for name in sections)


@pytest.fixture(scope="module")
def results() -> ModuleType:
    return load("results")


def test_documents_say_what_was_measured(results: ModuleType) -> None:
    for document, text in results.written().items():
        assert document.read_text(encoding="utf-8") == text, f"{document}; run: python scripts/results.py table"


@pytest.fixture
def documents(results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with documents whose written sections are still empty, instead of ours."""
    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    monkeypatch.setattr(results, "STUDIES", tmp_path / "results.md")
    monkeypatch.setattr(results, "BENCHMARKS", tmp_path / "benchmarks.md")
    monkeypatch.setattr(results, "GAINS", tmp_path / "gains.png")
    monkeypatch.setattr(results, "CLAIMS", tmp_path / "claims.yaml")
    (tmp_path / "claims.yaml").write_text("[]\n")
    (tmp_path / "README.md").write_text(f"before\n{empty('claims', 'results')}after\n")
    (tmp_path / "results.md").write_text(empty("claims", "overview", "studies"))
    (tmp_path / "benchmarks.md").write_text(empty("benchmarks", "full scale", "paper"))
    return tmp_path


@pytest.fixture
def finished(documents: Path) -> Path:
    """A study of two seeds that looks finished, its experiment's file, and documents to write into."""
    detector = {"family": "faster_rcnn"}
    fields = {
        "name": "two_seeds",
        "description": "Made up.",
        "dataset": {"format": "shapes"},
        "teachers": [{"name": "big", "detector": detector}],
        "student": {"detector": detector},
        "arms": {"student": None, "fgd:big": None, "mutineck": None},
        "seeds": [0, 1],
        "resources": {"device": "cpu"},
    }
    (documents / "two_seeds.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
    experiment = Experiment.model_validate(fields)
    root = documents / "outputs" / "two_seeds"
    write_experiment(experiment, root)
    reached = {
        "teachers/big": 0.5,
        "teachers/intermediate": 0.55,
        "distillation/student": 0.2,
        "distillation/fgd-big": 0.3,
        "distillation/mutineck": 0.35,
    }
    for number, job in enumerate(jobs(experiment)):
        manifest = {
            "stage": job.stage,
            "item": job.item,
            "seconds": 60.0,
            "peak_memory_mib": 900.0,
            "finished": f"2000-01-01T00:00:{number:02d}Z",
            "revision": {"git": "abc" if job.stage != "ablations" else "fed", "dirty": False},
            "versions": {},
            "writes": {},
            "settings": settings_of(experiment, job),
        }
        write_json(root / job.manifest, manifest)
        value = reached.get(job.folder.split("/seed")[0])
        if value is not None:
            value += 0.01 * job.folder.endswith("seed1")
            rows = [
                {"split": "test", "metric": "bbox_mAP", "category": "", "value": value},
                {"split": "val", "metric": "AP", "category": "ace", "value": 0.4},
            ]
            write_json(root / job.folder / "metrics.json", rows)
    write_tables(Study(experiment, root, Job("ablations")))
    weights = "image_id,category,teacher,omega\n1,ace,big,0.6\n1,ace,lost,0.4\n2,ace,big,0.8\n2,ace,lost,0.2\n"
    (root / "ablations" / "omega.csv").write_text(weights)
    drawn = {"student": (0, 0), "fgd:big": (0, 0), "mutineck": (0.01, 0)}
    lines = [
        f"{arm},{seed},{reached[f'distillation/{slug(arm)}'] + 0.01 * seed:.5f},{0.3 + first},{0.3 + second}"
        for arm, (first, second) in drawn.items()
        for seed in (0, 1)
    ]
    (root / "ablations" / "resampled.csv").write_text("\n".join(["arm,seed,0,1,2", *lines, ""]))
    note_last_run(root, ["dataset.root=/home/somebody", "seeds=[0, 1]"])
    return documents


def test_a_study_of_several_seeds_is_kept_and_told(
    results: ModuleType, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "KEPT", finished / "kept")
    monkeypatch.setattr(results, "MEASURED", finished)
    row = {
        "name": "losses",
        "value": 2.0,
        "unit": "s",
        "reference": "loop",
        "reference_value": 3.0,
        "ratio": 1.5,
        "target": {"sense": "at least", "bound": 2},
        "note": "",
    }
    where = {"class": "cpu-2", "processor": "a processor", "flags": ["avx2"], "cores": 2, "gpu": None, "torch": "2"}
    write_json(
        finished / "cpu-2.json",
        {"machine": where, "benchmarks": {"losses": {"measured": "2000-01-02T03:04:05Z", "threads": 1, "rows": [row]}}},
    )
    monkeypatch.setattr(results, "FIRST", "two_seeds")
    claim = {"claim": "It teaches.", "study": "two_seeds", "arm": "mutineck", "against": "student", "least_effect": 14}
    (finished / "claims.yaml").write_text(yaml.safe_dump([claim]))
    results.main(["keep", str(finished / "two_seeds.yaml"), "--outputs", str(finished / "outputs")])
    about = results.read_json(finished / "kept" / "two_seeds.json")
    assert about["omega"] == {"ace": {"big": 0.7, "lost": 0.3}}
    assert set(about["job_memory_mib"].values()) == {900.0} and set(about["job_memory_mib"]) == set(
        about["job_seconds"]
    )
    assert about["seeds"] == [0, 1] and about["machine"].endswith("cores, no GPU")
    assert about["command"] == "mutineck run experiments/two_seeds.yaml --set dataset.root=PATH --set 'seeds=[0, 1]'"
    readme = (finished / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("before\n") and readme.endswith("after\n")
    assert "Made up. mAP on test, 2 seeds" in readme
    assert "Trained at revision abc; tables and resamples are of its predictions, at fed." in readme
    assert (about["revision"]["git"], about["tables_revision"]["git"]) == ("abc", "fed")
    page = (finished / "results.md").read_text(encoding="utf-8")
    assert ["two_seeds", "20.5 ± 0.7", "30.5 ± 0.7 (big)", "35.5 ± 0.7", "55.0", "2"] in rows_of(page)
    assert ["two_seeds", "1.0", "1.0", "1.0"] in rows_of(page)
    speed = (finished / "benchmarks.md").read_text(encoding="utf-8")
    assert (
        "**cpu-2.** a processor with avx2; 2 cores, 1 thread; torch 2. Measured from 2000-01-02 to 2000-01-02. 1 targets, 1 of them missed."
        in speed
    )
    assert ["losses", "2 s", "loop", "3 s", "1.50", "≥ 2", "no, by 25 %"] in rows_of(speed)
    resampled = finished / "outputs" / "two_seeds" / "ablations" / "resampled.csv"
    assert (finished / "kept" / "resampled" / "two_seeds.csv").read_bytes() == resampled.read_bytes()
    # Every seed gains 15; resample 1 gives the method a point more than resample 2.
    error = 0.5**0.5
    low, high = (f"{15 + sign * stats.t.ppf(0.975, 1) * error:+.1f}" for sign in (-1, 1))
    assert ["It teaches.", "+14", f"+15.0 [{low}, {high}]", "**not shown**"] in rows_of(readme)
    contrast = "`mutineck` less `student`, test"
    assert ["It teaches.", "two_seeds", contrast, "+14", f"+15.0 [{low}, {high}]"] == next(
        row[:5] for row in rows_of(page) if row[0] == "It teaches."
    )
    assert "## two_seeds\n\nMade up. mAP on test, 2 seeds" in page
    for told in (rows_of(readme), rows_of(page)):
        assert ["`mutineck`", "35.5 ± 0.7", "+15.0"] in told
        assert ["ace", "0.70 (40.0)", "0.30 (–)"] in told
    assert (finished / "gains.png").read_bytes().startswith(b"\x89PNG")


def rows_of(document: str) -> list[list[str]]:
    """Return the cells of each row of a document's tables."""
    lines = [line for line in document.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_an_unfinished_study_is_not_kept(results: ModuleType, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "KEPT", finished / "kept")
    (finished / "outputs" / "two_seeds" / "ablations" / "manifest.json").unlink()
    with pytest.raises(SystemExit, match="is not finished"):
        results.main(["keep", str(finished / "two_seeds.yaml"), "--outputs", str(finished / "outputs")])
    assert not (finished / "kept").exists()


def test_a_search_is_kept(results: ModuleType, documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = documents / "outputs" / "searches" / "mine"
    write_json(root / "about.json", {"space": {"arm": "mutineck"}})
    (root / "trials.csv").write_text("trial,value\n0,0.5\n")
    monkeypatch.setattr(results, "SEARCHES", documents)
    results.main(["search", "mine", "--outputs", str(documents / "outputs")])
    assert (documents / "mine.csv").read_text() == "trial,value\n0,0.5\n"
    assert set(results.read_json(documents / "mine.json")) == {"space", "revision", "machine"}


def test_every_kept_study_is_an_experiment_with_its_origin(results: ModuleType) -> None:
    kept = sorted(results.KEPT.glob("*.csv"))
    assert kept
    for path in kept:
        about = results.read_json(path.with_suffix(".json"))
        assert (ROOT / "experiments" / f"{path.stem}.yaml").is_file()
        assert about["revision"]["git"] and about["command"].startswith("mutineck run")
