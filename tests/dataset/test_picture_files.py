"""Pictures found by whatever stands in the place of their path, and nothing found that is another or lies outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutineck.dataset.picture_files import Found, PictureFiles, data_files, written_parts

FILES = (
    "images/a.jpg",
    "images/cam1/b.jpg",
    "images/cam2/b.jpg",
    "images/f%20g.jpg",
    "images/Caf\u00e9 1.JPG",
    "train/c.jpg",
    "val/c.jpg",
    "e\\f.jpg",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> PictureFiles:
    root = tmp_path_factory.mktemp("outer") / "root"
    for name in (*FILES, "../a.jpg", "images/._a.jpg", "__MACOSX/images/z.jpg", ".cache/y.jpg", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return PictureFiles(root)


def test_hidden_files_and_those_of_an_archive_are_no_pictures(files):
    assert files.files == sorted(FILES)


@pytest.mark.parametrize(
    ("written", "file", "moved"),
    [
        pytest.param("a.jpg", "images/a.jpg", False, id="in a base"),
        pytest.param("images/a.jpg", "images/a.jpg", False, id="from the root"),
        pytest.param("./images//a.jpg", "images/a.jpg", False, id="dots and double slashes"),
        pytest.param("images\\a.jpg", "images/a.jpg", False, id="Windows"),
        pytest.param("e\\f.jpg", "e\\f.jpg", False, id="a backslash in the name itself"),
        pytest.param("cam1\\b.jpg", "images/cam1/b.jpg", False, id="Windows, in a base"),
        pytest.param("/home/me/images/a.jpg", "images/a.jpg", True, id="absolute"),
        pytest.param("D:\\me\\cam2\\b.jpg", "images/cam2/b.jpg", True, id="a drive; folders tell two apart"),
        pytest.param("../a.jpg", "images/a.jpg", True, id="never above the root"),
        pytest.param("../../../../../../../../etc/a.jpg", "images/a.jpg", True, id="never above the root, far"),
        pytest.param("http://host:80/up/1/a.jpg?token=x/y.jpg", "images/a.jpg", True, id="an address"),
        pytest.param("s3://bucket/f%2520g.jpg", "images/f%20g.jpg", True, id="an address with a quoted name"),
        pytest.param("/data/local-files/?d=x%2Fcam1%2Fb.jpg", "images/cam1/b.jpg", True, id="served by Label Studio"),
        pytest.param("http://[/a.jpg", "images/a.jpg", True, id="an address that is none"),
        pytest.param("0a1b2c3d-a.jpg", "images/a.jpg", True, id="prefix of an upload"),
        pytest.param("cafe\u0301 1.jpg", "images/Caf\u00e9 1.JPG", False, id="other form and case"),
        pytest.param("b.jpg", "", False, id="two could be meant"),
        pytest.param("c.jpg", "", False, id="two could be meant, outside of the bases"),
        pytest.param("0a1b2c3d-", "", False, id="nothing behind a prefix"),
        pytest.param("a", "", False, id="no ending"),
        pytest.param("..", "", False, id="no name"),
        pytest.param("/", "", False, id="a slash"),
        pytest.param("z.jpg", "", False, id="in an archive's own folder"),
    ],
)
def test_a_picture_is_found_if_it_can_be_no_other(files, written, file, moved):
    found = files.find(written, ("images", ""))
    assert found[:2] == (file, moved) and bool(found.problem) == (not file)


def test_several_candidates_are_named(files):
    assert files.find("b.jpg", ("images", "")).problem == (
        "several pictures could be meant: images/cam1/b.jpg, images/cam2/b.jpg"
    )


def test_a_split_takes_no_picture_of_another(files):
    assert files.find("c.jpg", ("val", ""), "val") == Found("val/c.jpg")
    assert files.find("b.jpg", ("val", ""), "val").problem == "no picture of that name"


def test_a_link_to_its_own_folder_ends(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "linked").symlink_to("other")
    (tmp_path / "other" / "b.jpg").write_bytes(b"")
    assert data_files(tmp_path, (".jpg",)) == ["a.jpg", "linked/b.jpg", "other/b.jpg"]
    assert data_files(tmp_path, (".jpg",), below=False) == ["a.jpg"]


def test_names_that_utf8_cannot_write_are_kept_apart(tmp_path):
    (tmp_path / "a\udcff.jpg").write_bytes(b"")
    files = PictureFiles(tmp_path)
    assert files.files == [] and files.unwritable == ["a\udcff.jpg"]


@pytest.mark.parametrize("written", ["", ".", "/", "..", "C:", "http://", "://", "?d=", "/data/upload/"])
def test_odd_paths_have_parts_or_none(written):
    assert all(part not in ("", ".", "..") for part in written_parts(written))


def test_folders_of_one_name_are_told_apart_by_stem(files):
    assert files.with_stem("images/cam1/b") == (["images/cam1/b.jpg"], ["images/cam1/b.jpg", "images/cam2/b.jpg"])
    assert files.with_stem("Images/CAFE\u0301 1")[0] == ["images/Caf\u00e9 1.JPG"]
    assert files.with_stem("none") == ([], [])


def test_paths_are_relative(files):
    assert not any(Path(name).is_absolute() for name in files.files)
