"""The benchmark of pressure, in short forms: that each part sees what it is to see."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.pressure import hostile, owners, room
from benchmarks.pressure.__main__ import of_hostile, of_owners, of_room
from benchmarks.rows import Row

from tests.far import skip_unless_asked


@pytest.fixture(autouse=True, scope="module")
def asked() -> None:
    skip_unless_asked("a benchmark's short form")


def missed(rows: list[Row]) -> list[str]:
    return [row.what.split(": ")[1] for row in rows if row.missed]


def test_who_finds_no_room_comes_back_and_nobody_is_reset() -> None:
    load = room.Load(files=200, readers=250, runs=8, first_s=4, last_s=10, recovers=False)
    served = of_room(load)
    assert load.room - 5 <= served.most <= load.room
    assert not missed(served.rows()), served
    # Those who were told so, and nobody else.
    assert served.put_off >= load.readers - load.room and served.retry_s >= 5
    assert served.whole == load.readers and served.last_s > 5
    assert set(served.posts) <= {"200", "202"}
    assert "streams found no room" in served.said
    # What is lost would be missed.
    less = served._replace(whole=served.whole - 1, resets=1, posts=Counter({"ReadError": 1}))
    assert missed(less.rows()) == [
        "with all of it",
        "connections reset",
        "POSTs that were answered",
    ]


def test_readers_beside_hostile_connections_are_told_all_and_those_go() -> None:
    load = hostile.Load(
        readers=40, runs=8, heads=20, bodies=0, silent=100, rounds=1, look_s=4.0
    )
    found = of_hostile(load)
    (one,) = found.rounds
    assert one.opened == load.peers and one.alone_ms > 0 and one.beside_ms > 0
    # How late events are is nothing to tell from so few, beside other tests.
    assert not [what for what in missed(found.rows()) if "lag" not in what], found
    # Until what is owed is late.
    assert 9 < one.gone_s < hostile.GONE_S
    slow = found._replace(rounds=[one._replace(beside_ms=3 * one.alone_ms, more_mib=21.0)])
    assert missed(slow.rows()) == ["lag, p95, of alone", "the workers take more"]


def test_an_owner_is_measured_beside_one_who_has_all_that_one_may() -> None:
    load = owners.Load(runs=16, every_s=0.25, asks=600, rounds=1)
    found = of_owners(load)
    (one,) = found.rounds
    assert len(one.alone) == len(one.beside) == load.runs
    assert one.answers["202"] >= owners.LIMIT and one.answers["owner_limit"] > 0
    # Far less than until one of the other's ends: theirs go on for minutes.
    assert max(it.started_ms for it in one.beside) < 10_000
    # Ratios of so few say nothing, beside other tests.
    assert not [what for what in missed(found.rows()) if "until" not in what], found
    late = [it._replace(started_ms=100 * it.started_ms + 500) for it in one.alone]
    rows = found._replace(rounds=[one._replace(beside=late)]).rows()
    assert len(missed(rows)) == 2
