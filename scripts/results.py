"""Keep a study's results beside its experiment; write the tables of README and docs, and docs/gains.png, from them.

    python scripts/results.py keep bccd        after `mutineck run experiments/bccd.yaml ...`; or a series
    python scripts/results.py table            rewrites what lies between markers; after `make bench`, too
    python scripts/results.py search weights   keeps the trials of `mutineck search ... --space weights`

A kept study is small files: `experiments/results/NAME.csv`, tidy rows (arm, seed, split, metric, category, value);
`NAME.json`, which says by which command, at which revision, when, on what, in how many seconds and MiB they came about;
and `resampled/NAME.csv`, every student's mAP on the same resamples of the reported pictures, which older studies lack.
The claims of `experiments/claims.yaml` are compared with them.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import full_scale, paper
from benchmarks.table import kept_rows, markdown, with_section
from mutineck.ablations.claims import Verdict, judge, load_claims, long_table, short_table
from mutineck.ablations.detectors import OMEGA
from mutineck.ablations.overview import overview
from mutineck.ablations.pictures import RESAMPLED, read_resampled
from mutineck.ablations.results import TEACHER, part_known, scores
from mutineck.ablations.studies import StudyResults, fingerprint
from mutineck.ablations.table import DASH, to_markdown
from mutineck.figures.gains import save_gains
from mutineck.study.checks import remarks
from mutineck.study.experiment import load_experiment
from mutineck.study.experiment_file import study_files
from mutineck.study.jobs import Job, jobs
from mutineck.study.last_run import last_overrides
from mutineck.study.manifest import read_manifest, revision
from mutineck.study.starts import untaught
from mutineck.system.files import read_json, write_json, write_text
from mutineck.system.tables import read_table

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "experiments" / "results"
CLAIMS = ROOT / "experiments" / "claims.yaml"
SEARCHES = ROOT / "experiments" / "searches"
README = ROOT / "README.md"
STUDIES = ROOT / "docs" / "results.md"
"""Every kept study, arm by arm."""
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
GAINS = ROOT / "docs" / "gains.png"
FIRST = "shapes"
"""The study of `make run`: the README shows its table."""
MEASURED = ROOT / "benchmarks" / "results"


def keep(name: str, outputs: Path) -> None:
    """Copy a finished study's results, and where they come from, to `experiments/results/`."""
    root = outputs / name
    experiment = load_experiment(root / "experiment.yaml")
    manifests = {job: read_manifest(root, job) for job in jobs(experiment)}
    if any(manifests[job] is None for job in jobs(experiment, "ablations")):  # pictures tell nothing more
        raise SystemExit(f"{root} is not finished; see `mutineck status {name}`")
    done = [manifest for manifest in manifests.values() if manifest is not None]
    (KEPT / "resampled").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / "ablations" / "results.csv", KEPT / f"{name}.csv")
    if (resampled := root / "ablations" / RESAMPLED).is_file():
        shutil.copyfile(resampled, _resampled(KEPT / name))
    last = max(done, key=lambda manifest: manifest["finished"])
    tables = manifests[Job("ablations")] or last
    trained = max((m for m in done if m["stage"] == "distillation"), key=lambda manifest: manifest["finished"])
    write_json(
        KEPT / f"{name}.json",
        {
            "command": command(name, root),
            "description": experiment.description,
            "seeds": list(experiment.seeds),
            "split": experiment.evaluation.report,
            "data": fingerprint(root),
            "remarks": remarks(experiment, root),
            "machine": machine(experiment.resources.device),
            "revision": trained["revision"],
            "tables_revision": tables["revision"],
            "versions": last["versions"],
            "finished": last["finished"],
            "untaught": untaught(experiment),
            "omega": omega(root),
            "job_seconds": {_job(manifest): manifest["seconds"] for manifest in done},
            "job_memory_mib": {_job(manifest): manifest["peak_memory_mib"] for manifest in done},
        },
    )


def _resampled(kept: Path) -> Path:
    """Return where a kept study's resamples of pictures are, by the path of its other files."""
    return kept.parent / "resampled" / f"{kept.stem}.csv"


def _job(manifest: dict[str, Any]) -> str:
    return f"{manifest['stage']}/{manifest['item']}" if manifest["item"] else manifest["stage"]


def omega(root: Path) -> dict[str, dict[str, float]]:
    """Return the teachers' mean weights for the targets of each category, of a study that has several teachers."""
    rows = read_table(root / "ablations" / OMEGA)
    if rows["teacher"].nunique() < 2:
        return {}
    means = rows.pivot_table(index="category", columns="teacher", values="omega", sort=False).round(3)
    return means.to_dict("index")  # type: ignore[return-value]


