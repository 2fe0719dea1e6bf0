"""Outputs of frozen teachers on one batch: maps, proposals, merged maps; no teacher runs twice over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mutineck.detection.frozen import FrozenDetector, Proposals
from mutineck.detectors.cache import TensorCache, digest

Maps = dict[int, Tensor]
Tensors = dict[str, Tensor]
Metas = list[dict[str, Any]]


def outputs_of(image: Tensor, metas: Metas | None, cache: TensorCache | None) -> BatchOutputs:
    """Return the outputs on a batch, with a cache or without."""
    return BatchOutputs(image, metas) if cache is None else CachedBatchOutputs(image, metas, cache)


def by_image(proposals: Sequence[Sequence[Proposals]]) -> list[list[Proposals]]:
    """Turn each teacher's proposals of each image into each image's of each teacher."""
    return [list(row) for row in zip(*proposals, strict=True)]


class BatchOutputs:
    """A batch, and the outputs of teachers on it, computed when first asked for.

    Args:
        image: `(N, 3, H, W)` float32, normalised as the student's pipeline does.
        metas: mmdet's `img_metas`; None where no proposals are asked for.
    """

    def __init__(self, image: Tensor, metas: Metas | None) -> None:
        self.image = image
        self.metas = metas
        self._maps: dict[FrozenDetector, Maps] = {}

    def maps(self, teacher: FrozenDetector) -> Maps:
        """Return a teacher's maps, stride to `(N, C, H, W)` float32, no gradient."""
        if teacher not in self._maps:
            self._maps[teacher] = teacher.maps(self.image)
        return self._maps[teacher]

    def proposals(self, teacher: FrozenDetector) -> list[Proposals]:
        """Return each image's proposals of a teacher."""
        if self.metas is None:
            raise RuntimeError("proposals need the batch's img_metas, and there are none")
        return teacher.proposals(self.maps(teacher), self.metas)

    @torch.no_grad()
    def merged(self, intermediate: FrozenDetector) -> Maps:
        """Return the maps of a frozen intermediate teacher, merged from its teachers' maps."""
        return _merge(intermediate, self.maps, self.image.device)


class CachedBatchOutputs(BatchOutputs):
    """Outputs that are kept on disk.

    Pictures are run one by one and maps rounded to float16, whether they were in the cache or not: what is kept
    is a function of the picture alone, and a training ends alike whatever the cache held.

    Args:
        image: see `BatchOutputs`.
        metas: see `BatchOutputs`.
        cache: where.
    """

    def __init__(self, image: Tensor, metas: Metas | None, cache: TensorCache) -> None:
        super().__init__(image, metas)
        each = [None] * len(image) if metas is None else metas
        self._pictures = [_Picture(one[None], meta, cache) for one, meta in zip(image, each, strict=True)]

    def maps(self, teacher: FrozenDetector) -> Maps:
        """Return a teacher's maps, stride to `(N, C, H, W)` float32 of float16 values, no gradient."""
        if teacher not in self._maps:
            self._maps[teacher] = self._stack([picture.maps(teacher) for picture in self._pictures])
        return self._maps[teacher]

    def proposals(self, teacher: FrozenDetector) -> list[Proposals]:
        """Return each image's proposals of a teacher, from its rounded maps."""
        rows = [picture.proposals(teacher) for picture in self._pictures]
        return [Proposals(**{name: value.to(self.image.device) for name, value in row.items()}) for row in rows]

    @torch.no_grad()
    def merged(self, intermediate: FrozenDetector) -> Maps:
        """Return the maps of a frozen intermediate teacher, rounded, merged from its teachers' rounded maps."""
        return self._stack([picture.merged(intermediate) for picture in self._pictures])

    def _stack(self, rows: list[Tensors]) -> Maps:
        # Files give their tensors in an order of their own.
        strides = sorted(map(int, rows[0]))
        return {s: torch.stack([row[str(s)] for row in rows]).to(self.image.device).float() for s in strides}


class _Picture:
    """One picture `(1, 3, H, W)` of a batch, and what is kept of it: tensors by name, on the CPU."""

    def __init__(self, image: Tensor, meta: dict[str, Any] | None, cache: TensorCache) -> None:
        self.image = image
        self.meta = meta
        self.cache = cache
        # Kinds of machine and releases round differently; what they compute must not pass for the same.
        self.digest = digest(image, image.device.type, torch.__version__)
        self._rows: dict[str, Tensors] = {}

    def maps(self, teacher: FrozenDetector) -> Tensors:
        """Return a teacher's maps by stride, `(C, H, W)` float16."""
        return self._row(teacher, "maps", lambda: _rounded(teacher.maps(self.image)))

    def proposals(self, teacher: FrozenDetector) -> Tensors:
        """Return the fields of a teacher's proposals."""
        if self.meta is None:
            raise RuntimeError("proposals need the batch's img_metas, and there are none")
        metas = [self.meta]
        # Boxes are clipped to the picture, which the padded batch does not show.
        height, width = self.meta["img_shape"][:2]
        return self._row(
            teacher, f"proposals-{height}x{width}", lambda: vars(teacher.proposals(self._widened(teacher), metas)[0])
        )

    def merged(self, intermediate: FrozenDetector) -> Tensors:
        """Return the intermediate teacher's maps by stride, `(C, H, W)` float16."""
        return self._row(intermediate, "maps", lambda: _rounded(_merge(intermediate, self._widened, self.image.device)))

    def _widened(self, teacher: FrozenDetector) -> Maps:
        return {int(stride): m[None].to(self.image.device).float() for stride, m in self.maps(teacher).items()}

    def _row(self, teacher: FrozenDetector, kind: str, compute: Callable[[], Mapping[str, Tensor]]) -> Tensors:
        key = f"{teacher.name}-{teacher.identity[:16]}/{kind}/{self.digest[:2]}/{self.digest}"
        if key not in self._rows:
            found = self.cache.get(key)
            if found is None:
                found = {name: value.cpu().contiguous() for name, value in compute().items()}
                self.cache.put(key, found)
            self._rows[key] = found
        return self._rows[key]


def _merge(intermediate: FrozenDetector, maps: Callable[[FrozenDetector], Maps], device: torch.device) -> Maps:
    backbone: Any = intermediate.to(device).model.backbone
    return backbone.neck([maps(teacher) for teacher in backbone.teachers])


def _rounded(maps: Maps) -> Tensors:
    """Return one picture's maps in float16; a map with values beyond float16's range stays as it is."""
    rows = {}
    for stride, level in maps.items():
        half = level[0].half()
        rows[str(stride)] = half if half.isfinite().all() else level[0]
    return rows
