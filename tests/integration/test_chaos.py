"""A short storm; `scripts/bench chaos` is the long one."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from benchmarks.chaos import checks, faults, fleet, table
from benchmarks.chaos.storm import ENV, Plan, storm

from plateau_sse.store.queue.queue import ABANDONED_S
from tests.conftest import STORE, emptied
from tests.far import skip_unless_asked
from tests.groups import Cluster, Trio

SHORT = Plan(seed=20_260_101, seconds=12, runs=30, readers=120)
WEBS, RUNNERS = ["web0", "web1"], ["runner0", "runner1"]
PLACES = (WEBS, RUNNERS, "streams", "cache")


@pytest.mark.timeout(240)
def test_whatever_is_killed_nobody_loses_anything(tmp_path: Path) -> None:
    with fleet.running(tmp_path, env=ENV) as members:
        kept = members.kept_pids()
        outcome = asyncio.run(storm(members, SHORT))
        # A runner, a web master and its worker: what they take from storm to storm is compared.
        assert len(kept) == 3 and members.kept_pids() == kept
    found = checks.check_all(outcome)
    assert all(check.ok for check in found), "\n".join(table.lines(outcome, found))
    # Otherwise nothing was tested.
    happened = {(one.fault.kind, one.fault.target[:3]) for one in outcome.happened if one.hit}
    assert happened >= {("kill", "web"), ("kill", "run"), ("hold", "web"), ("pause", "cac")}
    assert happened >= {(kind, "str") for kind in ("pause", "restart", "demote", "lonely")}
    attempts = sum(one.record["attempt"] for one in outcome.asked)
    assert attempts > SHORT.runs
    assert sum(one.reader.connections for one in outcome.followers) > 2 * SHORT.readers


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Any:
    """What fails over: Sentinels' servers, or a cluster where that is asked for."""
    return request.getfixturevalue("cluster" if STORE == "cluster" else "trio")


@pytest.mark.timeout(240)
def test_nobody_loses_anything_where_a_store_fails_over_as_well(
    group: Trio | Cluster, tmp_path: Path
) -> None:
    """What a failover may cost is made to wait: new runs and ends."""
    skip_unless_asked("a test of several servers")
    plan = Plan(seed=11, seconds=24, runs=30, readers=120)
    for _ in emptied(group):
        with fleet.running(tmp_path, env=ENV | {"WAIT_REPLICAS": "1"}, group=group) as members:
            outcome = asyncio.run(storm(members, plan))
        found = checks.check_all(outcome)
        assert all(check.ok for check in found), "\n".join(table.lines(outcome, found))
    kinds = Counter(one.fault.kind for one in outcome.happened)
    assert (kinds["fail"], kinds["move"]) == (2, 1) and kinds["kill"] > 20


def test_the_same_seed_makes_the_same_faults() -> None:
    planned = faults.schedule(7, 30, *PLACES)
    assert planned == faults.schedule(7, 30, *PLACES)
    assert planned != faults.schedule(8, 30, *PLACES)


@pytest.mark.parametrize("seed", range(20))
def test_the_only_runner_with_an_agent_has_time_to_start(seed: int) -> None:
    planned = faults.schedule(seed, 60, WEBS, [*RUNNERS, "alone"], *PLACES[2:], alone="alone")
    kills = [fault.at_s for fault in planned if fault.kind == "kill"]
    its = [fault.at_s for fault in planned if fault.target == "alone"]
    assert len(kills) == 60 and its
    assert all(after - before >= ABANDONED_S for before, after in pairwise(its))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_done_to_the_store_never_meets(seed: int) -> None:
    planned = faults.schedule(seed, 30, *PLACES)
    assert [fault.at_s for fault in planned] == sorted(fault.at_s for fault in planned)
    assert sum(fault.kind == "kill" for fault in planned) == 30
    store = [fault for fault in planned if fault.target == "streams"]
    kinds = [fault.kind for fault in store]
    assert kinds == ["pause", "restart", "lonely", "pause", "demote"]
    for before, after in pairwise(store):
        assert before.at_s + before.for_s < after.at_s
