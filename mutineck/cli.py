"""The command line: thin over the package, and quick to answer because it imports late."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mutineck import __version__
from mutineck.system.processes import raised_signals

if TYPE_CHECKING:
    from mutineck.study.experiment import Experiment

MISTAKE = 2
"""Exit status where the user can mend it: message, no traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 something is stale, 2 a mistake or a failure."""
    given = build_parser().parse_args(arguments)
    try:
        with raised_signals():
            status = given.command(given)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # Whoever reads has seen enough, as `head` has. Python would flush into the closed pipe once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as stop:
        # `run` says more, once its jobs have begun.
        print("mutineck: stopped; what was finished stays. Go on with the same command", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    except (ValueError, OSError, RuntimeError) as error:
        if given.debug:
            raise
        print(f"mutineck: {error}", file=sys.stderr)
        if isinstance(error, OSError) and (advice := _remedy(error, given)):
            print(advice, file=sys.stderr)
        number = getattr(error, "number", None)
        return MISTAKE if number is None else 128 + number


def _remedy(error: OSError, given: argparse.Namespace) -> str:
    from mutineck.system.remedies import remedy

    return remedy(str(error), error.filename or getattr(given, "outputs", "."))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(prog="mutineck", description="Several detectors teach one small one.")
    parser.add_argument("--version", action="version", version=f"mutineck {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common])
        added.set_defaults(command=function)
        return added

    _add_running(command)
    _add_detectors(command)
    _add_results(command)
    _add_files(command)
    return parser


_Command = Callable[[str, object, str], argparse.ArgumentParser]
"""Adds a command by its name, what it calls, and what it does."""


def _add_running(command: _Command) -> None:
    add = command("run", run, "bring a study up to date, from the data set to the report")
    _study_arguments(add)
    add.add_argument("--until", metavar="STAGE", help="last stage to run")
    add.add_argument("--cores", type=_positive, metavar="N", help="CPU cores to use (default: all)")
    add.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
    add.add_argument("--force", action="append", default=[], metavar="STAGE", help="do a stage again (may be repeated)")
    add.add_argument(
        "--notebooks", type=Path, metavar="DIR", help="folder of the notebooks (default: the repository's)"
    )
    add.add_argument(
        "--profile", metavar="P", help="where jobs run: local (default), gpus, slurm, or a folder with your profile"
    )

    add = command("status", status, "list what is done, what is stale, and why")
    _study_arguments(add)

    command("doctor", doctor, "say what is wrong with the environment, and what to type")


def _add_detectors(command: _Command) -> None:
    add = command("evaluate", evaluate, "measure a detector on a study's pictures")
    _study_arguments(add)
    add.add_argument(
        "detector", help="a folder of the study (distillation/fgd-mean/seed0, teachers/NAME) or a checkpoint"
    )
    add.add_argument("--config", metavar="PATH", help="mmdet config of a checkpoint (Python code: it is executed)")
    add.add_argument(
        "--alias",
        action="append",
        default=[],
        type=_alias,
        metavar="THEIRS=OURS",
        dest="aliases",
        help="the detector's name of a category = the data set's, e.g. airplane=aeroplane (may be repeated)",
    )
    add.add_argument(
        "--split", default=None, choices=("train", "val", "test"), help="default: what the experiment reports"
    )

    add = command("export", export, "write a detector as ONNX, or a student as stock mmdet reads it")
    add.add_argument("detector", type=Path, help="folder of a student (outputs/...); for ONNX as `predict` takes it")
    add.add_argument("out", type=Path, nargs="?", help="write a student to OUT.pth and OUT.py, for stock mmdet")
    add.add_argument("--onnx", type=Path, metavar="FILE", help="write one ONNX file, for onnxruntime")
    _preparing_arguments(add)

    add = command("predict", predict, "detect on new pictures: boxes drawn, and as COCO JSON")
    add.add_argument("detector", type=Path, help="folder of a student or teacher (outputs/...), or a checkpoint")
    add.add_argument("pictures", type=Path, help="a folder, read with all folders in it, or one picture")
    add.add_argument("--to", type=Path, required=True, metavar="DIR", help="write detections.json and drawn/ there")
    _preparing_arguments(add)
    add.add_argument(
        "--score", type=_share, default=0.3, metavar="S", help="draw boxes of this score or more (default: 0.3)"
    )
    add.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def _add_results(command: _Command) -> None:
    add = command("figures", figures, "draw figures anew from what is stored")
    _study_arguments(add)
    add.add_argument("names", nargs="*", metavar="NAME", help="figures to draw (default: all)")

    add = command("compare", compare, "put studies side by side: every arm, paired by seed with the method")
    add.add_argument("studies", nargs="+", metavar="STUDY", help="a study's folder, an experiment, or a series of them")
    add.add_argument("--outputs", type=Path, default=Path("outputs"), metavar="DIR", help="default: outputs")
    add.add_argument("--to", type=Path, metavar="DIR", help="write comparison.md and its CSV there too")

    add = command("search", search, "search settings on the validation split, with the teachers of finished studies")
    add.add_argument("studies", nargs="+", metavar="STUDY", help="a study's folder, an experiment, or a series of them")
    add.add_argument("--space", default="weights", help="YAML file or name in experiments/searches/ (default: weights)")
    add.add_argument("--trials", type=_positive, required=True, metavar="N", help="how many there shall be in all")
    add.add_argument("--name", help="of the folder in outputs/searches/ (default: that of the space)")
    add.add_argument("--cores", type=_positive, metavar="N", help="CPU cores to use (default: all)")
    add.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="overrides", help="as for run")
    add.add_argument("--outputs", type=Path, default=Path("outputs"), metavar="DIR", help="default: outputs")


def _add_files(command: _Command) -> None:
    add = command("download", download, "fetch a published data set, verified; goes on where it was interrupted")
    add.add_argument("dataset", choices=("voc", "coco"))
    add.add_argument("--to", type=Path, required=True, metavar="PATH", help="folder to unpack into")

    add = command("clean", clean, "list what is stale or left over in a study's folder, and remove it")
    _study_arguments(add)
    add.add_argument("--yes", action="store_true", help="remove without asking")


def _study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="YAML file, or the bare name of one in experiments/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="change a field of the experiment, e.g. dataset.root=PATH (may be repeated)",
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), metavar="DIR", help="default: outputs")


def _preparing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how a detector that may be a checkpoint is shown pictures."""
    parser.add_argument("--config", metavar="PATH", help="mmdet config of a checkpoint (Python code: it is executed)")
    parser.add_argument(
        "--scale", type=_scale, metavar="WxH", help="fit pictures into this (default: as config or study say)"
    )


