from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mutineck.dataset import DatasetError, convert
from mutineck.dataset.images import ORIENTATION, TURN_UNSAID
from mutineck.dataset.repeats import IN_TWO_SPLITS, REPEATED
from mutineck.dataset.split import stratified_split
from mutineck.dataset.stage import DatasetSummary, repeats_val
from mutineck.detection.specs import InputSpec
from mutineck.study.experiment import DatasetSpec, FeaturesSpec
from mutineck.system.files import read_json
from tests.dataset import exports


def make_study(out: Path, /, **dataset: object) -> SimpleNamespace:
    """What the stage uses of a Study: the data set's settings and paths below the experiment's folder."""
    out.mkdir(exist_ok=True)
    spec = DatasetSpec(**dataset)
    return SimpleNamespace(
        experiment=SimpleNamespace(
            dataset=spec,
            relative_to=None,
            teachers=(),
            input=InputSpec(),
            features=FeaturesSpec(),
            find=lambda field, given: Path(given),
        ),
        root=out,
        path=lambda *parts: out.joinpath(*parts),
        note=lambda *inputs: None,
    )


@pytest.fixture
def shapes(tmp_path):
    study = make_study(tmp_path / "out", format="shapes", shapes={"images": 40, "size": (96, 72), "max_objects": 5})
    return study, convert(study)


def fill(voc_root, count: int = 30) -> None:
    for index in range(count):
        boxes = [("cat" if index % 3 else "dog", (1, 1, 10 + index % 5, 12))]
        voc_root.add(f"{index:03d}", boxes)


def test_generated_scenes_pass_through_whole(shapes, capsys):
    study, summary = shapes
    description = read_json(study.path("dataset", "dataset.json"))
    assert len(description["categories"]) == 10 and tuple(description["categories"]) == summary.categories
    assert description["masks"] == "all" and description["image_root"] == "dataset/source"
    assert summary.defects == [] and read_json(study.path("dataset", "defects.json")) == []
    names: list[str] = []
    for split in ("train", "val", "test"):
        coco = COCO(str(study.path("dataset", f"{split}.json")))
        counts = description["splits"][split]
        annotations = list(coco.anns.values())
        assert counts["images"] == len(coco.imgs)
        assert counts["boxes"] + counts["crowd"] == len(annotations)
        assert counts["boxes"] == sum(counts["per_category"].values())
        names += [image["file_name"] for image in coco.imgs.values()]
        for item in annotations:
            x, y, w, h = map(int, item["bbox"])
            mask = coco.annToMask(item).astype(bool)
            assert mask.sum() == item["area"]
            assert mask[y : y + h, x : x + w].sum() == mask.sum()
        for name in names[-3:]:
            assert study.root.joinpath(description["image_root"], name).is_file()
    assert len(names) == len(set(names)) == 40


def test_the_same_settings_give_the_same_files(shapes):
    study, summary = shapes
    before = {path.name: path.read_bytes() for path in summary.writes}
    again = convert(study)
    assert {path.name: path.read_bytes() for path in again.writes} == before
    assert not study.path("dataset", ".source.partial").exists()


def test_fewer_scenes_leave_none_of_the_old_ones(shapes):
    study, _ = shapes
    fewer = make_study(study.root, format="shapes", shapes={"images": 20, "size": (96, 72), "max_objects": 5})
    summary = convert(fewer)
    assert sum(counts["images"] for counts in summary.splits.values()) == 20


def test_tables_for_the_notebook(shapes):
    _, summary = shapes
    table = summary.counts()
    assert list(table.columns) == ["train", "val", "test"]
    assert table.loc["images"].sum() == 40
    assert table.loc["all boxes"].sum() == table.drop(index=["all boxes", "images"]).to_numpy().sum()
    assert summary.defect_counts().empty
    json.dumps(summary.results)


