"""What is made of an address: whom it names, and the same address to be filled in."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from redis.exceptions import AskError, ConnectionError, MovedError

from plateau_sse.cli import acl, main
from plateau_sse.redis_urls import address_of, template, user_of
from plateau_sse.serve import tree
from plateau_sse.serve.tree import _place
from plateau_sse.settings import Settings
from plateau_sse.store.redis import keys, rights, sentinel
from plateau_sse.store.redis.connections import connect, connect_blocking
from plateau_sse.store.redis.pools import CONNECT_S, pooled_blocking
from plateau_sse.store.redis.sentinel import Sentinels
from plateau_sse.store.redis.topology import Topology


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("redis://box", "default"),
        ("redis://:secret@box", "default"),
        ("redis://m%40e:secret@box", "m@e"),
        ("redis://box/0?username=me&password=secret", "me"),
        # As redis-py has it.
        ("redis://me:secret@box?username=you", "me"),
        ("redis://box?username=me&username=you", "me"),
    ],
)
def test_the_user_is_whom_the_server_takes_for_it(url: str, user: str) -> None:
    assert user_of(url) == user


@pytest.mark.parametrize(
    ("url", "changed", "expected"),
    [
        ("redis://box/2", {"asks": True}, "redis://:PASSWORD@box/2"),
        ("redis://:secret@box/2", {"asks": False}, "redis://box/2"),
        ("redis://box?password=secret&db=2", {}, "redis://:PASSWORD@box?db=2"),
        (
            "rediss://m%40e:secret@box/2?ssl_ca_certs=/ca&ssl_password=secret",
            {"place": "[::1]:6380"},
            "rediss://m%40e:PASSWORD@[::1]:6380/2?ssl_ca_certs=/ca&ssl_password=PASSWORD",
        ),
        ("redis://box?username=a%3Ab&password=x", {}, "redis://a%3Ab:PASSWORD@box"),
        ("unix://:secret@/run/redis?db=1", {"asks": False}, "unix:///run/redis?db=1"),
        ("unix:///run/redis", {"place": "box:6379"}, "redis://box:6379"),
        (
            "redis+sentinel://me:secret@a,b/main/3?sentinel_username=s&sentinel_password=secret",
            {"scheme": "rediss+sentinel"},
            "rediss+sentinel://me:PASSWORD@a,b/main/3?sentinel_username=s"
            "&sentinel_password=PASSWORD",
        ),
    ],
)
def test_what_is_to_be_filled_in_is_the_same_address_without_its_secrets(
    url: str, changed: dict[str, Any], expected: str
) -> None:
    assert template(url, **changed) == expected


def test_who_hangs_is_asked_last_by_who_had_no_patience_for_it() -> None:
    """A lookup in the cache waits for less than a Sentinel may take to answer."""
    left: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.append(asyncio.current_task())  # type: ignore[arg-type]
        while command := await reader.read(1000):
            asked = b"GET-MASTER" in command
            # Once for each command of a greeting.
            greeting = b"+OK\r\n" * command.count(b"\r\n*") + b"+OK\r\n"
            writer.write(b"*2\r\n$3\r\nbox\r\n$4\r\n6379\r\n" if asked else greeting)
        writer.close()
        await writer.wait_closed()

    async def scenario() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as well:
            # Its connections are made by the kernel, and nobody takes them.
            with socket.create_server(("127.0.0.1", 0)) as hangs:
                places = [it.getsockname()[:2] for it in (hangs, well.sockets[0])]
                hosts = ",".join(f"{host}:{port}" for host, port in places)
                sentinels = Sentinels(address_of(f"redis+sentinel://{hosts}/main"))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(sentinel.ANSWER_S / 4):
                        await sentinels.primary()
                # Not after the one that hangs.
                async with asyncio.timeout(sentinel.ANSWER_S * 0.9):
                    assert await sentinels.primary() == ("box", 6379)
                await asyncio.gather(*left)

    asyncio.run(scenario())


def test_a_node_that_has_no_name_yet_is_known_by_its_address() -> None:
    topology = Topology(address_of("redis+cluster://a"))
    reply = [
        [0, 99, [b"?", 6379, b"id", [b"ip", b"10.0.0.2"]]],
        [100, 199, [b"b", 6379, b"id", [b"ip", b"10.0.0.3"]]],
        [200, 299, [None, 6379, b"id"]],
    ]
    assert topology._adopt(reply, ("a", 7000))
    assert topology.primaries == (("10.0.0.2", 6379), ("b", 6379), ("a", 6379))
    # Nor is a host called so: what is known stays, until all of it is learned anew.
    assert topology.moved(MovedError("150 ?:6379"), ("b", 6379)) == ("b", 6379)
    assert ("?", 6379) not in topology.primaries


def test_a_thread_waits_no_longer_for_a_connection_than_for_an_answer() -> None:
    for client, most_s in (
        (connect_blocking("redis://box", "test"), CONNECT_S),
        (pooled_blocking("rediss://box", "test", timeout_s=1.0), 1.0),
    ):
        options = client.connection_pool.connection_kwargs
        assert options["socket_connect_timeout"] == most_s
        client.close()


def test_who_shares_a_server_is_granted_what_begins_with_its_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "PREFIX", "two:")
    denied = ("No permissions to access a key", "No permissions to access a channel")
    granted = [rights._grant(("GET", "two:x"), said) for said in denied]
    assert granted == ["~two:*", "&two:*"]
    assert list(map(rights._words, granted)) == ["our keys", "our channels"]


def test_two_sockets_are_two_servers() -> None:
    one, other = "unix://me:secret@/run/one", "unix://me:secret@/run/other"
    assert _place(one) != _place(other)
    assert _place(one) == _place("unix:///run/one")


def test_who_is_sent_to_a_node_without_a_name_waits_for_it_to_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It passes within a second, or is an error that passes."""
    ends, learned = [2], [0]

    async def scenario() -> None:
        cluster: Any = connect("redis+cluster://a:1", "test", retries=0)
        topology = cluster.topology

        async def learn() -> None:
            learned[0] += 1
            topology._owners = [("a", 1)] * 16384
            topology.primaries = (("a", 1),)

        async def given(*_: Any, **__: Any) -> str:
            if learned[0] < ends[0]:
                raise AskError("12 ?:6379")
            return "OK"

        topology.learn = learn
        cluster._given = given
        try:
            assert await cluster.execute_command("GET", "key") == "OK"
            ends[0] = 1000
            with pytest.raises(ConnectionError, match="has no name yet"):
                await cluster.execute_command("GET", "key")
            assert 6 < learned[0] < 20
        finally:
            await cluster.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_file_of_tls_that_is_not_there_is_named(option: str) -> None:
    async def scenario() -> None:
        # Whether anybody is there is not asked any more.
        redis = connect(f"rediss://127.0.0.1:9?{option}=/nowhere/its.pem", "test", retries=0)
        try:
            with pytest.raises(
                ConnectionError, match=f"{option}=/nowhere/its.pem: No such file"
            ):
                await redis.ping()
        finally:
            await redis.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["redis://box", "redis://default:secret@box"])
def test_who_is_default_everywhere_keeps_its_rights(url: str) -> None:
    """With no more than we need nobody could give them back."""
    for line in acl.lines(Settings(redis_url=url, cache_redis_url=url)):
        assert line.startswith(("# ", "ACL SETUSER plateau on "))


def test_a_runner_listens_nowhere_whatever_host_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are those of web workers that have keys of their own."""
    began: list[Settings] = []

    def runner(settings: Settings) -> int:
        began.append(settings)
        return 0

    monkeypatch.setattr(tree, "runner", runner)
    monkeypatch.setenv("HOST", "0.0.0.0")
    for name in ("API_KEYS", "API_KEYS_FILE", "JWT_SECRET", "JWT_JWKS_URL", "ALLOW_ANONYMOUS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["runner"]) == 0
    assert began[0].host == "127.0.0.1"
