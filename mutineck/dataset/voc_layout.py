"""Which folders hold Pascal VOC's annotations, and which of their files count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mutineck.dataset.images import PICTURE_SUFFIXES
from mutineck.dataset.layouts import Layout, Part, split_folders, split_words
from mutineck.dataset.picture_files import data_files
from mutineck.study.inputs import ExternalInput

LISTS = ("train", "val", "trainval", "test")
MASKS = "SegmentationObject"
ANNOTATION_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels")
PICTURE_FOLDERS = ("jpegimages", "images", "imgs", "pictures")
"""What the two folders are called, in small letters; Pascal VOC's own names come first."""


def find_voc(root: Path) -> list[Layout]:
    """Return what can be read as Pascal VOC's annotations below a root: mostly nothing or one layout.

    Annotations/ beside JPEGImages/ (or the like) in the root or in VOC2007/, VOCdevkit/VOC2012/ ...; else train/,
    valid/, test/ with such folders or with XML beside the pictures, in the root or in its images/; else XML beside the
    pictures in the root itself.
    """
    layouts = []
    for base in (root, root / "VOCdevkit"):
        folders = [base, *sorted(base.glob("VOC*"))]
        found = [part for folder in folders if folder.is_dir() for part in _pair(folder, folder.name)]
        if found:
            layouts.append(Layout("voc", "Pascal VOC's layout", tuple(found), root))
            break
    for base in (root, root / "images"):
        found = [part for folder, split in split_folders(base) for part in _split_parts(folder, split)]
        if found:
            layouts.append(Layout("voc", _beside(found[0]), tuple(found), root))
    if not layouts and data_files(root, (".xml",), below=False):
        part = Part("", root.name, root, (root,), deep=False)
        layouts.append(Layout("voc", _beside(part), (part,), root))
    return layouts


def _beside(part: Part) -> str:
    names = data_files(part.annotations, (".xml",))
    return "Roboflow's VOC export" if ".rf." in names[0] else "Pascal VOC's annotations beside the pictures"


def _pair(folder: Path, name: str, split: str = "") -> Iterator[Part]:
    """Yield the part that a folder with annotations beside pictures is, if it is one."""
    below = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True) if path.is_dir()}
    annotations = next((below[name] for name in ANNOTATION_FOLDERS if name in below and _has_xml(below[name])), None)
    pictures = next((below[name] for name in PICTURE_FOLDERS if name in below), None)
    if annotations is None and (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        annotations = folder / "Annotations"  # with Pascal VOC's own names, a folder without annotations is one, too
    if annotations is not None and pictures is not None:
        yield Part(split, name, annotations, (pictures,))


def _split_parts(folder: Path, split: str) -> Iterator[Part]:
    pair = [*_pair(folder, folder.name, split)]
    yield from pair
    if not pair and data_files(folder, (".xml",), below=False):
        yield Part(split, folder.name, folder, (folder,))


def _has_xml(folder: Path) -> bool:
    return bool(data_files(folder, (".xml",)))


def voc_inputs(layout: Layout) -> Iterator[ExternalInput]:
    """Yield what counts of a folder with VOC's annotations: these, masks and lists whole, of pictures the names."""
    for part in layout.parts:
        if part.annotations != part.pictures[0]:
            yield ExternalInput(str(part.annotations), "content", (".xml",))
            yield ExternalInput(str(part_folder(part) / MASKS), "content", PICTURE_SUFFIXES)
            yield ExternalInput(str(part.pictures[0]), "names", PICTURE_SUFFIXES)
            yield from (ExternalInput(str(list_file(part, name))) for name in LISTS)
        else:
            # One folder, one note: the pictures' content counts, too. Below a whole root may lie a study's figures
            suffixes = (".xml", *PICTURE_SUFFIXES) if part.deep else (".xml",)
            yield ExternalInput(str(part.annotations), "content", suffixes)
    if layout.parts[0].split:
        bases = {part.annotations.parent for part in layout.parts} & {layout.base, layout.base / "images"}
        yield from (ExternalInput(str(base), "folders", split_words()) for base in bases)
    elif layout.parts[0].deep:
        # VOC2012 may come to lie beside VOC2007.
        yield from (ExternalInput(str(base), "folders", ("VOC",)) for base in (layout.base, layout.base / "VOCdevkit"))


def part_folder(part: Part) -> Path:
    return part.annotations.parent if part.annotations != part.pictures[0] else part.annotations


def list_file(part: Part, name: str) -> Path:
    return part_folder(part) / "ImageSets" / "Main" / f"{name}.txt"
