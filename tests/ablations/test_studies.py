"""Studies side by side, against numbers worked out by hand and scipy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mutineck import cli
from mutineck.ablations.overview import overview, shown_arms, write_comparison
from mutineck.ablations.results import COLUMNS
from mutineck.ablations.studies import StudyResults, additions, contrasts, parts, read_study
from mutineck.figures.gains import gains
from mutineck.study.experiment import Experiment, load_experiment, slug
from mutineck.study.jobs import Job
from mutineck.study.stage import Study, write_experiment
from mutineck.system.files import write_json
from tests.ablations.tiny import write_manifest

ARMS = {
    "student": (0.20, 0.22, 0.21),
    "fgd:good": (0.30, 0.31, 0.29),
    "fgd:poor": (0.25, 0.26, 0.24),
    "mutineck": (0.35, 0.34, 0.36),
    "mutineck-regions": (0.34, 0.34, 0.34),
}
TEACHERS = {"good": 0.5, "poor": 0.4}


def results(
    name: str = "one",
    arms: Mapping[str, Sequence[float]] = ARMS,
    teachers: Mapping[str, float] = TEACHERS,
    data: str = "cells",
) -> StudyResults:
    rows: list[tuple[object, ...]] = [(f"teacher:{t}", None, "test", "bbox_mAP", "", v) for t, v in teachers.items()]
    rows += [("teacher:intermediate", None, "test", "bbox_mAP", "", 0.55)]
    for arm, values in arms.items():
        rows += [(arm, seed, "test", "bbox_mAP", "", value) for seed, value in enumerate(values)]
        rows += [(arm, seed, "val", "bbox_mAP", "", 0.9) for seed, _ in enumerate(values)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": "Int64", "category": "string", "arm": "string"})
    return StudyResults(name, frame, "test", {"student": 90.0, "mutineck": 240.0}, data)


def test_the_method_against_each_arm_paired_by_seed() -> None:
    table = contrasts([results()]).set_index("arm")
    student = table.loc["student"]
    differences = np.subtract(ARMS["mutineck"], ARMS["student"])
    expected = stats.t.interval(0.95, 2, loc=differences.mean(), scale=stats.sem(differences))
    assert (student["low"], student["high"]) == pytest.approx(expected)
    assert student["difference"] == pytest.approx(0.14)
    assert student["effect"] == pytest.approx(0.14 / differences.std(ddof=1))
    assert (student["n"], student["pairs"], student["mean"]) == (3, 3, pytest.approx(0.21))
    assert (student["seconds"], table.loc["mutineck", "seconds"]) == (90, 240)
    assert np.isnan(table.loc["mutineck", "difference"]) and np.isnan(table.loc["fgd:good", "seconds"])


def test_only_seeds_that_both_have_are_paired() -> None:
    table = contrasts([results(arms=ARMS | {"fgd:good": (0.30, 0.32)})]).set_index("arm")
    assert table.loc["fgd:good", "pairs"] == 2
    assert table.loc["fgd:good", "difference"] == pytest.approx(0.035)


def test_a_study_without_the_method_has_no_differences() -> None:
    table = contrasts([results(arms={"student": (0.2, 0.3)})])
    assert table["difference"].isna().all() and table["mean"].tolist() == [0.25]


def test_the_method_is_shown_against_its_own_start_first() -> None:
    """Where every arm names its start, the method's does, and so do the arms beside it."""
    names = {"student": "student", "student@faster": "fgd:poor", "fgd:good@faster": "fgd:good", "fgd:good": "fgd:poor"}
    arms = {new: ARMS[old] for new, old in names.items()} | {"mutineck@faster": ARMS["mutineck"]}
    study = replace(results(arms=arms), untaught={arm: "student@faster" for arm in arms if arm.endswith("k@faster")})
    rows = {row["arm"]: row for row in contrasts([study]).to_dict("records")}
    assert rows["student@faster"]["difference"] == pytest.approx(0.10)
    assert shown_arms(study, rows) == {
        "same start untaught": "student@faster",
        "student": "student",
        "best single": "fgd:good@faster",
        "mutineck": "mutineck@faster",
    }
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in overview([study]).splitlines()]
    titles = ["same start untaught", "student", "best single"]
    assert ["study", *titles, "mutineck", "intermediate teacher", "seeds"] in lines and ["study", *titles] in lines
    assert any(line[1].startswith("**+10.0 [") for line in lines if len(line) == 4)
    panels = [axis.get_title().replace("\n", " ") for axis in gains([study]).axes]
    assert panels == ["same start, untaught", "student alone", "best single teacher's"]
    alone = replace(results(), untaught={"mutineck": "student"})
    assert "same start untaught" not in overview([alone]), "that column is there already"


