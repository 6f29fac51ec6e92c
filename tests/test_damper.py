"""Logs that come in floods are counted, and lose nothing but their number of lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from plateau_sse.ops import damper
from plateau_sse.ops.damper import BURST, KINDS_MOST, WINDOW_S, Damper, tell_held
from plateau_sse.serve.logs import JsonFormatter, TextFormatter

log = logging.getLogger("plateau.damped")


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(damper, "time", clock)
    return clock


@pytest.fixture
def lines(clock: Clock) -> Iterator[io.StringIO]:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.addFilter(Damper())
    before, logging.root.handlers = logging.root.handlers, [handler]
    log.setLevel(logging.INFO)
    yield written
    logging.root.handlers = before


def test_a_flood_is_said_a_few_times_and_counted(lines: io.StringIO, clock: Clock) -> None:
    for number in range(1000):
        log.warning("run %s: slow", number)
    assert lines.getvalue().count("\n") == BURST
    clock.now += WINDOW_S / 2
    log.info("something else")
    assert lines.getvalue().endswith("INFO something else\n")
    clock.now += WINDOW_S / 2
    tell_held()
    last = lines.getvalue().splitlines()[-1]
    assert last == "WARNING 990 more in the last minute, the latest: run 999: slow"
    tell_held()
    log.warning("run %s: slow", "again")
    assert lines.getvalue().splitlines()[-1] == "WARNING run again: slow"


def test_the_next_line_brings_the_count_along(lines: io.StringIO, clock: Clock) -> None:
    for _ in range(BURST + 1):
        log.error("boom")
    clock.now += WINDOW_S
    log.info("later")
    assert lines.getvalue().splitlines()[-2:] == [
        "ERROR 1 more in the last minute, the latest: boom",
        "INFO later",
    ]


def test_kinds_are_bounded_and_those_beyond_are_said(lines: io.StringIO) -> None:
    for number in range(KINDS_MOST + 50):
        log.info(f"a library's own line {number}")
    assert lines.getvalue().count("\n") == KINDS_MOST + 50


def test_a_line_about_a_run_and_a_request_says_so_in_its_own_fields() -> None:
    record = logging.LogRecord(
        "plateau.runner",
        logging.ERROR,
        __file__,
        1,
        "run %s: agent %s failed",
        ("r1", "a"),
        None,
    )
    record.request = "req-7"
    line = json.loads(JsonFormatter().format(record))
    assert (line["run"], line["request"]) == ("r1", "req-7")
    assert line["message"] == "run r1: agent a failed"
    assert TextFormatter().format(record).endswith("run r1: agent a failed (request req-7)")