def test_a_list_of_pictures_gives_the_study_of_a_folder_with_those_alone(voc_root, tmp_path):
    fill(voc_root)
    names = [f"{index:03d}" for index in range(0, 30, 2)]
    listed = tmp_path / "pictures.txt"
    listed.write_text("\n".join(names) + "\n")
    whole = make_study(tmp_path / "whole", format="voc", root=str(voc_root.root), pictures=str(listed))
    summary = convert(whole)
    assert (
        "15 pictures that pictures.txt does not list are left out"
        in read_json(whole.path("dataset", "dataset.json"))["source"]["hints"]
    )
    part = tmp_path / "part"
    shutil.copytree(voc_root.root, part)
    for file in [*part.rglob("*.xml"), *part.rglob("*.jpg")]:
        if file.stem not in names:
            file.unlink()
    alone = make_study(tmp_path / "alone", format="voc", root=str(part))
    convert(alone)
    found = []
    for split in ("train", "val", "test"):
        theirs, ours = (read_json(study.path("dataset", f"{split}.json")) for study in (alone, whole))
        assert [image["file_name"] for image in ours["images"]] == [image["file_name"] for image in theirs["images"]]
        assert [a["bbox"] for a in ours["annotations"]] == [a["bbox"] for a in theirs["annotations"]]
        found += [Path(image["file_name"]).stem for image in ours["images"]]
    assert sorted(found) == names and summary.results["images"]["train"] == 12
    listed.write_text("000\nunicorn\n")
    with pytest.raises(DatasetError, match=r"dataset\.pictures: .* lacks 1 of the 2 pictures .*: unicorn"):
        convert(whole)
    listed.write_text("\n")
    with pytest.raises(DatasetError, match="lists no picture"):
        convert(whole)


def test_voc_is_divided_anew_with_ids_that_never_repeat(voc_root, tmp_path):
    fill(voc_root)
    voc_root.annotation("zero", [("cat", (5, 5, 5, 5)), ("dog", (1, 1, 9, 9))])
    voc_root.picture("zero.jpg")
    study = make_study(tmp_path / "out", format="voc", root=str(voc_root.root))
    summary = convert(study)
    assert summary.results["left_out"] == 1 and summary.defect_counts()["count"].sum() == 1
    documents = [read_json(study.path("dataset", f"{split}.json")) for split in ("train", "val", "test")]
    assert [len(item["images"]) for item in documents] == pytest.approx([25, 3, 3], abs=1)
    for key in ("images", "annotations"):
        ids = [row["id"] for item in documents for row in item[key]]
        assert len(ids) == len(set(ids)) == 31
    defects = read_json(study.path("dataset", "defects.json"))
    assert defects[0]["file"] == "Annotations/zero.xml" and defects[0]["reason"] == "zero-area box"
    description = read_json(study.path("dataset", "dataset.json"))
    assert Path(description["image_root"]) == voc_root.root.resolve() and description["masks"] == "none"


def test_strict_refuses_with_the_list_and_writes_nothing(voc_root, tmp_path):
    fill(voc_root, 12)
    for index in range(25):
        voc_root.annotation(f"gone{index:02d}")
    study = make_study(tmp_path / "out", format="voc", root=str(voc_root.root), strict=True)
    with pytest.raises(DatasetError, match=r"25 defects[\s\S]*25 left out: .*gone00[\s\S]*All of them: .*defects.json"):
        convert(study)
    assert not study.path("dataset", "dataset.json").exists()
    assert len(read_json(study.path("dataset", "defects.json"))) == 25


def test_a_limit_holds_for_each_split(voc_root, tmp_path):
    fill(voc_root)
    study = make_study(tmp_path / "out", format="voc", root=str(voc_root.root), limit=2)
    assert convert(study).results["images"] == {"train": 2, "val": 2, "test": 2}


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_no_folder_says_how_to_name_or_get_one(tmp_path, kind):
    study = make_study(tmp_path / "out", format=kind, root="no/where")
    study.experiment.relative_to = str(tmp_path)
    looked_for = rf"looked for {tmp_path}/no/where and {Path.cwd()}/no/where"
    with pytest.raises(DatasetError, match=rf"{looked_for}.*--set dataset\.root=PATH.*mutineck download {kind} --to"):
        convert(study)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param(
            {"categories": ("cat", "mouse")},
            "no object of mouse.*it has cat",
            id="category that never occurs",
        ),
        pytest.param(
            {"voc_offset": 0, "aliases": {"cat": "", "dog": ""}},
            "no object of any category",
            id="all dropped",
        ),
    ],
)
def test_impossible_wishes_are_refused(voc_root, tmp_path, options, match):
    fill(voc_root)
    study = make_study(tmp_path / "out", format="voc", root=str(voc_root.root), **options)
    with pytest.raises(DatasetError, match=match):
        convert(study)


