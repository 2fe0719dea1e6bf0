"""Claims against results that are known: met, not met, not shown, not run yet; and claims that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from mutineck.ablations.claims import Claim, judge, load_claims, long_table, short_table
from mutineck.ablations.studies import StudyResults
from mutineck.study.experiment_file import repository
from mutineck.system.errors import ExperimentError

FIELDS: dict[str, Any] = {
    "claim": "It helps.",
    "study": "mine",
    "arm": "mutineck",
    "against": "student",
    "least_effect": 0.5,
}
CLAIM = Claim(**FIELDS)


def results(gains: tuple[float, ...], pictures: float | None = None) -> StudyResults:
    """Return a study whose method gains so many points by seed, its pictures' standard error given in points."""
    rows = [
        {"arm": arm, "seed": seed, "split": "test", "metric": "bbox_mAP", "category": "", "value": 0.3 + more / 100}
        for seed, gain in enumerate(gains)
        for arm, more in (("student", 0.0), ("mutineck", gain))
    ]
    frame = pd.DataFrame(rows)
    resampled = None
    if pictures is not None:
        index = pd.MultiIndex.from_frame(frame[["arm", "seed"]])
        drawn = (
            np.random.default_rng(0).normal(0, pictures / 100, 200) * (frame["arm"] == "mutineck").to_numpy()[:, None]
        )
        resampled = pd.DataFrame(drawn + frame[["value"]].to_numpy(), index=index)
    return StudyResults("mine", frame, "test", {}, resampled=resampled)


@pytest.mark.parametrize(
    ("gains", "pictures", "said", "over"),
    [
        pytest.param((2.0, 2.1, 1.9), 0.2, "met", "3 seeds and pictures", id="met"),
        pytest.param((2.0, 2.1, 1.9), 2.0, "not shown", "3 seeds and pictures", id="too few pictures"),
        pytest.param((0.1, 0.0, 0.05), 0.05, "not met", "3 seeds and pictures", id="too small to be worth it"),
        pytest.param((-2.0, -2.1, -1.9), 0.2, "not met", "3 seeds and pictures", id="harm"),
        pytest.param((2.0, 2.1, 1.9), None, "met", "3 seeds alone", id="pictures not kept"),
        pytest.param((2.0,), 0.2, "met", "pictures, one seed", id="one seed"),
        pytest.param((2.0,), None, "not shown", "1 seed alone", id="one seed and no interval"),
    ],
)
def test_what_is_said_of_a_claim(gains: tuple[float, ...], pictures: float | None, said: str, over: str) -> None:
    found = judge(CLAIM, [results(gains, pictures)])
    assert (found.said, found.over) == (said, over)
    assert found.effect is not None and found.effect.mean == pytest.approx(np.mean(gains) / 100)


def test_a_study_that_is_not_kept_or_lacks_the_arm_was_not_run() -> None:
    assert judge(CLAIM, []).said == "not run yet"
    other = results((1.0, 1.0))
    assert judge(Claim(**FIELDS | {"against": "fgd:mean"}), [other]).said == "not run yet"


def test_the_smallest_effect_stands_beside_an_interval_that_holds_zero() -> None:
    unclear, none = judge(CLAIM, [results((2.0, -1.0, 0.5), 0.2)]), judge(CLAIM, [])
    assert unclear.effect is not None
    rows = [
        line.split("|") for line in long_table([unclear, judge(CLAIM, [results((2.0, 2.1), 0.1)]), none]).splitlines()
    ]
    assert [row[7].strip() for row in rows[2:]] == [f"{100 * unclear.effect.detectable:.1f}", "–", "–"]
    assert [row[8].strip() for row in rows[2:]] == ["**not shown**", "**met**", "**not run yet**"]
    assert short_table([unclear]).splitlines()[2].count("+0.5 [") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"least": 1}, "least: unknown key 'least'; did you mean 'least_effect'"),
        ({"least_effect": 0}, "least_effect: "),
        ({"study": "specialist_shapes"}, "unknown study 'specialist_shapes'; did you mean 'specialists_shapes'"),
        ({"against": "fgd:men"}, "specialists_shapes: unknown arm 'fgd:men'; did you mean 'fgd:mean'"),
        ({"against": "mutineck"}, "`arm` and `against` are both 'mutineck'"),
        ({"split": "val"}, "split: specialists_shapes reports test, not val"),
        ({"metric": "bbox_mAP_50"}, "metric: "),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    for name in ("shapes", "specialists_shapes"):
        (tmp_path / f"{name}.yaml").write_text((repository() / "experiments" / f"{name}.yaml").read_text())
    fields = FIELDS | {"study": "specialists_shapes"}
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump([fields]))
    assert len(load_claims(file)) == 1
    file.write_text(yaml.safe_dump([fields, fields | changes]))
    with pytest.raises(ExperimentError) as error:
        load_claims(file)
    assert "claim 2" in str(error.value) and message in str(error.value)


def test_sets_of_teachers_are_drawn_before_seeds() -> None:
    """Seeds of one set agree, sets do not: over seeds alone it would be sure."""
    sets = [results((1.0, 1.1, 0.9), 0.2), results((3.0, 3.1, 2.9), 0.2), results((2.0, 2.1, 1.9), 0.2)]
    found = judge(CLAIM, sets)
    assert found.effect is not None and found.over == "3 sets of teachers and their seeds, and pictures"
    shared = 0.2**2 * np.random.default_rng(0).normal(0, 1, 200).var(ddof=1)
    parts = np.array([1 / 3, shared])
    freedom = parts.sum() ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 199)
    assert 100 * found.effect.low == pytest.approx(2 - stats.t.ppf(0.975, freedom) * parts.sum() ** 0.5, rel=1e-3)
    assert found.said == "not shown" and judge(CLAIM, sets[2:]).said == "met"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_seed": 1, "seeds": [5, 6]}, ""),
        ({"teacher_seed": 1}, "two and shapes share seeds [0]"),
        ({"seeds": [5]}, "two and shapes have the same teacher_seed, 0"),
        ({"teacher_seed": 1, "seeds": [5], "clusters": {"k": 4}}, "two is another study than shapes"),
    ],
)
def test_sets_of_teachers_are_one_study(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "shapes.yaml").write_text((repository() / "experiments" / "shapes.yaml").read_text())
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"base": "shapes.yaml", "name": "two"} | changes))
    (tmp_path / "sets.yaml").write_text("studies: [shapes.yaml, two.yaml]\n")
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump([FIELDS | {"study": "sets"}]))
    if not message:
        assert load_claims(file)[0].study == "sets"
        return
    with pytest.raises(ExperimentError) as error:
        load_claims(file)
    assert message in str(error.value)


def test_claims_are_a_list(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text("claim: one\n")
    with pytest.raises(ExperimentError, match="expected a list of claims, got dict"):
        load_claims(file)
