"""The cache's promises: sound entries or none, bounded, safe among processes; chosen where it can pay."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mutineck.detection.configs import pipelines
from mutineck.detectors.cache import GIB, TensorCache, cache_settings, checksum, digest, expected_bytes
from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import Job
from mutineck.study.settings import settings_of
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import read_json
from tests.detection.tiny import SIZE, derive

ENTRY = {
    "4": torch.arange(24, dtype=torch.float16).view(2, 3, 4),
    "8": torch.zeros(2, 1, 0),
    "labels": torch.tensor([3, 1]),
}


def same(a: dict[str, torch.Tensor] | None, b: dict[str, torch.Tensor]) -> bool:
    return (
        a is not None and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in b)
    )


@pytest.fixture
def cache(tmp_path: Path) -> TensorCache:
    return TensorCache(tmp_path / "cache", gib=1)


def test_an_entry_comes_back_as_it_was(cache: TensorCache) -> None:
    assert cache.get("teacher/maps/ab") is None
    cache.put("teacher/maps/ab", ENTRY)
    assert same(cache.get("teacher/maps/ab"), ENTRY)
    assert same(TensorCache(cache.folder, 1).get("teacher/maps/ab"), ENTRY)
    assert [p.name for p in cache.folder.rglob("*") if p.is_file()] == ["ab.safetensors"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "header_cut": lambda content: content[:20],
    "values_cut": lambda content: content[:-3],
    "value_changed": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "shape_changed": lambda content: content.replace(b"[2,3,4]", b"[2,4,3]"),
    "name_changed": lambda content: content.replace(b'"labels"', b'"libels"'),
    "no_checksum": lambda content: content.replace(b'"checksum"', b'"checksam"'),
    "something_else": lambda content: b"PK\x03\x04" * 100,
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_entry_is_not_used_and_is_written_again(cache: TensorCache, name: str) -> None:
    cache.put("a", ENTRY)
    content = cache.path("a").read_bytes()
    damaged = DAMAGES[name](content)
    assert damaged != content
    cache.path("a").write_bytes(damaged)
    assert cache.get("a") is None
    cache.put("a", ENTRY)
    assert same(cache.get("a"), ENTRY)


def test_it_keeps_to_its_bound_and_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"maps": torch.zeros(1000, dtype=torch.float16)}
    cache = TensorCache(tmp_path / "cache", gib=10_000 / GIB)
    for index in range(9):
        cache.put(str(index), rows)
    files = list(cache.folder.iterdir())
    assert 2 <= len(files) < 9 and sum(f.stat().st_size for f in files) <= 10_000
    assert capsys.readouterr().out.count("resources.cache_gib") == 1
    assert same(cache.get("0"), rows), "what is there still serves"
    other = TensorCache(cache.folder, gib=10_000 / GIB)
    other.put("more", rows)
    assert other.closed and not other.path("more").exists(), "what others wrote counts"


def test_a_folder_that_takes_no_file_costs_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = TensorCache(tmp_path / "cache", 1)
    cache.put("a", ENTRY)
    cache.put("b", ENTRY)
    assert capsys.readouterr().out.count("cannot be written") == 1 and cache.get("a") is None


def write_often(folder: Path, worker: int) -> None:
    cache = TensorCache(folder, 1)
    for turn in range(60):
        for key in range(4):
            cache.put(f"shared/{key}", {"maps": torch.full((5000,), float(key))})
            found = cache.get(f"shared/{key}")
            assert found is not None and bool((found["maps"] == key).all()), (worker, turn, key)


def test_processes_write_the_same_entries_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_often, args=(tmp_path / "cache", n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(p.name for p in (tmp_path / "cache/shared").iterdir()) == [f"{k}.safetensors" for k in range(4)]


def test_hashes_see_values_shapes_types_and_more() -> None:
    base = torch.arange(6, dtype=torch.float32)
    others = [base.view(2, 3), base.view(3, 2), base.int(), base + 1e-6, base.flip(0)]
    found = {digest(t) for t in (base, *others)} | {digest(base, "cpu")}
    assert len(found) == 7
    assert digest(base.view(2, 3).T) == digest(base.view(2, 3).T.contiguous())
    assert checksum({"a": base}) != checksum({"b": base}) and checksum({"a": base}) != checksum({"a": base.view(2, 3)})


def study_of(tiny: Study, root: Path, **resources: Any) -> Study:
    return derive(tiny, root, resources={"device": "cpu", **resources})


def test_auto_keeps_what_fits(tiny: Study, tmp_path: Path) -> None:
    study = study_of(tiny, tmp_path / "s")
    assert cache_settings(study) == {"folder": str(tmp_path / "s" / "cache"), "gib": 4}
    need = expected_bytes(study, 2)
    assert cache_settings(study_of(tiny, tmp_path / "t", cache_gib=0.99 * need / GIB)) is None
    assert cache_settings(study_of(tiny, tmp_path / "u", cache_gib=1.01 * need / GIB)) is not None
    assert cache_settings(study_of(tiny, tmp_path / "v", cache="on", cache_gib=0.99 * need / GIB)) is not None
    assert cache_settings(study_of(tiny, tmp_path / "w", cache="off")) is None


def test_the_published_study_is_too_large(tiny: Study, tmp_path: Path) -> None:
    experiment = load_experiment("coco", ["dataset.root=x"])
    (tmp_path / "dataset").mkdir()
    pictures = [{"width": 640, "height": 480}] * 118_287
    (tmp_path / "dataset" / "train.json").write_text(str({"images": pictures}).replace("'", '"'))
    assert cache_settings(Study(experiment, tmp_path, Job("distillation"))) is None


def test_the_estimate_bounds_what_is_written(tiny: Study, tmp_path: Path) -> None:
    from mutineck.detectors.folders import load_frozen
    from mutineck.detectors.outputs import CachedBatchOutputs
    from tests.detection.tiny import first_batch

    study = study_of(tiny, tmp_path / "s")
    cache = TensorCache(**cache_settings(study))  # type: ignore[arg-type]
    batch = first_batch(tiny, 4)
    view = CachedBatchOutputs(batch["img"], None, cache)
    for name in ("faster_rcnn", "retinanet"):
        view.maps(load_frozen(study, name))
    written = sum(f.stat().st_size for f in cache.folder.rglob("*.safetensors"))
    pictures = len(read_json(study.need("dataset", "train.json"))["images"])
    assert 0.5 < expected_bytes(study, 1) / (written / 4 * pictures) < 1.5


RANDOM = {
    "photometric": {"type": "PhotoMetricDistortion"},
    "scales": {"type": "Resize", "img_scale": [(128, 96), (160, 96)], "keep_ratio": True},
    "ratio": {"type": "Resize", "img_scale": SIZE, "ratio_range": (0.8, 1.2), "keep_ratio": True},
    "crop": {"type": "RandomCrop", "crop_size": (64, 64)},
    "flips": {"type": "RandomFlip", "flip_ratio": [0.3, 0.3], "direction": ["horizontal", "vertical"]},
}


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_augmentation_that_draws_anew_is_refused(tiny: Study, tmp_path: Path, name: str) -> None:
    study = study_of(tiny, tmp_path / "s", cache="on")
    pipeline = [RANDOM[name], *pipelines(study.experiment.input)[0]]
    with pytest.raises(ExperimentError, match=f"resources.cache.*{RANDOM[name]['type']}"):
        cache_settings(study, pipeline)
    assert cache_settings(study_of(tiny, tmp_path / "t"), pipeline) is None
    assert cache_settings(study) is not None


@pytest.mark.parametrize("change", [{"multiscale": (0.5, 1.5)}, {"photometric": True}, {"crop": 0.5}])
def test_an_experiment_that_augments_keeps_nothing_and_says_so(
    tiny: Study, tmp_path: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tiny, tmp_path / "s")
    augmented = study.experiment.model_copy(update={"input": study.experiment.input.model_copy(update=change)})
    assert cache_settings(Study(augmented, study.root, study.job)) is None
    assert "teacher cache: not used, since trainings see every picture changed anew" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "meaning"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'off'", "off"), ("yes", "on")]
)
def test_yamls_truth_values_are_understood(word: str, meaning: str) -> None:
    assert load_experiment("shapes", [f"resources.cache={word}"]).resources.cache == meaning


def test_a_choice_is_no_setting_of_any_stage() -> None:
    plain, cached = (
        load_experiment("shapes"),
        load_experiment("shapes", ["resources.cache=on", "resources.cache_gib=1"]),
    )
    for stage, item in [("teachers", "faster"), ("teachers", "intermediate"), ("distillation", "mutineck/seed0")]:
        assert settings_of(plain, Job(stage, item)) == settings_of(cached, Job(stage, item))
