"""Runs as on other machines: their spread and its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutineck.system.files import read_json
from tests.reliability import portable, table

RUNS = [
    {"capability": "avx2", "threads": 1, "ended": True, "minutes": 10.0, "mAP": {"student": {"val": 0.1, "test": 0.2}}},
    {"capability": "default", "threads": 2, "ended": True, "minutes": 30.0, "mAP": {"student": {"test": 0.25}}},
    {"capability": "default", "threads": 1, "ended": False, "minutes": 1.0, "mAP": {}},
]
PLANTED = {
    "experiment": "shapes",
    "machines": {"A (avx2)": {"runs": RUNS, "revision": {"git": "0123456789"}, "finished": "2000-01-02T03:04:05Z"}},
}


def test_the_spread_is_from_the_lowest_to_the_highest_run_that_ended() -> None:
    assert portable.spread(RUNS, "test") == {"student": (0.2, 0.25)}
    assert portable.spread(RUNS, "val") == {"student": (0.1, 0.1)}
    assert portable.spread([], "val") == {}


def test_the_table_tells_every_run_and_what_is_missing() -> None:
    text = table.tables({"portable": PLANTED})["portable"]
    assert "- A (avx2): 3 runs, 10 to 30 minutes each, 2000-01-02, revision 01234567." in text
    assert "2 of 3 runs of `shapes` ended in their report." in text
    assert "| student | val | 10.0 | – | – | 10.0 to 10.0 |" in text
    assert "| student | test | 20.0 | 25.0 | – | 20.0 to 25.0 |" in text
    assert table.tables({})["portable"] == "Not run yet: type `make portable`."


def test_numbers_are_the_mean_over_seeds(tmp_path: Path) -> None:
    rows = [
        "arm,seed,split,metric,category,value",
        "a,0,val,bbox_mAP,,0.2",
        "a,1,val,bbox_mAP,,0.4",
        "a,0,val,AP,x,0.9",
    ]
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "results.csv").write_text("\n".join(rows))
    assert portable.numbers(tmp_path) == {"a": {"val": 0.3}}


def test_a_variant_takes_the_instructions_that_it_names() -> None:
    least = portable.capabilities()[0]
    assert least == "default"
    assert portable.Variant(least, 1).environment == {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX"}
    assert str(portable.Variant("avx2", 2)) == "avx2, 2 threads"


def test_every_kept_run_ended() -> None:
    if not portable.REPORT.is_file():
        pytest.skip("`make portable` was not run yet")
    assert [each for each in portable.all_runs(read_json(portable.REPORT)) if not each["ended"]] == []
