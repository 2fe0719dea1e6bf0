"""One pass of each teacher over the training split: RoIAlign of every target at its level, kept as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from mutineck.detection.cells import box_levels
from mutineck.detection.distributed import Processes, processes
from mutineck.detection.evaluation import Batch, SplitDataset, device_of
from mutineck.detection.roi import instance_features
from mutineck.detectors.folders import load_frozen, sha256_config
from mutineck.detectors.loaders import evaluation_loader
from mutineck.features.shards import INDEX, Shard, find_shards, write_shard
from mutineck.study.experiment import INTERMEDIATE, FeaturesSpec
from mutineck.study.jobs import Job
from mutineck.study.settings import settings_of
from mutineck.study.stage import Outcome, Study
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import read_json, sha256_file, sha256_json, write_json

SPLIT = "train"
SHARD_IMAGES = 128
"""Images a shard: an interruption costs little, and COCO is still under 1000 files."""
RECIPE = "roialign 7x7, box_levels, 1"
"""Part of the key: to be changed when the arithmetic of a vector changes."""


class MapSource(Protocol):
    """What extraction asks of a frozen detector."""

    name: str
    channels: int

    def maps(self, image: Tensor) -> dict[int, Tensor]:
        """Return stride to `(N, C, H, W)` for images `(N, 3, H, W)`."""
        ...


Loader = Callable[[Sequence[int]], Iterable[Batch]]
"""From image ids to `Batch`es of these images, in this order (see `mutineck.detection`)."""


def teachers_of(study: Study, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the teachers whose vectors are kept: all, and the intermediate one if an arm learns from it.

    Raises:
        ExperimentError: a name that is no teacher of this experiment.
    """
    known = study.experiment.merged_teachers
    for name in names or ():
        if name not in known:
            raise ExperimentError(unknown("teacher", name, known))
    return tuple(known if names is None else names)


def extract(
    study: Study, names: Sequence[str] | None = None, *, shard_images: int = SHARD_IMAGES
) -> Outcome[dict[str, dict[str, Any]]]:
    """Write the instance vectors of every teacher, going on where an earlier call was interrupted.

    Under `torchrun` each process writes its own shards and process 0 closes the set.

    Args:
        study: the study at its features stage.
        names: teachers to run; all of them, with the intermediate teacher if an arm needs it, if None.
        shard_images: images a shard.

    Returns:
        Found: for each teacher what `features/TEACHER/index.json` says: counts, what was left out, shards, time.

    Raises:
        FileNotFoundError: a teacher or the data set is missing; the message names the command for it.
        ExperimentError: a name that is no teacher.
    """
    annotations = read_json(study.need("dataset", f"{SPLIT}.json"))
    indices = {}
    with processes() as group:
        for name in teachers_of(study, names):
            key = key_of(study, name, shard_images)
            folder = study.path("features", name)
            indices[name] = extract_teacher(
                partial(load_frozen, study, name),
                partial(loader_of, study),
                annotations,
                folder,
                name=name,
                key=key,
                spec=study.experiment.features,
                shard_images=shard_images,
                group=group,
                device=device_of(study.experiment.resources.device),
            )
    return Outcome(
        indices,
        reads=[study.path("dataset", f"{SPLIT}.json"), *(study.path("teachers", n, "checkpoint.pth") for n in indices)],
        writes=[study.path("features", name, shard) for name, index in indices.items() for shard in index["shards"]],
        results={name: {"rows": index["rows"], **index["left_out"]} for name, index in indices.items()},
    )


def loader_of(study: Study, image_ids: Sequence[int]) -> DataLoader:
    """Return a loader of some images of the training split, in this order."""
    whole = evaluation_loader(study, SPLIT, batch=study.experiment.features.batch)
    dataset = cast(SplitDataset, whole.dataset)
    position = {image["id"]: index for index, image in enumerate(dataset.images)}
    return DataLoader(
        Subset(dataset, [position[image_id] for image_id in image_ids]),
        whole.batch_size,
        collate_fn=whole.collate_fn,
        num_workers=whole.num_workers,
    )


def key_of(study: Study, name: str, shard_images: int = SHARD_IMAGES) -> str:
    """Return the digest of all that a teacher's rows depend on: weights and configs, data set, input, settings."""
    # The intermediate teacher's file holds the merge neck and head; its maps depend on every teacher's too.
    members = [t.name for t in study.experiment.teachers] if name == INTERMEDIATE else []
    settings = settings_of(study.experiment, Job("features"))
    return sha256_json(
        {
            "recipe": RECIPE,
            "checkpoints": [sha256_file(study.need("teachers", m, "checkpoint.pth")) for m in [name, *members]],
            "configs": [sha256_config(study.need("teachers", m, "config.py")) for m in [name, *members]],
            "dataset": sha256_file(study.need("dataset", f"{SPLIT}.json")),
            "input": settings["input"],
            "features": {field: value for field, value in settings["features"].items() if field != "batch"},
            "shard_images": shard_images,
        }
    )


