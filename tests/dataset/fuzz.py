"""Fuzz the annotation readers: hypothesis at length, then atheris, which keeps what reaches new code.

    python -m tests.dataset.fuzz --minutes 10 --seeds PATH ...

A finding is written to `.fuzz/findings/`, and the command fails: mend the reader, and keep the file in
`tests/dataset/cases/`, where every run of the tests reads it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mutineck.dataset.coco import keep_images
from mutineck.dataset.shapes import write_shapes
from mutineck.study.experiment_file import repository
from mutineck.study.manifest import revision
from mutineck.system.files import write_json
from tests.dataset import wild
from tests.reliability.junit import cases

WORK = repository() / ".fuzz"
REPORT = repository() / "docs" / "reliability" / "fuzz.json"
CASES = Path(__file__).parent / "cases"
SUFFIXES = {"voc": ".xml", "coco": ".json", "yolo": ".txt", "yaml": ".yaml"}
TARGETS = tuple(f"{which}-{how}" for which in SUFFIXES for how in ("bytes", "built"))
"""Bytes are a file as they are, or choose what a file says (`tests/dataset/wild.py`)."""
LONGEST = 4096
FILES_A_MINUTE = 1200
"""VOC files, and as many of COCO and YOLO, that the property tests make for each minute of fuzzing."""
INSTRUMENTED = ["mutineck.dataset", "tests.dataset", "defusedxml", "json"]


def reader(target: str) -> Callable[[bytes], Any]:
    """Return what a target does with its bytes."""
    from tests.dataset import contracts

    which, how = target.split("-")
    if which == "yaml":
        return lambda data: contracts.check_described(
            data if how == "bytes" else built(which, data), wild.list_file(data)
        )
    check = {"voc": contracts.check_voc, "coco": contracts.check_coco, "yolo": contracts.check_yolo}[which]
    return check if how == "bytes" else lambda data: check(built(which, data))


def built(which: str, data: bytes) -> bytes:
    """Return the file that bytes choose."""
    files = {"voc": wild.voc_file, "coco": wild.coco_file, "yolo": wild.yolo_file, "yaml": wild.yaml_file}
    return files[which](data)


def run_target(target: str, arguments: list[str]) -> None:
    """Be the fuzzer of one target: libFuzzer's loop, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        for name in [name for name in sys.modules if name.startswith(("mutineck.dataset", "tests.dataset."))]:
            del sys.modules[name]  # they were imported before they could be instrumented
        test = reader(target)
    atheris.Setup([sys.argv[0], *arguments], test)
    atheris.Fuzz()


def seed_files(which: str, folders: Iterable[Path]) -> Iterator[bytes]:
    """Yield files to begin with: kept cases, generated scenes, and some of each folder given, cut to size."""
    source = WORK / "scenes"
    if not source.exists():
        write_shapes(source, images=10, seed=0, size=(96, 72), max_objects=3)
    for folder in (CASES, source, *folders):
        for path in sorted(folder.rglob(f"*{SUFFIXES[which]}"))[:40]:
            content = path.read_bytes()
            if which == "coco" and len(content) > LONGEST and isinstance(document := json.loads(content), dict):
                first = [image["id"] for image in document.get("images", ())[:2]]
                content = json.dumps(keep_images(document, first, "id")).encode()
            yield content[:LONGEST]


def dictionary() -> str:
    """Return the odd words of the generated files, as libFuzzer reads them."""
    words = [*wild.ODD_NUMBERS, *wild.ODD_NAMES, *wild.ODD_PATHS, *wild.DECLARED, *wild.DOCTYPES, *wild.EXTRAS]
    words += [f'"{key}"' for key in ("images", "annotations", "categories", "bbox", "segmentation", "counts", "size")]
    escaped = ("".join(f"\\x{byte:02x}" for byte in word.encode()[:60]) for word in words if word)
    return "".join(f'"{word}"\n' for word in escaped)


