"""Health and size of picture files, as the training's own reader (OpenCV) will see them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
ORIENTATION = 0x0112
"""EXIF tag of a picture's rotation; 5 to 8 exchange width and height."""
MAX_PIXELS = 178_956_970
"""A square of 13 377: more than this PIL refuses to open (twice its `MAX_IMAGE_PIXELS`)."""

MISSING = "missing image"
UNREADABLE = "unreadable image"
WRONG_SIZE = "wrong image size"
TURN_UNSAID = "turned picture, size alike"
TURNED = "turned picture"


@dataclass(frozen=True, slots=True)
class PictureHealth:
    """What a picture file turned out to be.

    Attributes:
        width, height: pixels as displayed, that is after EXIF rotation; 0 if unreadable.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        problem: why it cannot be read, or empty.
    """

    width: int
    height: int
    orientation: int = 1
    problem: str = ""

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height as stored, before EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    @property
    def turn_unsaid(self) -> str:
        """What to say where EXIF turns the picture and its size does not tell which way boxes were drawn, or empty."""
        if self.orientation == 1 or self.stored_size != (self.width, self.height):
            return ""
        return f"EXIF orientation {self.orientation}: boxes taken as drawn on the turned picture, as it is shown"


def inspect_picture(path: str | os.PathLike[str]) -> PictureHealth:
    """Return a picture's displayed size, or why it cannot be used.

    Every picture is decoded: a training must not meet at night what could be said now. Upright JPEGs once and at an
    eighth of their size (COCO has 118 000, at 2.5 ms each), everything else by the training's own reader too.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            return PictureHealth(0, 0, problem="the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Large pictures and odd EXIF are judged below.
            with Image.open(path) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    return PictureHealth(0, 0, problem=f"{width}x{height} is more than {MAX_PIXELS} pixels")
                orientation = _orientation(picture)
                if picture.format == "JPEG" and orientation == 1 and picture.mode in ("RGB", "L"):
                    picture.draft(None, (1, 1))
                    picture.load()
                    return PictureHealth(width, height)
    except Image.DecompressionBombError:
        return PictureHealth(0, 0, problem=f"more than {MAX_PIXELS} pixels")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, EOFError) as error:
        return PictureHealth(0, 0, problem=_reason(error, path))
    return _decode(path, orientation)


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # Broken EXIF raises whatever it likes; the picture itself may be sound.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decode(path: Path, orientation: int) -> PictureHealth:
    """Decode with PIL, which notices truncation, and with OpenCV, as the training does, which rotates."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                stored = picture.size
                picture.load()
        content = np.fromfile(path, dtype=np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, cv2.error) as error:
        return PictureHealth(0, 0, problem=_reason(error, path))
    if pixels is None:
        return PictureHealth(0, 0, problem="OpenCV, which the training reads pictures with, cannot decode it")
    height, width = pixels.shape[:2]
    if (width, height) == stored and stored[0] != stored[1]:
        orientation = orientation if orientation < 5 else 1  # OpenCV did not rotate: neither will the training.
    return PictureHealth(width, height, orientation)


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a format that is known here"
    return f"{type(error).__name__}: {error}".replace(str(path), path.name)


def changed_since(written: tuple[int, int], true: tuple[int, int]) -> str:
    """Return what may have become of a picture whose size is not the one that its annotation gives, or nothing."""
    if written == true[::-1]:
        return ": turned after it was annotated?"
    # Same shape up to rounding
    if abs(written[0] * true[1] - written[1] * true[0]) <= max(*written, *true):
        return ": resized after it was annotated?"
    return ""


def upright_bbox(bbox: list[float], stored_size: tuple[int, int], orientation: int) -> list[float]:
    """Turn a box given in stored pixels into displayed ones, as EXIF orientation turns or mirrors it.

    Args:
        bbox: ``[x, y, w, h]`` in the picture as stored.
        stored_size: width and height as stored.
        orientation: EXIF orientation, 1 to 8 (Exif 2.32, section 4.6.4, tag 0x0112).

    Returns:
        ``[x, y, w, h]`` in the picture as displayed.
    """
    x, y, w, h = bbox
    width, height = stored_size
    right, bottom = width - x - w, height - y - h
    return {
        2: [right, y, w, h],
        3: [right, bottom, w, h],
        4: [x, bottom, w, h],
        5: [y, x, h, w],
        6: [bottom, x, h, w],
        7: [bottom, right, h, w],
        8: [y, right, h, w],
    }.get(orientation, [x, y, w, h])
