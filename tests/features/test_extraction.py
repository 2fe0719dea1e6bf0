from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mutineck.detection.distributed import Processes
from mutineck.features.extraction import extract_teacher, key_of, teachers_of
from mutineck.features.shards import load_features
from mutineck.study.experiment import FeaturesSpec, load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.errors import ExperimentError
from mutineck.system.files import write_bytes, write_json

IMAGES = 11


class RampDetector:
    """Maps whose value is a cell's own centre in pixels, so that a pooled vector is known in closed form."""

    name = "ramp"
    channels = 3

    def __init__(self):
        self.calls = 0

    def maps(self, image):
        self.calls += 1
        found = {}
        for stride in (4, 8, 16):
            rows, columns = image.shape[2] // stride, image.shape[3] // stride
            y, x = torch.meshgrid(
                (torch.arange(rows) + 0.5) * stride, (torch.arange(columns) + 0.5) * stride, indexing="ij"
            )
            level = torch.full_like(x, stride)
            found[stride] = torch.stack([x, y, level]).expand(len(image), -1, -1, -1) + image[:, :1, :1, :1]
        return found


def annotations():
    """Eleven images of 256x256: image 5 has no target, image 6 a crowd, image 7 a tiny one."""
    rows = []
    for image_id in range(1, IMAGES + 1):
        for place in range(0 if image_id == 5 else image_id % 3 + 1):
            side = 4 if image_id == 7 and place == 0 else 40 * (place + 1)
            rows.append(
                {
                    "id": len(rows) + 100,
                    "image_id": image_id,
                    "category_id": place + 1,
                    "bbox": [20.5, 30.0, side, side],
                    "iscrowd": int(image_id == 6 and place == 0),
                }
            )
    images = [{"id": image_id} for image_id in range(1, IMAGES + 1)]
    return {
        "images": images,
        "annotations": rows,
        "categories": [{"id": i, "name": n} for i, n in enumerate("abc", 1)],
    }


def loader_of(content, batch=4, scale=1.0):
    def load(image_ids):
        for start in range(0, len(image_ids), batch):
            some = list(image_ids[start : start + batch])
            rows = [[a for a in content["annotations"] if a["image_id"] == i] for i in some]
            xywh = [torch.tensor([a["bbox"] for a in r], dtype=torch.float32).reshape(-1, 4) for r in rows]
            yield SimpleNamespace(
                image=torch.zeros(len(some), 3, 256, 256),
                boxes=[torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], dim=1) * scale for b in xywh],
                labels=[torch.tensor([a["category_id"] - 1 for a in r], dtype=torch.int64) for r in rows],
                annotation_ids=[torch.tensor([a["id"] for a in r], dtype=torch.int64) for r in rows],
                crowd=[torch.tensor([bool(a["iscrowd"]) for a in r], dtype=torch.bool) for r in rows],
                image_ids=some,
            )

    return load


def run(folder, *, detector=None, content=None, key="k", spec=None, shard_images=4, **options):
    content = content or annotations()
    return extract_teacher(
        lambda: detector or RampDetector(),
        options.pop("loader", loader_of(content)),
        content,
        folder,
        name="ramp",
        key=key,
        spec=spec or FeaturesSpec(),
        shard_images=shard_images,
        **options,
    )


def test_rows_counts_and_vectors(tmp_path):
    content = annotations()
    index = run(tmp_path)
    rows = load_features(tmp_path)
    expected = [a for a in content["annotations"] if not a["iscrowd"] and a["bbox"][2] >= 8]
    assert rows["annotation_id"].tolist() == [a["id"] for a in expected]
    assert rows["image_id"].tolist() == [a["image_id"] for a in expected]
    assert rows["category"].tolist() == [a["category_id"] - 1 for a in expected]
    assert index["rows"] == len(expected)
    assert index["images"] == IMAGES
    assert index["left_out"] == {"crowd": 1, "small": 1}
    assert len(index["shards"]) == 3
    # The mean of a linear map over a box is its value at the box's centre.
    centre = np.array([[a["bbox"][0] + a["bbox"][2] / 2, a["bbox"][1] + a["bbox"][3] / 2] for a in expected])
    np.testing.assert_allclose(rows["vector"][:, :2].astype(float), centre, atol=0.6)
    np.testing.assert_array_equal(rows["vector"][:, 2].astype(int), rows["stride"])
    np.testing.assert_array_equal(rows["stride"], np.array([4, 8, 16])[rows["level"]])
    # sides 40, 80, 120: sqrt(wh) / 56 lies below 1, above 1, above 2
    sides = np.array([a["bbox"][2] for a in expected])
    np.testing.assert_array_equal(rows["stride"], np.select([sides < 56, sides < 112], [4, 4], 8))
    np.testing.assert_array_equal(rows["x2"], [a["bbox"][0] + a["bbox"][2] for a in expected])


def test_boxes_stay_in_pixels_of_the_original_image(tmp_path):
    content = annotations()
    run(tmp_path, loader=loader_of(content, scale=0.5), spec=FeaturesSpec(minimum_size=21))
    rows = load_features(tmp_path)
    assert (rows["x1"] == 20.5).all()
    # 40 pixels are 20 in the network's input: below the least size, which counts there
    assert (rows["x2"] - rows["x1"]).min() == 80


def test_full_vectors_hold_every_cell(tmp_path):
    index = run(tmp_path / "full", spec=FeaturesSpec(pooled="full"))
    run(tmp_path / "mean")
    full, mean = load_features(tmp_path / "full")["vector"], load_features(tmp_path / "mean")["vector"]
    assert index["channels"] == 3
    assert full.shape == (len(mean), 3 * 49)
    np.testing.assert_allclose(full.reshape(-1, 3, 49).astype(float).mean(2), mean.astype(float), atol=0.2)


