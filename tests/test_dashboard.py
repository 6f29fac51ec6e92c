"""What `plateau top` shows, of pictures as the service makes them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plateau_sse.cli import dashboard, units
from plateau_sse.cli.dashboard import Look
from plateau_sse.ops.overview import overview
from plateau_sse.ops.watch import Seen
from plateau_sse.settings import Settings
from plateau_sse.store.queue.queue import Depth

MIB = 1024**2
NOW = 1_800_000_000.0


def server(**more: Any) -> dict[str, Any]:
    return {
        "version": "9.1.2",
        "policy": "noeviction",
        "keys": 1234,
        "process_id": 0,
        "aof_enabled": 1,
        "used_memory": 2 * MIB,
        "maxmemory": 64 * MIB,
        "evicted_keys": 0,
        "evicted_clients": 0,
        "connected_clients": 12,
        "instantaneous_ops_per_sec": 21,
        **more,
    }


def process(role: str, pid: int, **more: Any) -> dict[str, Any]:
    return {
        "role": role,
        "host": "here",
        "pid": pid,
        "pss": 20 * MIB,
        "rss": 40 * MIB,
        "cpu": 0.031,
        "started": NOW - 7200,
        "age_s": 2.5,
        **more,
    }


def picture(web: int = 2, advice: int = 0, **more: Any) -> dashboard.Picture:
    """As `overview` makes it; of so many web workers, and with so much advice."""
    rows = [process("web", pid, open=1200, lag_ms=0.7) for pid in range(1, web + 1)]
    seen = Seen(
        at=0.0,
        streams=server(),
        cache=server(policy="allkeys-lru", maxmemory=10 * MIB),
        depth=Depth(waiting=3, running=2, runners=1, oldest_s=1.2),
        by_host={"here": {"cache_hits": 995, "cache_misses": 5, "runs_completed": 12_345}},
        workers=[*rows, process("runner", 99, running=2, places=32)],
        lately=Counter(cache_hits=3, cache_misses=1),
        lately_s=60.0,
        apart={},
    )._replace(**more)
    found = overview(seen, Settings(), "here")
    row = {"rule": "x", "level": "error", "says": "something " * 9, "change": "change it " * 9}
    found["advice"] = [row] * advice
    return found


def shown(
    found: dashboard.Picture, width: int = 80, height: int | None = None, **more: Any
) -> list[str]:
    rows = dashboard.lines(found, Look(width, height), NOW, **more)
    return [dashboard.paint(row, width, colour=False) for row in rows]


@given(
    st.integers(1, 250),
    st.integers(1, 70),
    st.integers(0, 12),
    st.integers(0, 20),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_it_never_takes_more_room_than_there_is(
    width: int, height: int, workers: int, advice: int, is_stale: bool
) -> None:
    found = picture(workers, advice)
    rows = shown(found, width, height, is_stale=is_stale)
    assert len(rows) <= height and max(map(len, rows)) <= width
    everything = shown(found, width, is_stale=is_stale)
    if not is_stale:
        assert len(rows) == min(height, len(everything))
    if height > 2 and width > 10 and len(rows) < len(everything) and not is_stale:
        assert any(row.startswith("… and ") for row in rows)


def test_a_small_terminal_shows_it_all() -> None:
    rows = shown(picture(), 80, 24)
    assert rows[0] == "All is well."
    assert rows == shown(picture(), 80)
    text = "\n".join(rows)
    for words in (
        "60 of 400 MiB",
        "2.0 of 64.0 MiB",
        "2.0 of 10.0 MiB",
        "1,234 answers",
        "75 % in 60 s",
        "99 % in all",
        "2,400 open",
        "0.7 ms lag",
        "3 waiting",
        "first for 1 s",
        "12,345 completed",
        "1,200 readers",
        "2 of 32 runs",
        "3 %",
        "2 h",
        "2 s ago",
    ):
        assert words in text, words


def test_advice_goes_before_processes() -> None:
    rows = shown(picture(web=8, advice=2), 80, 24)
    text = "\n".join(rows)
    assert rows[0] == "2 things are wrong." and text.count("Wrong") == 2
    assert "Restarts" in text and rows[-1].startswith("… and ")
    rows = shown(picture(advice=9), 80, 24)
    assert any("more lines" in row for row in rows) and "PROCESS" in "\n".join(rows)


def test_what_is_not_known_is_a_dash() -> None:
    away: dict[str, Any] = {"depth": None, "by_host": {}, "workers": [], "lately_s": 0.0}
    rows = shown(picture(streams="no answer within 2 s", **away))
    text = "\n".join(rows)
    assert "– of 400 MiB" in text and "– open" in text and "– waiting" in text
    assert "– in all" in text and "– completed" in text
    assert "no answer within 2 s" in text and "2.0 of 10.0 MiB" in text
    assert " 0 " not in text.replace(" 0 evicted", "")


def test_the_silent_and_the_deaf_are_marked() -> None:
    workers = [
        process("web", 1, open=5, age_s=12.0),
        process("web", 2, open=5, deaf=1),
        process("web", 3, open=1, connected=0),
    ]
    rows = shown(picture(workers=workers, cache=None))
    text = "\n".join(rows)
    assert "silent 12 s" in text and text.count("hears nothing") == 2
    assert "not configured" in text


def test_a_picture_cannot_drive_the_terminal() -> None:
    found = picture(advice=1)
    found["advice"][0] |= {"says": "\x1b[2Jgone\n\rx", "change": "\x07\x9b1m"}
    found["memory"]["processes"][0]["role"] = "w\x1b[31meb"
    for row in dashboard.lines(found, Look(80), NOW):
        assert all(text.isprintable() for text, _ in row)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ("", "All is well."),
        ("w", "It works; one thing wants a look."),
        ("www", "It works; 3 things want a look."),
        ("e", "One thing is wrong."),
        ("ew", "One thing is wrong, and one thing wants a look."),
        ("eeww", "2 things are wrong, and 2 things want a look."),
    ],
)
def test_the_verdict(levels: str, words: str) -> None:
    names = {"e": "error", "w": "warning"}
    assert dashboard.verdict([{"level": names[level]} for level in levels])[0] == words


def test_figures_in_words() -> None:
    assert [units.duration(s) for s in (None, 0, 59.9, 60, 3599, 7200, 200_000)] == [
        "–",
        "0 s",
        "59 s",
        "1 min",
        "59 min",
        "2 h",
        "2 d",
    ]
    assert [units.ms(n) for n in (None, 0.71, 9.94, 12.3, 999, 1500, 12_000)] == [
        "–",
        "0.7 ms",
        "9.9 ms",
        "12 ms",
        "999 ms",
        "1.5 s",
        "12 s",
    ]
    assert [units.percent(n) for n in (None, 0.0, 0.9999, 1.0)] == ["–", "0 %", "99 %", "100 %"]
