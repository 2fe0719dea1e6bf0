"""A cached view: the same values whatever the cache held, float16's distance from an uncached one, nothing mixed up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mutineck.detection.frozen import FrozenDetector
from mutineck.detectors.cache import TensorCache
from mutineck.detectors.folders import load_frozen
from mutineck.detectors.outputs import BatchOutputs, CachedBatchOutputs, outputs_of
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from tests.detection.tiny import derive, experiment_of, first_batch

FAMILIES = ("faster_rcnn", "cascade_rcnn", "fcos", "gfl")


def frozen(tiny: Study, family: str) -> FrozenDetector:
    return load_frozen(Study(experiment_of((family,)), tiny.root, Job("teachers")), family)


@pytest.fixture(scope="module")
def batch(tiny: Study) -> dict[str, Any]:
    return first_batch(tiny, 3)


@pytest.fixture(scope="module")
def intermediate(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> FrozenDetector:
    from mutineck.teachers.intermediate import prepare_intermediate

    study = derive(
        tiny, tmp_path_factory.mktemp("merged") / "study", intermediate={"mode": "prior", "alignment_images": 4}
    )
    prepare_intermediate(study.at("teachers", "intermediate"))
    return load_frozen(study, "intermediate")


@pytest.fixture
def cache(tmp_path: Path) -> TensorCache:
    return TensorCache(tmp_path / "cache", gib=1)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Each pass of a backbone: the detector's name and the number of pictures."""
    calls = []
    maps = FrozenDetector.maps

    def counted(self: FrozenDetector, image: Tensor) -> dict[int, Tensor]:
        calls.append((self.name, len(image)))
        return maps(self, image)

    monkeypatch.setattr(FrozenDetector, "maps", counted)
    return calls


def looks(view: BatchOutputs, teacher: FrozenDetector) -> list[Tensor]:
    """Everything that a view says of a teacher, in one list."""
    proposals = [value for found in view.proposals(teacher) for value in vars(found).values()]
    return [*view.maps(teacher).values(), *proposals]


def entries(cache: TensorCache) -> set[str]:
    return {str(path.relative_to(cache.folder)) for path in cache.folder.rglob("*.safetensors")}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_found_is_what_was_computed_bit_for_bit(
    tiny: Study, batch: dict[str, Any], cache: TensorCache, runs: list[Any], family: str
) -> None:
    teacher = frozen(tiny, family)
    first = looks(CachedBatchOutputs(batch["img"], batch["img_metas"], cache), teacher)
    assert runs == [(family, 1)] * 3
    again = looks(CachedBatchOutputs(batch["img"], batch["img_metas"], cache), teacher)
    assert len(runs) == 3, "nothing was computed twice"
    assert any(len(value) for value in first[-3:]), "there are proposals to compare"
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride()