def make_coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split, first in (("train", 1), ("val", 50)):
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for number in range(first, first + 6):
            pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{split}2017" / f"{number:012d}.jpg")
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 40, "height": 30})
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 18,
                    "bbox": [1, 1, 9, 9],
                    "area": 81,
                    "iscrowd": 0,
                    "segmentation": [[1, 1, 10, 1, 10, 10]],
                }
            )
        annotations.append(
            {
                "id": first + 20,
                "image_id": first,
                "category_id": 90,
                "bbox": [0, 0, 40, 30],
                "iscrowd": 1,
                "area": 1200,
                "segmentation": {"size": [30, 40], "counts": [0, 1200]},
            }
        )
        categories = [{"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))


def test_where_test_is_val_the_stage_says_so(tmp_path, capsys):
    root = tmp_path / "coco"
    make_coco(root)
    study = make_study(tmp_path / "out", format="coco", root=str(root))
    convert(study)
    assert "test has no annotations of its own and holds the same pictures as val" in capsys.readouterr().out
    assert read_json(study.path("dataset", "dataset.json"))["source"]["split"] == "as published, test is val"
    assert repeats_val(study)
    (root / "test2017").symlink_to(root / "train2017")
    (root / "annotations" / "instances_test2017.json").symlink_to("instances_train2017.json")
    convert(study)
    assert "the same pictures" not in capsys.readouterr().out
    assert read_json(study.path("dataset", "dataset.json"))["source"]["split"] == "as published"
    assert not repeats_val(study)


def merge_coco(root: Path, file: str, folder: str) -> None:
    """Put what `make_coco` wrote into one annotation file of all pictures."""
    make_coco(root)
    parts = [root / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")]
    first, second = map(read_json, parts)
    for path in parts:
        path.unlink()
    (root / folder).mkdir(exist_ok=True)
    for path in root.glob("*2017/*.jpg"):
        path.rename(root / folder / path.name)
    both = {key: first[key] + second[key] for key in ("images", "annotations")} | {"categories": first["categories"]}
    (root / file).write_text(json.dumps(both))


@pytest.mark.parametrize(
    ("file", "folder"),
    [("annotations/all.json", "images"), ("_annotations.coco.json", "")],
    ids=["annotations", "beside"],
)
def test_one_coco_file_of_all_pictures_is_divided_as_voc_is(tmp_path, file, folder):
    merge_coco(tmp_path / "coco", file, folder)
    study = make_study(tmp_path / "out", format="coco", root=str(tmp_path / "coco"), split=(4, 1, 1), seed=3)
    summary = convert(study)
    assert [summary.splits[split]["images"] for split in ("train", "val", "test")] == [8, 2, 2]
    names = [
        image["file_name"]
        for split in summary.splits
        for image in read_json(study.path("dataset", f"{split}.json"))["images"]
    ]
    assert len(set(names)) == 12 and all((tmp_path / "coco" / name).is_file() for name in names)
    labels = {
        name: {"dog", "toothbrush"} if Path(name).stem in (f"{1:012d}", f"{50:012d}") else {"dog"} for name in names
    }
    parts = stratified_split(labels, (4, 1, 1), 3)
    assert [parts[name] for name in names] == [0] * 8 + [1] * 2 + [2] * 2
    assert read_json(study.path("dataset", "dataset.json"))["source"]["split"] == [4, 1, 1]
    assert [path.name for path in summary.reads] == [Path(file).name]


def test_one_coco_file_is_no_published_split(tmp_path):
    merge_coco(tmp_path / "coco", "annotations/all.json", "images")
    study = make_study(tmp_path / "out", format="coco", root=str(tmp_path / "coco"), split=None)
    with pytest.raises(DatasetError, match=r"null keeps published splits, and .* has none: divide anew, --set"):
        convert(study)


def test_coco_keeps_its_ids_crowds_and_masks(tmp_path):
    make_coco(tmp_path / "coco")
    study = make_study(tmp_path / "out", format="coco", root=str(tmp_path / "coco"))
    summary = convert(study)
    assert summary.defects == [] and summary.categories == ("dog", "toothbrush")
    assert summary.splits["train"]["crowd"] == 1 and summary.splits["train"]["boxes"] == 6
    train, val, test = (read_json(study.path("dataset", f"{split}.json")) for split in ("train", "val", "test"))
    assert val == test and train != val
    assert train["images"][0]["file_name"] == "train2017/000000000001.jpg"
    assert [item["id"] for item in train["categories"]] == [18, 90]
    assert COCO(str(study.path("dataset", "val.json"))).annToMask(val["annotations"][-1]).all()
    assert [path.name for path in summary.reads] == ["instances_train2017.json", "instances_val2017.json"]


def test_coco_pictures_that_are_missing_broken_or_of_another_size(tmp_path):
    root = tmp_path / "coco"
    make_coco(root)
    (root / "train2017" / f"{1:012d}.jpg").unlink()
    (root / "train2017" / f"{2:012d}.jpg").write_bytes(b"")
    Image.new("RGB", (41, 30)).save(root / "train2017" / f"{3:012d}.jpg")
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    with Image.open(root / "train2017" / f"{4:012d}.jpg") as picture:
        picture.save(root / "train2017" / f"{4:012d}.jpg", exif=exif)
    study = make_study(tmp_path / "out", format="coco", root=str(root))
    summary = convert(study)
    assert [(item.reason, item.action) for item in summary.defects] == [
        ("missing image", "left out"),
        ("unreadable image", "left out"),
        ("wrong image size", "left out"),
        (TURN_UNSAID, "kept"),
    ]
    assert summary.splits["train"]["images"] == 3 and summary.splits["train"]["crowd"] == 0


@pytest.mark.parametrize(
    ("splits", "images"),
    [
        pytest.param(("train",), [4, 1, 1], id="train alone is divided"),
        pytest.param(("val",), [4, 1, 1], id="so is val alone"),
        pytest.param(("train", "test"), [5, 1, 6], id="test stays, val is taken from train"),
        pytest.param(("train", "val"), [6, 6, 6], id="test is val"),
    ],
)
def test_splits_that_are_missing(splits, images, tmp_path):
    root = tmp_path / "coco"
    make_coco(root)
    for split, old in zip(splits, ("train", "val"), strict=False):
        (root / "annotations" / f"instances_{old}2017.json").rename(root / f"{split}.json")
        (root / f"{old}2017").rename(root / f"pictures of {split}")
    for left in ("annotations", "val2017"):
        shutil.rmtree(root / left, ignore_errors=True)
    for path in root.glob("pictures of *"):
        path.rename(root / path.name.rpartition(" ")[2])
    study = make_study(tmp_path / "out", format="auto", root=str(root), split=(4, 1, 1))
    summary = convert(study)
    assert [summary.splits[split]["images"] for split in ("train", "val", "test")] == images


def test_pictures_without_any_to_train_with_are_refused(tmp_path):
    make_coco(tmp_path / "coco")
    for name in ("annotations/instances_train2017.json", "train2017"):
        path = tmp_path / "coco" / name
        path.rename(path.with_name(path.name.replace("train", "test")))
    study = make_study(tmp_path / "out", format="coco", root=str(tmp_path / "coco"))
    with pytest.raises(DatasetError, match="pictures of val and test, and none to train with"):
        convert(study)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        pytest.param([{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}], "", id="another order"),
        pytest.param(
            [{"id": 18, "name": "dog"}, {"id": 9, "name": "toothbrush"}, {"id": 90, "name": "cat"}],
            r"^annotations/instances_val2017\.json: categories: they are not those of annotations/instances_train2017"
            r"\.json: 9 is toothbrush, not nothing, 90 is cat, not toothbrush; expected the same",
            id="other ids",
        ),
    ],
)
def test_coco_splits_agree_about_categories_or_both_files_are_named(tmp_path, categories, message):
    root = tmp_path / "coco"
    make_coco(root)
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(read_json(path) | {"categories": categories}))
    study = make_study(tmp_path / "out", format="coco", root=str(root))
    if message:
        with pytest.raises(DatasetError, match=message):
            convert(study)
    else:
        assert convert(study).categories == ("dog", "toothbrush")
        val = read_json(study.path("dataset", "val.json"))
        assert [item["id"] for item in val["categories"]] == [18, 90]


