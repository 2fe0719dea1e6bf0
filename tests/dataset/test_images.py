from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mutineck.dataset.images import MAX_PIXELS, ORIENTATION, inspect_picture, upright_bbox


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: object) -> Path:
    Image.fromarray(noise(*size)).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        pytest.param("a.jpg", "RGB", {}, id="jpeg"),
        pytest.param("a.JPG", "RGB", {}, id="capital suffix"),
        pytest.param("a.jpg", "L", {}, id="grey jpeg"),
        pytest.param("a.jpg", "CMYK", {}, id="cmyk jpeg"),
        pytest.param("a.jpg", "RGB", {"progressive": True}, id="progressive jpeg"),
        pytest.param("a.jpg", "RGB", {"format": "PNG"}, id="png named .jpg"),
        pytest.param("a.png", "P", {}, id="palette"),
        pytest.param("a.png", "RGBA", {}, id="rgba"),
        pytest.param("a.png", "LA", {}, id="grey with alpha"),
        pytest.param("a.png", "1", {}, id="one bit"),
        pytest.param("a.png", "I;16", {}, id="16 bit"),
        pytest.param("a.bmp", "RGB", {}, id="bmp"),
        pytest.param("a.webp", "RGB", {}, id="webp"),
        pytest.param("a.tif", "RGB", {}, id="tiff"),
    ],
)
def test_formats_and_modes_are_read_at_their_size(tmp_path, name, mode, options):
    if mode == "I;16":
        path = tmp_path / name
        Image.fromarray(noise(40, 30, 1).astype(np.uint16) * 256).save(path)
    else:
        path = save(tmp_path / name, mode, **options)
    health = inspect_picture(path)
    assert (health.width, health.height, health.problem) == (40, 30, "")


def test_sixteen_bits_a_colour(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), noise(40, 30).astype(np.uint16) * 257)
    assert inspect_picture(tmp_path / "a.png").stored_size == (40, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_picture_has_the_size_that_the_training_sees(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "a.jpg", exif=exif)
    health = inspect_picture(path)
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert (health.height, health.width) == pixels.shape[:2]
    assert health.stored_size == (40, 30)
    assert health.orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_the_picture_does(tmp_path, orientation):
    stored = np.zeros((30, 40, 3), np.uint8)
    stored[5:12, 20:35] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=100, exif=exif)
    rows, columns = np.nonzero(cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_GRAYSCALE) > 127)
    seen = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert upright_bbox([20, 5, 15, 7], (40, 30), orientation) == seen


def broken(kind: str, path: Path) -> Path:
    save(path, size=(200, 150))
    content = path.read_bytes()
    wrong = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "header only": content[:30],
        "text": b"not a picture at all",
        "html": b"<html>404</html>" * 50,
        "zeros": bytes(2000),
    }
    path.write_bytes(wrong[kind])
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kind", ["empty", "truncated", "header only", "text", "html", "zeros"])
def test_broken_pictures_have_a_problem_and_raise_nothing(tmp_path, kind, suffix):
    health = inspect_picture(broken(kind, tmp_path / f"a{suffix}"))
    assert health.problem and str(tmp_path) not in health.problem


def test_a_folder_or_nothing_in_the_place_of_a_picture(tmp_path):
    assert inspect_picture(tmp_path).problem
    assert inspect_picture(tmp_path / "none.jpg").problem


def test_one_pixel_and_a_very_wide_picture(tmp_path):
    assert inspect_picture(save(tmp_path / "a.png", size=(1, 1))).stored_size == (1, 1)
    assert inspect_picture(save(tmp_path / "b.jpg", size=(12000, 4))).stored_size == (12000, 4)


@pytest.mark.parametrize(("name", "size"), [("a.jpg", (12000, 12000)), ("a.png", (12000, 2000))])
def test_a_picture_of_12000_pixels_a_side(tmp_path, name, size):
    Image.new("L", size, 90).save(tmp_path / name)
    health = inspect_picture(tmp_path / name)
    assert (health.stored_size, health.problem) == (size, "")


@pytest.mark.parametrize("side", [13_378, 20_000, 60_000], ids=["one pixel too many", "more", "a bomb"])
def test_more_pixels_than_can_be_opened_are_refused(tmp_path, side):
    path = tmp_path / "a.png"
    save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    assert f"more than {MAX_PIXELS} pixels" in inspect_picture(path).problem


def test_broken_exif_does_not_cost_the_picture(tmp_path):
    path = save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert inspect_picture(path).problem == ""
