"""Short forms of benchmarks that kill, fill and count: that they see what they are to see."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from benchmarks import append, dialects, overshoot, profile, resume, streams
from benchmarks.dialects import NATIVE
from benchmarks.fanout import ONE, deliver
from benchmarks.stages import plateau

from plateau_sse.cli.dialects import SPOKEN
from tests.far import skip_unless_asked

LEAST_READERS = 40


def test_readers_of_a_killed_worker_resume_and_a_stream_keeps_its_bound() -> None:
    with plateau() as stage:
        lengths = asyncio.run(streams.lengths(stage))
        outcome = asyncio.run(resume.kill_a_worker(stage, LEAST_READERS, LEAST_READERS))
    assert lengths.looks > 10
    assert (lengths.most, lengths.last) == (streams.CAP, streams.CAP)
    assert outcome.cut >= LEAST_READERS
    assert outcome.whole == outcome.cut == len(outcome.back_s)
    assert not outcome.tally.errors, outcome.tally.errors
    # A reader that had lost something would be told apart from one that came back.
    outcome.whole -= 1
    outcome.tally.lost += 3
    missed = [row.what for row in resume.rows(outcome) if row.missed and row.bound == 0]
    assert missed == ["kill -9 a worker: bytes and marks lost"]


@pytest.mark.parametrize("dialect", [NATIVE, *SPOKEN])
def test_readers_of_each_dialect_are_given_every_piece(dialect: str) -> None:
    if dialect != NATIVE:
        skip_unless_asked("a benchmark's short form")
    short = ONE._replace(readers=LEAST_READERS, rounds=10)
    with dialects.staged(dialect) as stage:
        # It waits for each piece at each reader. So few cost nothing that could be measured.
        asyncio.run(deliver(stage, short))
        answered = httpx.get(stage.service.url + "/health/ready")
    assert answered.is_success


def test_both_sides_of_an_append_are_measured_in_turn(tmp_path: Path) -> None:
    before = append.script_before()
    if before is None:
        pytest.skip(f"this clone has no {append.BEFORE}")
    with append.sides(tmp_path, before) as (ours, theirs):
        cost = append.compared(ours, theirs, append.mixed(), rounds=2, runs=5)
        took = append.two_kilobytes(ours, theirs)
    assert len(cost.ratios) == 2 and cost.ours > 0 and cost.before > 0
    # What is said is there, on both sides.
    assert min(took) > append.PIECES * len(append.PIECE)
    assert took[0] - took[1] <= append.MORE_BYTES


def test_a_late_reader_is_sent_what_it_lacks() -> None:
    with plateau() as stage:
        sent = asyncio.run(append.sent_late(stage))
    assert append.HAS_NOT < sent <= append.SENT_BYTES


def test_a_full_cache_passes_its_bound_by_one_item_at_most(cache_url: str) -> None:
    found = asyncio.run(overshoot.measure(cache_url, times_over=2))
    assert found.evicted > found.stored / 4
    assert found.most > 0.99 * found.maxmemory
    assert found.largest > 100 * 1024
    assert found.over <= found.largest


def test_a_sample_counts_for_the_innermost_place_it_was_in() -> None:
    asked = (
        "MainThread;run (asyncio/runners.py:118);Direct.__call__ (plateau_sse/api/events.py:68)"
    )
    told = "MainThread;data_received (plateau_sse/store/redis/wire.py:58)"
    pushed = f"{told};dispatch (plateau_sse/live/feed.py:66)"
    pushed += ";push (plateau_sse/live/subscriber.py:137)"
    samples = f"""\
{pushed} 20
{pushed};UVStream_write (loop.c:110085);write (libc.so.6) 50
{asked};Route.matches (starlette/routing.py:240);Py_INCREF (object.h:502) 10
{asked} 10
{told};read (libc.so.6) 5
start_thread (libc.so.6) 5
MainThread;uv__io_poll (linux.c:1400);epoll_pwait (libc.so.6) 900
"""
    assert profile.shares(samples) == {
        "the kernel's write": 50,
        "hub, feeds, subscribers": 20,
        "Starlette": 10,
        "taking on a run": 10,
        "the kernel's read": 5,
        "other": 5,
    }