@pytest.mark.parametrize("write", (*exports.UNDIVIDED, *exports.DIVIDED), ids=lambda write: write.__name__)
def test_every_export_comes_out_of_the_stage_whole(write, tmp_path):
    truth, pixels = exports.drawn_scenes(20)
    write(tmp_path / "data", truth)
    exports.paint(tmp_path / "data", pixels)
    study = make_study(tmp_path / "out", format="auto", root=str(tmp_path / "data"))
    summary = convert(study)
    assert not [str(defect) for defect in summary.defects if defect.action == "left out"]
    drawn: dict[str, int] = {}
    for name, _ in (box for shot in truth for box in shot.boxes):
        drawn[name] = drawn.get(name, 0) + 1
    boxes = [summary.splits[split]["per_category"] for split in summary.splits]
    assert {name: sum(each[name] for each in boxes) for name in summary.categories} == drawn
    expected = {"train": 12, "val": 4, "test": 4} if write in exports.DIVIDED else {"train": 16, "val": 2, "test": 2}
    assert {split: counts["images"] for split, counts in summary.splits.items()} == expected


def test_what_a_folder_is_taken_for_is_said_and_kept(tmp_path, capsys):
    exports.coco_roboflow(tmp_path / "data", exports.TRUTH)
    exports.picture(tmp_path / "data" / "valid" / "more.jpg", "more")
    study = make_study(tmp_path / "out", format="auto", root=str(tmp_path / "data"))
    summary = convert(study)
    said = [
        "read as Roboflow's COCO export: train 4, valid 2, test 2",
        "1 of 4 pictures of train hold no object: trained on as background",
        "category 'things' has no object and stands above all others: left out",
    ]
    lost = [
        f"1 left out; 8 of 9 pictures and 12 of 12 objects are read. The list: {study.path('dataset', 'defects.json')}",
        "  1 left out: image without an annotation, first valid: folder (1 pictures are in no annotation file, such as "
        "valid/more.jpg)",
    ]
    assert capsys.readouterr().out == "".join(f"! {line}\n" for line in said + lost)
    source = read_json(study.path("dataset", "dataset.json"))["source"]
    assert source["format"] == "coco" and source["hints"] == said and source["split"] == "as published"
    assert summary.categories == exports.CATEGORIES, "its root category is none"


