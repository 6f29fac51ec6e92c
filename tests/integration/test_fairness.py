"""Two owners of one service: neither has the queue for itself, whatever it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.integration.api_client import api_serving, ask, record_of, unique, wait_for_status
from tests.processes import wait_until

ENV = {"API_KEYS": "key-of-ann,key-of-bob", "RUNNER_CONCURRENCY": "1", "QUEUE_LIMIT": "20"}


def owner(url: str, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, timeout=30, trust_env=False, headers=headers)


@contextmanager
def two_owners(folder: Path) -> Iterator[tuple[httpx.Client, httpx.Client, Path]]:
    """Ann, Bob, and the gate behind which Ann's first run has the only place there is."""
    gate = folder / "gate"
    with (
        api_serving(folder, ENV) as plateau,
        owner(plateau.url, "key-of-ann") as ann,
        owner(plateau.url, "key-of-bob") as bob,
    ):
        first = ask(ann, "slow", options={"gate": str(gate)})
        wait_for_status(ann, first, "running")
        yield ann, bob, gate


def test_owners_take_turns(tmp_path: Path) -> None:
    with two_owners(tmp_path) as (ann, bob, gate):
        of_ann = [ask(ann, "echo") for _ in range(8)]
        of_bob = [ask(bob, "echo") for _ in range(2)]
        gate.touch()
        started: list[tuple[float, str]] = []
        for client, name, runs in ((ann, "ann", of_ann), (bob, "bob", of_bob)):
            for run in runs:
                wait_for_status(client, run, "completed")
                started.append((record_of(client, run)["started_at"], name))
        order = [name for _, name in sorted(started)]
        # All of Ann's were there before the first of Bob's.
        assert order[:4].count("bob") == 2, order
        # And of one owner the first come is the first served.
        begun = [record_of(ann, run)["started_at"] for run in of_ann]
        assert begun == sorted(begun)


def test_cancelled_runs_keep_no_places(tmp_path: Path) -> None:
    with two_owners(tmp_path) as (ann, bob, gate):
        for _ in range(25):
            run = ask(ann, "echo")
            answer = ann.post(f"/v1/runs/{run['id']}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        run = ask(bob, "echo")
        # Neither owner is behind what is not there.
        more = [ask(ann, "echo") for _ in range(3)]
        gate.touch()
        wait_for_status(bob, run, "completed")
        for one in more:
            wait_for_status(ann, one, "completed")
        began = record_of(bob, run)["started_at"]
        assert began <= min(record_of(ann, one)["started_at"] for one in more)


def test_a_share_that_is_given_up_is_a_place_only_with_the_last(tmp_path: Path) -> None:
    with two_owners(tmp_path) as (ann, _, gate):
        text = unique()
        shared = [ask(ann, "echo", text) for _ in range(2)]
        assert shared[0]["id"] == shared[1]["id"]

        def cancel(run: dict[str, Any]) -> str:
            url = httpx.URL(run["cancel_url"])
            with httpx.Client(base_url=ann.base_url, timeout=30, trust_env=False) as anyone:
                return str(anyone.post(url).json()["status"])

        assert cancel(shared[0]) == "queued"
        gate.touch()
        wait_for_status(ann, shared[1], "completed")


def test_a_full_queue_has_room_again_once_one_has_left(tmp_path: Path) -> None:
    with two_owners(tmp_path) as (ann, bob, gate):
        # The one that is on is Ann's, too: nine more, and ten of Bob's.
        of_ann = [ask(ann, "echo") for _ in range(9)]
        of_bob = [ask(bob, "echo") for _ in range(10)]

        def refused(client: httpx.Client) -> str:
            answer = client.post("/v1/runs", json={"agent": "echo", "input": unique()})
            return "" if answer.status_code == 202 else str(answer.json()["code"])

        assert refused(ann) == refused(bob) == "owner_limit"
        assert ann.post(f"/v1/runs/{of_ann[0]['id']}/cancel").status_code == 200
        wait_until(lambda: refused(ann) == "", "there is room again", timeout_s=5)
        gate.touch()
        for run in of_bob:
            wait_for_status(bob, run, "completed")


def test_who_has_all_that_one_may_keeps_no_other_waiting(tmp_path: Path) -> None:
    """Ann's runs go on for as long as they like; and what ends of hers makes room for hers."""
    gates = [tmp_path / f"gate-{number}" for number in range(8)]
    env = ENV | {"RUNNER_CONCURRENCY": "4"}
    with (
        api_serving(tmp_path, env) as plateau,
        owner(plateau.url, "key-of-ann") as ann,
        owner(plateau.url, "key-of-bob") as bob,
    ):
        of_ann = [ask(ann, "slow", options={"gate": str(gate)}) for gate in gates]

        def running() -> int:
            return [record_of(ann, run)["status"] for run in of_ann].count("running")

        def is_on(count: int) -> bool:
            return running() == count

        wait_until(partial(is_on, 3), "Ann has three of the four places")
        for _ in range(5):
            wait_for_status(bob, ask(bob, "echo"), "completed")
        assert running() == 3
        for number, gate in enumerate(gates):
            gate.touch()
            wait_for_status(ann, of_ann[number], "completed")
            on = min(3, len(gates) - number - 1)
            wait_until(partial(is_on, on), "the next of hers begins")


def test_one_owner_alone_has_all_places(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    env = ENV | {"RUNNER_CONCURRENCY": "4", "API_KEYS": "key-of-ann"}
    with api_serving(tmp_path, env) as plateau, owner(plateau.url, "key-of-ann") as ann:
        runs = [ask(ann, "slow", options={"gate": str(gate)}) for _ in range(4)]
        for run in runs:
            wait_for_status(ann, run, "running")
        gate.touch()
        for run in runs:
            wait_for_status(ann, run, "completed")
