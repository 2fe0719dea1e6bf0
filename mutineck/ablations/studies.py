"""Several studies together: the method against every other arm, and what its parts and further teachers are worth."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from mutineck.ablations.intervals import compare, mean_interval, on_resamples
from mutineck.ablations.pictures import RESAMPLED, read_resampled
from mutineck.ablations.results import HEADLINE, TEACHER, collect, runs, scores, why_not
from mutineck.study.arms import ENSEMBLE, METHOD, PARTS, method_in
from mutineck.study.checks import remarks
from mutineck.study.experiment import INTERMEDIATE, load_experiment
from mutineck.study.jobs import Job
from mutineck.study.manifest import read_manifest
from mutineck.study.stage import EXPERIMENT_FILE, Study, run_command
from mutineck.study.starts import untaught
from mutineck.system.files import read_json

DIFFERENCE = (
    "pairs", "difference", "difference_std", "low", "high", "detectable", "effect", "p"
)  # fmt: skip


@dataclass(frozen=True)
class StudyResults:
    """What a study found, wherever it is kept.

    Attributes:
        name: the study's.
        frame: tidy rows as `collect` returns them.
        split: the one that it reports.
        seconds: median over seeds of each arm's training job, by arm: one job may have waited for the machine.
        data: a hash of its pictures and split; equal ones share students seed by seed. Empty if not known.
        remarks: what a reader has to know of its teachers.
        untaught: for an arm, the one that starts as it does, learns for as long and is not taught; if there is one.
        resampled: mAP on resamples of the split's pictures, as `read_resampled` returns it; None if not known.
    """

    name: str
    frame: pd.DataFrame
    split: str
    seconds: Mapping[str, float]
    data: str = ""
    remarks: Sequence[str] = ()
    untaught: Mapping[str, str] = field(default_factory=dict)
    resampled: pd.DataFrame | None = None


def read_study(root: Path) -> StudyResults:
    """Read what a study's folder holds so far, finished or not; what is of other settings is left out, and named.

    Raises:
        FileNotFoundError: no such study, or nothing in it has been measured yet.
    """
    if not (root / EXPERIMENT_FILE).is_file():
        raise FileNotFoundError(f"{root}: there is no such study; make it with: {run_command(root, [root.name])}")
    experiment = load_experiment(root / EXPERIMENT_FILE)
    study = Study(experiment, root, Job("ablations"))
    times: dict[str, list[float]] = {}
    for arm, seed, job in runs(study):
        if seed is not None and not why_not(study, job):
            times.setdefault(arm, []).append(read_json(root / job.manifest)["seconds"])
    seconds = {arm: statistics.median(each) for arm, each in times.items()}
    frame, split = collect(study), experiment.evaluation.report
    resampled = read_resampled(root / "ablations" / RESAMPLED, frame, split)
    return StudyResults(
        experiment.name,
        frame,
        split,
        seconds,
        fingerprint(root),
        remarks(experiment, root),
        untaught(experiment),
        resampled,
    )


def fingerprint(root: Path) -> str:
    """Return the hash of a study's reported truth and of the pictures that it trains on; empty if not made yet."""
    manifest = read_manifest(root, Job("dataset"))
    writes = manifest["writes"] if manifest else {}
    parts = [writes.get(f"dataset/{split}.json", "")[:16] for split in ("train", "val", "test")]
    return "-".join(parts) if all(parts) else ""


def contrasts(studies: Sequence[StudyResults], metric: str = HEADLINE) -> pd.DataFrame:
    """Return one row a study and arm: its own values, and the method's paired difference to it.

    Columns: study, arm, n (seeds), mean, std; then, method minus arm over the seeds that both have: pairs, difference,
    difference_std, low, high, detectable (see `Interval`), effect (Cohen's d of paired samples), p; and seconds of a
    training. In the metric's unit (0..1); NaN where one seed cannot say.
    """
    rows = []
    for study in studies:
        by_arm = _by_arm(study, metric)
        method = method_in(by_arm)
        for arm, values in by_arm.items():
            own = mean_interval(values.to_numpy(dtype=float))
            row = {"study": study.name, "arm": arm, "n": own.n, "mean": own.mean, "std": own.std}
            if method and arm != method and set(values.index) & set(by_arm[method].index):
                row |= _difference(by_arm[method], values, _on_resamples(study, metric, method, arm))
            rows.append(row | {"seconds": study.seconds.get(arm, float("nan"))})
    return pd.DataFrame(rows, columns=["study", "arm", "n", "mean", "std", *DIFFERENCE, "seconds"])