def test_a_teacher_goes_to_where_its_kept_maps_are(
    tiny: Study, batch: dict[str, Any], cache: TensorCache, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    CachedBatchOutputs(batch["img"], batch["img_metas"], cache).maps(frozen(tiny, "faster_rcnn"))
    runs.clear()
    afresh, moved = frozen(tiny, "faster_rcnn"), []
    monkeypatch.setattr(FrozenDetector, "to", lambda self, device: moved.append((self, device)))
    CachedBatchOutputs(batch["img"], batch["img_metas"], cache).proposals(afresh)
    assert runs == [] and moved[0] == (afresh, batch["img"].device)


def test_the_other_pictures_of_a_batch_change_nothing(tiny: Study, batch: dict[str, Any], tmp_path: Path) -> None:
    teacher = frozen(tiny, "faster_rcnn")
    together = CachedBatchOutputs(batch["img"], batch["img_metas"], TensorCache(tmp_path / "a", 1)).maps(teacher)
    partly = TensorCache(tmp_path / "b", 1)
    CachedBatchOutputs(batch["img"][1:2], batch["img_metas"][1:2], partly).maps(teacher)
    found = CachedBatchOutputs(batch["img"], batch["img_metas"], partly).maps(teacher)
    assert all(torch.equal(found[stride], level) for stride, level in together.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_it_differs_from_an_uncached_outputs_by_rounding(
    tiny: Study, batch: dict[str, Any], cache: TensorCache, family: str
) -> None:
    teacher = frozen(tiny, family)
    plain = BatchOutputs(batch["img"], batch["img_metas"])
    cached = CachedBatchOutputs(batch["img"], batch["img_metas"], cache)
    for stride, level in plain.maps(teacher).items():
        torch.testing.assert_close(cached.maps(teacher)[stride], level, rtol=2**-11, atol=1e-4)
    for ours, theirs in zip(cached.proposals(teacher), plain.proposals(teacher), strict=True):
        # Rounding may carry a proposal over the least score, and swap neighbours: the best ones stay.
        best = [p.scores.sort(descending=True).values[:5] for p in (ours, theirs)]
        torch.testing.assert_close(best[0], best[1], rtol=0, atol=5e-3)


def test_merged_maps_come_from_the_cache_without_any_teacher(
    batch: dict[str, Any], intermediate: FrozenDetector, cache: TensorCache, runs: list[Any]
) -> None:
    first = CachedBatchOutputs(batch["img"], batch["img_metas"], cache).merged(intermediate)
    assert sorted(runs) == [("faster_rcnn", 1)] * 3 + [("retinanet", 1)] * 3
    again = CachedBatchOutputs(batch["img"], batch["img_metas"], cache).merged(intermediate)
    assert len(runs) == 6
    plain = BatchOutputs(batch["img"], None).merged(intermediate)
    for stride, level in plain.items():
        assert torch.equal(first[stride], again[stride])
        torch.testing.assert_close(first[stride], level, rtol=2**-9, atol=2e-3)


def moved_weight(study: Study) -> FrozenDetector:
    """A teacher that differs in one weight, in a folder of its own."""
    folder = study.path("teachers", "faster_rcnn")
    content = torch.load(folder / "checkpoint.pth", weights_only=True)
    content["state_dict"]["neck.fpn_convs.0.conv.bias"][0] += 1e-3
    config = (folder / "config.py").read_text()
    folder.unlink()
    folder.mkdir()
    torch.save(content, folder / "checkpoint.pth")
    (folder / "config.py").write_text(config)
    return load_frozen(study, "faster_rcnn")


def other_config(study: Study) -> FrozenDetector:
    """A teacher of the same weights whose head keeps other boxes."""
    folder = study.path("teachers", "faster_rcnn")
    source = folder.resolve()
    config = (source / "config.py").read_text()
    assert "iou_threshold=0.7" in config
    folder.unlink()
    folder.mkdir()
    (folder / "checkpoint.pth").symlink_to(source / "checkpoint.pth")
    (folder / "config.py").write_text(config.replace("iou_threshold=0.7", "iou_threshold=0.6"))
    return load_frozen(study, "faster_rcnn")


@pytest.mark.parametrize("change", [moved_weight, other_config])
def test_teachers_that_differ_share_no_entry(
    tiny: Study, batch: dict[str, Any], cache: TensorCache, tmp_path: Path, change: Callable[[Study], FrozenDetector]
) -> None:
    looks(CachedBatchOutputs(batch["img"], batch["img_metas"], cache), frozen(tiny, "faster_rcnn"))
    before = entries(cache)
    looks(CachedBatchOutputs(batch["img"], batch["img_metas"], cache), change(derive(tiny, tmp_path / "study")))
    assert len(entries(cache)) == 2 * len(before)


PICTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "flipped": lambda image: image.flip(3),
    "padded": lambda image: torch.nn.functional.pad(image, (0, 32)),
    "one_pixel": lambda image: image.clone().index_fill_(3, torch.tensor([5]), 0.25),
    "another": lambda image: image.roll(1, 0),
}


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_pictures_that_differ_share_no_entry(
    tiny: Study, batch: dict[str, Any], cache: TensorCache, runs: list[Any], name: str
) -> None:
    teacher = frozen(tiny, "retinanet")
    CachedBatchOutputs(batch["img"][:1], None, cache).maps(teacher)
    other = PICTURES[name](batch["img"])[:1]
    found = CachedBatchOutputs(other, None, cache).maps(teacher)
    assert len(runs) == 2
    for stride, level in teacher.maps(other).items():
        assert torch.equal(found[stride], level.half().float())


def test_proposals_are_of_the_picture_and_not_of_its_padding(
    tiny: Study, batch: dict[str, Any], cache: TensorCache
) -> None:
    teacher = frozen(tiny, "faster_rcnn")
    image, meta = batch["img"][:1], batch["img_metas"][0]
    smaller = meta | {"img_shape": (48, 64, 3)}
    whole = CachedBatchOutputs(image, [meta], cache).proposals(teacher)[0].boxes
    part = CachedBatchOutputs(image, [smaller], cache).proposals(teacher)[0].boxes
    assert whole[:, 2].max() > 64 >= part[:, 2].max()


def test_values_beyond_float16_are_kept_whole(tiny: Study, batch: dict[str, Any], cache: TensorCache) -> None:
    teacher = frozen(tiny, "retinanet")
    teacher.model.neck.fpn_convs[0].conv.bias.data[0] = 1e6
    for _ in range(2):
        found = CachedBatchOutputs(batch["img"], None, cache).maps(teacher)
        assert found[8].isfinite().all() and found[8][:, 0].min() > 65504
        assert torch.equal(found[16], found[16].half().float()), "other levels are rounded all the same"


def test_a_outputs_is_cached_where_there_is_a_cache(batch: dict[str, Any], cache: TensorCache) -> None:
    assert (
        type(outputs_of(batch["img"], None, cache)) is CachedBatchOutputs
        and type(outputs_of(batch["img"], None, None)) is BatchOutputs
    )


@pytest.mark.parametrize("cached", [True, False])
def test_proposals_without_metas_are_refused(
    tiny: Study, batch: dict[str, Any], cache: TensorCache, cached: bool
) -> None:
    view = outputs_of(batch["img"], None, cache if cached else None)
    with pytest.raises(RuntimeError, match="img_metas"):
        view.proposals(frozen(tiny, "retinanet"))
