"""Failovers under readers: they go on with what is left, and what is lost is declared."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from benchmarks import failover
from benchmarks.failover import FAULTS, SHORT, cut_off
from benchmarks.followers import Following

from plateau_sse import tasks
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.topology import slot_of
from tests.conftest import emptied
from tests.deployment import deployed
from tests.far import skip_unless_asked
from tests.faults import append_characters, complete, record_of, start_run
from tests.groups import Cluster, Node, Trio

ALL = [(store, name) for store, faults in FAULTS.items() for name in faults]


@pytest.fixture(autouse=True, scope="module")
def asked() -> None:
    skip_unless_asked("a test of several servers")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("store", "fault"), ALL)
def test_readers_go_on_after(
    store: str, fault: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """`scripts/bench failover` is the long one."""
    group: Trio | Cluster = request.getfixturevalue("trio" if store == "sentinel" else store)
    for url in emptied(group):
        with deployed(tmp_path, streams_url=url, webs=2, runners=2) as deployment:
            doing = FAULTS[store][fault]
            outcome = asyncio.run(
                failover.failed_over(group, deployment.urls, doing, SHORT, seed=7)
            )
        assert not outcome.faults, "\n".join(outcome.faults)
        assert max(outcome.waits_s, default=0.0) <= failover.BOUND_S
        assert outcome.statuses["completed"] == SHORT.runs, outcome
        group.wait_until_whole()


@pytest.mark.parametrize("kind", ["trio", "cluster"])
def test_who_is_ahead_of_the_promoted_one_is_told_and_begins_anew(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    group: Trio | Cluster = request.getfixturevalue(kind)
    for store_url in emptied(group):
        with deployed(tmp_path, streams_url=store_url, webs=1, runners=1) as deployment:
            url = deployment.urls[0]
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
                asyncio.run(asyncio.wait_for(lose_the_last(group, url, client), 90))
        group.wait_until_whole()


async def lose_the_last(group: Trio | Cluster, url: str, client: httpx.Client) -> None:
    run = await asyncio.to_thread(start_run, url, "external")
    reader = Following([url], run["events_url"])
    following = asyncio.create_task(reader.follow(timeout_s=80))
    try:
        slot = slot_of(keys.run(run["id"]).record)
        await asyncio.to_thread(append_characters, client, run, "kept")
        primary, replica = places(group, slot)
        await asyncio.to_thread(group.wait_until_whole)
        await seen(reader, "kept")
        cut_off(primary, replica)
        await asyncio.to_thread(append_characters, client, run, " and lost")
        await seen(reader, "kept and lost")
        primary.kill()
        replica.resume()
        if isinstance(group, Trio):
            await asyncio.to_thread(group.wait_for_another, primary.port)
        else:
            await asyncio.to_thread(group.wait_for_another, slot, primary)
        await seen(reader, "kept")
        # It is told at once, and not when the producer says more.
        assert reader.told["rewound"] == 1, reader.told
        await asyncio.to_thread(append_characters, client, run, " again")
        await asyncio.to_thread(complete, client, run)
        await following
        record = await asyncio.to_thread(record_of, url, run)
        assert record["output"] == "kept again"
        reader.check_parts(record)
        await asyncio.to_thread(primary.start)
    finally:
        await tasks.end(following)


def places(group: Trio | Cluster, slot: int) -> tuple[Node, Node]:
    if isinstance(group, Trio):
        return group.primary(), group.replica()
    primary = group.primary_of(slot)
    return primary, group.replica_of(primary)


async def seen(reader: Following, text: str) -> None:
    async with asyncio.timeout(30):
        while reader.text != text:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