def extract_teacher(
    load: Callable[[], MapSource],
    loader: Loader,
    annotations: dict[str, Any],
    folder: Path,
    *,
    name: str,
    key: str,
    spec: FeaturesSpec,
    shard_images: int = SHARD_IMAGES,
    group: Processes | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Write one teacher's shards that are not there yet, and then its index.

    Args:
        load: makes the detector; not called if every shard is there.
        loader: makes batches of the given images.
        annotations: the split as COCO JSON.
        folder: where the shards go.
        name: the teacher's name, as rows carry it.
        key: digest of everything that the rows depend on.
        spec: what is kept of a target, and which are left out.
        shard_images: images a shard.
        group: the processes that share the work; this one alone if None.
        device: where the detector runs.

    Returns:
        The index.
    """
    group = group or Processes()
    index_file = folder / INDEX
    folder.mkdir(parents=True, exist_ok=True)
    image_ids = sorted(image["id"] for image in annotations["images"])
    ranges = [image_ids[i : i + shard_images] for i in range(0, len(image_ids), shard_images)]
    done, _ = find_shards(folder, key)
    if index_file.is_file() and read_json(index_file)["key"] == key and len(done) == len(ranges):
        return read_json(index_file)
    index_file.unlink(missing_ok=True)  # from here until the end the set is not whole
    mine = {number: ranges[number] for number in range(group.rank, len(ranges), group.size) if number not in done}
    detector = load() if mine else None
    started, images = time.perf_counter(), 0  # what a picture costs, not what opening the weights does
    batches = _rows_by_shard(detector, loader, annotations, mine, spec, device) if detector is not None else ()
    for number, columns, left_out in batches:
        named: dict[str, Any] = {"number": number, "rank": group.rank, "teacher": name, "key": key}
        write_shard(folder, columns, **named, images=len(mine[number]), left_out=left_out)
        images += len(mine[number])
        speed = images / (time.perf_counter() - started)
        print(f"features/{name}: images {images}, {speed:.1f} a second", flush=True)
    seconds = time.perf_counter() - started
    group.wait()
    if group.rank == 0:
        shards, stale = find_shards(folder, key)
        if missing := sorted(set(range(len(ranges))) - set(shards)):
            raise RuntimeError(f"{folder}: shards {missing[:10]} are missing after extraction; run it again")
        for path in stale:
            path.unlink()
        write_json(index_file, _index(name, key, spec, shards, annotations, images, seconds, group.size))
    group.wait()
    return read_json(index_file)


def _index(
    name: str,
    key: str,
    spec: FeaturesSpec,
    shards: dict[int, Shard],
    annotations: dict[str, Any],
    images: int,
    seconds: float,
    size: int,
) -> dict[str, Any]:
    import pyarrow.parquet as pq

    ordered = [shards[number] for number in sorted(shards)]
    width = pq.read_schema(ordered[0].path).field("vector").type.list_size if ordered else 0
    reasons = sorted({reason for shard in ordered for reason in shard.left_out})
    return {
        "teacher": name,
        "key": key,
        "split": SPLIT,
        "pooled": spec.pooled,
        "channels": width // 49 if spec.pooled == "full" else width,
        "categories": [category["name"] for category in annotations["categories"]],
        "images": sum(shard.images for shard in ordered),
        "rows": sum(shard.rows for shard in ordered),
        "left_out": {reason: sum(s.left_out.get(reason, 0) for s in ordered) for reason in reasons},
        "shards": [shard.path.name for shard in ordered],
        "timing": {"images": images, "seconds": round(seconds, 2), "processes": size},
    }


def _rows_by_shard(
    detector: MapSource,
    loader: Loader,
    annotations: dict[str, Any],
    ranges: dict[int, list[int]],
    spec: FeaturesSpec,
    device: torch.device | str,
) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, int]]]:
    """Yield each shard's columns and left-out counts as soon as its last image has passed.

    One loader serves all shards, so that its worker processes start once; a batch may hold images of two.
    """
    shard_of = {image_id: number for number, ids in ranges.items() for image_id in ids}
    boxes = {a["id"]: a["bbox"] for a in annotations["annotations"] if a["image_id"] in shard_of}
    # An image without a target has no row: it need not be read.
    with_targets = {a["image_id"] for a in annotations["annotations"]}
    todo = [image_id for image_id in shard_of if image_id in with_targets]
    pending = sorted(ranges)
    parts: dict[int, list[dict[str, np.ndarray]]] = {number: [] for number in pending}
    left_out: dict[int, dict[str, int]] = {number: {"crowd": 0, "small": 0} for number in pending}
    read = 0
    empty = _columns_of_nothing(detector, spec)
    for batch in loader(todo) if todo else ():
        if list(batch.image_ids) != todo[read : read + len(batch.image_ids)]:
            raise RuntimeError(
                f"teacher {detector.name!r}: the loader gave images {list(batch.image_ids)}, "
                f"expected {todo[read : read + len(batch.image_ids)]}: images must come once and in order"
            )
        read += len(batch.image_ids)
        columns, counts = _rows(detector, batch, spec, boxes, device)
        numbers = np.array([shard_of[i] for i in columns["image_id"].tolist()], np.int64)
        for number in sorted({shard_of[i] for i in batch.image_ids}):
            parts[number].append({name: values[numbers == number] for name, values in columns.items()})
        for image_id, reasons in zip(batch.image_ids, counts, strict=True):
            for reason, count in reasons.items():
                left_out[shard_of[image_id]][reason] += count
        coming = shard_of[todo[read]] if read < len(todo) else pending[-1] + 1
        while pending and pending[0] < coming:
            number = pending.pop(0)
            yield number, _joined(parts.pop(number), empty), left_out[number]
    if read != len(todo):
        raise RuntimeError(f"teacher {detector.name!r}: the loader gave {read} of {len(todo)} images")
    for number in pending:
        yield number, _joined(parts.pop(number), empty), left_out[number]


def _joined(parts: list[dict[str, np.ndarray]], empty: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in [empty, *parts]]) for name in empty}


def _columns_of_nothing(detector: MapSource, spec: FeaturesSpec) -> dict[str, np.ndarray]:
    width = detector.channels * (49 if spec.pooled == "full" else 1)
    names = ("image_id", "annotation_id", "category", "x1", "y1", "x2", "y2", "level", "stride")
    kinds = ("int64", "int64", "int16", "float32", "float32", "float32", "float32", "int8", "int16")
    columns = {name: np.empty(0, kind) for name, kind in zip(names, kinds, strict=True)}
    return columns | {"vector": np.empty((0, width), np.float16)}


@torch.inference_mode()
def _rows(
    detector: MapSource,
    batch: Batch,
    spec: FeaturesSpec,
    original: dict[int, list[float]],
    device: torch.device | str,
) -> tuple[dict[str, np.ndarray], list[dict[str, int]]]:
    """Return the batch's columns, and for each image how many targets were left out, by reason."""
    maps = detector.maps(batch.image.to(device))
    strides = sorted(maps)
    kept, counts = [], []
    for boxes, crowd in zip(batch.boxes, batch.crowd, strict=True):
        small = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) < spec.minimum_size if len(boxes) else crowd
        kept.append(~crowd & ~small)
        counts.append({"crowd": int(crowd.sum()), "small": int((small & ~crowd).sum())})
    targets = [b[keep].to(device) for b, keep in zip(batch.boxes, kept, strict=True)]
    pooled = instance_features(maps, targets)  # (J, C, 7, 7)
    vectors = pooled.flatten(1) if spec.pooled == "full" else pooled.mean(dim=(2, 3))
    level = box_levels(torch.cat(targets), strides).cpu().numpy()
    annotation_ids = torch.cat([a[keep] for a, keep in zip(batch.annotation_ids, kept, strict=True)]).numpy()
    xywh = np.array([original[i] for i in annotation_ids.tolist()], np.float64).reshape(-1, 4)
    images = np.repeat(np.asarray(batch.image_ids, np.int64), [len(b) for b in targets])
    return {
        "image_id": images,
        "annotation_id": annotation_ids.astype(np.int64),
        "category": torch.cat([c[keep] for c, keep in zip(batch.labels, kept, strict=True)]).numpy().astype(np.int16),
        "x1": xywh[:, 0].astype(np.float32),
        "y1": xywh[:, 1].astype(np.float32),
        "x2": (xywh[:, 0] + xywh[:, 2]).astype(np.float32),
        "y2": (xywh[:, 1] + xywh[:, 3]).astype(np.float32),
        "level": level.astype(np.int8),
        "stride": np.asarray(strides, np.int16)[level],
        "vector": vectors.cpu().numpy().astype(np.float16),
    }, counts
