"""Hosts that serve together, as the picture, the terminal and `/health` show them."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.cli import dashboard
from plateau_sse.cli.dashboard import Look
from tests.pictures import HOST, MIB, picture, seen, worker

FAR = 60.0


def hosts(*workers: Any) -> dict[str, dict[str, Any]]:
    return {one["host"]: one for one in picture(seen(workers=list(workers)))["hosts"]}


def test_each_host_has_its_own_sums() -> None:
    found = hosts(
        worker(pid=11),
        worker("runner", 13, running=4, places=32),
        worker(pid=91, host="other", open=40, cpu=0.5, age_s=3.0),
        worker(pid=92, host="other", open=2, cpu=0.75),
    )
    here, other = found[HOST], found["other"]
    assert (here["web"], here["runners"], here["open"]) == (1, 1, 3)
    assert (here["running"], here["places"]) == (4, 32)
    # A worker, a runner, and the master that the worker tells of.
    assert here["pss_bytes"] == (2 * 20 + 18) * MIB
    assert (other["web"], other["runners"], other["open"]) == (2, 0, 42)
    assert (other["running"], other["places"]) == (0, 0)
    assert (other["cpu"], other["age_s"]) == (1.25, 1.0)
    assert {one["state"] for one in found.values()} == {"up"}


@pytest.mark.parametrize(
    ("changed", "state", "words"),
    [
        ([{}, {}], "up", ""),
        # One worker that is recycled is no host that leaves; a web worker of a host whose
        # runner goes first is still there.
        ([{"leaving": 1}, {}], "up", ""),
        ([{"leaving": 1}, {"leaving": 1}], "leaving", "web workers finish"),
        ([{"age_s": FAR}, {}], "degraded", "1 of 2 processes"),
        ([{"deaf": 1}, {}], "degraded", "1 of 2 web workers do not hear"),
        ([{"age_s": FAR}, {"age_s": FAR}], "down", "nothing of it has said anything for 60 s"),
    ],
)
def test_the_state_of_a_host(changed: list[dict[str, Any]], state: str, words: str) -> None:
    one, two = changed
    found = hosts(worker(pid=11, **one), worker(pid=12, **two))[HOST]
    assert found["state"] == state and words in found["cause"], found


def test_a_host_leaves_from_when_its_runners_do() -> None:
    found = hosts(worker(pid=11), worker("runner", 13, leaving=1))[HOST]
    assert found["state"] == "leaving" and "runners finish" in found["cause"]


def shown(*workers: Any) -> str:
    rows = dashboard.lines(picture(seen(workers=list(workers))), Look(100), 1e9)
    return "\n".join(dashboard.paint(row, 100, colour=False) for row in rows)


def test_the_terminal_names_hosts_where_there_are_several() -> None:
    assert "HOST" not in shown(worker(), worker("runner", 13))
    text = shown(worker(), worker(pid=91, host="other", age_s=FAR))
    assert "HOST" in text
    assert "  down: nothing of it has said anything for 60 s" in text


def test_no_hosts_are_known_where_the_store_says_nothing() -> None:
    away = seen(streams="away", depth=None, by_host={}, workers=[])
    assert picture(away)["hosts"] == []
