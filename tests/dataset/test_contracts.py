"""The readers on thousands of generated files, and on every file that has been found to break them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from PIL import Image

from mutineck.dataset.detect import find_layout, read_layout
from mutineck.dataset.images import inspect_picture
from mutineck.dataset.records import CategoryNames, DatasetError
from mutineck.dataset.voc_folder import read_pictures
from mutineck.dataset.voc_layout import find_voc
from tests.dataset.contracts import check_coco, check_described, check_voc, check_yolo
from tests.dataset.wild import Choices, coco_file, list_file, voc_file, yaml_file, yolo_file

CASES = Path(__file__).parent / "cases"
FILES = 3000
"""Files of each kind in an ordinary run; `--hypothesis-profile fuzz` makes more."""

seeds = st.binary(min_size=300, max_size=300)


def generated(
    build: Callable[[bytes], bytes],
    check: Callable[[bytes], Any],
    record_property: Callable[[str, Any], None],
    files: int = FILES,
) -> None:
    """Check files that drawn bytes choose, and note how many there were."""
    count = 0
    longer = max(1, settings().max_examples // FILES)

    @settings(max_examples=longer * files, deadline=None)
    @given(data=seeds)
    def run(data: bytes) -> None:
        nonlocal count
        count += 1
        content = build(data)
        note(f"the file: {content!r}")
        check(content)

    run()
    record_property("files", count)


def test_generated_voc_files(record_property):
    generated(voc_file, check_voc, record_property)


def test_generated_coco_files(record_property):
    generated(coco_file, check_coco, record_property)


def test_generated_yolo_files(record_property):
    generated(yolo_file, check_yolo, record_property, files=1000)


def test_generated_descriptions_of_yolo_folders(record_property):
    generated(
        lambda data: data, lambda data: check_described(yaml_file(data), list_file(data[::-1])), record_property, 100
    )


def check_picture(path: Path) -> None:
    health = inspect_picture(path)
    assert health.problem or mmcv.imread(str(path)).shape == (health.height, health.width, 3)


@pytest.mark.parametrize("path", sorted(CASES.iterdir()), ids=lambda path: path.name)
def test_what_once_broke_a_reader(path):
    match path.suffix:
        case ".xml":
            check_voc(path.read_bytes())
        case ".json":
            check_coco(path.read_bytes())
        case ".txt":
            check_yolo(path.read_bytes())
        case ".yaml":
            check_described(path.read_bytes())
        case _:
            check_picture(path)


def test_generated_annotations_in_a_folder(voc_root, record_property):
    """Wherever an annotation points, what is read lies in JPEGImages/; what is not read is named."""
    for name in ("a.jpg", "b.jpg"):
        voc_root.picture(name)
    (voc_root.root.parent / "x.jpg").write_bytes((voc_root.root / "JPEGImages" / "a.jpg").read_bytes())
    file = voc_root.annotation("0")

    def check(content: bytes) -> None:
        file.write_bytes(content)
        (layout,) = find_voc(voc_root.root)
        pictures, reading = read_pictures(voc_root.root, layout, CategoryNames())
        assert [picture.file_name for picture in pictures] in ([], ["JPEGImages/a.jpg"], ["JPEGImages/b.jpg"])
        left_out = {defect.file for defect in reading.defects if defect.action == "left out"}
        assert pictures or "Annotations/0.xml" in left_out

    generated(voc_file, check, record_property, files=300)


@pytest.mark.parametrize(
    ("file", "beside", "pictures"),
    [
        pytest.param("annotations/train.json", "annotations/val.json", "train", id="splits"),
        pytest.param("train/_annotations.coco.json", "valid/_annotations.coco.json", "train", id="Roboflow"),
        pytest.param("annotations/instances_default.json", "", "images/default", id="CVAT"),
        pytest.param("result.json", "", "images", id="Label Studio"),
    ],
)
def test_generated_documents_in_a_folder(file, beside, pictures, tmp_path, record_property):
    """Whatever files a document names, nothing is raised but a refusal that names the document."""
    for folder in (pictures, "val", "valid"):
        (tmp_path / folder / "x").mkdir(parents=True)
        for name in ("0.jpg", "1.jpg", "x/c.jpg"):
            Image.new("RGB", (40, 30)).save(tmp_path / folder / name)
    for path in filter(None, (file, beside)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(coco_file(b""))
    layout = find_layout(tmp_path, "coco")

    def check(content: bytes) -> None:
        (tmp_path / file).write_bytes(content)
        try:
            reading = read_layout(tmp_path, layout, CategoryNames(("bird",)))
        except DatasetError as error:
            assert file in str(error)
            return
        split = layout.parts[0].split
        names = {image["file_name"] for image in reading.documents[split]["images"]}
        assert names <= {f"{pictures}/{name}" for name in ("0.jpg", "1.jpg", "x/c.jpg")}
        folder = file.rpartition("/")[0] or file
        assert all(defect.file.startswith((folder, pictures, "val")) for defect in reading.defects)

    generated(coco_file, check, record_property, files=80)


def pictures() -> dict[str, bytes]:
    """Return small pictures of each kind, as the bytes of their files."""
    kinds = {"jpeg": ("RGB", "JPEG"), "grey": ("L", "JPEG"), "cmyk": ("CMYK", "JPEG"), "png": ("RGB", "PNG")}
    kinds |= {"palette": ("P", "PNG"), "rgba": ("RGBA", "PNG"), "sixteen": ("I;16", "PNG"), "bmp": ("RGB", "BMP")}
    kinds |= {"gif": ("P", "GIF"), "webp": ("RGB", "WEBP"), "tiff": ("RGB", "TIFF")}
    files = {}
    for name, (mode, kind) in kinds.items():
        file = io.BytesIO()
        Image.linear_gradient("L").resize((40, 30)).convert(mode).save(file, kind)
        files[name] = file.getvalue()
    return files


@pytest.mark.parametrize("kind", sorted(pictures()))
def test_a_picture_that_passes_is_read_by_the_training_at_that_size(kind, tmp_path, record_property):
    whole = pictures()[kind]
    path = tmp_path / "a.jpg"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        check_picture(path)

    generated(lambda data: Choices(data).damage(whole), check, record_property, files=100)
