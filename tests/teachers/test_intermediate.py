"""The intermediate teacher, trained for real on a small scale: two specialists become one that knows both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mutineck.study.experiment import Experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import read_json, write_json
from mutineck.teachers import intermediate, prepare
from tests.detection.tiny import SCHEDULE, derive, detector, experiment_of

COLOURS = {"blue": (220, 60, 40), "red": (40, 50, 220)}
FLOOR = 0.3


def write_squares(root: Path, counts: dict[str, int]) -> None:
    """Write a data set that a small detector learns in seconds: coloured squares on noise."""
    random = np.random.default_rng(0)
    (root / "pictures").mkdir(parents=True)
    names = list(COLOURS)
    for split, count in counts.items():
        images, annotations = [], []
        for n in range(1, count + 1):
            picture = random.integers(70, 150, (64, 96, 3), dtype=np.uint8)
            for slot in range(3):
                label, side = int(random.integers(len(names))), int(random.integers(18, 28))
                x, y = slot * 32 + int(random.integers(0, 32 - side)), int(random.integers(0, 64 - side))
                picture[y : y + side, x : x + side] = COLOURS[names[label]]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": n,
                        "category_id": label + 1,
                        "iscrowd": 0,
                        "bbox": [float(x), float(y), float(side), float(side)],
                        "area": float(side * side),
                    }
                )
            cv2.imwrite(str(root / "pictures" / f"{split}{n}.png"), picture)
            images.append({"id": n, "file_name": f"{split}{n}.png", "width": 96, "height": 64})
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
        write_json(
            root / "dataset" / f"{split}.json", {"images": images, "annotations": annotations, "categories": categories}
        )
    write_json(root / "dataset" / "dataset.json", {"categories": names, "image_root": "pictures", "masks": "none"})


def ap(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {r["category"]: r["value"] for r in rows if r["metric"] == "AP" and r["split"] == "val"}


@pytest.mark.slow
def test_specialists_with_disjoint_labels_merge_into_one_that_knows_both(tmp_path: Path) -> None:
    small = detector("faster_rcnn", base_channels=16, head_channels=64)
    rate = {"epochs": 8, "batch": 4, "learning_rate": 0.02, "warmup": 30, "steps": [0.8], "clip": 10.0}
    fields = experiment_of().model_dump(exclude_unset=True) | {
        "input": {"scale": [96, 64]},
        "teachers": [
            {"name": f"of_{name}", "detector": small, "categories": [name], "schedule": rate, "seed": seed}
            for seed, name in enumerate(COLOURS)
        ],
        "intermediate": {"gate": 0.0, "alignment_images": 40, "schedule": rate | {"epochs": 5, "learning_rate": 0.01}},
        "arms": {"student": None},
        "student": {"detector": small},
    }
    study = Study(Experiment.model_validate(fields), tmp_path / "study", Job("dataset"))
    write_squares(study.root, {"train": 80, "val": 20})
    alone = {name: ap(prepare(study.at("teachers", f"of_{name}")).found) for name in COLOURS}
    merged = ap(prepare(study.at("teachers", "intermediate")).found)
    for name in COLOURS:
        assert set(alone[name]) == {name}, "a specialist is measured on what it knows"
        assert alone[name][name] >= FLOOR, f"the specialist of {name} has learnt nothing"
        assert merged[name] >= FLOOR, f"what the specialist of {name} knows got lost"
    states = read_json(study.path("teachers", "intermediate", "states.json"))
    assert len(states["bbox_mAP"]) == 6, "the start and five epochs"
    assert states["bbox_mAP"][states["kept"]] == max(states["bbox_mAP"])
    alignment = read_json(study.path("teachers", "intermediate", "alignment.json"))
    assert {row["teacher"] for row in alignment} == {"of_red"} and {row["stride"] for row in alignment} == {
        4,
        8,
        16,
        32,
        64,
    }
    assert all(0 < row["explained"] < 1 for row in alignment)


@pytest.mark.slow
def test_the_best_state_is_the_teacher_also_of_a_training_that_was_stopped(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmdet.core.evaluation.eval_hooks import EvalHook

    import tests.detection.stopping  # registers the hook

    reached: dict[int, dict[str, torch.Tensor]] = {}

    def evaluate(_: Any, runner: Any, __: Any) -> None:
        epoch = runner.epoch + (runner.mode == "train")
        reached[epoch] = {name: value.clone() for name, value in runner.model.module.state_dict().items()}
        runner.log_buffer.output["bbox_mAP"] = (0.1, 0.3, 0.2, 0.1)[epoch]
        runner.log_buffer.ready = True

    monkeypatch.setattr(EvalHook, "evaluate", evaluate)
    (tmp_path / "armed").write_text("2 1 raise")
    stopping = {"type": "StoppingHook", "armed": str(tmp_path / "armed"), "steps": str(tmp_path / "steps")}
    monkeypatch.setattr(intermediate, "HOOKS", (*intermediate.HOOKS, stopping))
    schedule = {**SCHEDULE, "epochs": 3}
    spec = {"alignment_images": 4, "schedule": schedule}
    study = derive(tiny, tmp_path / "s", arms=["mutineck"], intermediate=spec).at("teachers", "intermediate")
    with pytest.raises(tests.detection.stopping.Stopped):
        prepare(study)
    prepare(study)
    assert read_json(study.folder / "states.json") == {"bbox_mAP": [0.1, 0.3, 0.2, 0.1], "kept": 1}
    kept = torch.load(study.folder / "checkpoint.pth", weights_only=True)["state_dict"]
    assert kept.keys() == reached[1].keys()
    assert all(torch.equal(value, reached[1][name]) for name, value in kept.items())
    assert any(not torch.equal(value, reached[3][name]) for name, value in kept.items())
