"""Outputs of frozen teachers for each picture, kept on disk: whether to, and where.

An entry's name is a hash of all that it depends on (the teacher's weights and settings, the picture as the network sees
it), so entries never go stale: what no longer fits is never asked for. Every value is rounded before it is used, not
only before it is stored, so a training does not depend on what the cache held.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mutineck.detection.configs import input_size, pipelines, variants
from mutineck.detection.specs import OTHER
from mutineck.study.experiment import Experiment, TeacherSpec
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import atomic_path, read_json

FOLDER = "cache"
GIB = 2**30
RECOUNT = 32
"""The folder is counted anew after writing this part of its bound: others write there too."""
CELLS_A_PIXEL = {4: 1 / 12, 8: 1 / 48}
"""Sum over a pyramid's levels of `1 / stride^2`, by its finest stride, rounded up."""
PUBLISHED_CHANNELS = 256


class TensorCache:
    """Tensors by name in a folder: whole or not there, whoever else reads and writes at the same time.

    A file is written beside and renamed, and carries a checksum; one that is truncated or altered counts as not there
    and is written again. When the folder reaches its bound, or the disk is full, nothing more is written.

    Args:
        folder: where; made when something is first written.
        gib: bound of the folder's size in GiB; parallel writers may exceed it by a 32nd part each.
    """

    def __init__(self, folder: str | os.PathLike[str], gib: float) -> None:
        self.folder = Path(folder)
        self.bound = int(gib * GIB)
        self.closed = False
        self._size: int | None = None
        self._written = 0

    def path(self, key: str) -> Path:
        """Return the file of an entry."""
        return self.folder / f"{key}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return an entry's tensors, memory-mapped, or None if there is no sound file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path(key), framework="pt") as file:  # type: ignore[no-untyped-call]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
                stored = (file.metadata() or {}).get("checksum")
        except (SafetensorError, OSError):
            return None
        return tensors if stored == checksum(tensors) else None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry, if there is room."""
        from safetensors.torch import save

        if self.closed:
            return
        content = save(dict(tensors), metadata={"checksum": checksum(tensors)})
        if self._size is None or self._written > self.bound // RECOUNT:
            self._size, self._written = _size(self.folder), 0
        if self._size + self._written + len(content) > self.bound:
            self._close(f"is as large as it may be ({self.bound / GIB:g} GiB, resources.cache_gib)")
            return
        try:
            with atomic_path(self.path(key), durable=False) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            self._close(f"cannot be written: {error}")
            return
        self._written += len(content)

    def _close(self, why: str) -> None:
        self.closed = True
        print(f"teacher cache {self.folder} {why}: outputs that are not in it are computed each time")


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a checksum of names, types, shapes and values."""
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        if tensor.numel():
            total = zlib.crc32(_bytes(tensor), total)
    return f"{total:08x}"


def digest(tensor: Tensor, *more: Any) -> str:
    """Return a hash of a tensor's shape, type and bytes, and of what else is given."""
    whole = tensor.detach().cpu().contiguous()
    found = hashlib.blake2b(repr((tuple(whole.shape), whole.dtype, more)).encode(), digest_size=16)
    found.update(_bytes(whole))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data


def _size(folder: Path) -> int:
    """Return the bytes below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def open_cache(settings: Mapping[str, Any] | None) -> TensorCache | None:
    """Return the cache of `cache_settings`."""
    return None if settings is None else TensorCache(**settings)


def cache_settings(study: Study, pipeline: list[dict[str, Any]] | None = None) -> dict[str, Any] | None:
    """Decide whether the trainings of a study keep what teachers say: fields of `TensorCache`, or None for no cache.

    Args:
        study: any stage of it, after `dataset`.
        pipeline: mmdet's training pipeline; the experiment's own if None.

    Raises:
        ExperimentError: `resources.cache` is `on` and the augmentation draws anew each time, so that nothing would
            ever be found again.
    """
    resources = study.experiment.resources
    if resources.cache == "off":
        return None
    pipeline = pipelines(study.experiment.input)[0] if pipeline is None else pipeline
    settings = {"folder": str(study.path(FOLDER).resolve()), "gib": resources.cache_gib}
    count = variants(pipeline)
    if resources.cache == "on":
        if count is None:
            raise ExperimentError(
                "resources.cache: `on`, but the training pipeline changes each picture at random "
                f"({', '.join(step['type'] for step in pipeline)}): no stored output would ever be used. Use `off` or "
                "`auto`"
            )
        return settings
    if count is None:
        print("teacher cache: not used, since trainings see every picture changed anew")
    fits = count is not None and expected_bytes(study, count) <= resources.cache_gib * GIB
    return settings if fits else None


def expected_bytes(study: Study, count: int) -> int:
    """Return about how much the maps of a study's teachers take, at most, with `count` variants of each picture.

    A picture's maps depend on the padding of its batch too: where sizes differ, each padded size counts once more.
    """
    experiment = study.experiment
    pictures = read_json(study.need("dataset", "train.json"))["images"]
    sizes = {input_size((p["width"], p["height"]), experiment.input) for p in pictures}
    widths, heights = {width for width, _ in sizes}, {height for _, height in sizes}
    pixels = sum(width * height for width in widths for height in heights)
    return round(len(pictures) * count * pixels * sum(_bytes_a_pixel(experiment)))


def _bytes_a_pixel(experiment: Experiment) -> list[float]:
    """Return what the maps of each teacher, and of the intermediate one, take for a pixel of input, in float16."""
    each = [_channels(teacher) * CELLS_A_PIXEL[_finest(teacher)] * 2 for teacher in experiment.teachers]
    return each + each[:1] * experiment.needs_intermediate


def _channels(teacher: TeacherSpec) -> int:
    own = teacher.detector is not None and teacher.detector.config is None
    return teacher.detector.neck_channels if own and teacher.detector else PUBLISHED_CHANNELS


def _finest(teacher: TeacherSpec) -> int:
    return 4 if teacher.detector is None or teacher.detector.family.endswith(("rcnn", OTHER)) else 8
