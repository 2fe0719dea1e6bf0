"""Tidy results, paired statistics and the table, against hand-computed numbers and scipy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mutineck.ablations.intervals import compare, mean_interval, paired_differences
from mutineck.ablations.results import (
    best_teacher,
    collect,
    missing,
    part_known,
    runs,
    scores,
    shown_arm,
    teacher_strengths,
)
from mutineck.ablations.table import comparisons, readable, summarise, to_latex, to_markdown, write_tables
from mutineck.study.experiment import Experiment, slug
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import write_json
from tests.ablations.tiny import write_manifest

VALUES = {"student": (0.20, 0.22, 0.21), "fgd:mean": (0.25, 0.24, 0.29)}


def experiment(**changes: object) -> Experiment:
    detector = {"family": "faster_rcnn"}
    fields: dict[str, object] = {
        "name": "tiny",
        "dataset": {"format": "shapes"},
        "teachers": [{"name": "faster", "detector": detector}, {"name": "retina", "detector": detector}],
        "student": {"detector": detector},
        "arms": {"student": None, "fgd:mean": None},
        "seeds": [0, 1, 2],
    }
    return Experiment.model_validate(fields | changes)


def row(value: float | None, metric: str = "bbox_mAP", category: str = "") -> dict[str, object]:
    return {"name": "any", "split": "test", "metric": metric, "category": category, "value": value}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    found = Study(experiment(), tmp_path / "tiny", Job("ablations"))
    for teacher, value in (("faster", 0.5), ("retina", 0.4)):
        write_json(found.path("teachers", teacher, "metrics.json"), [row(value), row(None, "AP", "never seen")])
    for arm, values in VALUES.items():
        for seed, value in enumerate(values):
            write_json(found.path("distillation", slug(arm), f"seed{seed}", "metrics.json"), [row(value)])
    for _, _, job in runs(found):
        write_manifest(found, found.path(job.folder))
    return found


def test_rows_are_tidy_and_ordered(study: Study) -> None:
    frame = collect(study)
    assert list(frame.columns) == ["arm", "seed", "split", "metric", "category", "value"]
    assert list(dict.fromkeys(frame["arm"])) == ["teacher:faster", "teacher:retina", "student", "fgd:mean"]
    assert scores(frame, "test")["value"].tolist() == [0.5, 0.4, *VALUES["student"], *VALUES["fgd:mean"]]
    assert frame.loc[frame["arm"] == "teacher:faster", "seed"].isna().all()
    assert frame.loc[frame["category"] == "never seen", "value"].isna().all()


def test_what_is_shown_is_chosen_on_val(study: Study) -> None:
    """On test the order is the other way round: a choice that looked there would be an outcome."""
    frame = collect(study)
    assert (shown_arm(frame, study.experiment), best_teacher(frame)) == (None, None), "test alone has been measured"
    on_val = frame.assign(split="val")
    on_val.loc[on_val["arm"] == "teacher:retina", "value"] = 0.9
    pkd = frame[frame["arm"] == "fgd:mean"].assign(arm="pkd:mean", value=0.9)
    long = {"feature": "none", "epochs": 99}
    more = experiment(arms={"student": None, "fgd:mean": None, "pkd:mean": None, "student_long": long})
    untaught = on_val[on_val["arm"] == "fgd:mean"].assign(arm="student_long", value=0.95)
    whole = pd.concat([frame, untaught, on_val, pkd, pkd.assign(split="val", value=0.1)])
    assert (shown_arm(whole, more), best_teacher(whole)) == ("fgd:mean", "retina")


def test_the_method_is_shown_whatever_its_result(study: Study) -> None:
    frame = collect(study).assign(split="val")
    worse = frame[frame["arm"] == "fgd:mean"].assign(arm="mutineck", value=0.01)
    more = experiment(arms={"student": None, "fgd:mean": None, "mutineck": None})
    assert shown_arm(pd.concat([frame, worse]), more) == "mutineck"


def test_a_teacher_of_some_categories_says_so(study: Study) -> None:
    some = [row(0.5), row(0.5, "AP", "disc")]
    write_json(study.path("teachers", "retina", "metrics.json"), some)
    write_json(
        study.path("teachers", "faster", "metrics.json"), [*some, row(0.3, "AP", "ring"), row(None, "AP", "never seen")]
    )
    frame = collect(study)
    assert part_known(frame, "teacher:retina", "test") == " (1 of 2 categories)"
    assert part_known(frame, "teacher:faster", "test") == part_known(frame, "student", "test") == ""


def test_teachers_of_different_categories_are_weighed_over_all(study: Study) -> None:
    # By mAP alone, retina would be the better one with 0.7 on one category of two.
    write_json(study.path("teachers", "retina", "metrics.json"), [row(0.7), row(0.7, "AP", "disc")])
    write_json(
        study.path("teachers", "faster", "metrics.json"), [row(0.5), row(0.6, "AP", "disc"), row(0.4, "AP", "ring")]
    )
    frame = collect(study)
    assert best_teacher(frame.assign(split="val")) == "faster"
    assert teacher_strengths(frame, "test").to_dict() == pytest.approx({"faster": 0.5, "retina": 0.35})
    shown = readable(summarise(frame, study.experiment, "test"))["arm"].tolist()
    assert shown[:2] == ["faster (teacher)", "retina (teacher, 1 of 2 categories)"]


def test_missing_runs_are_named(study: Study) -> None:
    study.path("distillation", "fgd-mean", "seed1", "metrics.json").unlink()
    study.path("teachers", "retina", "metrics.json").unlink()
    assert missing(study) == ["teacher:retina", "fgd:mean seed 1"]
    assert "Missing: teacher:retina, fgd:mean seed 1." in write_tables(study).found[3].read_text()


def test_results_of_other_settings_or_of_none_are_left_out(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    longer = {"detector": {"family": "faster_rcnn"}, "schedule": {"epochs": 3}}
    other = Study(experiment(student=longer), study.root, Job("ablations"))
    for seed in (0, 1):
        write_manifest(other, study.path("distillation", "student", f"seed{seed}"))
    study.path("distillation", "fgd-mean", "seed2", "manifest.json").unlink()
    study.path("teachers", "retina", "manifest.json").write_text("{")
    frame = collect(study)
    assert scores(frame, "test")["value"].tolist() == [0.5, 0.21, 0.25, 0.24]
    said = capsys.readouterr().err
    assert "student seed 0 is left out: it was made with other settings: student.schedule.epochs: 3 -> 12" in said
    assert "fgd:mean seed 2 is left out: it has no manifest" in said
    assert missing(study) == ["teacher:retina", "student seed 0", "student seed 1", "fgd:mean seed 2"]
    assert scores(collect(other), "test")["value"].tolist() == [0.5, 0.20, 0.22]


def test_nothing_there_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mutineck run tiny --until distillation"):
        collect(Study(experiment(), tmp_path / "tiny", Job("ablations")))


def test_metrics_without_a_field_are_refused(study: Study) -> None:
    path = study.path("teachers", "faster", "metrics.json")
    write_json(path, [{"metric": "bbox_mAP"}])
    with pytest.raises(ValueError, match=r"faster.metrics\.json: a row lacks split, value"):
        collect(study)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_interval_is_scipys(count: int) -> None:
    values = np.random.default_rng(0).normal(0.3, 0.02, count)
    expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.n, found.mean, found.std) == (
        count,
        pytest.approx(values.mean()),
        pytest.approx(np.std(values, ddof=1)),
    )


@pytest.mark.parametrize(("values", "n"), [([], 0), ([0.3], 1), ([0.3, math.nan], 1)], ids=["none", "one", "one known"])
def test_few_values_claim_no_interval(values: list[float], n: int) -> None:
    found = mean_interval(values)
    assert found.n == n
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.std)


def test_pictures_widen_an_interval_and_give_one_seed_one() -> None:
    resamples = np.random.default_rng(0).normal(0.3, 0.02, 200)
    alone = mean_interval([0.3], resampled=resamples[None])
    assert (alone.low, alone.high) == pytest.approx(stats.t.interval(0.95, 199, loc=0.3, scale=resamples.std(ddof=1)))
    assert math.isnan(alone.std)
    values = np.array([0.29, 0.31, 0.33])
    both = mean_interval(values, resampled=np.stack([resamples] * 3))
    parts = np.array([values.var(ddof=1) / 3, resamples.var(ddof=1)])
    freedom = parts.sum() ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 199)
    assert (both.low, both.high) == pytest.approx(stats.t.interval(0.95, freedom, 0.31, parts.sum() ** 0.5))
    seen = (stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)) * parts.sum() ** 0.5
    assert both.detectable == pytest.approx(seen)


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_pictures", "of_both"),
    [
        pytest.param(1, 0, 5, 5, id="one seed: pictures alone"),
        *(pytest.param(seeds, 1, 0, 0, id=f"{seeds} seeds") for seeds in (3, 5)),
        *(pytest.param(seeds, 0.3, 5, 5, id=f"{seeds} seeds and pictures") for seeds in (3, 5)),
        pytest.param(3, 0, 8, 0, id="pictures that seeds agree on"),
    ],
)
def test_the_interval_covers_the_truth_over_seeds_and_pictures(
    seeds: int, of_seeds: float, of_pictures: float, of_both: float
) -> None:
    """Normal effects of seeds, pictures and both together; a metric that is the mean over pictures."""
    truth, pictures, tries = 0.5, 60, 400
    random = np.random.default_rng(seeds)
    held = 0
    for _ in range(tries):
        effects = random.normal(0, of_seeds, (seeds, 1)) + random.normal(0, of_pictures, (1, pictures))
        effects = truth + effects + random.normal(0, of_both, (seeds, pictures))
        drawn = random.multinomial(pictures, [1 / pictures] * pictures, size=200) / pictures
        found = mean_interval(effects.mean(axis=1), resampled=effects @ drawn.T)
        held += found.low <= truth <= found.high
    assert 0.92 <= held / tries <= 1.0
    if not of_both:
        assert held / tries <= 0.985, "wider than it has to be"


def test_a_detectable_effect_is_detected_four_times_in_five() -> None:
    random = np.random.default_rng(0)
    effect = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) / 5**0.5  # of five seeds with a deviation of 1
    seen = [mean_interval(random.normal(effect, 1, 5)).low > 0 for _ in range(2000)]
    assert 0.74 < np.mean(seen) < 0.88


def test_differences_on_resamples_are_of_the_same_pictures() -> None:
    """What pictures do to both arms alike leaves the interval of their difference as it is over seeds alone."""
    random = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([list(VALUES), range(3)], names=["arm", "seed"])
    shared = random.normal(0, 0.1, 200)
    resampled = pd.DataFrame([VALUES[arm][seed] + shared for arm, seed in index], index=index)
    frame = pd.DataFrame(
        {"arm": arm, "seed": seed, "split": "test", "metric": "bbox_mAP", "category": "", "value": VALUES[arm][seed]}
        for arm, seed in index
    )
    row = paired_differences(frame, "test", resampled=resampled).iloc[0]
    alone = paired_differences(frame, "test").iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((alone["low"], alone["high"]))
    of_one = resampled.copy()
    of_one.loc["fgd:mean"] = of_one.loc["fgd:mean"].to_numpy() + random.normal(0, 0.1, 200)
    assert paired_differences(frame, "test", resampled=of_one).iloc[0]["low"] < alone["low"] - 0.05
    lacking = of_one.drop(index=("student", 1))
    assert paired_differences(frame, "test", resampled=lacking).iloc[0]["low"] == pytest.approx(alone["low"])


def test_paired_difference_by_hand() -> None:
    arm, baseline = (pd.Series(VALUES[name], index=range(3)) for name in ("fgd:mean", "student"))
    found = compare(arm, baseline)
    assert found.difference.mean == pytest.approx(0.05)
    assert found.difference.std == pytest.approx(0.03)
    assert found.difference.high - found.difference.mean == pytest.approx(4.302653 * 0.03 / math.sqrt(3), rel=1e-6)
    assert found.effect == pytest.approx(0.05 / 0.03)
    assert found.p == pytest.approx(stats.ttest_rel(arm, baseline).pvalue)


def test_pairs_go_by_seed_not_by_place() -> None:
    arm = pd.Series([0.3, 0.5], index=[1, 7])
    baseline = pd.Series([0.4, 0.1, 0.2], index=[7, 3, 1])
    assert compare(arm, baseline).difference.mean == pytest.approx(0.1)
    assert compare(arm, baseline).difference.n == 2


def test_no_seed_in_common_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no seed in common: \[0\] against \[1\]"):
        compare(pd.Series([0.3], index=[0]), pd.Series([0.2], index=[1]))


def test_equal_differences_claim_no_effect() -> None:
    found = compare(pd.Series([0.3, 0.4], index=[0, 1]), pd.Series([0.2, 0.3], index=[0, 1]))
    assert found.difference.mean == pytest.approx(0.1)
    assert math.isnan(found.effect) and math.isnan(found.p)


def test_table_numbers(study: Study) -> None:
    table = summarise(collect(study), study.experiment, "test").set_index("arm")
    assert table.loc["student", "bbox_mAP"] == pytest.approx(0.21)
    assert table.loc["student", "bbox_mAP_std"] == pytest.approx(0.01)
    assert table.loc["fgd:mean", "gain"] == pytest.approx(0.05)
    assert table["n"].to_dict() == {"teacher:faster": 1, "teacher:retina": 1, "student": 3, "fgd:mean": 3}


def test_table_for_people(study: Study) -> None:
    shown = readable(summarise(collect(study), study.experiment, "test"))
    assert list(shown.columns) == [
        "arm",
        "mAP",
        "n",
        "over the same start",
        "over the student",
    ]  # metrics that nobody measured take no column
    assert shown.values.tolist() == [
        ["faster (teacher)", "50.0", "–", "–", "–"],
        ["retina (teacher)", "40.0", "–", "–", "–"],
        ["student", "21.0 ± 1.0", "3", "–", "–"],
        ["fgd:mean", "26.0 ± 2.6", "3", *["+5.0 [-2.5, +12.5]"] * 2],
    ]


def test_one_seed_shows_dashes(study: Study) -> None:
    single = experiment(seeds=[0])
    shown = readable(summarise(collect(Study(single, study.root, Job("ablations"))), single, "test"))
    assert shown.iloc[-1].tolist() == ["fgd:mean", "25.0", "1", "+5.0 [–]", "+5.0 [–]"]


def test_absent_arm_is_a_row_that_says_so(study: Study) -> None:
    more = experiment(arms={"student": None, "fgd:retina": None, "fgd:mean": None})
    shown = readable(summarise(collect(Study(more, study.root, Job("ablations"))), more, "test"))
    assert shown[shown["arm"] == "fgd:retina"].values.tolist() == [["fgd:retina", "–", "missing", "–", "–"]]


def test_files_hold_the_same_numbers(study: Study) -> None:
    results, statistics, table, markdown, latex = write_tables(study).found
    assert len(pd.read_csv(results)) == 10
    assert pd.read_csv(statistics)["difference"].tolist() == pytest.approx([0.05])
    assert pd.read_csv(table).set_index("arm").loc["student", "bbox_mAP"] == pytest.approx(0.21)
    rows = [" ".join(line.split()) for line in markdown.read_text().splitlines()]
    assert "| fgd:mean | 26.0 ± 2.6 | 3 | +5.0 [-2.5, +12.5] | +5.0 [-2.5, +12.5] |" in rows
    assert r"fgd:mean & 26.0 $\pm$ 2.6 & 3 & +5.0 [-2.5, +12.5] & +5.0 [-2.5, +12.5] \\" in latex.read_text()
    before = [path.read_bytes() for path in (results, statistics, table, markdown, latex)]
    assert before == [path.read_bytes() for path in write_tables(study).found]


def test_the_first_gain_is_over_the_same_start_untaught(study: Study) -> None:
    """`student@faster` starts as `fgd:faster` does: 0.02 of its 0.05 over the student alone are the teaching."""
    arms = {
        "student": None,
        "student@faster": None,
        "student_long@faster": {"feature": "none", "epochs": 99},
        "fgd:faster": {"start": "faster"},
        "fgd:retina": {"start": "retina"},
    }
    more = experiment(arms=arms)
    values = {"student": 0.2, "student@faster": 0.23, "student_long@faster": 0.4, "fgd:faster": 0.25, "fgd:retina": 0.3}
    frame = pd.DataFrame(
        {"arm": arm, "seed": seed, "split": "test", "metric": "bbox_mAP", "category": "", "value": value + 0.01 * seed}
        for arm, value in values.items()
        for seed in (0, 1)
    )
    table = summarise(frame, more, "test").set_index("arm")
    assert table["taught"].dropna().to_dict() == {"fgd:faster": pytest.approx(0.02)}
    assert table["gain"].dropna().to_dict() == {
        arm: pytest.approx(value - 0.2) for arm, value in values.items() if arm != "student"
    }
    rows = comparisons(frame, more, "test")
    assert [tuple(pair) for pair in rows[["arm", "against"]].values] == [
        ("fgd:faster", "student@faster"),
        *((arm, "student") for arm in arms if arm != "student"),
    ]


def test_special_characters_survive() -> None:
    shown = pd.DataFrame({"arm": ["a_b|c & d"], "mAP": ["50 %"]})
    assert "a_b\\|c & d" in to_markdown(shown)
    assert r"a\_b|c \& d & 50 \%" in to_latex(shown, caption="x")


def test_differences_without_a_baseline_are_empty(study: Study) -> None:
    frame = collect(study)
    assert paired_differences(frame[frame["arm"] != "student"], "test").empty
