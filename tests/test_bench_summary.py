"""All benchmarks in a row: what is printed, what is kept, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from benchmarks import __main__ as bench
from benchmarks import rows
from benchmarks.rows import Row

KEPT = Row("kept", 1.5, "MiB", 2, peers="predecessor 5.23")
MISSED = Row("missed", 29, "x", 30, most=False)
ABSENT = Row("absent", None, "x", 30, most=False, peers="skipped")
REPORTED = Row("reported", 12.3, "ms")


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    return tmp_path


def reporting(name: str, *found: Row) -> Callable[[Sequence[str]], int]:
    return lambda arguments: rows.report(name, found)


def crashing(arguments: Sequence[str]) -> int:
    raise RuntimeError("nobody answers")


def interrupted(arguments: Sequence[str]) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("found", "code"), [([KEPT, REPORTED, ABSENT], 0), ([KEPT, MISSED], 1)]
)
def test_only_a_missed_bound_is_a_failure(
    found: list[Row], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run_all({"one": reporting("one", *found)}) == code
    last = capsys.readouterr().out.splitlines()[-1]
    bounds = sum(row.bound is not None and row.measured is not None for row in found)
    assert last == (
        f"{bounds - code} of {bounds} bounds kept, {code} missed; of 1 benchmarks 0 crashed, "
        "0 not run"
    )


def test_a_crash_hides_nobody_and_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    named = {
        "one": reporting("one", KEPT),
        "broken": crashing,
        "two": reporting("two", REPORTED),
    }
    assert bench.run_all(named) == 1
    summary = capsys.readouterr().out.partition("== all of it")[2]
    assert [line.split()[0] for line in summary.splitlines()[2:5]] == [
        "kept",
        "reported",
        "broken",
    ]
    assert "RuntimeError: nobody answers" in summary and "predecessor 5.23" in summary
    assert "1 of 1 bounds kept, 0 missed; of 3 benchmarks 1 crashed, 0 not run" in summary


def test_what_is_broken_off_still_says_what_it_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.run_all({"one": reporting("one", KEPT), "two": interrupted})
    summary = capsys.readouterr().out.partition("== all of it")[2]
    assert "predecessor 5.23" in summary
    assert summary.endswith("of 2 benchmarks 0 crashed, 1 not run: two\n")


def test_rows_of_an_earlier_run_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    rows.report("broken", [KEPT])
    capsys.readouterr()
    assert bench.run_all({"broken": crashing}) == 1
    assert KEPT.peers not in capsys.readouterr().out.partition("== all of it")[2]


def test_a_slip_in_an_option_is_told_before_anything_runs() -> None:
    with pytest.raises(SystemExit):
        bench.main(["--minutes", "few"])


def test_rows_come_back_as_they_were(results: Path) -> None:
    found = [KEPT, MISSED, ABSENT, Row("bars", 1, "s", figures={"ours": 1.0}, figures_in="us")]
    assert rows.report("one", found) == 1
    assert rows.kept("one") == found
    assert (results / "one.svg").stat().st_size > 1000


def test_a_bound_of_nothing_has_no_share() -> None:
    assert Row("lost", 0, "", 0).share is None
    assert Row("lost", 1, "", 0).missed
    assert KEPT.share == pytest.approx(0.75)
    assert MISSED.share == pytest.approx(30 / 29)


def test_every_benchmark_is_in_the_usage() -> None:
    assert all(f"\n  {name} " in bench.USAGE for name in bench.BENCHMARKS)