def test_stored_boxes_of_a_turned_coco_picture_are_turned(tmp_path):
    exports.coco_cvat(tmp_path / "data", exports.TRUTH)
    path = tmp_path / "data" / "images" / "default" / "shot 0.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with Image.open(path) as picture:
        picture.save(path, exif=exif)
    study = make_study(tmp_path / "out", format="auto", root=str(tmp_path / "data"))
    summary = convert(study)
    assert [(item.reason, item.action) for item in summary.defects] == [("wrong image size", "repaired")]
    documents = [read_json(study.path("dataset", f"{split}.json")) for split in summary.splits]
    (image, items) = next(
        (image, [item for item in document["annotations"] if item["image_id"] == image["id"]])
        for document in documents
        for image in document["images"]
        if image["file_name"].endswith("shot 0.jpg")
    )
    assert (image["width"], image["height"]) == (48, 64)
    assert [item["bbox"] for item in items] == [[30, 4, 12, 20], [8, 30, 30, 16]]  # of 64x48: x is 48 - y - h


def test_copies_stay_on_one_side_and_are_named(tmp_path, capsys):
    root = tmp_path / "data"
    exports.voc(root / "VOC2007", exports.TRUTH)
    shutil.copytree(root / "VOC2007", root / "VOC2007_backup")
    study = make_study(tmp_path / "out", format="auto", root=str(root), split=(2, 1, 1))
    summary = convert(study)
    assert [(item.reason, item.action) for item in summary.defects] == [(REPEATED, "kept")] * 8
    assert "8 pictures are there twice, such as VOC2007_backup/JPEGImages/shot" in capsys.readouterr().out
    sides = [
        {image["file_name"].rpartition("/")[2] for image in read_json(study.path("dataset", f"{split}.json"))["images"]}
        for split in summary.splits
    ]
    assert sum(map(len, sides)) == 8
    with pytest.raises(DatasetError, match="8 defects"):
        convert(make_study(tmp_path / "strict", format="auto", root=str(root), split=(2, 1, 1), strict=True))


def test_augmented_copies_stay_in_one_part(tmp_path):
    truth = [
        exports.Shot(f"shot{shot}_jpg.rf.{shot}{copy}abcd.jpg", "train", (("cat", (shot, copy, 20, 20)),))
        for shot in range(9)
        for copy in range(3)
    ]
    exports.coco_roboflow(tmp_path / "data", tuple(truth))
    study = make_study(tmp_path / "out", format="auto", root=str(tmp_path / "data" / "train"), split=(1, 1, 1))
    summary = convert(study)
    assert [summary.splits[split]["images"] for split in summary.splits] == [9, 9, 9] and not summary.defects
    shots = [
        {image["file_name"][:5] for image in read_json(study.path("dataset", f"{split}.json"))["images"]}
        for split in summary.splits
    ]
    assert [len(each) for each in shots] == [3, 3, 3]


