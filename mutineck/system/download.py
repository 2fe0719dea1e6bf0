"""Downloads that are resumed where they stopped and verified before use: VOC, COCO and zoo checkpoints."""

from __future__ import annotations

import os
import re
import stat
import tarfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import pooch
import requests
from tqdm import tqdm

from mutineck.system.processes import one_after_another

CHUNK = 1 << 16
"""Bytes written at a time: the most that a broken connection costs."""
ATTEMPTS = 4
TIMEOUT = (10, 60)
"""Seconds to connect, and between two pieces of the answer."""
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
FULL_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64}
ZOO_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$|_([0-9a-f]{8})\.pth$")
"""Checkpoint names of mmdet's and torchvision's zoos end in the first digits of their SHA-256."""


class DownloadError(RuntimeError):
    """A file that could not be had, or is not what it should be; the message names url, file and remedy."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A published archive: where it is, its checksum as ``md5:...``, and a file that it holds."""

    url: str
    checksum: str
    holds: str


VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
COCO = "http://images.cocodataset.org"
# The original hosts offer plain http only: what comes is checked against the hash before it is used.
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "voc": (
        Archive(
            f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            "md5:c52e279531787c972589f7e41ab4ae64",
            "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt",
        ),
        Archive(
            f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            "md5:b6e924de25625d8de591ea690078ad9f",
            "VOCdevkit/VOC2007/ImageSets/Main/test.txt",
        ),
        Archive(
            f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
            "VOCdevkit/VOC2012/ImageSets/Main/trainval.txt",
        ),
    ),
    "coco": (
        Archive(
            f"{COCO}/annotations/annotations_trainval2017.zip",
            "md5:f4bbac642086de4f52a3fdda2de5fa2c",
            "annotations/instances_val2017.json",
        ),
        Archive(f"{COCO}/zips/val2017.zip", "md5:442b8da7639aecaf257c1dceb8ba8c80", "val2017/000000000139.jpg"),
        Archive(f"{COCO}/zips/train2017.zip", "md5:cced6f7f71b7629ddf16f17bbcfab6b2", "train2017/000000000009.jpg"),
    ),
}


def download_dataset(name: str, to: str | os.PathLike[str]) -> Path:
    """Download and unpack a published data set; what is there already is not fetched again.

    Args:
        name: ``voc`` (2007 and 2012) or ``coco`` (2017).
        to: folder; an archive is unpacked there and then removed.

    Returns:
        The folder that ``dataset.root`` should name.

    Raises:
        ValueError: there is no such data set.
        DownloadError: see `fetch` and `unpack`.
    """
    if name not in ARCHIVES:
        raise ValueError(f"download: no data set {name!r}; there are {', '.join(ARCHIVES)}")
    folder = Path(to)
    done = folder / ".unpacked"
    done.mkdir(parents=True, exist_ok=True)
    for archive in ARCHIVES[name]:
        file_name = PurePosixPath(urlparse(archive.url).path).name
        mark = done / f"{file_name}.{archive.checksum.partition(':')[2][:8]}"
        if mark.exists() and (folder / archive.holds).exists():
            continue
        file = fetch(archive.url, folder / file_name, checksum=archive.checksum)
        unpack(file, folder)
        mark.touch()
        file.unlink()
    return folder


