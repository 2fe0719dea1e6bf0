"""A split of the data set as drawings need it: pictures, boxes, masks and stored predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mutineck.ablations.results import best_teacher, collect, first_seed, shown_arm
from mutineck.detection.labelled import on_labelled_pictures
from mutineck.figures.style import arm_colours
from mutineck.study.arms import ALONE
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import read_json
from mutineck.system.seeding import derive_seed


class Split:
    """One split of a study's data set.

    Attributes:
        categories: names, in the data set's order.
        images: COCO image records by id.
        document: the COCO JSON itself.

    Raises:
        FileNotFoundError: the dataset stage has not run; the message names the command that helps.
    """

    def __init__(self, study: Study, name: str) -> None:
        self.name = name
        self.document: dict[str, Any] = read_json(study.need("dataset", f"{name}.json"))
        self.categories = study.dataset.categories
        self.images: dict[int, dict[str, Any]] = {image["id"]: image for image in self.document["images"]}
        self.image_root = study.dataset.pictures

    @cached_property
    def label_of(self) -> dict[int, int]:
        """Category id of the file -> index into ``categories``."""
        index = {name: i for i, name in enumerate(self.categories)}
        return {item["id"]: index[item["name"]] for item in self.document["categories"] if item["name"] in index}

    @cached_property
    def annotations(self) -> dict[int, list[dict[str, Any]]]:
        """Annotations by image id; crowd ones included."""
        return self._grouped(self.document["annotations"])

    def targets(self, image_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return boxes ``(n, 4)`` as x, y, w, h, labels ``(n,)`` and crowd flags ``(n,)`` of one picture."""
        items = self.annotations.get(image_id, [])
        boxes = np.array([item["bbox"] for item in items], dtype=float).reshape(-1, 4)
        labels = np.array([self.label_of[item["category_id"]] for item in items], dtype=int)
        return boxes, labels, np.array([bool(item.get("iscrowd")) for item in items], dtype=bool)

    def pixels(self, image_id: int, longest: int | None = None) -> tuple[np.ndarray, float]:
        """Return a picture as ``(H, W, 3)`` uint8 RGB, shrunk so that its longer side is ``longest``, and the
        factor.

        Raises:
            FileNotFoundError: the file is gone or cannot be decoded; the message names it.
        """
        path = self.image_root / self.images[image_id]["file_name"]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: put the pictures back, or run the stage 'dataset' again")
        # OpenCV turns a picture by its EXIF as the training's loader does.
        decoded = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            raise FileNotFoundError(f"{path} cannot be decoded: replace it, or run the stage 'dataset' again")
        factor = 1.0 if longest is None else min(1.0, longest / max(decoded.shape[:2]))
        if factor < 1:
            height, width = decoded.shape[:2]
            decoded = cv2.resize(decoded, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), factor

    def mask(self, image_id: int, annotation: dict[str, Any]) -> np.ndarray | None:
        """Return an annotation's mask as ``(H, W)`` bool in the picture's own size, None without one."""
        from pycocotools import mask as coco_mask

        code = annotation.get("segmentation")
        if not code:
            return None
        height, width = self.images[image_id]["height"], self.images[image_id]["width"]
        if isinstance(code, list):
            code = coco_mask.merge(coco_mask.frPyObjects(code, height, width))
        elif isinstance(code["counts"], list):
            code = coco_mask.frPyObjects(code, height, width)
        return coco_mask.decode(code).astype(bool)

    def predictions(self, path: Path) -> dict[int, list[dict[str, Any]]]:
        """Return a file of COCO results by image id, each image's in falling score.

        What a picture is not labelled for is left out: there it is neither right nor wrong.
        """
        grouped = self._grouped(on_labelled_pictures(self.document, read_json(path)))
        return {image: sorted(items, key=lambda item: -item["score"]) for image, items in grouped.items()}

    def _grouped(self, items: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for item in items:
            if item["category_id"] in self.label_of:
                found[item["image_id"]].append(item)
        return dict(found)

    def choose(self, count: int) -> list[int]:
        """Return up to ``count`` image ids that show every category early: the rarest ones first, otherwise
        by chance.

        The choice depends on nothing but the split, so that a figure is the same when drawn again.
        """
        shuffled = sorted(self.images, key=lambda image: derive_seed("gallery", image))
        shown = {
            image: {self.label_of[a["category_id"]] for a in self.annotations.get(image, [])} for image in shuffled
        }
        frequency = np.bincount(
            [label for labels in shown.values() for label in labels], minlength=len(self.categories)
        )
        chosen: list[int] = []
        seen: set[int] = set()
        for label in np.argsort(frequency, kind="stable"):
            holders = [image for image in shuffled if label in shown[image] and image not in chosen]
            if label not in seen and holders and len(chosen) < count:
                chosen.append(holders[0])
                seen |= shown[holders[0]]
        return (chosen + [image for image in shuffled if image not in chosen])[:count]


def prediction_file(study: Study, name: str, split: str) -> Path:
    """Return the stored predictions of a teacher, ``intermediate``, or ``ARM/seedN``.

    Raises:
        FileNotFoundError: they are not there; the message names the command that makes them.
    """
    return study.need(Job.of_detector(name).folder, f"predictions_{split}.json")


@dataclass(frozen=True)
class Protagonist:
    """A detector in a comparing figure: its label, its name (a teacher, or ``ARM/seedN``), its colour."""

    label: str
    name: str
    colour: str


def protagonists(study: Study) -> tuple[Protagonist, Protagonist, Protagonist]:
    """Return student alone, taught arm (`shown_arm`) and best teacher.

    Choices are made on the validation split, so that they do not look at what is shown.

    Raises:
        FileNotFoundError: student alone, a taught arm or a teacher has no results yet.
    """
    frame = collect(study)
    arm, teacher = shown_arm(frame, study.experiment), best_teacher(frame)
    if arm is None or teacher is None:
        raise FileNotFoundError(
            f"{study.root}: no results of {'a taught arm' if arm is None else 'a teacher'}. "
            f"Make them with: {study.command('distillation')}"
        )
    colours = arm_colours(study.experiment.arms)
    return (
        Protagonist("student alone", first_seed(study, ALONE), colours[ALONE]),
        Protagonist(arm, first_seed(study, arm), colours[arm]),
        Protagonist(f"teacher {teacher}", teacher, "#000000"),
    )
