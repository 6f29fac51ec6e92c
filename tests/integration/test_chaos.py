"""A short storm; `scripts/bench chaos` is the long one."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from benchmarks.chaos import checks, faults, fleet, table
from benchmarks.chaos.storm import ENV, Plan, storm

SHORT = Plan(seed=20_260_101, seconds=8, runs=30, readers=120)
WEBS, RUNNERS = ["web0", "web1"], ["runner0", "runner1"]


@pytest.mark.timeout(240)
def test_whatever_is_killed_nobody_loses_anything(tmp_path: Path) -> None:
    with fleet.running(tmp_path, env=ENV) as members:
        outcome = asyncio.run(storm(members, SHORT))
    found = checks.check_all(outcome)
    assert all(check.ok for check in found), "\n".join(table.lines(outcome, found))
    # Otherwise nothing was tested.
    happened = {(one.fault.kind, one.fault.target[:3]) for one in outcome.happened if one.hit}
    assert happened >= {("kill", "web"), ("kill", "run"), ("pause", "str"), ("restart", "str")}
    attempts = sum(one.record["attempt"] for one in outcome.asked)
    assert attempts > SHORT.runs
    assert sum(one.reader.connections for one in outcome.followers) > 2 * SHORT.readers


def test_the_same_seed_makes_the_same_faults() -> None:
    planned = faults.schedule(7, 30, WEBS, RUNNERS, "streams")
    assert planned == faults.schedule(7, 30, WEBS, RUNNERS, "streams")
    assert planned != faults.schedule(8, 30, WEBS, RUNNERS, "streams")


@pytest.mark.parametrize("seed", range(20))
def test_a_pause_and_the_restart_never_meet(seed: int) -> None:
    planned = faults.schedule(seed, 30, WEBS, RUNNERS, "streams")
    assert [fault.at_s for fault in planned] == sorted(fault.at_s for fault in planned)
    assert sum(fault.kind == "kill" for fault in planned) == 30
    store = [fault for fault in planned if fault.target == "streams"]
    assert [fault.kind for fault in store] == ["pause", "restart", "pause"]
    for before, after in pairwise(store):
        assert before.at_s + before.for_s < after.at_s