def _positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def _scale(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return _positive(width), _positive(height)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, e.g. 640x480, got {text!r}") from None


def _alias(text: str) -> tuple[str, str]:
    theirs, separator, ours = (part.strip() for part in text.partition("="))
    if not (theirs and separator and ours):
        raise argparse.ArgumentTypeError(f"expected THEIRS=OURS, e.g. airplane=aeroplane, got {text!r}")
    return theirs, ours


def _last_study(given: argparse.Namespace, file: str | Path | None = None) -> tuple[Experiment, Path]:
    """Return an experiment (its file as it is now, the last run's `--set`, then those given) and the study's folder."""
    from mutineck.study.last_run import load_as_last_run

    return load_as_last_run(file or given.experiment, given.overrides, given.outputs)[:2]


def run(given: argparse.Namespace) -> int:
    """Bring a study, or each of a series, up to date."""
    from mutineck.running import study_run
    from mutineck.running.profiles import LOCAL
    from mutineck.study.checks import data_remark, remarks
    from mutineck.study.experiment import load_series
    from mutineck.study.stage import settings_words

    # All of a series are read before the first is run: a mistake in the last shows at once.
    experiments = load_series(given.experiment, given.overrides)
    settings = settings_words(given.overrides)
    # Not --force: what is forced counts as undone from the start of the run, and would begin anew.
    where = {"outputs": given.outputs, "until": given.until, "cores": given.cores, "notebooks": given.notebooks}
    where |= {"profile": given.profile}
    named = [(name, str(value)) for name, value in where.items() if value not in (None, Path("outputs"))]
    options = [word for name, value in named for word in (f"--{name}", value)]
    failures = []
    for experiment in experiments:
        if len(experiments) > 1:
            print(f"{experiment.name}:")
        try:
            root = study_run.run_study(
                experiment,
                given.outputs,
                until=given.until,
                cores=given.cores,
                dry_run=given.dry_run,
                force=given.force,
                profile=given.profile or LOCAL,
                overrides=_all_overrides(given, experiment),
                notebooks=given.notebooks,
                again=shlex.join(["mutineck", "run", given.experiment, *settings, *options]),
            )
        except study_run.StudyFailed as failure:
            failures.append(str(failure) if len(experiments) == 1 else f"{experiment.name}: {failure}")
            continue
        if not given.dry_run:
            report = root / "report.html"
            print(f"results: {report if report.is_file() else root}")
            _say_revisions(experiment, root)
            for remark in filter(None, [data_remark(root), *remarks(experiment, root)]):
                print(remark)
    if failures:
        raise study_run.StudyFailed("\n\n".join(failures))
    if len(experiments) > 1 and not given.dry_run and given.until is None:
        _compare([given.outputs / e.name for e in experiments], given.outputs / Path(given.experiment).stem)
    return 0


def _all_overrides(given: argparse.Namespace, experiment: Experiment) -> list[str]:
    """Return what a run has set beside the experiment's file; the study's own file holds what its last run had set."""
    from mutineck.study.last_run import is_of_study, last_overrides

    root = given.outputs / experiment.name
    return [*(last_overrides(root) if is_of_study(given.experiment, root) else ()), *given.overrides]


def _say_revisions(experiment: Experiment, root: Path) -> None:
    """Say where results were made by other code than there is now: settings make a job stale, code does not."""
    from mutineck.study.staleness import inspect

    others = [state for state in inspect(experiment, root) if state.done and state.note.startswith("made by revision")]
    if others:
        print(f"{len(others)} jobs were made by another revision (mutineck status says which); --force does them again")


def status(given: argparse.Namespace) -> int:
    """Print how every job stands; 1 if anything is to be done."""
    from mutineck.running.status import table
    from mutineck.study.experiment_file import study_files
    from mutineck.study.staleness import inspect

    waiting = 0
    for file in study_files(given.experiment):
        experiment, root = _last_study(given, file)
        states = inspect(experiment, root)
        print(table(states))
        undone = sum(not state.done for state in states)
        print(f"{root}: {len(states) - undone} of {len(states)} jobs done")
        waiting += undone
    return int(waiting > 0)


def doctor(given: argparse.Namespace) -> int:
    """Say what is wrong with the environment."""
    from mutineck.doctor import main as examine

    return examine()


def evaluate(given: argparse.Namespace) -> int:
    """Print a detector's metrics."""
    from mutineck.detectors.measuring import evaluate as measured
    from mutineck.study.jobs import Job
    from mutineck.study.stage import Study

    experiment, root = _last_study(given)
    split = given.split or experiment.evaluation.report
    study = Study(experiment, root, Job("distillation"))
    rows = measured(study, given.detector, split=split, config=given.config, aliases=dict(given.aliases))
    # Under torchrun every process has them.
    for row in rows if os.environ.get("RANK", "0") == "0" else ():
        print(f"{row['split']:<6} {row['metric']:<12} {row['category']:<20} {row['value']:.4f}")
    return 0


def export(given: argparse.Namespace) -> int:
    """Write a detector as ONNX, or a student as stock mmdet reads it."""
    if (given.onnx is None) == (given.out is None):
        raise ValueError("say one of OUT (for stock mmdet: OUT.pth and OUT.py) and --onnx FILE (for onnxruntime)")
    if given.out:
        from mutineck.distillation.export import export_student

        for path in export_student(given.detector, given.out):
            print(path)
        return 0
    from mutineck.detectors.deployment import export_onnx

    path, compared = export_onnx(given.detector, given.onnx, config=given.config, scale=given.scale)
    print(f"{path}: onnxruntime detects what PyTorch does ({compared} boxes of random pictures compared)")
    return 0


def predict(given: argparse.Namespace) -> int:
    """Detect on new pictures."""
    from mutineck.detectors.prediction import DETECTIONS, predict_pictures
    from mutineck.figures.boxed import boxed_pictures

    found = predict_pictures(
        given.detector,
        given.pictures,
        given.to,
        config=given.config,
        scale=given.scale,
        device=given.device,
        drawing=lambda categories: boxed_pictures(categories, given.score),
    )
    shown = sum(row["score"] >= given.score for row in found["annotations"])
    print(
        f"{given.to / DETECTIONS}: {len(found['annotations'])} boxes on {len(found['images'])} pictures, {shown} of "
        f"{given.score:g} or more; {len(found['skipped'])} pictures skipped"
    )
    return 0


def figures(given: argparse.Namespace) -> int:
    """Draw figures anew."""
    from mutineck.figures import draw
    from mutineck.study.experiment_file import study_files
    from mutineck.study.jobs import Job
    from mutineck.study.stage import Study
    from mutineck.system.processes import exclusive

    for file in study_files(given.experiment):
        experiment, root = _last_study(given, file)
        study = Study(experiment, root, Job("figures"))
        with exclusive(root, f"mutineck figures {file}"), exclusive(study.folder, f"mutineck figures {file}"):
            draw(study, given.names or None)
    return 0


def compare(given: argparse.Namespace) -> int:
    """Put studies side by side."""
    _compare(_folders(given.studies, given.outputs), given.to)
    return 0


def _folders(studies: Sequence[str], outputs: Path, until: str | None = None) -> list[Path]:
    """Return the folders of studies that are named by folder, experiment or series.

    Raises:
        FileNotFoundError: one has not been run; the message names the command for it, up to the stage ``until``.
    """
    from mutineck.study.experiment import load_series
    from mutineck.study.stage import EXPERIMENT_FILE, run_command

    found = []
    for name in studies:
        known = Path(name).is_dir()
        folders = [Path(name)] if known else [outputs / study.name for study in load_series(name)]
        for folder in folders if not known else ():
            if not (folder / EXPERIMENT_FILE).is_file():
                command = run_command(folder, [name], until)
                raise FileNotFoundError(f"{folder}: there is no such study; make it with: {command}")
        found += folders
    return found


def _compare(folders: Sequence[Path], to: Path | None) -> None:
    from mutineck.ablations.overview import overview, write_comparison
    from mutineck.ablations.studies import read_study

    studies = [read_study(folder) for folder in folders]
    print(overview(studies), end="")
    if to:
        from mutineck.figures.gains import save_gains

        for path in [*write_comparison(studies, to), save_gains(studies, to / "comparison.png")]:
            print(path)


def search(given: argparse.Namespace) -> int:
    """Search settings on the validation split."""
    from mutineck.search.search import SEARCHES, TRIALS, Search, best_settings, open_base
    from mutineck.search.space import load_space

    space = load_space(given.space)
    bases = [open_base(folder, given.overrides) for folder in _folders(given.studies, given.outputs, "clusters")]
    folder = given.outputs / SEARCHES / (given.name or Path(given.space).stem)
    table = Search(bases, space, folder).run(given.trials, cores=given.cores)
    print(f"{folder / TRIALS}: {len(table)} trials")
    if best := best_settings(table, bases[0], space):
        print(f"best mAP {100 * table['value'].max():.2f}: {' '.join(f'--set {item}' for item in best)}")
    return 0


def download(given: argparse.Namespace) -> int:
    """Fetch a published data set."""
    from mutineck.system.download import download_dataset

    folder = download_dataset(given.dataset, given.to)
    root = shlex.quote(str(folder))
    print(f"use it with: mutineck run experiments/{given.dataset}.yaml --set dataset.root={root}")
    return 0


def clean(given: argparse.Namespace) -> int:
    """List what may go from a study's folder, and remove it."""
    import shutil

    from mutineck.running.status import removable
    from mutineck.study.stage import EXPERIMENT_FILE
    from mutineck.system.processes import exclusive

    experiment, root = _last_study(given)
    if not root.is_dir():
        there = sorted(path.parent.name for path in given.outputs.glob(f"*/{EXPERIMENT_FILE}"))
        raise FileNotFoundError(
            f"{root}: there is no such study; in {given.outputs} there {'is' if len(there) == 1 else 'are'} "
            f"{', '.join(there) or 'none'}"
        )
    with exclusive(root, f"mutineck clean {given.experiment}"):
        found = removable(experiment, root)
        for path, why in found:
            print(f"{path}: {why}")
        if not found:
            print(f"{root}: nothing to remove")
            return 0
        if not given.yes and not _agreed(len(found)):
            print("nothing removed; --yes removes it")
            return 1
        for path, _ in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{len(found)} removed")
    return 0


def _agreed(count: int) -> bool:
    return sys.stdin.isatty() and input(f"remove these {count}? [y/N] ").strip().lower() in ("y", "yes")


if __name__ == "__main__":
    sys.exit(main())
