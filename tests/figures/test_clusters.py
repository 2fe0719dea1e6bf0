from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from mutineck.clusters import embedding as layout
from mutineck.clusters.clustering import cluster
from mutineck.clusters.embedding import embed, project
from mutineck.features.moments import summarise
from mutineck.figures import clusters
from mutineck.figures.style import category_colours, save_figure
from mutineck.study.experiment import load_experiment
from mutineck.study.jobs import Job
from mutineck.study.stage import Study
from mutineck.system.files import write_json
from tests.features.planted import CATEGORIES, plant

DRAWINGS = ("embedding", "projections", "cosines", "exemplars")
TARGETS = 60


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two teachers' features of planted categories, their clusters, and the pictures they are of."""
    root = tmp_path_factory.mktemp("outputs") / "tiny"
    study = Study(load_experiment("smoke", ["clusters.sample_per_category=10"]), root, Job("figures"))
    draw = np.random.default_rng(0)
    category = np.arange(TARGETS) % 3
    latent = 4 * np.eye(5)[category] + draw.normal(size=(TARGETS, 5))
    for name, width in (("faster", 8), ("retina", 12)):
        plant(root / "features" / name, 3 + latent @ draw.normal(size=(5, width)), category, teacher=name)
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(1, TARGETS // 4 + 1)]
    (root / "pictures").mkdir()
    for image in images:
        cv2.imwrite(str(root / "pictures" / image["file_name"]), draw.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    annotations = [
        {
            "id": i + 1,
            "image_id": i // 4 + 1,
            "category_id": int(c) + 1,
            "bbox": [10, 12, 30, 32],
            "iscrowd": 0,
        }
        for i, c in enumerate(category)
    ]
    names = [{"id": i + 1, "name": name} for i, name in enumerate(CATEGORIES)]
    write_json(root / "dataset" / "train.json", {"images": images, "annotations": annotations, "categories": names})
    write_json(
        root / "dataset" / "dataset.json",
        {"categories": list(CATEGORIES), "image_root": "pictures", "splits": {}},
    )
    summarise(study, ["faster", "retina"])
    cluster(study)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_umap", lambda vectors, neighbours, seed: project(vectors, "pca", seed))
        embed(study)
    return study


def save(study, name):
    drawing = getattr(clusters, name)(study)
    return save_figure(
        study,
        name,
        drawing.figure,
        drawing.data,
        title=drawing.title,
        caption=drawing.caption,
        alt=drawing.alt,
    )


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawn_twice_gives_the_same_bytes(study, name):
    files = [save(study, name).with_suffix(suffix) for suffix in (".png", ".pdf", ".csv")]
    before = [file.read_bytes() for file in files]
    save(study, name)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("name", DRAWINGS)
def test_words_go_with_the_picture(study, name):
    drawing = getattr(clusters, name)(study)
    assert drawing.title
    assert len(drawing.caption) > 60
    assert len(drawing.alt) > 40
    assert not drawing.data.empty


@pytest.mark.parametrize("name", DRAWINGS)
def test_missing_inputs_name_the_command(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="mutineck run"):
        getattr(clusters, name)(Study(load_experiment("smoke"), tmp_path, Job("figures")))


def test_colour_is_the_category_and_marker_the_teacher(study):
    drawing = clusters.embedding(study)
    axis = drawing.figure.axes[2]  # all teachers
    expected = {colour.lower() for colour in category_colours(CATEGORIES).values()}
    shown = set()
    for collection in axis.collections[:2]:
        shown |= {"#" + "".join(f"{round(255 * v):02x}" for v in face[:3]) for face in collection.get_facecolors()}
    assert shown == expected
    shapes = [collection.get_paths()[0].vertices.shape for collection in axis.collections[:2]]
    assert shapes[0] != shapes[1]


def test_sample_size_is_stated(study):
    drawing = clusters.embedding(study)
    labels = [text.get_text() for legend in drawing.figure.legends for text in legend.get_texts()]
    assert {f"{name} (10)" for name in CATEGORIES} <= set(labels)
    assert "10 instances of each category" in drawing.caption


@pytest.mark.parametrize(
    ("counts", "said"),
    [((200, 200), "200 instances of each category"), ((200, 7), "7 to 200 instances a category")],
    ids=["alike", "different"],
)
def test_sizes_in_words(counts, said):
    assert clusters._sizes(pd.Series(counts)).startswith(said)


def test_titles_hold_the_mean_between_categories(study):
    table = pd.read_csv(study.path("features", "cosines.csv"))
    apart = table[table["category_a"] != table["category_b"]]
    means = apart.groupby(["teacher", "space"])["cosine"].mean()
    teachers = list(dict.fromkeys(table["teacher"]))
    panels = clusters.cosines(study).figure.axes[: 2 * len(teachers)]  # a colour bar comes after them
    for place, axis in enumerate(panels):
        row, column = divmod(place, len(teachers))
        name, space = teachers[column], list(clusters.SPACES)[row]
        between = f"between: {means[name, space]:+.2f}"
        assert axis.get_title() == (between if row else f"{name}\n{between}")
        assert axis.get_ylabel() == ("" if column else clusters.SPACES[space])


def test_exemplars_of_another_teacher(study):
    assert set(clusters.exemplars(study, "retina").data["teacher"]) == {"retina"}
    with pytest.raises(FileNotFoundError, match="no centroids of 'rcnn'"):
        clusters.exemplars(study, "rcnn")


@pytest.mark.parametrize(
    "box",
    [(10, 10, 20, 20), (-5, -5, 8, 8), (55, 40, 70, 60), (0, 0, 64, 48), (5, 5, 6, 6)],
    ids=["inside", "left-top", "right-bottom", "whole", "one-pixel"],
)
def test_crop_shows_the_box_in_the_middle(box):
    pixels = np.zeros((48, 64, 3), np.uint8)
    x1, y1, x2, y2 = (max(0, box[0]), max(0, box[1]), min(64, box[2]), min(48, box[3]))
    pixels[y1:y2, x1:x2] = (255, 0, 0)
    tile = clusters._crop(pixels, box)
    assert tile.shape == (clusters.THUMBNAIL, clusters.THUMBNAIL, 3)
    red = (tile[..., 0] > 200) & (tile[..., 2] < 60)
    assert red.any()