def test_batch_size_and_shard_size_change_nothing(tmp_path):
    content = annotations()
    run(tmp_path / "a")
    run(tmp_path / "b", loader=loader_of(content, batch=3), shard_images=2)
    one, two = load_features(tmp_path / "a"), load_features(tmp_path / "b")
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_nothing_to_do_loads_no_detector(tmp_path):
    first = run(tmp_path)
    bytes_before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse():
        raise AssertionError("the detector was loaded")

    again = extract_teacher(
        refuse,
        loader_of(annotations()),
        annotations(),
        tmp_path,
        name="ramp",
        key="k",
        spec=FeaturesSpec(),
        shard_images=4,
    )
    assert again == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == bytes_before


def test_interrupted_extraction_goes_on_at_the_missing_shard(tmp_path):
    whole = tmp_path / "whole"
    run(whole)
    content = annotations()

    def dies(image_ids):
        for number, batch in enumerate(loader_of(content)(image_ids)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run(broken, loader=dies)
    assert not (broken / "index.json").exists()
    finished = sorted(path.name for path in broken.glob("part-*"))
    assert 0 < len(finished) < 3
    stamps = {name: (broken / name).stat().st_mtime_ns for name in finished}
    asked = []

    def watched(image_ids):
        asked.extend(image_ids)
        yield from loader_of(content)(image_ids)

    run(broken, loader=watched)
    assert {name: (broken / name).stat().st_mtime_ns for name in finished} == stamps
    assert asked == [9, 10, 11]
    for path in whole.glob("part-*"):
        assert (broken / path.name).read_bytes() == path.read_bytes()


def test_another_checkpoint_replaces_every_shard(tmp_path):
    run(tmp_path, shard_images=2)
    index = run(tmp_path, key="new weights", shard_images=4)
    assert sorted(path.name for path in tmp_path.glob("part-*")) == index["shards"]
    assert len(index["shards"]) == 3


def test_processes_share_the_shards(tmp_path):
    class Turn(Processes):
        def wait(self):
            """Here one process runs after the other."""

    with pytest.raises(RuntimeError, match="shards"):
        run(tmp_path / "two", group=Turn(0, 2))  # process 1 wrote nothing yet
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "two", group=Turn(1, 2))  # process 0 has not closed the set
    index = run(tmp_path / "two", group=Turn(0, 2))
    assert index["shards"] == ["part-0000-0000.parquet", "part-0001-0001.parquet", "part-0000-0002.parquet"]
    run(tmp_path / "one")
    one, two = load_features(tmp_path / "one"), load_features(tmp_path / "two")
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("spoil", ["reordered", "short"])
def test_loader_that_skips_or_reorders_is_refused(tmp_path, spoil):
    def load(image_ids):
        given = list(image_ids)
        yield from loader_of(annotations())(given[::-1] if spoil == "reordered" else given[:-1])

    with pytest.raises(RuntimeError, match="loader gave"):
        run(tmp_path, loader=load)


def test_no_gradient_is_kept(tmp_path):
    class Learning(RampDetector):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def maps(self, image):
            return {stride: value * self.weight for stride, value in super().maps(image).items()}

    detector = Learning()
    run(tmp_path, detector=detector)
    assert detector.weight.grad is None


def study_with_checkpoints(root, overrides=()):
    study = Study(load_experiment("smoke", overrides), root, Job("features"))
    write_json(root / "dataset" / "train.json", annotations())
    for name in ("faster", "retina"):
        write_bytes(root / "teachers" / name / "checkpoint.pth", name.encode())
        write_teacher_config(root, name)
    return study


def write_teacher_config(root, name, mean=0.0, folder="here"):
    text = f"model = dict(type='A', teachers=[dict(folder='{folder}')])\nnormalisation = dict(mean=[{mean}])\n"
    write_bytes(root / "teachers" / name / "config.py", text.encode())


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ("batch", False),
        ("minimum_size", True),
        ("input", True),
        ("checkpoint", True),
        ("other_checkpoint", False),
        ("config", True),
        ("folder_in_config", False),
        ("dataset", True),
    ],
)
def test_key_follows_what_the_rows_depend_on(tmp_path, change, moves):
    before = key_of(study_with_checkpoints(tmp_path), "faster")
    settings = {
        "batch": "features.batch=2",
        "minimum_size": "features.minimum_size=9",
        "input": "input.scale=[128, 96]",
    }
    study = study_with_checkpoints(tmp_path, [settings[change]] if change in settings else [])
    if change.endswith("checkpoint"):
        write_bytes(
            tmp_path / "teachers" / ("faster" if change == "checkpoint" else "retina") / "checkpoint.pth",
            b"new",
        )
    if "config" in change:
        write_teacher_config(tmp_path, "faster", **({"mean": 1.0} if change == "config" else {"folder": "there"}))
    if change == "dataset":
        content = annotations()
        content["annotations"].pop()
        write_json(tmp_path / "dataset" / "train.json", content)
    assert (key_of(study, "faster") != before) == moves


def test_teachers_include_the_intermediate_one_where_an_arm_needs_it(tmp_path):
    assert teachers_of(study_with_checkpoints(tmp_path)) == ("faster", "retina", "intermediate")
    plain = study_with_checkpoints(tmp_path, ["arms={student: null, 'fgd:faster': null}"])
    assert teachers_of(plain) == ("faster", "retina")
    with pytest.raises(ExperimentError, match="did you mean 'retina'"):
        teachers_of(plain, ["retinna"])


def test_index_is_json_that_says_what_was_done(tmp_path):
    run(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["timing"]["images"] == IMAGES
    assert index["categories"] == ["a", "b", "c"]
