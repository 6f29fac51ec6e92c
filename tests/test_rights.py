"""Users who may not do everything (ACL): what is needed is found, the rest is done without."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from plateau_sse.errors import StoreError
from plateau_sse.ops.fitness import Fitness
from plateau_sse.store.redis import rights
from plateau_sse.store.redis.connections import connect, connect_blocking
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs.streams import Streams
from tests.conftest import Server, assert_all_have_a_life, start_server
from tests.integration.api_client import api_serving, ask, finish, follow, told
from tests.processes import wait_until
from tests.store import done, on_streams, running, text_of, texts

ALL = "~* &* +@all"
# As docs/deploy.md has it.
DOCUMENTED = (
    "~* &* +@read +@write +@scripting +@pubsub +@transaction +@connection -@dangerous +time "
    "+memory|usage"
)
# What the service needs of the streams, and no more.
LEAST = [
    *("~*", "&*", "+multi", "+exec", "+discard", "+ssubscribe", "+sunsubscribe"),
    *sorted({rights.granting(command) for command in rights.tried("streams")}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server("streams", tmp_path_factory.mktemp("streams"))
    yield server
    server.process.terminate()
    server.process.wait(10)


@pytest.fixture
def admin(server: Server) -> Iterator[Any]:
    with server.client() as client:
        client.flushall()
        yield client
        assert_all_have_a_life(client)


def url_of(server: Server, admin: Any, *words: str) -> str:
    """For a user of these rights."""
    admin.execute_command("ACL", "SETUSER", "me", "reset", "on", ">secret", *words)
    return server.url.replace("//", "//me:secret@")


def test_who_may_not_publish_leaves_no_half_step(server: Server, admin: Any) -> None:
    url = url_of(server, admin, *f"{ALL} resetchannels".split())

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        appended = await streams.append(run_id, 1, texts("a", "b"), first_seq=2)
        assert (appended.code, appended.seq) == ("ok", 3)
        ended = await streams.finish(run_id, 1, [*texts("c"), done()], first_seq=4)
        assert (ended.code, ended.seq) == ("ok", 5)
        record = await streams.record(run_id)
        assert record is not None and (record.status, record.output) == ("completed", "abc")
        assert await text_of(redis, run_id) == "abc"

    on_streams(url, scenario)


@pytest.mark.parametrize(
    ("words", "what", "grants"),
    [
        (f"{ALL} resetchannels", {"our channels"}, {"&*"}),
        (f"{ALL} -spublish", {"SPUBLISH"}, {"+spublish"}),
        (f"{ALL} -ssubscribe", {"SSUBSCRIBE"}, {"+ssubscribe"}),
        (
            f"{ALL} -@scripting",
            {"EVAL", "EVALSHA", "SCRIPT LOAD"},
            {"+eval", "+evalsha", "+script|load"},
        ),
        (
            f"{ALL} -copy -xread -hdel",
            {"COPY", "XREAD", "HDEL"},
            {"+copy", "+xread", "+hdel"},
        ),
        (f"{ALL} -memory", {"MEMORY USAGE"}, {"+memory|usage"}),
        (
            f"{ALL} -ping -exec -sunsubscribe",
            {"PING", "EXEC", "SUNSUBSCRIBE"},
            {"+ping", "+exec", "+sunsubscribe"},
        ),
        (f"{ALL} resetkeys ~run:*", {"our keys"}, {"~*"}),
        (f"{ALL} -multi", {"MULTI"}, {"+multi", "+exec", "+discard"}),
        (f"{ALL} -@dangerous", set(), set()),
        (DOCUMENTED, set(), set()),
        (f"{ALL} -client", set(), set()),
        (ALL, set(), set()),
    ],
)
def test_what_is_denied_is_found_and_granted_by_the_line(
    server: Server, admin: Any, words: str, what: set[str], grants: set[str]
) -> None:
    url = url_of(server, admin, *words.split())

    async def scenario() -> None:
        redis = connect(url, "test", connections=2)
        found = await rights.denied(redis, "streams")
        assert (set(found.what), set(found.grants)) == (what, grants)
        admin.execute_command(*shlex.split(found.line("me")))
        assert await rights.denied(redis, "streams") == rights.NOTHING
        await redis.aclose()

    asyncio.run(scenario())
    # Asking leaves nothing.
    assert admin.keys("*") == []


def test_all_is_asked_in_two_turns(server: Server, admin: Any) -> None:
    """Others wait for that connection: with a turn a command they waited for eighty."""
    url = url_of(server, admin, *ALL.split())

    async def scenario() -> None:
        turns = 0
        passing: list[asyncio.Future[None]] = []

        async def accept(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            far, out = await asyncio.open_connection("127.0.0.1", server.port)
            is_asking = False

            async def pass_on(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asks: bool
            ) -> None:
                nonlocal turns, is_asking
                with suppress(ConnectionError):
                    while data := await reader.read(65536):
                        turns += asks and not is_asking
                        is_asking = asks
                        writer.write(data)
                writer.close()

            ways = (pass_on(near, out, True), pass_on(far, back, False))
            passing.extend(map(asyncio.ensure_future, ways))

        between = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = between.sockets[0].getsockname()[1]
        redis = connect(url.replace(f":{server.port}/", f":{port}/"), "test", connections=1)
        assert await redis.ping()
        before = turns
        assert await rights.denied(redis, "streams") == rights.NOTHING
        # MULTI goes alone: without a transaction all of it would be done.
        assert turns - before == 2
        await redis.aclose()
        between.close()
        # What is told its end passes that on, the other way as well.
        await asyncio.gather(*passing)

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_user_with_hardly_any_right_is_told_all_of_it(server: Server, admin: Any) -> None:
    url = url_of(server, admin, "~nothing", "+ping")

    async def scenario() -> None:
        redis = connect(url, "test", connections=2)
        fitness = Fitness(redis, url)
        looking = asyncio.create_task(fitness.keep_looking())
        while not fitness.cause:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert "MULTI" in fitness.cause
        admin.execute_command(*shlex.split(fitness.cause.rpartition(": ")[2]))
        # Who lacks a command is not told that it lacks the keys as well, until then.
        for _ in range(3):
            found = await rights.denied(redis, "streams")
            if found.grants:
                admin.execute_command(*shlex.split(found.line("me")))
        assert await rights.denied(redis, "streams") == rights.NOTHING
        looking.cancel()
        await redis.aclose()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_without_info_there_is_room(server: Server, admin: Any) -> None:
    url = url_of(server, admin, *f"{ALL} -@dangerous".split())

    async def scenario() -> None:
        redis = connect(url, "test")
        fullness = Fullness(redis, 1000)
        assert (await fullness.share(), await fullness.bound()) == (0, 1000)
        await redis.aclose()

    asyncio.run(scenario())


def test_without_a_name_one_connects(server: Server, admin: Any) -> None:
    url = url_of(server, admin, *f"{ALL} -client".split())

    async def scenario() -> None:
        redis = connect(url, "test")
        assert await redis.ping()
        await redis.aclose()

    asyncio.run(scenario())
    with connect_blocking(url, "test") as client:
        assert client.ping()


def test_the_service_needs_no_more_than_it_asks_for(
    server: Server, admin: Any, tmp_path: Path
) -> None:
    """Runs, external ones, conversations and cancelling, with the least rights there may be:
    no CLIENT, no INFO, no CONFIG."""
    env = {"REDIS_URL": url_of(server, admin, *LEAST), "API_KEYS": "key-of-ann"}
    env["ADMIN_TOKEN"] = "the-operators-own-token"
    with (
        api_serving(tmp_path, env) as plateau,
        httpx.Client(
            base_url=plateau.url,
            timeout=20,
            trust_env=False,
            headers={"Authorization": "Bearer key-of-ann"},
        ) as client,
    ):
        first = finish(client, "echo", conversation_id="c1")
        assert first["status"] == "completed"
        finish(client, "echo", conversation_id="c1")
        assert len(client.get("/v1/conversations/c1").json()["messages"]) == 4
        assert client.delete("/v1/conversations/c1").status_code == 204
        run = ask(client, "slow", options={"gate": str(tmp_path / "never")})
        assert client.post(f"/v1/runs/{run['id']}/cancel").status_code in (200, 202)
        told(follow(client, run["events_url"]))
        run = ask(client, "external")
        for batch in ([{"type": "message.delta", "text": "a"}], [{"type": "run.completed"}]):
            answer = client.post(f"/v1/runs/{run['id']}/events", json=batch)
            assert answer.status_code == 200, answer.text
        assert client.get(f"/v1/runs/{run['id']}").json()["output"] == "a"
        assert client.get("/health/ready").status_code == 200
        operator = {"Authorization": "Bearer the-operators-own-token"}
        health = client.get("/health", headers=operator).json()
        assert health["status"] == "degraded", health
        assert "+info" in health["components"]["streams"]["cause"]
        assert client.get("/metrics").status_code == 200
    refused = [line for line in plateau.stderr.splitlines() if "permission" in line]
    # How full it is, by each process; nothing else.
    assert all("how full" in line for line in refused), refused


def test_missing_rights_are_said_at_the_start(
    server: Server, admin: Any, tmp_path: Path
) -> None:
    env = {"REDIS_URL": url_of(server, admin, *f"{ALL} -zmscore".split())}
    with api_serving(tmp_path, env) as plateau:
        line = "ACL SETUSER me +zmscore"
        health: dict[str, Any] = {}

        def is_named() -> bool:
            ready = httpx.get(plateau.url + "/health/ready", timeout=10)
            health.update(ready.json())
            return ready.status_code == 503 and line in health["cause"]

        wait_until(is_named, "the line is named")
        assert line in plateau.stderr
        admin.execute_command(*shlex.split(line))
        wait_until(plateau.is_ready, "it is mended")


def test_an_error_of_rights_is_no_passing_one(server: Server, admin: Any) -> None:
    url = url_of(server, admin, *f"{ALL} -eval -evalsha".split())

    async def scenario(streams: Streams, _: Any) -> None:
        with pytest.raises(StoreError) as denied:
            await running(streams)
        assert type(denied.value) is StoreError

    on_streams(url, scenario)
