"""How much an owner may: runs in a minute, streams at once; and what wrong keys get."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from redis import Redis

from plateau_sse.keysfile import digest
from tests import tokens
from tests.integration.api_client import (
    SSE,
    api_serving,
    ask,
    assert_problem,
    finish,
    unique,
    wait_for_status,
)
from tests.processes import Serving, wait_until
from tests.tokens import token

ANN, ANN_TOO, BOB = "key-of-ann-12345", "another-key-of-ann", "key-of-bob-67890"
ADMIN = "token-of-the-operators"
# A minute does not divide by it.
RATE, READERS = 7, 3


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("limits")
    keys = folder / "keys"
    keys.write_text(
        f"ann web sha256:{digest(ANN)}\nann ci sha256:{digest(ANN_TOO)}\n"
        f"bob web sha256:{digest(BOB)}\n"
    )
    env = tokens.ENV | {
        "API_KEYS_FILE": str(keys),
        "ADMIN_TOKEN": ADMIN,
        "RATE_LIMIT": str(RATE),
        "READERS_LIMIT": str(READERS),
        "WEB_CONCURRENCY": "2",
    }
    with api_serving(folder, env) as running:
        yield running


def opened(plateau: Serving, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=plateau.url, headers=headers, timeout=30, trust_env=False)


def rest(plateau: Serving) -> None:
    """As if a minute had passed: whoever ran here before has begun nothing."""
    with Redis.from_url(plateau.streams_url, protocol=2) as redis:
        for key in redis.scan_iter("owner:{*"):
            assert 0 < redis.pttl(key) <= 60_000
            redis.delete(key)


def until_refused(client: httpx.Client) -> httpx.Response:
    """Where the machine is slow, one comes back meanwhile."""
    for _ in range(2 * RATE):
        body = {"agent": "echo", "input": unique()}
        answer = client.post("/v1/runs", json=body)
        if answer.status_code != 202:
            break
    return answer


def test_runs_in_a_minute_are_an_owners(plateau: Serving) -> None:
    rest(plateau)
    with (
        opened(plateau, ANN) as ann,
        opened(plateau, ANN_TOO) as too,
        opened(plateau, BOB) as bob,
    ):
        text = unique()
        finish(ann, "echo", text)
        for number in range(RATE - 1):
            ask((ann, too)[number % 2], "echo")
        for client in (ann, too):
            refused = until_refused(client)
            problem = assert_problem(refused, 429, "rate_limited")
            assert str(RATE) in problem["detail"]
            wait_s = int(refused.headers["retry-after"])
            assert 0 < wait_s <= 60 / RATE + 1
            assert refused.headers["ratelimit-policy"] == f'"runs";q={RATE};w=60'
            assert refused.headers["ratelimit"] == f'"runs";r=0;t={wait_s}'
            for path in ("/v1/chat/completions", "/v1/responses"):
                said = [{"role": "user", "content": unique()}]
                asked = {"model": "echo", "messages": said, "input": unique()}
                refused = client.post(path, json=asked)
                assert refused.status_code == 429, refused.text
                assert refused.json()["error"]["code"] == "rate_limit_exceeded"
                assert refused.headers["retry-after"]
        # What is answered already costs nobody a run.
        for _ in range(3 * RATE):
            assert ask(ann, "echo", text)["cached"]
        ask(bob, "echo")


def test_what_was_refused_may_be_asked_after_retry_after(plateau: Serving) -> None:
    rest(plateau)
    with opened(plateau, BOB) as bob:
        answer = until_refused(bob)
        assert answer.status_code == 429
        time.sleep(int(answer.headers["retry-after"]))
        body = {"agent": "echo", "input": unique()}
        assert bob.post("/v1/runs", json=body).status_code == 202


def test_a_repeat_is_no_other_run(plateau: Serving) -> None:
    rest(plateau)
    with opened(plateau, ANN) as ann:
        body, key = {"agent": "echo", "input": unique()}, {"Idempotency-Key": unique()}
        for _ in range(2 * RATE):
            assert ann.post("/v1/runs", json=body, headers=key).status_code == 202


def test_who_comes_at_once_is_counted_once(plateau: Serving) -> None:
    """Whatever worker takes each."""
    rest(plateau)

    def post(_: int) -> int:
        with opened(plateau, ANN) as ann:
            body = {"agent": "echo", "input": unique()}
            return ann.post("/v1/runs", json=body).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(post, range(4 * RATE)))
    taken = statuses.count(202)
    assert RATE <= taken <= RATE + 1 and set(statuses) == {202, 429}


def test_twins_under_one_key_are_one_run(plateau: Serving) -> None:
    """Whatever worker takes each: none is refused while the run of its key has begun, and they
    take one of the minute."""
    rest(plateau)
    key = {"Idempotency-Key": unique()}
    body = {"agent": "echo", "input": unique()}

    def post(_: int) -> httpx.Response:
        with opened(plateau, ANN) as ann:
            return ann.post("/v1/runs", json=body, headers=key)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(4 * RATE)))
    assert {it.status_code for it in answers} == {202}, [it.text for it in answers]
    assert len({it.json()["id"] for it in answers}) == 1
    with opened(plateau, ANN) as ann:
        for _ in range(RATE - 1):
            ask(ann, "echo")
        assert_problem(until_refused(ann), 429, "rate_limited")


def test_users_share_what_their_owner_has(plateau: Serving) -> None:
    rest(plateau)
    with opened(plateau, token("ulla")) as ulla, opened(plateau, token("otto")) as otto:
        for number in range(RATE):
            ask((ulla, otto)[number % 2], "echo")
        assert_problem(until_refused(ulla), 429, "rate_limited")
        with opened(plateau, token("ulla", "bebra")) as other:
            ask(other, "echo")


def test_streams_that_are_open_are_an_owners(plateau: Serving, tmp_path: Path) -> None:
    rest(plateau)
    gate = tmp_path / "gate"
    with opened(plateau, ANN) as ann, opened(plateau, "") as page, ExitStack() as streams:
        run = ask(ann, "slow", options={"gate": str(gate)})
        wait_for_status(ann, run, "running")

        def follow() -> httpx.Response:
            # On a connection of its own, which any worker may take.
            client = streams.enter_context(opened(plateau, ""))
            return streams.enter_context(client.stream("GET", run["events_url"]))

        followed = [follow() for _ in range(READERS)]
        assert {one.status_code for one in followed} == {200}
        for _ in range(4):
            with opened(plateau, "") as other:
                refused = other.get(run["events_url"])
            assert_problem(refused, 429, "too_many_readers")
            assert refused.headers["ratelimit-policy"] == f'"streams";q={READERS}'
            assert refused.headers["retry-after"]
        # None is begun for a stream that cannot be told.
        body = {"agent": "echo", "input": unique()}
        for path, more in (
            ("/v1/runs", SSE),
            ("/v1/chat/completions", {}),
        ):
            said = {
                "model": "echo",
                "stream": True,
                "messages": [{"role": "user", "content": "x"}],
            }
            refused = ann.post(path, json=said if more == {} else body, headers=more)
            assert refused.status_code == 429, refused.text
        with opened(plateau, BOB) as bob:
            with bob.stream("POST", "/v1/runs", json=body, headers=SSE) as response:
                assert response.status_code == 200
                response.read()
        # Whoever goes makes room, however it goes.
        followed[0].close()

        def there_is_room() -> bool:
            try:
                with opened(plateau, "") as other:
                    with other.stream("GET", run["events_url"]) as response:
                        return response.status_code == 200
            except httpx.TransportError:
                return False

        wait_until(there_is_room, "a stream that was left makes room")
        for pid in plateau.pids("gunicorn: worker"):
            os.kill(pid, signal.SIGKILL)
        wait_until(there_is_room, "the streams of a worker that was killed make room")
        gate.touch()
        assert page.get("/health/live").status_code == 200


def test_a_conversation_that_is_followed_is_an_open_stream(plateau: Serving) -> None:
    """While it waits, and while it tells; with its own token, whose account is kept."""
    rest(plateau)
    with opened(plateau, BOB) as bob, ExitStack() as streams:
        url = bob.get("/v1/conversations/c1").json()["events_url"]

        def follow() -> httpx.Response:
            client = streams.enter_context(opened(plateau, ""))
            return streams.enter_context(client.stream("GET", url))

        followed = [follow() for _ in range(READERS)]
        assert {one.status_code for one in followed} == {200}
        finish(bob, "echo", conversation_id="c1")
        # Kept: a reading that is dropped closes its response.
        heard = followed[0].iter_lines()
        assert any("run.completed" in line for line in heard)

        def status() -> int:
            with opened(plateau, "") as other, other.stream("GET", url) as response:
                return response.status_code

        assert status() == 429
        # Only its head is no stream.
        with opened(plateau, "") as other:
            assert [other.head(url).status_code for _ in range(3)] == [429] * 3
        followed[0].close()
        wait_until(lambda: status() == 200, "who goes makes room")
        with opened(plateau, "") as other:
            wait_until(lambda: other.head(url).status_code == 200, "the last one, too")
            assert [other.head(url).status_code for _ in range(9)] == [200] * 9
        assert status() == 200


def test_wrong_keys_are_held_up_and_right_ones_are_not(plateau: Serving) -> None:
    def seconds(key: str, path: str = "/v1/models", address: str = "203.0.113.9") -> float:
        began = time.monotonic()
        headers = {"X-Forwarded-For": f"198.51.100.1, {address}"}
        with opened(plateau, key) as client:
            status = client.get(path, headers=headers).status_code
        assert status == (200 if key in (ANN, "") else 401), status
        return time.monotonic() - began

    tried = [seconds(f"wrong-key-{number}") for number in range(40)]
    assert min(tried) < 0.5 and sorted(tried)[20] >= 1.0
    # Each worker counts by itself: go on until both have had enough, however they came.
    with ThreadPoolExecutor(8) as pool:

        def both_hold_up() -> bool:
            list(pool.map(seconds, ["wrong-key"] * 8))
            return plateau.stderr.count("203.0.113.9 has sent") == 2

        wait_until(both_hold_up, "both workers hold up who sends wrong ones")
    assert seconds(f"{token()}x") >= 1.0
    assert seconds("wrong-token-of-operators", "/api/admin/metrics") >= 1.0
    for _ in range(5):
        assert seconds(ANN) < 0.5
        # Of another address, as the hop says that is trusted.
        assert seconds("wrong-key", address=f"203.0.113.{time.monotonic_ns() % 250}") < 0.9
    assert "wrong-key" not in plateau.stderr
    assert "203.0.113.9 has sent" in plateau.stderr


def test_one_owner_at_ten_times_its_limits_harms_no_other(tmp_path: Path) -> None:
    """By the median of what the other waits for, which has less of the machine then."""
    keys = tmp_path / "keys"
    keys.write_text(f"ann web sha256:{digest(ANN)}\nbob web sha256:{digest(BOB)}\n")
    env = {
        "API_KEYS_FILE": str(keys),
        "RATE_LIMIT": "120",
        "RUNNER_CONCURRENCY": "2",
        "MAX_REQUESTS": "0",
    }

    def waits(bob: httpx.Client) -> float:
        found = []
        for _ in range(15):
            began = time.monotonic()
            finish(bob, "echo")
            found.append(time.monotonic() - began)
        return sorted(found)[len(found) // 2]

    with api_serving(tmp_path, env) as running, opened(running, BOB) as bob:
        finish(bob, "echo")
        alone = waits(bob)
        stop, statuses = threading.Event(), list[int]()

        def flood() -> None:
            with opened(running, ANN) as ann:
                while not stop.is_set():
                    body = {"agent": "echo", "input": unique()}
                    statuses.append(ann.post("/v1/runs", json=body).status_code)
                    # Twenty a second, of the two that it may have.
                    stop.wait(0.1)

        flooding = [threading.Thread(target=flood) for _ in range(2)]
        for thread in flooding:
            thread.start()
        try:
            wait_until(lambda: 429 in statuses, "the flood is over its limit", timeout_s=60)
            beside = waits(bob)
        finally:
            stop.set()
            for thread in flooding:
                thread.join(30)
        assert set(statuses) == {202, 429} and statuses.count(202) >= 120
        assert beside < 2 * alone + 0.1, (alone, beside)
