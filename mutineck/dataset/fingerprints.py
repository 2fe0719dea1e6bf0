"""Which files of a data set its conversion depends on: changed, the study's data set is stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mutineck.dataset.coco_folder import SPLITS, annotation_files, find_coco_files, find_single_file
from mutineck.dataset.images import PICTURE_SUFFIXES
from mutineck.dataset.voc_folder import LISTS, MASKS, find_voc_folders
from mutineck.study.inputs import Outside


def voc_inputs(root: Path) -> Iterator[Outside]:
    """Yield what counts of a folder in VOC's layout: annotations, masks and lists whole, of pictures their names.

    Raises:
        DatasetError: it has not the layout.
    """
    for folder in find_voc_folders(root):
        yield Outside(str(folder / "Annotations"), "content", (".xml",))
        yield Outside(str(folder / MASKS), "content", PICTURE_SUFFIXES)
        yield Outside(str(folder / "JPEGImages"), "names", PICTURE_SUFFIXES)
        yield from (Outside(str(folder / "ImageSets" / "Main" / f"{name}.txt")) for name in LISTS)
    # VOC2012 may come to lie beside VOC2007.
    yield from (Outside(str(base), "folders", ("VOC",)) for base in (root, root / "VOCdevkit"))


def coco_inputs(root: Path) -> Iterator[Outside]:
    """Yield what counts of a folder in COCO's layout: its annotation files, and of its pictures the names.

    An annotation file that is not there counts where it would be read in the place of the one that is.
    """
    for split in SPLITS:
        found = find_coco_files(root, split)
        for file in annotation_files(root, split):
            yield Outside(str(file))
            if found is not None and file == found[0]:
                yield _pictures(root, found[1])
                break
    if (single := find_single_file(root)) is not None:
        yield Outside(str(single[0]))
        yield _pictures(root, single[1])


def _pictures(root: Path, folder: Path) -> Outside:
    # Below the root itself there is more than the data set: annotations, and for some a study's own folder.
    return Outside(str(folder), "beside" if folder == root else "names", PICTURE_SUFFIXES)
