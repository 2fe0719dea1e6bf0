from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from mutineck.dataset.outlines import CATEGORIES, TURN, outline, silhouette
from mutineck.dataset.shapes import generate_scene, write_shapes
from mutineck.dataset.voc_xml import read_voc_xml

GOLDEN = "0190e03228fc19e5"


def test_pixels_are_the_same_on_every_platform():
    digest = hashlib.sha256()
    for index in range(6):
        scene = generate_scene(index, seed=0)
        digest.update(scene.pixels.tobytes() + scene.numbers.tobytes())
    assert digest.hexdigest()[:16] == GOLDEN


def test_a_scene_depends_on_seed_and_index_alone():
    first, again = generate_scene(5, seed=1), generate_scene(5, seed=1)
    assert np.array_equal(first.pixels, again.pixels) and first.record == again.record
    assert not np.array_equal(first.pixels, generate_scene(5, seed=2).pixels)
    assert not np.array_equal(first.pixels, generate_scene(6, seed=1).pixels)


def test_boxes_are_tight_around_what_is_visible():
    for index in range(20):
        scene = generate_scene(index, seed=3)
        assert scene.pixels.shape == (192, 256, 3) and scene.pixels.dtype == np.uint8
        assert int(scene.numbers.max()) == len(scene.record.objects)
        for item in scene.record.objects:
            rows, columns = np.nonzero(scene.numbers == item.index)
            expected = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
            assert item.corners == tuple(map(float, expected))


def test_a_set_holds_all_that_makes_detection_hard():
    scenes = [generate_scene(index, seed=0) for index in range(80)]
    objects = [item for scene in scenes for item in scene.record.objects]
    counts = Counter(item.name for item in objects)
    assert set(counts) == set(CATEGORIES) and min(counts.values()) >= 10
    sides = sorted(max(c[2] - c[0], c[3] - c[1]) for c in (item.corners for item in objects))
    assert sides[len(sides) // 20] < 22 and sides[-len(sides) // 20] > 75
    assert sum(item.truncated for item in objects) > 20
    assert sum(item.occluded for item in objects) > 20
    assert 0 < sum(item.difficult for item in objects) < len(objects) // 8
    brightness = [float(scene.pixels.mean()) for scene in scenes]
    assert max(brightness) - min(brightness) > 90


@pytest.mark.parametrize("name", CATEGORIES)
def test_an_outline_fills_its_side_and_keeps_its_shape(name):
    random = np.random.default_rng(0)
    areas = []
    for _ in range(10):
        polygons = outline(name, 80, random)
        coverage, area = silhouette(polygons, (100 * 16, 100 * 16), 200, 200)
        rows, columns = np.nonzero(coverage)
        assert 50 <= max(np.ptp(rows), np.ptp(columns)) <= 84
        assert area == np.count_nonzero(coverage >= 128)
        areas.append(area)
    share = {"ring": (0.2, 0.7), "cross": (0.25, 0.65), "star": (0.2, 0.55), "crescent": (0.1, 0.65)}
    low, high = share.get(name, (0.2, 1.0))
    assert all(low * 60**2 <= area <= high * 80**2 for area in areas)


def test_a_ring_has_a_hole_and_a_disc_has_none():
    random = np.random.default_rng(0)
    for name, covered in (("ring", 0), ("disc", 255)):
        coverage, _ = silhouette(outline(name, 60, random), (50 * 16, 50 * 16), 100, 100)
        assert coverage[50, 50] == covered


def test_an_object_over_the_border_knows_its_whole_area():
    random = np.random.default_rng(0)
    polygons = outline("disc", 60, random)
    _, whole = silhouette(polygons, (50 * 16, 50 * 16), 100, 100)
    cut, area = silhouette(polygons, (0, 50 * 16), 100, 100)
    assert area == whole and np.count_nonzero(cut >= 128) < 0.6 * whole
    far, _ = silhouette(polygons, (-400 * 16, 50 * 16), 100, 100)
    assert not far.any()


def test_square_and_diamond_never_tilt_into_each_other():
    from mutineck.dataset.outlines import TILTS

    assert TILTS["square"] + TILTS["diamond"] < TURN // 8


@pytest.mark.parametrize(("size", "most"), [((64, 48), 1), ((40, 300), 3), ((512, 384), 20)], ids=str)
def test_other_sizes(size, most):
    for index in range(4):
        scene = generate_scene(index, seed=0, size=size, max_objects=most)
        assert scene.pixels.shape == (size[1], size[0], 3)
        assert len(scene.record.objects) <= most


def test_what_is_written_is_voc(tmp_path):
    write_shapes(tmp_path, images=3, seed=0, size=(64, 48), max_objects=3)
    for folder, suffix in (("Annotations", "xml"), ("JPEGImages", "png"), ("SegmentationObject", "png")):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [f"{i:06d}.{suffix}" for i in range(3)]
    record, defects = read_voc_xml((tmp_path / "Annotations" / "000001.xml").read_bytes())
    assert not defects and record == generate_scene(1, seed=0, size=(64, 48), max_objects=3).record
