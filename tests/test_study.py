"""The whole study at smoke size: every notebook, chained by the workflow as `mutineck run` does it."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from mutineck.running.status import removable, unlisted
from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import jobs
from mutineck.study.manifest import read_manifest
from mutineck.study.settings import settings_of
from mutineck.system.files import read_json, sha256_file, sha256_path
from tests.reliability.portable import Variant, capabilities, instructions

pytestmark = pytest.mark.slow


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mutineck", *map(str, words)], capture_output=True, text=True, timeout=850, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def another_machine() -> Iterator[str]:
    """Let everything here compute as a processor with fewer instructions does: nothing may go by this one's rounding."""
    least, *better = capabilities()
    fewer = better[-2] if better[1:] else least
    with pytest.MonkeyPatch.context() as patch:
        for name, value in Variant(fewer, 1).environment.items():
            patch.setenv(name, value)
        yield fewer


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    done = command("run", "smoke", "--outputs", outputs, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs / "smoke"


def test_kernels_took_the_instructions_of_the_other_machine(study: Path, another_machine: str) -> None:
    assert instructions(study) == {another_machine}


def test_every_job_is_finished_and_says_from_what(study: Path) -> None:
    experiment = load_experiment("smoke")
    for job in jobs(experiment):
        manifest = read_manifest(study, job)
        assert manifest is not None, f"{job} has no manifest"
        assert manifest["settings"] == settings_of(experiment, job)
        assert manifest["writes"], f"{job} wrote nothing"
        for name, digest in manifest["writes"].items():
            assert sha256_path(study / name) == digest, f"{job}: {name} was changed after it was finished"
    assert unlisted(experiment, study) == [] == removable(experiment, study)


def test_an_arm_that_trains_alone_ends_as_it_did_beside_others(study: Path, tmp_path: Path) -> None:
    root = tmp_path / "smoke"
    (root / "log").mkdir(parents=True)
    for name in ("experiment.yaml", "dataset", "teachers"):
        (root / name).symlink_to(study / name)
    job = "distillation/fgd-mean/seed0"
    script = [sys.executable, "-m", "mutineck.running.job_run", job, "--root", str(root)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone, beside = (torch.load(at / job / "student.pth", weights_only=True)["state_dict"] for at in (root, study))
    assert alone.keys() == beside.keys() and all(torch.equal(value, beside[name]) for name, value in alone.items())


def test_a_second_run_does_nothing_and_says_so(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("manifest.json")}
    again = command("run", "smoke", "--outputs", study.parent)
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in study.rglob("manifest.json")} == before
    assert command("status", "smoke", "--outputs", study.parent).returncode == 0


def test_a_changed_arm_weight_makes_stale_what_depends_on_it_and_nothing_else(study: Path) -> None:
    status = command("status", "smoke", "--outputs", study.parent, "--set", "arms.mutineck={weights: {alpha: 2.e-3}}")
    assert status.returncode == 1
    stale = [line for line in status.stdout.splitlines() if "stale" in line]
    assert any("mutineck/seed0" in line for line in stale)
    assert not any(name in line for line in stale for name in ("teachers", "features", "fgd-", "student/"))


def test_results_hold_every_arm_and_teacher(study: Path) -> None:
    experiment = load_experiment("smoke")
    results = pd.read_csv(study / "ablations" / "results.csv")
    expected = {
        *experiment.arms,
        *(f"teacher:{t.name}" for t in experiment.teachers),
        "teacher:intermediate",
        "teacher:ensemble",
    }
    assert set(results.arm) == expected
    assert set(results.split) == {"val", "test"}
    assert results.value.between(0, 1).all()


def test_the_report_is_one_file_with_its_figures(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    assert len(page) < 15e6
    for item in read_json(study / "figures" / "index.json"):
        assert item["title"] in html.unescape(page)
    assert 'src="http' not in page and "url(http" not in page


def test_an_exported_student_is_plain_mmdet(study: Path, tmp_path: Path) -> None:
    done = command("export", study / "distillation" / "mutineck" / "seed0", tmp_path / "student")
    assert done.returncode == 0, done.stderr
    script = (
        "import sys, warnings; warnings.filterwarnings('ignore'); sys.modules['mutineck'] = None\n"
        "import json, numpy, torch, mmdet.apis, mmcv\n"
        f"model = mmdet.apis.init_detector({str(tmp_path / 'student.py')!r}, {str(tmp_path / 'student.pth')!r}, device='cpu')\n"
        f"state = torch.load({str(tmp_path / 'student.pth')!r}, weights_only=True)['state_dict']\n"
        "found = model.load_state_dict(state, strict=False)\n"
        "result = mmdet.apis.inference_detector(model, numpy.zeros((120, 160, 3), numpy.uint8))\n"
        "print(json.dumps([list(found.missing_keys), list(found.unexpected_keys), len(result)]))\n"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout.splitlines()[-1]) == [[], [], 10]
    assert "missing" not in loaded.stdout and "unexpected" not in loaded.stdout


def test_figures_are_drawn_again_to_the_same_bytes(study: Path) -> None:
    before = {
        path.name: sha256_file(path) for path in (study / "figures").glob("*.p*") if path.suffix in (".png", ".pdf")
    }
    done = command("figures", "smoke", "--outputs", study.parent)
    assert done.returncode == 0, done.stderr
    after = {
        path.name: sha256_file(path) for path in (study / "figures").glob("*.p*") if path.suffix in (".png", ".pdf")
    }
    assert before and after == before


def test_evaluate_repeats_the_metrics(study: Path) -> None:
    done = command("evaluate", "smoke", "teachers/faster", "--outputs", study.parent, "--split", "test")
    assert done.returncode == 0, done.stderr
    assert "bbox_mAP" in done.stdout