def test_pictures_of_train_in_val_are_named(tmp_path, capsys):
    for split in ("train", "val"):
        document = exports.coco(exports.TRUTH, exports.CATEGORIES)
        exports.text(tmp_path / "data" / "annotations" / f"{split}.json", json.dumps(document))
    for shot in exports.TRUTH:
        exports.picture(tmp_path / "data" / "images" / shot.name, shot.name)
    summary = convert(make_study(tmp_path / "out", format="auto", root=str(tmp_path / "data")))
    assert [(item.reason, item.action) for item in summary.defects] == [(IN_TWO_SPLITS, "kept")] * 8
    assert "8 of 8 pictures of val are in train, too, such as images/shot 0.jpg" in capsys.readouterr().out


def mark_all(root: Path, mark: str) -> None:
    """Write the truth with a mark on every object, in CVAT's COCO export as brushes are written, or in VOC's layout."""
    if mark == "difficult":
        exports.voc(root, exports.TRUTH)
        for path in (root / "Annotations").iterdir():
            path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    else:
        exports.coco_cvat(root, exports.TRUTH)
        path = root / "annotations" / "instances_default.json"
        document = read_json(path)
        for item in document["annotations"]:
            x, y, w, h = item["bbox"]
            mask = np.zeros(exports.SIZE[::-1], np.uint8)
            mask[y : y + h, x : x + w] = 1
            changes = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0)).tolist()
            counts = np.diff([0, *changes, mask.size]).tolist()
            item |= {mark: 1, "segmentation": {"size": [*mask.shape], "counts": counts}}
        path.write_text(json.dumps(document))


@pytest.mark.parametrize("mark", ["difficult", "iscrowd", "ignore"])
def test_objects_that_are_all_marked_are_said_to_be_and_can_be_taken_as_any_other(tmp_path, mark, capsys):
    root = tmp_path / "data"
    mark_all(root, mark)
    message = (
        r"the train split has 6 usable images and 0 boxes \(all \d+ objects are difficult, in VOC, or iscrowd or ignore"
        r".* --set dataset\.crowd=objects\)"
    )
    with pytest.raises(DatasetError, match=message):
        convert(make_study(tmp_path / "out", format="auto", root=str(root)))
    assert "! 12 of 12 objects are marked difficult (VOC), or iscrowd or ignore (COCO): neither learned" in (
        capsys.readouterr().out
    )
    study = make_study(tmp_path / "out", format="auto", root=str(root), crowd="objects", strict=True)
    summary = convert(study)
    assert sum(counts["boxes"] for counts in summary.splits.values()) == 12
    assert {counts["crowd"] for counts in summary.splits.values()} == {0}
    train = COCO(str(study.path("dataset", "train.json")))
    for item in train.anns.values():
        assert mark == "difficult" or train.annToMask(item).sum() == item["bbox"][2] * item["bbox"][3]


def test_of_how_much_what_was_lost_is_told(voc_root, tmp_path, capsys):
    for index in range(12):
        voc_root.add(f"{index:02d}", [("cat", (1, 1, 10, 10)), ("dog", (2, 2, 30, 20)), ("bird", (2, 2, 9, 9))])
    voc_root.annotation("12", [("cat", (1, 1, 10, 10)), ("cat", (9, 9, 9, 20))])  # without a picture
    voc_root.annotation("03", [("cat", (1, 1, 10, 10)), ("cat", (9, 9, 9, 20)), ("ox", (1, 1, 60, 9))])
    voc_root.picture("13.jpg")
    aliases = {"bird": ""}  # not wanted: no loss
    study = make_study(tmp_path / "out", format="voc", root=str(voc_root.root), aliases=aliases, split=(2, 1, 1))
    results = convert(study).results
    assert results["read"] == {"images": 12, "objects": 24} and results["found"] == {"images": 14, "objects": 27}
    said = capsys.readouterr().out
    assert "! 3 left out, 1 repaired; 12 of 14 pictures and 24 of 27 objects are read. The list: " in said
    with pytest.raises(DatasetError, match="4 defects"):
        convert(make_study(tmp_path / "o", format="voc", root=str(voc_root.root), strict=True))