def fuzz(target: str, seconds: int, seeds: Iterable[Path]) -> dict[str, Any]:
    """Fuzz one target in a process of its own and return what came of it."""
    which, how = target.split("-")
    corpus, findings = WORK / "corpus" / target, WORK / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    if how == "bytes":
        for index, content in enumerate(seed_files(which, seeds)):
            (corpus / f"seed{index:04d}").write_bytes(content)
    (WORK / "words").write_text(dictionary(), encoding="ascii")
    before = set(findings.iterdir())
    command = [sys.executable, "-m", "tests.dataset.fuzz", "--target", target, str(corpus)]
    command += [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-rss_limit_mb=2048", "-timeout=20"]
    command += [f"-dict={WORK / 'words'}", f"-artifact_prefix={findings}/{target}-", "-print_final_stats=1"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=repository(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    log = done.stderr.decode(errors="replace")
    (WORK / f"{target}.log").write_text(log, encoding="utf-8")
    found = sorted(set(findings.iterdir()) - before)
    if how == "built":
        for path in found:
            path.write_bytes(built(which, path.read_bytes()))
    if done.returncode and not found:
        raise RuntimeError(f"the fuzzer of {target} did not run:\n{log[-2000:]}")
    return {
        "files": _last(r"stat::number_of_executed_units:\s+(\d+)", log) or _last(r"^#(\d+)\s", log),
        "kept": _last(r"corp: (\d+)", log),
        "code_reached": _last(r"cov: (\d+)", log),
        "seconds": round(time.monotonic() - started),
        "findings": [path.name for path in found],
    }


def _last(pattern: str, log: str) -> int:
    found = re.findall(pattern, log, re.MULTILINE)
    return int(found[-1]) if found else 0


def at_length(minutes: float) -> dict[str, Any]:
    """Run the property tests with hypothesis' profile `fuzz` and return how many files they made."""
    junit = WORK / "hypothesis.xml"
    tests = Path(__file__).parent / "test_contracts.py"
    command = [sys.executable, "-m", "pytest", "-q", str(tests), "--hypothesis-profile", "fuzz", f"--junitxml={junit}"]
    started = time.monotonic()
    environment = os.environ | {"FUZZ_FILES": str(round(FILES_A_MINUTE * minutes))}
    command += ["-p", "no:cacheprovider", "--timeout", "0"]
    done = subprocess.run(command, cwd=repository(), env=environment, check=False)
    run = list(cases(junit))
    failed = [case.name for case in run if case.outcome == "failed"]
    if done.returncode and not failed:
        raise RuntimeError(f"the property tests did not run: exit status {done.returncode}")
    seconds = round(time.monotonic() - started)
    return {"files": sum(case.files for case in run), "seconds": seconds, "findings": failed}


def main() -> int:
    """Fuzz, and write `docs/reliability/fuzz.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of atheris, over all targets (default 10)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    parser.add_argument("--seeds", type=Path, nargs="*", default=[], help="folders with .xml and .json to begin with")
    parser.add_argument("--target", choices=TARGETS, help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if given.target:
        run_target(given.target, rest)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris, which guides it by coverage, is not in this environment: make env", file=sys.stderr)
        return 1
    WORK.mkdir(exist_ok=True)
    result: dict[str, Any] = {"revision": revision(), "finished": "", "targets": {}}
    result["targets"]["hypothesis"] = at_length(given.minutes)
    seconds = max(1, round(given.minutes * 60 * given.jobs / len(TARGETS)))
    with ThreadPoolExecutor(given.jobs) as pool:
        found = pool.map(lambda target: fuzz(target, seconds, given.seeds), TARGETS)
        result["targets"] |= dict(zip(TARGETS, found, strict=True))
    result["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(REPORT, result)
    for name, numbers in result["targets"].items():
        print(f"{name:12} {numbers['files']:>9} files, {numbers['seconds']:>5} s, findings: {len(numbers['findings'])}")
    findings = [name for numbers in result["targets"].values() for name in numbers["findings"]]
    if findings:
        print(f"mend the readers, and keep as cases: {', '.join(findings)}, from {WORK / 'findings'}", file=sys.stderr)
    return int(bool(findings))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
