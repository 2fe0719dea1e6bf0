from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mutineck.system import download
from mutineck.system.download import (
    ARCHIVES,
    Archive,
    DownloadError,
    ResumingDownloader,
    download_dataset,
    fetch,
    unpack,
    zoo_checksum,
)
from tests.web import Host

CONTENT = bytes(os.urandom(1)[0] ^ (index * 31 % 251) for index in range(300_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def host(host: Host) -> Host:
    host.files["/data.bin"] = CONTENT
    return host


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize(
    "checksum",
    [f"sha256:{SHA256}", f"md5:{MD5}", f"sha256:{SHA256[:8]}", SHA256],
    ids=["sha256", "md5", "first eight digits", "no kind named"],
)
def test_a_file_comes_whole_and_verified(host, tmp_path, checksum):
    path = fetch(f"{host.url}/data.bin", tmp_path / "new" / "data.bin", checksum=checksum)
    assert path.read_bytes() == CONTENT
    assert [item.name for item in path.parent.iterdir()] == ["data.bin"]


def test_what_is_there_is_not_fetched_again(host, tmp_path):
    for _ in range(2):
        fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"md5:{MD5}")
    assert len(host.asked) == 1


def test_who_comes_second_waits_and_fetches_nothing(host, tmp_path):
    wanted = [f"{host.url}/data.bin", tmp_path / "data.bin"]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(*wanted, checksum=SHA256), range(4)))
    assert paths == [tmp_path / "data.bin"] * 4 and paths[0].read_bytes() == CONTENT
    assert len(host.asked) == 1


def test_an_interrupted_download_goes_on_where_it_stopped(host, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:123_456])
    fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert host.asked == [("/data.bin", "bytes=123456-")]


def test_a_broken_connection_is_taken_up_again(host, tmp_path):
    host.cut_after = [100_000, 70_000]
    fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in host.asked] == [None, "bytes=65536-", "bytes=131072-"]


def test_after_too_many_breaks_the_part_is_kept_and_the_error_says_so(host, tmp_path):
    host.cut_after = [70_000, 10, 10, 10]
    with pytest.raises(DownloadError, match=r"65536 bytes are kept in .*data\.bin\.part, call again"):
        fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:65536] and not (tmp_path / "data.bin").exists()
    fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")


def test_a_host_without_ranges_starts_again(host, tmp_path):
    host.ranges = False
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "part",
    [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5)],
    ids=["shorter", "as long", "longer"],
)
def test_a_part_of_another_version_is_thrown_away(host, tmp_path, part):
    (tmp_path / "data.bin.part").write_bytes(part)
    fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_complete_part_needs_no_host(tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    fetch("https://127.0.0.1:9/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256[:10]}")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("digits", ["0" * 64, "0" * 8], ids=["full", "prefix"])
def test_another_content_is_thrown_away(host, tmp_path, digits):
    with pytest.raises(DownloadError, match="thrown away"):
        fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{digits}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_but_another_is_not_overwritten(host, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="another file, or damaged"):
        fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
    assert (tmp_path / "data.bin").read_bytes() == b"mine"


def test_a_missing_file_is_said_at_once(host, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        fetch(f"{host.url}/none.bin", tmp_path / "none.bin", checksum=f"sha256:{SHA256}")
    assert len(host.asked) == 1


def test_redirections_are_followed(host, tmp_path):
    host.redirects["/old.bin"] = "/data.bin"
    fetch(f"{host.url}/old.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_circle_of_redirections_ends(host, tmp_path):
    host.redirects["/a"] = "/a"
    with pytest.raises(DownloadError, match="more than 10"):
        fetch(f"{host.url}/a", tmp_path / "a", checksum=f"sha256:{SHA256}")


def test_https_never_leads_to_http(host, tmp_path, monkeypatch):
    """The first answer plays an https host that redirects to a plain one on this machine."""
    get = download.requests.get

    def answer(address: str, **options: object):
        return get(address.replace("https://secure.example", host.url), **options)

    host.redirects["/data"] = f"{host.url}/data.bin"
    monkeypatch.setattr(download.requests, "get", answer)
    with pytest.raises(DownloadError, match="which is not https"):
        fetch("https://secure.example/data", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
    assert [path for path, _ in host.asked] == ["/data"]


@pytest.mark.parametrize(
    ("url", "checksum", "match"),
    [
        pytest.param("http://example.org/a.bin", "sha256:" + "0" * 8, "full checksum", id="http with a prefix"),
        pytest.param("ftp://example.org/a.bin", "md5:" + "0" * 32, "https", id="ftp"),
        pytest.param("file:///etc/hostname", "md5:" + "0" * 32, "https", id="file"),
        pytest.param("https://example.org/a.bin", None, "no checksum", id="no checksum"),
        pytest.param("https://example.org/a.bin", "md5:123", "expected md5:", id="md5 cut short"),
        pytest.param("https://example.org/a.bin", "sha256:xyzxyzxyz", "expected md5:", id="no hexadecimal digits"),
        pytest.param("https://example.org/a.bin", "crc:12345678", "expected md5:", id="unknown kind"),
    ],
)
def test_unsafe_requests_are_refused_before_anything_is_sent(tmp_path, url, checksum, match):
    with pytest.raises(ValueError, match=match):
        fetch(url, tmp_path / "a.bin", checksum=checksum)


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth", "047c8118"),
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("model_1a2b3c4d.pth", "1a2b3c4d"),
        ("model.pth", None),
        ("epoch_12.pth", None),
    ],
    ids=str,
)
def test_zoo_names_state_their_checksum(name, digits):
    assert zoo_checksum(f"https://example.org/v2/{name}") == (digits and f"sha256:{digits}")


def test_a_zoo_checkpoint_is_verified_by_its_name(host, tmp_path):
    good, bad = f"/net_{SHA256[:8]}.pth", "/net_00000000.pth"
    host.files |= {good: CONTENT, bad: CONTENT}
    assert fetch(host.url + good, tmp_path / "a.pth").read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="00000000"):
        fetch(host.url + bad, tmp_path / "b.pth")


def tar_of(path: Path, name: str, *, link: str | None = None) -> Path:
    with tarfile.open(path, "w") as file:
        entry = tarfile.TarInfo(name)
        if link is not None:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            file.addfile(entry)
        else:
            entry.size = 3
            file.addfile(entry, io.BytesIO(b"abc"))
    return path


def zip_of(path: Path, name: str, mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        file.writestr(entry, b"abc")
    return path


@pytest.mark.parametrize("make", [tar_of, zip_of], ids=["tar", "zip"])
def test_archives_are_unpacked(tmp_path, make):
    folder = unpack(make(tmp_path / "a", "x/y.txt"), tmp_path / "out")
    assert (folder / "x" / "y.txt").read_bytes() == b"abc"


@pytest.mark.parametrize("make", [tar_of, zip_of], ids=["tar", "zip"])
@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "x/../../evil.txt", "C:\\evil.txt", "..\\evil.txt"])
def test_archives_never_write_outside(tmp_path, make, name):
    with pytest.raises(DownloadError, match="outside"):
        unpack(make(tmp_path / "a", name), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "evil.txt").exists()