def test_categories_that_train_never_shows_are_named(tmp_path, capsys):
    exports.coco_cvat(tmp_path / "data", exports.TRUTH)
    path = tmp_path / "data" / "annotations" / "instances_default.json"
    document = read_json(path)
    document["categories"] += [{"id": 9, "name": "yak"}]
    path.write_text(json.dumps(document))
    convert(make_study(tmp_path / "out", format="auto", root=str(tmp_path / "data"), split=(2, 1, 1)))
    assert "! 1 of 4 categories have no object in train: yak\n" in capsys.readouterr().out


def test_annotations_that_no_list_names_are_counted(voc_root, tmp_path, capsys):
    fill(voc_root, 12)
    voc_root.annotation("more")
    lists = voc_root.root / "ImageSets" / "Main"
    exports.text(lists / "trainval.txt", "\n".join(f"{index:03d}" for index in range(12)))
    convert(make_study(tmp_path / "out", format="voc", root=str(voc_root.root), strict=True))
    assert "! 1 annotation files are named in no list of ImageSets/Main: they are not read" in capsys.readouterr().out


def test_the_content_of_a_split_is_its_annotations_and_its_pictures_bytes_wherever_they_lie(tmp_path):
    def content(place: str) -> dict[str, str]:
        study = make_study(tmp_path / f"out of {place}", format="auto", root=str(tmp_path / place))
        convert(study)
        return read_json(study.path("dataset", "dataset.json"))["content"]

    exports.yolo_roboflow(tmp_path / "here", exports.TRUTH)
    before = content("here")
    assert len(set(before.values())) == 3
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert content("there") == before
    exports.picture(tmp_path / "there" / "valid" / "images" / "shot 2.jpg", "another")
    after = content("there")
    assert [split for split in before if before[split] != after[split]] == ["val"]
    label = tmp_path / "there" / "valid" / "labels" / "shot 6.txt"
    label.write_text(label.read_text().splitlines()[0])
    assert [split for split in after if after[split] != content("there")[split]] == ["val"]


def test_categories_that_look_alike_are_hinted_at(voc_root, tmp_path, capsys):
    for index, name in enumerate(("Car", "car", "CAR", "big car", "big_car", "van", "caf\u00e9", "cafe\u0301") * 4):
        voc_root.add(f"{index:02d}", [(name, (1, 1, 10, 10))])
    summary = convert(make_study(tmp_path / "out", format="auto", root=str(voc_root.root)))
    assert summary.categories == ("CAR", "Car", "big car", "big_car", "caf\u00e9", "car", "van")
    hint = (
        "! categories that differ in case or marks alone: CAR, Car, car; big car, big_car. Where they are one, "
        "--set 'dataset.aliases={Car: CAR, car: CAR, big_car: big car}'"
    )
    assert hint in capsys.readouterr().out


def test_there_is_nothing_to_download_for_a_format_that_is_found(tmp_path):
    study = make_study(tmp_path / "out", format="auto", root=str(tmp_path), download=True)
    with pytest.raises(DatasetError, match=r"dataset\.download: there is nothing to fetch for dataset\.format=auto"):
        convert(study)


def test_a_download_happens_only_on_request(tmp_path, monkeypatch, voc_root):
    fill(voc_root, 12)
    asked = []
    monkeypatch.setattr(
        "mutineck.system.download.download_dataset", lambda name, to: asked.append((name, to)) or voc_root.root
    )
    study = make_study(tmp_path / "out", format="voc", root=str(tmp_path / "new"), download=True)
    convert(study)
    assert asked == [("voc", tmp_path / "new")]


def test_totals_stand_beside_a_category_of_their_name() -> None:
    boxes = {"images": 3, "all boxes": 4}
    counts = {"images": 2, "without_objects": 1, "boxes": 7, "crowd": 0, "per_category": boxes}
    splits = dict.fromkeys(("train", "val", "test"), counts)
    table = DatasetSummary(("images", "all boxes"), splits, []).counts()
    assert table["train"].tolist() == [3, 4, 7, 2, 1]
    assert table.index.tolist() == ["images", "all boxes", "all boxes", "images", "images without objects"]
