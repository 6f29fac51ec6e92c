"""Who comes when the run's record is gone: the answer that it left is told while it lasts, to
who could read the run, and to nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis import Redis

from plateau_sse.store.answers import pointers
from plateau_sse.store.answers.packing import pack
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import ids
from tests.integration.api_client import (
    api_serving,
    ask,
    assert_problem,
    finish,
    follow,
    told,
    unique,
    wait_for_status,
)
from tests.processes import Serving, wait_until
from tests.store import answer

ANN, BOB = "key-of-ann-1234567890", "key-of-bob-1234567890"


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("late")) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture
def streams(plateau: Serving) -> Iterator[Redis]:
    with Redis.from_url(plateau.streams_url, protocol=2) as opened:
        yield opened


@pytest.fixture
def cache(plateau: Serving) -> Iterator[Redis]:
    with Redis.from_url(plateau.cache_url, protocol=2) as opened:
        yield opened


def query_of(run: dict[str, Any]) -> str:
    return str(run["events_url"].partition("?")[2])


def wait_until_left(cache: Redis, run: dict[str, Any]) -> None:
    """It is noted a moment after the run's end."""
    wait_until(lambda: cache.exists(keys.left_by(run["id"])), "the answer is the run's")


def expire(streams: Redis, cache: Redis, run: dict[str, Any]) -> None:
    """As if its time were over."""
    wait_until_left(cache, run)
    assert streams.delete(*keys.run(run["id"]))


def test_an_expired_run_is_told_from_the_answer_that_it_left(
    client: httpx.Client, streams: Redis, cache: Redis
) -> None:
    run = finish(client, "rich", unique())
    original, url = follow(client, run["events_url"]), run["events_url"]
    expire(streams, cache, run)
    record = client.get(f"/v1/runs/{run['id']}?{query_of(run)}")
    assert record.status_code == 200
    links = {"events_url", "cancel_url"}
    when = {"created_at", "started_at", "ended_at", "duration_ms", "cached"}
    same = set(run) - links - when
    assert {name: record.json()[name] for name in same} == {name: run[name] for name in same}
    assert record.json()["cached"] is True

    replayed = follow(client, url)
    assert told(replayed).parts == told(original).parts
    assert replayed[0] == original[0] and replayed[-1].id == original[-1].id
    for seen, event in enumerate(original[:-1], 1):
        rest = follow(client, url, **{"Last-Event-ID": event.id})
        assert told([*original[:seen], *rest]).parts == told(original).parts
    end = {"Last-Event-ID": original[-1].id}
    assert client.get(url, headers=end).status_code == 204
    assert client.head(url).status_code == 200
    # It has no place any more where the wish to cancel it could be noted.
    assert client.post(run["cancel_url"]).status_code == 404


def test_it_is_told_to_who_could_read_the_run_and_to_nobody_else(
    client: httpx.Client, streams: Redis, cache: Redis, tmp_path: Path
) -> None:
    text, options = unique(), {"gate": str(tmp_path / "gate")}
    first = ask(client, "slow", text, options=options)
    second = ask(client, "slow", text, options=options)
    assert (first["id"], first["events_url"] != second["events_url"]) == (second["id"], True)
    (tmp_path / "gate").touch()
    wait_for_status(client, first, "completed")
    expire(streams, cache, first)
    for run in (first, second):
        assert client.get(f"/v1/runs/{run['id']}?{query_of(run)}").json()["cached"] is True
        assert told(follow(client, run["events_url"])).end is not None
    other = query_of(finish(client, "echo"))
    for query in (other, "token=x"):
        for path in ("", "/events"):
            answered = client.get(f"/v1/runs/{first['id']}{path}?{query}")
            # Its id is too young to have expired: nothing says that it has been.
            assert_problem(answered, 404, "run_not_found")