def fetch(url: str, to: str | os.PathLike[str], *, checksum: str | None = None, progress: bool = True) -> Path:
    """Fetch one file, going on where an interrupted call stopped, and verify it before it gets its name.

    Args:
        url: https, or http where the checksum is a full one or the host is this machine.
        to: the file to write; if it is there and its checksum agrees, nothing is fetched.
        checksum: ``md5:``, ``sha1:`` or ``sha256:`` with hexadecimal digits; a SHA-256 may be given by its
            first eight digits or more. Without it, a zoo checkpoint's name (``..._1a2b3c4d.pth``) says it; a
            file without any is refused.
        progress: show a bar on a terminal.

    Returns:
        The file's path.

    Raises:
        ValueError: the checksum is malformed or missing, or the url is neither https nor acceptable http.
        DownloadError: the host cannot be reached, refuses, sends to an insecure address, or sends something
            else.
    """
    target = Path(to)
    kind, digits = _parse_checksum(checksum or zoo_checksum(url), url)
    full = len(digits) == FULL_LENGTHS[kind]
    _refuse_insecure(url, url, full)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Several processes of one training, or two studies, may want the same file.
    with one_after_another(target.parent):
        if target.exists() and not pooch.file_hash(str(target), alg=kind).startswith(digits):
            raise DownloadError(
                f"{target} is there, but its {kind} is not {digits}: another file, or damaged. Remove it and try again"
            )
        pooch.retrieve(
            url,
            known_hash=f"{kind}:{digits}" if full else None,
            fname=target.name,
            path=target.parent,
            downloader=ResumingDownloader(target, kind, digits, progress=progress),
        )
    return target


def fetch_weights(url: str) -> Path:
    """Return the file of published weights, fetched into the cache if it is not there; its name states its hash.

    Raises:
        ValueError: its name states no hash: what cannot be verified is not fetched.
        DownloadError: see `fetch`.
    """
    return fetch(url, cache_folder() / PurePosixPath(urlparse(url).path).name)


