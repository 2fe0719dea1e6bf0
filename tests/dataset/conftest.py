"""Small folders in VOC's and COCO's layout, written on the spot."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mutineck.dataset.voc_xml import VocImage, VocObject, write_voc_xml

Box = tuple[str, tuple[float, float, float, float]]


class VocRoot:
    """A folder in VOC layout that pictures and annotations are added to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("Annotations", "JPEGImages"):
            (root / name).mkdir(parents=True)

    def picture(self, name: str, size: tuple[int, int] = (40, 30), **save: object) -> Path:
        pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(
            0, 256, (size[1], size[0], 3), dtype=np.uint8
        )
        path = self.root / "JPEGImages" / name
        Image.fromarray(pixels).save(path, **save)
        return path

    def annotation(
        self,
        stem: str,
        boxes: Sequence[Box] = (("cat", (1, 1, 10, 10)),),
        *,
        size: tuple[int, int] = (40, 30),
        filename: str | None = None,
        suffix: str = ".xml",
    ) -> Path:
        objects = tuple(VocObject(name, corners, index=i) for i, (name, corners) in enumerate(boxes, start=1))
        record = VocImage(f"{stem}.jpg" if filename is None else filename, *size, objects=objects)
        path = self.root / "Annotations" / f"{stem}{suffix}"
        path.write_bytes(write_voc_xml(record))
        return path

    def add(self, stem: str, boxes: Sequence[Box] = (("cat", (1, 1, 10, 10)),)) -> None:
        self.picture(f"{stem}.jpg")
        self.annotation(stem, boxes)


@pytest.fixture
def voc_root(tmp_path: Path) -> VocRoot:
    return VocRoot(tmp_path / "voc")


@pytest.fixture
def make_voc_root(tmp_path: Path) -> Callable[[str], VocRoot]:
    return lambda name: VocRoot(tmp_path / name)