def test_a_part_costs_the_mean_over_studies() -> None:
    # 0.01 in one study, -0.02 in the other
    other = results("two", ARMS | {"mutineck-regions": (0.37, 0.37, 0.37)})
    found = parts(contrasts([results(), other])).set_index("part")
    regions = found.loc["regions"]
    expected = stats.t.interval(0.95, 1, loc=-0.005, scale=stats.sem([0.01, -0.02]))
    assert (regions["studies"], regions["costly"], regions["difference"]) == (2, 1, pytest.approx(-0.005))
    assert (regions["low"], regions["high"]) == pytest.approx(expected)
    assert found.loc["centroids", "studies"] == 0 and np.isnan(found.loc["centroids", "difference"])


MORE = TEACHERS | {"weak": 0.1}


@pytest.mark.parametrize(
    ("more", "less", "paired"),
    [
        (results("more", teachers=MORE), results("less"), [("more", "less", "weak")]),
        (results("less"), results("more", teachers=MORE), [("more", "less", "weak")]),
        (results("more", teachers=MORE, data="cards"), results("less"), []),
        (results("more", teachers=MORE, data=""), results("less", data=""), []),
        (results("more", teachers=MORE | {"good": 0.51}), results("less"), []),
        (results("same"), results("less"), []),
        (results("more", {"student": (0.2,)}, MORE), results("less"), []),
    ],
    ids=["one more", "other order", "other data", "unknown data", "another teacher", "the same ones", "no method"],
)
def test_further_teachers_are_weighed_on_the_same_data(more, less, paired) -> None:
    found = additions([more, less])
    assert list(zip(found["study"], found["without"], found["teachers"], strict=True)) == paired


def test_further_teachers_change_by_hand() -> None:
    better = results("more", ARMS | {"mutineck": (0.37, 0.35, 0.39)}, MORE)
    (row,) = additions([better, results("less")]).to_dict("records")
    assert (row["pairs"], row["difference"]) == (3, pytest.approx(0.02))


def test_the_tables_for_people() -> None:
    text = overview([results(), results("two", arms={"student": (0.2,), "mutineck": (0.3,)}, teachers={"good": 0.5})])
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    assert ["study", "student", "best single", "mutineck", "intermediate teacher", "seeds"] in rows
    assert ["one", "21.0 ± 1.0", "30.0 ± 1.0 (good)", "35.0 ± 1.0", "55.0", "3"] in rows
    assert ["one", "**+14.0 [+9.7, +18.3]**", "**+5.0 [+0.0, +10.0]**"] in rows
    assert ["two", "+10.0 [–]", "–"] in rows
    assert ["one", "+1.0 [-1.5, +3.5]"] in rows  # without regions, over its seeds; no mean of one study
    assert not any(row[0] == "mean" for row in rows)
    assert ["one", "1.5", "–", "4.0"] in rows
    remarked = overview([replace(results(), remarks=("A.", "B."))])
    assert "\n\none: A. B.\n\n" in remarked and "one: " not in text


