"""Reading a detector's folder (`config.py`, weights) back as a frozen detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mutineck.detection.configs import read_config
from mutineck.detection.frozen import ARITHMETIC, PROPOSAL_LIMITS, FrozenDetector, Normalisation, build_model
from mutineck.detection.loading import load_strictly
from mutineck.detection.protocols import Detector, stock_detector
from mutineck.study.experiment import INTERMEDIATE
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import sha256_file, sha256_json

WEIGHTS = ("checkpoint.pth", "student.pth")


def load_model(folder: Path) -> tuple[Detector, Any]:
    """Return the model of a detector's folder, weights strictly loaded, and its config.

    Raises:
        FileNotFoundError: the folder lacks config or weights.
        CheckpointError: the weights do not fit.
    """
    weights = weights_of(folder)
    config = detector_config(folder / "config.py")
    model = build_model(config)
    load_strictly(model, weights)
    return model, config


def detector_config(path: str | Path) -> Any:
    """Return a detector's config, the teachers of an intermediate one by where they lie now.

    It names them from its own folder, so that a study may be moved as a whole.
    """
    config = read_config(path)
    folder = Path(path).parent
    for teacher in config.get("model", {}).get("backbone", {}).get("teachers", ()):
        named = folder / teacher.folder
        # Studies made before their folders were relative may have been moved since.
        teacher.folder = str(named if named.is_dir() else folder.parent / named.name)
    return config


def weights_of(folder: Path) -> Path:
    """Return the file of the weights of a detector's folder.

    Raises:
        FileNotFoundError: the folder lacks config or weights.
    """
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None or not (folder / "config.py").is_file():
        raise FileNotFoundError(f"{folder}: no detector here (expected config.py and {' or '.join(WEIGHTS)})")
    return weights


def load_folder(
    folder: Path,
    *,
    name: str,
    student_categories: Sequence[str],
    student_normalisation: Mapping[str, Any],
    aliases: Mapping[str, str] | None = None,
) -> FrozenDetector:
    """Return the frozen detector of a folder that a stage wrote."""
    model, config = load_model(folder)
    detector = stock_detector(model)
    members = [teacher.identity for teacher in getattr(detector.backbone, "teachers", ())]
    given = {
        "categories": list(config.categories),
        "student_categories": list(student_categories),
        "aliases": dict(aliases or {}),
        "normalisation": dict(config.normalisation),
        "student_normalisation": dict(student_normalisation),
    }
    return FrozenDetector(
        name,
        detector,
        categories=config.categories,
        student_categories=student_categories,
        aliases=aliases,
        normalisation=Normalisation.of_fields(config.normalisation),
        student_normalisation=Normalisation.of_fields(student_normalisation),
        identity=sha256_json(
            [
                sha256_file(weights_of(folder)),
                _without_folders(config.model.to_dict()),
                [ARITHMETIC, PROPOSAL_LIMITS],
                members,
                given,
            ]
        ),
    )


def sha256_config(path: Path) -> str:
    """Return a hash of what a detector's `config.py` says, wherever the teachers that it names lie."""
    return sha256_json(_without_folders(read_config(path)._cfg_dict.to_dict()))


def _without_folders(node: Any) -> Any:
    """Return a config without the places of other teachers: what they are is in their own identities."""
    if isinstance(node, Mapping):
        return {key: _without_folders(value) for key, value in node.items() if key != "folder"}
    return [_without_folders(value) for value in node] if isinstance(node, list | tuple) else node


def input_normalisation(study: Study) -> dict[str, Any]:
    """Return the normalisation of the experiment's input as a config holds it."""
    spec = study.experiment.input
    return {"mean": list(spec.mean), "std": list(spec.std), "to_rgb": spec.to_rgb}


def load_frozen(study: Study, name: str) -> FrozenDetector:
    """Return a detector of a study, frozen.

    Args:
        study: any stage of it.
        name: a teacher's name, `intermediate`, or a student as `ARM/seedN`.

    Raises:
        FileNotFoundError: it has not been made yet; the message names the command that makes it.
    """
    categories = study.dataset.categories
    job = Job.of_detector(name)
    weights = "checkpoint.pth" if job.stage == "teachers" else "student.pth"
    folder = study.need(job.folder, weights).parent
    own = job.stage == "teachers" and name != INTERMEDIATE
    aliases = study.experiment.teacher(name).aliases if own else {}
    return load_folder(
        folder,
        name=name,
        student_categories=categories,
        student_normalisation=input_normalisation(study),
        aliases=aliases,
    )
