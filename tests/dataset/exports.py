"""One small truth written as each labelling tool lays it out on disk: what every reader has to give back."""

from __future__ import annotations

import json
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

import numpy as np
import yaml
from PIL import Image

from mutineck.dataset.boxes import corners_to_bbox
from mutineck.dataset.shapes import generate_scene

Box = tuple[str, tuple[int, int, int, int]]
SIZE = (64, 48)


@dataclass(frozen=True)
class Shot:
    """A picture: its name, its split, and its objects as category and whole ``[x, y, w, h]``."""

    name: str
    split: str
    boxes: tuple[Box, ...]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]


Truth = tuple[Shot, ...]
CATEGORIES = ("cat", "dog", "ox")
TRUTH: Truth = tuple(
    Shot(f"shot {index}.jpg", ("train", "train", "val", "test")[index % 4], boxes)
    for index, boxes in enumerate(
        [
            (("cat", (4, 6, 20, 12)), ("dog", (30, 10, 16, 30))),
            (("ox", (0, 0, 64, 48)),),
            (("cat", (8, 8, 8, 8)), ("cat", (40, 30, 12, 10))),
            (("dog", (2, 20, 30, 20)), ("ox", (50, 4, 10, 40))),
            (("ox", (10, 10, 10, 10)), ("cat", (30, 12, 24, 30))),
            (),
            (("dog", (24, 16, 16, 16)), ("ox", (0, 30, 12, 18))),
            (("cat", (16, 4, 32, 40)),),
        ]
    )
)


def picture(path: Path, name: str) -> None:
    """Write a picture of its own for a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG" if path.suffix == ".png" else "JPEG")


def text(path: Path, content: str) -> None:
    """Write a text file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def xml(shot: Shot, offset: int = 1) -> str:
    """Return a shot's VOC annotation."""
    objects = "".join(
        f"<object><name>{escape(category)}</name><difficult>0</difficult><bndbox><xmin>{x + offset}</xmin><ymin>"
        f"{y + offset}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for category, (x, y, w, h) in shot.boxes
    )
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{escape(shot.name)}</filename>{size}{objects}</annotation>"