def test_what_parts_cost_by_study_and_on_the_mean() -> None:
    other = {arm: ARMS[arm] for arm in ("student", "mutineck")} | {"mutineck-centroids": (0.32, 0.31, 0.33)}
    text = overview([results(), results("two", other), results("three", {"mutineck": (0.3, 0.3)})])
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    at = rows.index(["study", "regions", "centroids"])
    assert rows[at + 1 : at + 4] == [
        ["one", "+1.0 [-1.5, +3.5]", "–"],
        ["two", "–", "**+3.0 [+3.0, +3.0]**"],
        ["mean", "+1.0", "+3.0"],
    ]
    four = [results(name) for name in ("one", "two", "three", "four")]
    assert "| mean | **+1.0 [+1.0, +1.0]** |" in [" ".join(line.split()) for line in overview(four).splitlines()]


def test_what_is_written(tmp_path: Path) -> None:
    paths = write_comparison([results()], tmp_path)
    assert [path.name for path in paths] == ["comparison.md", "comparison.csv", "parts.csv", "additions.csv"]
    kept = pd.read_csv(tmp_path / "comparison.csv").set_index("arm")
    assert kept.loc["student", "difference"] == pytest.approx(0.14)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two finished studies, the second with other seeds than the first."""
    detector = {"family": "faster_rcnn"}
    for name, seeds in (("first", (0, 1)), ("second", (2, 3))):
        experiment = Experiment.model_validate(
            {
                "name": name,
                "dataset": {"format": "shapes"},
                "teachers": [{"name": t, "detector": detector} for t in TEACHERS],
                "student": {"detector": detector},
                "arms": dict.fromkeys(ARMS),
                "seeds": seeds,
            }
        )
        root = tmp_path / name
        write_experiment(experiment, root)
        for arm, values in ARMS.items():
            for seed, value in zip(seeds, values, strict=False):
                folder = root / "distillation" / slug(arm) / f"seed{seed}"
                row = {"split": "test", "metric": "bbox_mAP", "category": "", "value": value}
                write_json(folder / "metrics.json", [row])
                write_manifest(Study(experiment, root, Job("ablations")), folder, seconds=60.0 * (seed + 1))
        hashes = {f"dataset/{split}.json": split[0] * 64 for split in ("train", "val", "test")}
        write_json(root / "dataset" / "manifest.json", {"writes": hashes})
    return tmp_path


def test_a_study_is_read_from_its_folder(outputs: Path) -> None:
    study = read_study(outputs / "first")
    assert (study.name, study.split, study.seconds["mutineck"]) == ("first", "test", 90.0)
    assert study.data == "-".join(letter * 16 for letter in "tvt")
    assert contrasts([study]).set_index("arm").loc["student", "difference"] == pytest.approx(0.135)


def test_a_run_of_other_settings_gives_neither_value_nor_time(outputs: Path) -> None:
    experiment = load_experiment(outputs / "first" / "experiment.yaml")
    longer = experiment.model_copy(update={"student": experiment.student.model_copy(update={"inherit": True})})
    folder = outputs / "first" / "distillation" / "mutineck" / "seed0"
    write_manifest(Study(longer, outputs / "first", Job("ablations")), folder, seconds=1e6)
    study = read_study(outputs / "first")
    assert study.seconds["mutineck"] == 120.0
    assert contrasts([study]).set_index("arm").loc["mutineck", ["n", "mean"]].tolist() == [1, 0.34]


def test_compare_takes_folders_and_names_what_is_missing(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = str(outputs / "first"), str(outputs / "second")
    assert cli.main(["compare", first, second, "--to", str(outputs / "both")]) == 0
    text = capsys.readouterr().out
    assert "| first" in text and "| second" in text and (outputs / "both" / "comparison.csv").is_file()
    assert cli.main(["compare", "smoke", "--outputs", str(outputs)]) == cli.MISTAKE
    assert "mutineck run smoke" in capsys.readouterr().err