def test_links_in_archives_are_refused(tmp_path):
    with pytest.raises(DownloadError, match="link"):
        unpack(tar_of(tmp_path / "a.tar", "x", link="/etc"), tmp_path / "out")
    with pytest.raises(DownloadError, match="link"):
        unpack(zip_of(tmp_path / "a.zip", "x", mode=0o120777), tmp_path / "out")


def test_a_damaged_archive_is_said(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no archive")
    with pytest.raises(DownloadError, match="damaged"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_data_set_is_fetched_unpacked_and_not_fetched_twice(host, tmp_path, monkeypatch):
    first, second = tar_of(tmp_path / "1.tar", "VOCdevkit/a.txt"), zip_of(tmp_path / "2.zip", "b.txt")
    host.files |= {"/1.tar": first.read_bytes(), "/2.zip": second.read_bytes()}
    archives = tuple(
        Archive(f"{host.url}/{path.name}", f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}", holds)
        for path, holds in ((first, "VOCdevkit/a.txt"), (second, "b.txt"))
    )
    monkeypatch.setitem(ARCHIVES, "voc", archives)
    for _ in range(2):
        root = download_dataset("voc", tmp_path / "data")
        assert sorted(path.name for path in root.iterdir()) == [".unpacked", "VOCdevkit", "b.txt"]
    assert len(host.asked) == 2
    (root / "b.txt").unlink()
    download_dataset("voc", tmp_path / "data")
    assert [path for path, _ in host.asked] == ["/1.tar", "/2.zip", "/2.zip"]


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'kitti'; there are voc, coco"):
        download_dataset("kitti", tmp_path)


def test_the_published_archives_have_full_checksums():
    for archives in ARCHIVES.values():
        for archive in archives:
            kind, digits = archive.checksum.split(":")
            assert len(digits) == download.FULL_LENGTHS[kind]


def test_a_full_disk_names_the_file_and_the_remedy(host, tmp_path, monkeypatch):
    def full(self: ResumingDownloader, url: str) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ResumingDownloader, "_fetch_rest", full)
    with pytest.raises(DownloadError, match=r"data\.bin\.part cannot be written \(No space left.*make room"):
        fetch(f"{host.url}/data.bin", tmp_path / "data.bin", checksum=f"sha256:{SHA256}")