def test_another_answer_to_the_same_question_is_not_its_own(
    client: httpx.Client, streams: Redis, cache: Redis
) -> None:
    text = unique()
    run = finish(client, "echo", text)
    expire(streams, cache, run)
    assert client.get(f"/v1/runs/{run['id']}?{query_of(run)}").status_code == 200
    finish(client, "echo", text, cache={"mode": "refresh"})
    for path in ("", "/events"):
        answered = client.get(f"/v1/runs/{run['id']}{path}?{query_of(run)}")
        assert_problem(answered, 404, "run_not_found")


def test_what_was_not_to_be_kept_is_gone_with_its_record(
    client: httpx.Client, streams: Redis, cache: Redis
) -> None:
    run = finish(client, "echo", unique(), cache={"mode": "off"})
    assert streams.delete(*keys.run(run["id"]))
    assert client.get(f"/v1/runs/{run['id']}?{query_of(run)}").status_code == 404
    assert not cache.exists(keys.left_by(run["id"]))


def test_when_the_answer_goes_the_run_has_expired(client: httpx.Client, cache: Redis) -> None:
    """The id of a run that is older than any record, whose answer has just been evicted."""
    old = int((time.time() - 10 * 86_400) * 1000)
    run_id = f"{old:012x}{ids.new_run_id()[12:]}"
    token, key = ids.new_token(), "B" * 24
    left = answer("Because.", tag=ids.tag_of(run_id), owner="anonymous")
    cache.set(keys.left_by(run_id), pointers.pack(key, left, [token]), ex=60)
    for path in ("", "/events"):
        url = f"/v1/runs/{run_id}{path}?token={token}"
        cache.set(keys.cache(key), pack(left), ex=60)
        assert client.get(url).status_code == 200
        other = msgspec.structs.replace(left, token=ids.new_token())
        cache.set(keys.cache(key), pack(other), ex=60)
        assert_problem(client.get(url), 410, "run_expired")
        cache.delete(keys.cache(key))
        assert_problem(client.get(url), 410, "run_expired")


def test_its_life_is_that_of_the_answer(client: httpx.Client, cache: Redis) -> None:
    run = finish(client, "echo", unique(), cache={"mode": "use", "ttl_s": 77})
    wait_until_left(cache, run)
    assert 0 < int(cache.ttl(keys.left_by(run["id"]))) <= 77


def test_a_cache_that_is_away_has_lost_nothing(
    client: httpx.Client, streams: Redis, cache: Redis
) -> None:
    """A stream's reader is told to come back, which it does; anybody else that it may pass."""
    run = finish(client, "echo", unique())
    expire(streams, cache, run)
    url = f"/v1/runs/{run['id']}?{query_of(run)}"
    cache.client_pause(2000)
    assert client.get(url).status_code == 503
    events = client.get(run["events_url"])
    assert events.status_code == 200 and events.text.startswith("retry:")
    assert "data" not in events.text
    # Answered when it is over.
    cache.ping()
    back = threading.Event()
    while client.get(url).status_code != 200:
        assert not back.wait(0.1)
    assert told(follow(client, run["events_url"])).end is not None


def test_an_owner_needs_no_token_and_another_has_no_use_for_it(tmp_path: Path) -> None:
    def bearer(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    with (
        api_serving(tmp_path, env={"API_KEYS": f"{ANN},{BOB}"}) as running,
        httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client,
        Redis.from_url(running.streams_url, protocol=2) as streams,
        Redis.from_url(running.cache_url, protocol=2) as cache,
    ):
        client.headers.update(bearer(ANN))
        run = finish(client, "echo", unique())
        expire(streams, cache, run)
        url = f"/v1/runs/{run['id']}"
        assert client.get(url).json()["output"] == run["output"]
        assert told(follow(client, f"{url}/events")).end is not None
        client.headers.update(bearer(BOB))
        assert_problem(client.get(url), 404, "run_not_found")
        del client.headers["Authorization"]
        assert client.get(url).status_code == 401
        # Who has no key has the token of the run's own URLs.
        assert client.get(f"{url}?{query_of(run)}").status_code == 200