def coco(shots: Iterable[Shot], categories: Iterable[str], *, name: Callable[[str], str] = str, first: int = 1) -> dict:
    """Return shots as a COCO document, ids from ``first`` on."""
    ids = {category: number for number, category in enumerate(categories, first)}
    shots = [*shots]
    images = [
        {"id": number, "file_name": name(shot.name), "width": SIZE[0], "height": SIZE[1]}
        for number, shot in enumerate(shots, first)
    ]
    boxes = [(number, box) for number, shot in enumerate(shots, first) for box in shot.boxes]
    annotations = [
        {"id": index, "image_id": number, "category_id": ids[category], "bbox": [*box], "area": box[2] * box[3]}
        | {"iscrowd": 0, "segmentation": []}
        for index, (number, (category, box)) in enumerate(boxes, first)
    ]
    rows = [{"id": number, "name": category, "supercategory": ""} for category, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": rows}


def yolo(shot: Shot, categories: list[str], *, outline: bool = False) -> str:
    """Return a shot's YOLO labels, as boxes or as outlines."""
    lines = []
    for category, (x, y, w, h) in shot.boxes:
        corners = [x, y, x + w, y, x + w, y + h, x, y + h] if outline else [x + w / 2, y + h / 2, w, h]
        shares = (f"{value / SIZE[index % 2]:.9f}" for index, value in enumerate(corners))
        lines.append(f"{categories.index(category)} {' '.join(shares)}")
    return "\n".join(lines) + "\n"


def of(truth: Truth) -> list[str]:
    return sorted({category for shot in truth for category, _ in shot.boxes})


def by_split(truth: Truth) -> dict[str, list[Shot]]:
    return {split: found for split in ("train", "val", "test") if (found := [s for s in truth if s.split == split])}


def voc(root: Path, truth: Truth) -> None:
    for shot in truth:
        text(root / "Annotations" / f"{shot.stem}.xml", xml(shot))
        picture(root / "JPEGImages" / shot.name, shot.name)


def voc_in_subfolders(root: Path, truth: Truth) -> None:
    for index, shot in enumerate(truth):
        camera = ("", "cam1", "cam2/day")[index % 3]
        text(root / "Annotations" / camera / f"{shot.stem}.xml", xml(shot))
        picture(root / "JPEGImages" / camera / shot.name, shot.name)


def voc_with_quoted_lists(root: Path, truth: Truth) -> None:
    voc(root, truth)
    quoted = [f'"{shot.stem}"' if " " in shot.stem else shot.stem for shot in truth]
    text(root / "ImageSets" / "Main" / "trainval.txt", "\n".join(quoted))


def voc_with_lists_of_files(root: Path, truth: Truth) -> None:
    voc(root, truth)
    text(root / "ImageSets" / "Main" / "train.txt", "\n".join(shot.name for shot in truth))


def voc_images(root: Path, truth: Truth) -> None:
    for shot in truth:
        text(root / "annotations" / f"{shot.stem}.xml", xml(shot))
        picture(root / "images" / shot.name, shot.name)


def voc_beside(root: Path, truth: Truth) -> None:
    for shot in truth:
        text(root / f"{shot.stem}.xml", xml(shot))
        picture(root / shot.name, shot.name)


def voc_roboflow(root: Path, truth: Truth) -> None:
    for shot in truth:
        folder = root / {"val": "valid"}.get(shot.split, shot.split)
        text(folder / f"{shot.stem}.xml", xml(shot))
        picture(folder / shot.name, shot.name)
    text(root / "README.dataset.txt", "# things\n")


def _pictures(truth: Truth, place: Callable[[Shot], Path]) -> None:
    for shot in truth:
        picture(place(shot), shot.name)


def coco_2017(root: Path, truth: Truth) -> None:
    for split, shots in by_split(truth).items():
        text(root / "annotations" / f"instances_{split}2017.json", json.dumps(coco(shots, of(truth))))
        text(root / "annotations" / f"captions_{split}2017.json", json.dumps({"images": [], "annotations": []}))
    _pictures(truth, lambda shot: root / f"{shot.split}2017" / shot.name)


def coco_cvat(root: Path, truth: Truth) -> None:
    text(root / "annotations" / "instances_default.json", json.dumps(coco(truth, of(truth))))
    _pictures(truth, lambda shot: root / "images" / "default" / shot.name)


def coco_cvat_subsets(root: Path, truth: Truth) -> None:
    words = {"train": "Train", "val": "Validation", "test": "Test"}
    for split, shots in by_split(truth).items():
        text(root / "annotations" / f"instances_{words[split]}.json", json.dumps(coco(shots, of(truth))))
    _pictures(truth, lambda shot: root / "images" / words[shot.split] / shot.name)


def coco_names_with_split(root: Path, truth: Truth) -> None:
    for split, shots in by_split(truth).items():
        document = coco(shots, of(truth), name=lambda name, split=split: f"{split}/{name}")
        text(root / "annotations" / f"{split}.json", json.dumps(document))
    _pictures(truth, lambda shot: root / shot.split / shot.name)


def coco_roboflow(root: Path, truth: Truth) -> None:
    for split, shots in by_split(truth).items():
        folder = root / {"val": "valid"}.get(split, split)
        document = coco(shots, ["things", *of(truth)], first=0)
        for row in document["categories"]:
            row["supercategory"] = "things" if row["id"] else "none"
        text(folder / "_annotations.coco.json", json.dumps(document))
        for shot in shots:
            picture(folder / shot.name, shot.name)


def _label_studio(root: Path, truth: Truth, name: Callable[[str], str], place: Callable[[Shot], str]) -> None:
    text(root / "result.json", json.dumps(coco(truth, of(truth), name=name, first=0)))
    _pictures(truth, lambda shot: root / "images" / place(shot))


def label_studio(root: Path, truth: Truth) -> None:
    _label_studio(root, truth, lambda name: f"images/{name}", lambda shot: shot.name)


def label_studio_windows(root: Path, truth: Truth) -> None:
    _label_studio(root, truth, lambda name: f"images\\{name}", lambda shot: shot.name)


def label_studio_store(root: Path, truth: Truth) -> None:
    _label_studio(root, truth, lambda name: f"../../label-studio/media/upload/4/{name}", lambda shot: shot.name)


def label_studio_url(root: Path, truth: Truth) -> None:
    _label_studio(
        root, truth, lambda name: f"http://localhost:8080/data/upload/1/{quote(name)}", lambda shot: shot.name
    )


def label_studio_local(root: Path, truth: Truth) -> None:
    served = "/data/local-files/?d=mine%2Fpictures%2F"
    _label_studio(root, truth, lambda name: served + quote(name, safe=""), lambda shot: shot.name)


def label_studio_uploaded(root: Path, truth: Truth) -> None:
    _label_studio(root, truth, lambda name: f"images/0a1b2c3d-{name}", lambda shot: shot.name)


def azure(root: Path, truth: Truth) -> None:
    document = coco(truth, of(truth), name=lambda name: f"AmlDatastore://store/{quote(name)}")
    for item in document["annotations"]:
        item["bbox"] = [value / SIZE[index % 2] for index, value in enumerate(item["bbox"])]
        item["area"] = item["bbox"][2] * item["bbox"][3]
    text(root / "labels.json", json.dumps(document))
    _pictures(truth, lambda shot: root / "data" / shot.name)


def ultralytics(root: Path, truth: Truth, *, outline: bool = False) -> None:
    for shot in truth:
        text(root / "labels" / shot.split / f"{shot.stem}.txt", yolo(shot, of(truth), outline=outline))
        picture(root / "images" / shot.split / shot.name, shot.name)
    described = {split: f"images/{split}" for split in by_split(truth)} | {"path": "/home/me/datasets/things"}
    text(root / "things.yaml", yaml.safe_dump(described | {"names": dict(enumerate(of(truth)))}, allow_unicode=True))


def ultralytics_outlines(root: Path, truth: Truth) -> None:
    ultralytics(root, truth, outline=True)


def yolo_without_yaml(root: Path, truth: Truth) -> None:
    ultralytics(root, truth)
    (root / "things.yaml").unlink()
    text(root / "classes.txt", "\n".join(of(truth)))


def yolo_roboflow(root: Path, truth: Truth) -> None:
    words = {"train": "train", "val": "valid", "test": "test"}
    for shot in truth:
        text(root / words[shot.split] / "labels" / f"{shot.stem}.txt", yolo(shot, of(truth)))
        picture(root / words[shot.split] / "images" / shot.name, shot.name)
    described = {split: f"../{word}/images" for split, word in words.items()} | {"nc": len(of(truth))}
    described |= {"names": of(truth), "roboflow": {"workspace": "me"}}
    text(root / "data.yaml", yaml.safe_dump(described, allow_unicode=True))
    text(root / "README.roboflow.txt", "# things\n")


def yolo_lists(root: Path, truth: Truth) -> None:
    for split, shots in by_split(truth).items():
        text(root / f"{split}.txt", "\n".join(f"./images/{shot.name}" for shot in shots))
    for shot in truth:
        if shot.boxes:
            text(root / "labels" / f"{shot.stem}.txt", yolo(shot, of(truth)))
        picture(root / "images" / shot.name, shot.name)
    described = {split: f"{split}.txt" for split in by_split(truth)} | {"names": of(truth)}
    text(root / "data.yaml", yaml.safe_dump(described, allow_unicode=True))


def yolo_label_studio(root: Path, truth: Truth) -> None:
    for shot in truth:
        text(root / "labels" / f"{shot.stem}.txt", yolo(shot, of(truth)))
        picture(root / "images" / shot.name, shot.name)
    text(root / "classes.txt", "\n".join(of(truth)))
    text(root / "notes.json", json.dumps({"categories": [], "info": {}}))


def yolo_cvat(root: Path, truth: Truth) -> None:
    for shot in truth:
        text(root / "obj_train_data" / f"{shot.stem}.txt", yolo(shot, of(truth)))
        picture(root / "obj_train_data" / shot.name, shot.name)
    text(root / "train.txt", "\n".join(f"data/obj_train_data/{shot.name}" for shot in truth))
    text(root / "obj.names", "\n".join(of(truth)))
    text(root / "obj.data", "classes = 3\n")


def yolo_beside(root: Path, truth: Truth) -> None:
    for shot in truth:
        text(root / f"{shot.stem}.txt", yolo(shot, of(truth)))
        picture(root / shot.name, shot.name)
    text(root / "classes.txt", "\n".join(of(truth)))


UNDIVIDED = (
    voc, voc_in_subfolders, voc_with_quoted_lists, voc_with_lists_of_files, voc_images, voc_beside, coco_cvat, label_studio,
    label_studio_windows, label_studio_store, label_studio_url, label_studio_local, label_studio_uploaded, azure,
    yolo_label_studio, yolo_cvat, yolo_beside,
)  # fmt: skip
DIVIDED = (
    voc_roboflow, coco_2017, coco_cvat_subsets, coco_names_with_split, coco_roboflow, ultralytics, ultralytics_outlines,
    yolo_without_yaml, yolo_roboflow, yolo_lists,
)  # fmt: skip


def drawn_scenes(count: int) -> tuple[Truth, dict[str, np.ndarray]]:
    """Return generated scenes as a truth, and the pixels of each by its name."""
    shots, pixels = [], {}
    for index in range(count):
        scene = generate_scene(index, seed=0, size=SIZE, max_objects=3)
        split = ("train", "train", "train", "val", "test")[index % 5]
        boxes = [(item.name, corners_to_bbox(item.corners)) for item in scene.record.objects]
        shot = Shot(f"scene {index}.png", split, tuple((name, tuple(map(int, box))) for name, box in boxes))
        shots.append(shot)
        pixels[shot.name] = scene.pixels
    return tuple(shots), pixels


def paint(root: Path, pixels: Mapping[str, np.ndarray]) -> None:
    """Put pictures in the place of an export's of the same names."""
    for path in root.rglob("*.png"):
        Image.fromarray(pixels[path.name]).save(path)


def decompose(root: Path) -> None:
    """Rename every file as macOS keeps names: decomposed."""
    for path in sorted(root.rglob("*"), key=lambda path: len(path.parts), reverse=True):
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))


def zip_of_macos(root: Path, folder: Path) -> None:
    """Move an export into a folder as an archive of macOS unpacks: one folder, a hidden twin of every file, __MACOSX."""
    folder.mkdir(parents=True)
    root.rename(folder / "my export")
    for path in [path for path in (folder / "my export").rglob("*") if path.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7")
        text(folder / "__MACOSX" / path.relative_to(folder).parent / f"._{path.name}", "\0")