def command(name: str, root: Path) -> str:
    """Return what to type to repeat a study, with all that was set beside its file; the data's folder is one's own."""
    given = last_overrides(root)
    named = ["dataset.root=PATH" if item.startswith("dataset.root=") else item for item in given]
    return shlex.join(["mutineck", "run", f"experiments/{name}.yaml", *(w for item in named for w in ("--set", item))])


def keep_search(name: str, outputs: Path) -> None:
    """Copy a search's trials, and what was searched, to `experiments/searches/`."""
    root = outputs / "searches" / name
    shutil.copyfile(root / "trials.csv", SEARCHES / f"{name}.csv")
    about = read_json(root / "about.json")
    write_json(SEARCHES / f"{name}.json", about | {"revision": revision(), "machine": machine("auto")})


def machine(device: str) -> str:
    """Return this machine's class: what it computes on."""
    import torch

    gpus = [] if device == "cpu" else [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    named = [f"{count} {name}" for name, count in Counter(gpus).items()]
    return ", ".join([cores, *(named or ["no GPU"])])


def read_kept(path: Path) -> StudyResults:
    """Read a kept study by the path of its JSON."""
    about = read_json(path)
    frame = read_table(path.with_suffix(".csv")).astype({"seed": "Int64"})
    seconds: dict[str, float] = {}
    for arm in dict.fromkeys(frame["arm"]):
        folders = {Job.student(arm, seed).folder for seed in frame.loc[frame["arm"] == arm, "seed"].dropna()}
        found = [value for folder, value in about["job_seconds"].items() if folder in folders]
        if found:
            seconds[arm] = statistics.median(found)
    resampled = read_resampled(_resampled(path), frame, about["split"])
    data, remarked, alike = about.get("data", ""), about.get("remarks", ()), about.get("untaught", {})
    return StudyResults(path.stem, frame, about["split"], seconds, data, remarked, alike, resampled)


def kept_studies() -> list[tuple[StudyResults, dict[str, Any]]]:
    """Return what is kept: each study, and what its JSON says of it."""
    return [(read_kept(path), read_json(path)) for path in sorted(KEPT.glob("*.json"))]


def verdicts() -> list[Verdict]:
    """Return each claim with what its study says of it, if that is kept."""
    kept = {study.name: study for study, _ in kept_studies()}
    found = []
    for claim in load_claims(CLAIMS):
        names = [path.stem for path in study_files(CLAIMS.parent / f"{claim.study}.yaml")]
        found.append(judge(claim, [kept[name] for name in names] if {*names} <= {*kept} else []))
    return found


def table() -> str:
    """Return the README's section of results: the study of `make run`."""
    return "\n".join(_one_study(study, about) for study, about in kept_studies() if study.name == FIRST)


def side_by_side() -> str:
    """Return the tables that compare the kept studies of several seeds."""
    several = [study for study, about in kept_studies() if len(about["seeds"]) > 1]
    return overview(several) if several else ""


def studies() -> str:
    """Return a table of each kept study: its teachers, its arms, and what each teacher counts for."""
    return "\n".join(f"## {study.name}\n\n{_one_study(study, about)}" for study, about in kept_studies())


def _one_study(study: StudyResults, about: dict[str, Any]) -> str:
    """Return what a study is, and its own table: every teacher and arm."""
    rows = scores(study.frame, study.split)
    values = rows.assign(value=100 * rows["value"]).groupby("arm", sort=False)["value"]
    alone = values.get_group("student").mean() if "student" in values.groups else None
    alike = {} if {*study.untaught.values()} <= {"student"} else study.untaught
    seeds = len(about["seeds"])
    minutes = sum(about["job_seconds"].values()) / 60
    lines = [
        f"{about['description']} mAP on {study.split}, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{minutes:.0f} minutes of jobs, one after another: `{about['command']}`.{_two_revisions(about)}",
        "",
        f"| who | mAP, % |{' over the same start untaught |' if alike else ''} over the student alone |",
        f"|---|---|{'---|' if alike else ''}---|",
    ]
    for name, group in values:
        arm = str(name)
        part = part_known(study.frame, arm, study.split)
        who = f"*teacher {arm.removeprefix(TEACHER)}*{part}" if arm.startswith(TEACHER) else f"`{arm}`"
        spread = f" ± {group.std(ddof=1):.1f}" if len(group) > 1 else ""
        gain = "" if alone is None or arm.startswith(TEACHER) or arm == "student" else f"{group.mean() - alone:+.1f}"
        like = alike.get(arm)
        taught = f"{group.mean() - values.get_group(like).mean():+.1f}" if like else ""
        lines.append(f"| {who} | {group.mean():.1f}{spread} |{f' {taught} |' if alike else ''} {gain} |")
    return "\n".join([*lines, "", *_who_teaches_what(study, about)])


def _two_revisions(about: dict[str, Any]) -> str:
    """Return by which revisions a study was trained and its tables were computed, where these are two."""
    trained, tables = (about.get(key, {}).get("git") for key in ("revision", "tables_revision"))
    if not tables or trained == tables:
        return ""
    return f" Trained at revision {trained[:7]}; tables and resamples are of its predictions, at {tables[:7]}."


def _who_teaches_what(study: StudyResults, about: dict[str, Any]) -> list[str]:
    """Return the lines that say how much each teacher counts for a category, beside how well it does there."""
    weights = about.get("omega")
    if not weights:
        return []
    rows = study.frame[(study.frame["split"] == "val") & (study.frame["metric"] == "AP")]
    reached = {(row.arm, row.category): 100 * row.value for row in rows.itertuples()}

    def cell(teacher: str, category: str, weight: float) -> str:
        ap = reached.get((TEACHER + teacher, category))
        return f"{weight:.2f} ({DASH if ap is None else f'{ap:.1f}'})"

    lines = [
        {"category": category} | {teacher: cell(teacher, category, weight) for teacher, weight in own.items()}
        for category, own in weights.items()
    ]
    said = "Omega, the mean weight of a teacher for the targets of a category on val, and the teacher's AP there:"
    return [said, "", *to_markdown(pd.DataFrame(lines)).splitlines(), ""]


def written() -> dict[Path, str]:
    """Return the text of each document that has sections between markers, with these sections written anew."""
    sections = {
        README: {"claims": short_table(verdicts()), "results": table()},
        STUDIES: {"claims": long_table(verdicts()), "overview": side_by_side(), "studies": studies()},
        BENCHMARKS: {"benchmarks": benchmarks(), "full scale": one_step(), "paper": on_paper()},
    }
    found = {}
    for document, texts in sections.items():
        found[document] = document.read_text(encoding="utf-8")
        for name, text in texts.items():
            found[document] = with_section(found[document], name, text, "scripts/results.py")
    return found


def benchmarks() -> str:
    """Return the section of benchmarks, a table for each class of machines."""
    lines = []
    for path in sorted(MEASURED.glob("*.json")):
        about = read_json(path)
        where, kept = about["machine"], about["benchmarks"]
        threads = sorted({each["threads"] for each in kept.values()})
        days = sorted({each["measured"][:10] for each in kept.values()})
        rows = kept_rows(path)
        lines += [
            f"**{where['class']}.** {where['gpu'] or where['processor']} with {', '.join(where['flags'])}; "
            f"{where['cores']} cores, {' or '.join(map(str, threads))} thread{'s' if threads != [1] else ''}; "
            f"torch {where['torch']}. Measured from {days[0]} to {days[-1]}. "
            f"{sum(row.target is not None for row in rows)} targets, "
            f"{sum(row.shortfall > 0 for row in rows)} of them missed.",
            "",
            markdown(rows),
            "",
        ]
    return "\n".join(lines)


def one_step() -> str:
    """Return the section of one step of each full-scale study, a table for each class of machines."""
    return "\n".join(full_scale.section(path) for path in sorted((MEASURED / "full_scale").glob("*.json")))


def on_paper() -> str:
    """Return the section of what full-scale studies cost, with what freezing a teacher was measured to gain."""
    found = [row for path in sorted(MEASURED.glob("cpu-*.json")) for row in kept_rows(path)]
    folding = next((row.ratio for row in found if row.name.startswith("teacher pass, faster_rcnn_r101")), None)
    return "\n".join(paper.section(path, folding) for path in sorted((MEASURED / "paper").glob("*.json")))


def main(arguments: list[str] | None = None) -> int:
    """Keep the results of studies or searches, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "table", "search"))
    parser.add_argument("names", nargs="*", help="studies, or searches, to keep")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    given = parser.parse_args(arguments)
    for name in given.names if given.what == "keep" else ():
        for study in study_files(name):
            keep(study.stem, given.outputs)
    for name in given.names if given.what == "search" else ():
        keep_search(name, given.outputs)
    for document, text in written().items():
        write_text(document, text)
    if several := [study for study, about in kept_studies() if len(about["seeds"]) > 1]:
        save_gains(several, GAINS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