def cache_folder() -> Path:
    """Return the folder where published weights are kept, shared by all studies."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mutineck" / "zoo"


def zoo_checksum(url: str) -> str | None:
    """Return ``sha256:DIGITS`` as the name of a zoo checkpoint states it, or None."""
    match = ZOO_NAME.search(PurePosixPath(urlparse(url).path).name)
    return f"sha256:{match.group(1) or match.group(2)}" if match else None


def _parse_checksum(checksum: str | None, url: str) -> tuple[str, str]:
    if checksum is None:
        raise ValueError(
            f"{url}: no checksum is given and its name states none; what cannot be verified is not fetched"
        )
    kind, _, digits = checksum.lower().rpartition(":")
    kind = kind or "sha256"
    length = FULL_LENGTHS.get(kind)
    enough = length is not None and (len(digits) == length or (kind == "sha256" and 8 <= len(digits) < length))
    if not enough or not re.fullmatch(r"[0-9a-f]+", digits):
        raise ValueError(
            f"{url}: checksum {checksum!r}: expected md5:, sha1: or sha256: and all of its digits "
            "(of a SHA-256, the first eight are enough)"
        )
    return kind, digits


def _refuse_insecure(url: str, origin: str, verified: bool) -> None:
    """Refuse what is not https, http without a full hash, and an answer that leads from https to http."""
    parts, first = urlparse(url), urlparse(origin)
    if parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in LOCAL_HOSTS and first.scheme != "https"
    ):
        return
    if parts.scheme != "http" and url == origin:
        raise ValueError(f"{url}: expected an https address")
    if first.scheme == "https" or parts.scheme != "http":
        raise DownloadError(f"{origin} sends to {url}, which is not https: refused")
    if not verified:
        raise ValueError(f"{url}: http is accepted with a full checksum only; use https")


class ResumingDownloader:
    """A downloader for `pooch.retrieve` that keeps what it has in ``FILE.part`` and asks for the rest.

    Args:
        target: the file in the end; ``.part`` is kept beside it.
        kind: hash to verify.
        digits: its digits, or the first of them.
        progress: show a bar on a terminal.
    """

    def __init__(self, target: Path, kind: str, digits: str, *, progress: bool = True) -> None:
        self.part = target.with_name(f"{target.name}.part")
        self.kind, self.digits, self.progress = kind, digits, progress

    def __call__(self, url: str, output_file: Any, pooch_object: Any = None, check_only: bool = False) -> None:
        """Fetch ``url`` into ``output_file`` (a path, as pooch gives it)."""
        if not self._verified():
            self._fetch_all(url)
        os.replace(self.part, output_file)

    def _verified(self) -> bool:
        return self.part.exists() and pooch.file_hash(str(self.part), alg=self.kind).startswith(self.digits)

    def _fetch_all(self, url: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            before = self._size()
            try:
                complete = self._fetch_rest(url)
            except requests.RequestException as error:
                if attempt == ATTEMPTS:
                    raise DownloadError(
                        f"{url}: {type(error).__name__} after {ATTEMPTS} attempts; {self._size()} bytes are "
                        f"kept in {self.part}, call again to go on. ({error})"
                    ) from error
                time.sleep(0 if self._size() > before else attempt)  # progress was made: go on at once
                continue
            except OSError as error:
                raise DownloadError(
                    f"{self.part} cannot be written ({error.strerror or error}); what has come is kept, "
                    "make room or choose another folder and call again"
                ) from error
            if complete and self._verified():
                return
            if complete:
                self.part.unlink(missing_ok=True)
                if before == 0:
                    raise DownloadError(f"{url}: what came does not have the {self.kind} {self.digits}: thrown away")
                # The part was another version's: once more, from the start.
        raise DownloadError(f"{url}: incomplete after {ATTEMPTS} attempts; call again to go on")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _fetch_rest(self, url: str) -> bool:
        """Append what is missing; return whether the whole length has come."""
        have = self._size()
        headers = {"Range": f"bytes={have}-"} if have else {}
        # Without this, a host may send the file compressed and a Range would count other bytes.
        headers["Accept-Encoding"] = "identity"
        with self._open(url, headers) as answer:
            if answer.status_code == 416:  # nothing after what is here: complete, or longer than the original
                return True
            if answer.status_code not in (200, 206):
                raise DownloadError(f"{url}: the host answers {answer.status_code} {answer.reason}")
            resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if answer.status_code == 206 and not resumed:
                raise DownloadError(f"{url}: the host sends another part than asked for; remove {self.part}")
            start = have if resumed else 0
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length else None
            with (
                open(self.part, "ab" if resumed else "wb") as file,
                tqdm(
                    desc=self.part.stem,
                    total=total,
                    initial=start,
                    unit="B",
                    unit_scale=True,
                    disable=None if self.progress else True,
                ) as bar,
            ):
                for piece in answer.iter_content(CHUNK):
                    file.write(piece)
                    bar.update(len(piece))
        return total is None or self._size() >= total

    @staticmethod
    def _open(url: str, headers: dict[str, str]) -> requests.Response:
        """Follow redirections by hand, so that none can lead from https to http."""
        address = url
        for _ in range(10):
            answer = requests.get(address, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False)
            if not answer.is_redirect:
                return answer
            answer.close()
            address = requests.compat.urljoin(address, answer.headers["Location"])
            _refuse_insecure(address, url, verified=True)
        raise DownloadError(f"{url}: more than 10 redirections")


def unpack(archive: str | os.PathLike[str], to: str | os.PathLike[str]) -> Path:
    """Unpack a tar or zip archive, refusing one that would write outside its folder or make links or devices.

    Raises:
        DownloadError: the archive is damaged, or holds such a member; nothing of it is unpacked then.
    """
    archive, folder = Path(archive), Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder)
        else:
            with tarfile.open(archive) as file:
                for member in file.getmembers():
                    if not (member.isfile() or member.isdir()):
                        raise DownloadError(f"{archive}: {member.name} is a link or a device: refused")
                    _refuse_outside(archive, member.name)
                file.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DownloadError(f"{archive}: damaged, or neither tar nor zip ({error}); remove it and try again") from error
    return folder


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise DownloadError(f"{archive}: {entry.filename} is a link: refused")
            _refuse_outside(archive, entry.filename)
        file.extractall(folder)


def _refuse_outside(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
        raise DownloadError(f"{archive}: {name} would be written outside the folder: refused")