def parts(table: pd.DataFrame) -> pd.DataFrame:
    """Return what taking out each part of the method costs, on average over studies.

    Args:
        table: from `contrasts`.

    Returns:
        Columns part, studies, costly (in how many of them the mean cost is above 0), difference, low, high: the
        method less itself without the part, mean over studies with its t interval over them; NaN for a part that no
        study takes out.
    """
    rows = []
    for part in PARTS:
        found = table[(table["arm"] == f"{METHOD}-{part}") & table["difference"].notna()]["difference"]
        interval = mean_interval(found.to_numpy(dtype=float))
        rows.append(
            {"part": part, "studies": interval.n, "costly": int((found > 0).sum()), "difference": interval.mean}
            | {"low": interval.low, "high": interval.high}
        )
    return pd.DataFrame(rows)


def additions(studies: Sequence[StudyResults], metric: str = HEADLINE) -> pd.DataFrame:
    """Return what a study's further teachers change for the method, against a study of the same data without them.

    Two studies are paired where one's teachers are the other's and more, and those that both have reach the same.

    Returns:
        Columns study, without (the other study), teachers (those added), and as for `contrasts` the difference of the
        study's method to the other's.
    """
    rows = []
    for more in studies:
        for less in studies:
            ours, theirs = teachers_of(more, metric), teachers_of(less, metric)
            shared = {name: ours.get(name) for name in theirs}
            if not more.data or more.data != less.data or not theirs or shared != theirs or len(ours) == len(theirs):
                continue
            here, there = _by_arm(more, metric).get(METHOD), _by_arm(less, metric).get(METHOD)
            if here is None or there is None or not set(here.index) & set(there.index):
                continue
            added = ", ".join(name for name in ours if name not in theirs)
            drawn = [each for study in (more, less) for each in _on_resamples(study, metric, METHOD)]
            rows.append({"study": more.name, "without": less.name, "teachers": added} | _difference(here, there, drawn))
    return pd.DataFrame(rows, columns=["study", "without", "teachers", *DIFFERENCE])


def teachers_of(study: StudyResults, metric: str = HEADLINE) -> dict[str, float]:
    """Return what each teacher reaches, the intermediate one and the ensemble left out."""
    rows = scores(study.frame, study.split, metric)
    rows = rows[rows["arm"].str.startswith(TEACHER)]
    rows = rows[~rows["arm"].isin([TEACHER + INTERMEDIATE, TEACHER + ENSEMBLE])]
    return {arm.removeprefix(TEACHER): float(value) for arm, value in zip(rows["arm"], rows["value"], strict=True)}


def _by_arm(study: StudyResults, metric: str) -> dict[str, pd.Series]:
    """Return each student arm's values by seed, those that there are."""
    rows = scores(study.frame, study.split, metric).dropna(subset=["value"])
    rows = rows[~rows["arm"].str.startswith(TEACHER)]
    return {str(arm): group.set_index("seed")["value"] for arm, group in rows.groupby("arm", sort=False)}


def _on_resamples(study: StudyResults, metric: str, *arms: str) -> list[pd.DataFrame | None]:
    """Return arms' values on resamples of the pictures, which are of the headline metric alone."""
    return [on_resamples(study.resampled if metric == HEADLINE else None, arm) for arm in arms]


def _difference(method: pd.Series, other: pd.Series, resampled: Sequence[pd.DataFrame | None]) -> dict[str, float]:
    found = asdict(compare(method, other, resampled=resampled))
    interval = found.pop("difference")
    names = {"n": "pairs", "mean": "difference", "std": "difference_std"}
    return {names.get(key, key): value for key, value in (interval | found).items()}
