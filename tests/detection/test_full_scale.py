"""The full-size experiments build from zoo configs, with random weights, and take a step at a reduced side length."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.full_scale import EXPERIMENTS, prepare, train_steps


def coco_folder(folder: Path) -> Path:
    """Write COCO's layout: a few noisy pictures, all 80 categories, ids with gaps."""
    from mmdet.datasets import CocoDataset

    random = np.random.default_rng(0)
    categories = [{"id": k + 1 + k // 10, "name": name} for k, name in enumerate(CocoDataset.CLASSES)]
    for split, first in (("train2017", 1), ("val2017", 100)):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for n in range(first, first + 4):
            name = f"{n:012d}.jpg"
            cv2.imwrite(str(folder / split / name), random.integers(0, 256, (96, 160, 3), dtype=np.uint8))
            images.append({"id": n, "file_name": name, "width": 160, "height": 96})
        for k, category in enumerate(categories):
            x, y, w, h = (float(v) for v in (*random.integers(0, 60, 2), *random.integers(12, 36, 2)))
            annotations.append(
                {
                    "id": first * 1000 + k,
                    "image_id": first + k % 4,
                    "category_id": category["id"],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for teachers' weights that several studies share."""
    return tmp_path_factory.mktemp("zoo")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_full_size_study_takes_a_step(tmp_path: Path, zoo: Path, name: str) -> None:
    pictures = coco_folder(tmp_path / "pictures")
    study = prepare(name, pictures, tmp_path / "study", side=160, device="cpu", zoo=zoo)
    found = train_steps(study, batch=1)  # its 512 regions a picture take the time, however small it is
    assert found["categories"] == (20 if name == "voc" else 80)
    assert found["unused"] == []
    assert {"loss_kd_centre", "loss_kd_direction", "loss_kd_global"} <= set(found["terms"])
    assert any(term.startswith("merge.") for term in found["terms"])
    assert all(math.isfinite(value) for value in found["terms"].values())
    # As published: 41.5 million weights of Faster R-CNN R50 and 37.7 of RetinaNet for 80 categories.
    millions = {"coco": 41.76, "coco_fcos": 41.76, "coco_retina": 37.97, "voc": 41.45}
    assert found["parameters"] / 1e6 == pytest.approx(millions[name], abs=0.05)
