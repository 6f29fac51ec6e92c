"""The keeper of leases: as long as it lives they are renewed, and a lost one is told once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from redis import Redis

from plateau_sse.runner import lease
from plateau_sse.runner.lease import LeaseKeeper
from plateau_sse.store.queue.queue import Leases, Queue, Ticket
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect_blocking
from tests.processes import wait_until
from tests.queues import LEASE_MS, enqueue, on_queue, take

OLD_MS = 5000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    monkeypatch.setattr(lease, "RETRY_S", 0.01)


@pytest.fixture
def looking(streams_url: str) -> Iterator[Any]:
    with Redis.from_url(streams_url, protocol=2) as client:
        yield client


@pytest.fixture
def leases(streams_url: str) -> Iterator[Leases]:
    client: Any = connect_blocking(streams_url, "test-leases")
    with client:
        yield Leases(client)


def taken(url: str, runner: str, count: int) -> list[Ticket]:
    """That many runs, taken from the queue by the runner."""
    tickets: list[Ticket] = []

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, count)
        tickets.extend(await take(queue, runner, count))

    on_queue(url, scenario)
    assert len(tickets) == count
    return tickets


def give(looking: Any, runner: str, ticket: Ticket, age_ms: int = OLD_MS) -> None:
    seconds, micros = looking.time()
    ends = seconds * 1000 + micros // 1000 + LEASE_MS - age_ms
    looking.hset(keys.QUEUE.places, ticket.run_id, f"n {runner} ann notes")
    looking.zadd(keys.QUEUE.held, {ticket.run_id: ends})


def age_ms(looking: Any, ticket: Ticket) -> int:
    seconds, micros = looking.time()
    ends = int(looking.zscore(keys.QUEUE.held, ticket.run_id))
    return int(seconds * 1000 + micros // 1000 + LEASE_MS - ends)


def holder(looking: Any, ticket: Ticket) -> str:
    place: bytes = looking.hget(keys.QUEUE.places, ticket.run_id)
    return place.split()[1].decode()


def remove(looking: Any, ticket: Ticket) -> None:
    looking.zrem(keys.QUEUE.held, ticket.run_id)
    looking.hdel(keys.QUEUE.places, ticket.run_id)


def test_leases_are_renewed_while_an_agent_blocks_the_loop(
    streams_url: str, looking: Any, leases: Leases
) -> None:
    held, not_held = taken(streams_url, "r1", 2)
    keeper = LeaseKeeper(leases, "r1", lambda run_id: None)
    keeper.start()
    try:
        keeper.hold(held)

        async def blocking() -> None:
            # Nothing of this loop runs until it is over.
            for _ in range(3):
                give(looking, "r1", held)
                give(looking, "r1", not_held)
                wait_until(lambda: age_ms(looking, held) < OLD_MS, "the lease is renewed")
                assert age_ms(looking, not_held) >= OLD_MS

        asyncio.run(blocking())
    finally:
        keeper.stop()


def test_a_lease_that_another_has_got_is_told_once_and_left_to_it(
    streams_url: str, looking: Any, leases: Leases
) -> None:
    kept, lost, gone = taken(streams_url, "r1", 3)
    told: list[tuple[str, str]] = []
    keeper = LeaseKeeper(
        leases, "r1", lambda run_id: told.append((run_id, threading.current_thread().name))
    )
    keeper.start()
    try:
        for ticket in (kept, lost, gone):
            keeper.hold(ticket)
        give(looking, "r2", lost)
        remove(looking, gone)
        wait_until(lambda: len(told) == 2, "both losses are told")
        # Round after round, the one that is held is renewed, and nothing is told again.
        for _ in range(3):
            give(looking, "r1", kept)
            wait_until(lambda: age_ms(looking, kept) < OLD_MS, "the lease is renewed")
        assert sorted(told) == [(lost.run_id, "leases"), (gone.run_id, "leases")]
        assert holder(looking, lost) == "r2" and age_ms(looking, lost) >= OLD_MS
    finally:
        keeper.stop()


def test_a_run_that_ends_meanwhile_is_not_lost(streams_url: str, looking: Any) -> None:
    (ended,) = taken(streams_url, "r1", 1)
    told: list[str] = []
    rounds = threading.Semaphore(0)

    class Interrupted(Leases):
        """The run ends while its lease is on the way to being renewed."""

        def renew(self, runner: str, held: Mapping[str, str]) -> set[str]:
            remove(looking, ended)
            keeper.release(ended.run_id)
            lost = super().renew(runner, held)
            assert lost == {ended.run_id}
            keeper.hold(Ticket("another", "notes", False))
            rounds.release()
            return lost

    client: Any = connect_blocking(streams_url, "test-leases")
    with client:
        keeper = LeaseKeeper(Interrupted(client), "r1", told.append)
        keeper.hold(ended)
        keeper.start()
        try:
            assert rounds.acquire(timeout=10)
        finally:
            keeper.stop()
    assert ended.run_id not in told


def test_a_store_that_fails_is_tried_again(
    streams_url: str, looking: Any, leases: Leases, caplog: pytest.LogCaptureFixture
) -> None:
    (held,) = taken(streams_url, "r1", 1)
    told: list[str] = []
    keeper = LeaseKeeper(leases, "r1", told.append)
    keeper.hold(held)
    give(looking, "r1", held)
    looking.rename(keys.QUEUE.held, "aside")
    looking.set(keys.QUEUE.held, "no queue")
    keeper.start()
    try:
        wait_until(lambda: caplog.text.count("trying again") >= 2, "it has failed twice")
        looking.rename("aside", keys.QUEUE.held)
        wait_until(lambda: age_ms(looking, held) < OLD_MS, "the lease is renewed")
    finally:
        keeper.stop()
    assert told == []


def test_a_keeper_that_is_stopped_renews_no_more(
    streams_url: str, looking: Any, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    (held,) = taken(streams_url, "r1", 1)
    before = threading.active_count()
    # It does not wait for its next round.
    monkeypatch.setattr(lease, "RENEW_S", 3600)
    keeper = LeaseKeeper(leases, "r1", lambda run_id: None)
    keeper.hold(held)
    keeper.start()
    assert threading.active_count() == before + 1
    keeper.stop()
    assert threading.active_count() == before
