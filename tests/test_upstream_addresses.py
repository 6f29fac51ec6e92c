"""Where a model is, and whether it is the one: addresses and TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from plateau_sse.addresses import target_of
from plateau_sse.agents import AgentError, Message, Run, Yielded
from tests.raw_model import GO, LAST, Step, chunk, chunked, raw_model, sized, stream_of
from tests.upstreams import FIRST, LOOPS, POISON, agent_of, ask, in_turn


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://box/v1", (False, "box", 80, "/v1", {"Host": "box"})),
        ("https://Box:443/v1", (True, "box", 443, "/v1", {"Host": "box"})),
        ("http://box:8000", (False, "box", 8000, "/", {"Host": "box:8000"})),
        ("https://[::1]:8443/a b/é?x=1", (
            *(True, "::1", 8443, "/a%20b/%C3%A9?x=1"), {"Host": "[::1]:8443"},
        )),
        ("http://bücher.example/%7Ev1", (
            *(False, "xn--bcher-kva.example", 80, "/%7Ev1"), {"Host": "xn--bcher-kva.example"},
        )),
        ("http://me:p%40ss@box/v1", (
            *(False, "box", 80, "/v1"), {"Host": "box", "Authorization": "Basic bWU6cEBzcw=="},
        )),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart(url: str, target: tuple[Any, ...]) -> None:
    assert target_of(url) == target


@pytest.mark.parametrize("url", ["", "box:1/v1", "ftp://box", "http://", "http://box:99999/v1"])
def test_what_is_no_address_fails_with_a_code(url: str) -> None:
    assert asyncio.run(ask(agent_of(url))) == "upstream_not_configured"


def test_an_address_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ExitStack() as stack:
        model = stack.enter_context(raw_model([sized(FIRST)]))
        port = int(model.base_url.rpartition(":")[2].partition("/")[0])
        # Whoever connects while a queue of none is full is not answered.
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (deaf.getsockname(), ("127.0.0.1", port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        agent = agent_of("http://box.example/v1")
        assert asyncio.run(ask(agent)) == "first"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/v1", "Connection refused"),
        ("http://no-such-host.invalid/v1", "its name has no address"),
    ],
)
def test_why_nobody_is_reached_is_said_without_the_address(url: str, said: str) -> None:
    agent = agent_of(url)

    async def failing() -> str:
        run = Run("r1", "openai", "Hi", [Message("user", "Hi")], {})
        with pytest.raises(AgentError) as caught:
            await anext(cast("AsyncGenerator[Yielded, None]", agent(run)))
        return caught.value.message

    assert asyncio.run(failing()) == f"The model's endpoint could not be reached: {said}."


@pytest.fixture
def secure(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """What a server of `localhost` speaks whom clients trust."""
    monkeypatch.setattr("certifi.where", lambda: str(certificate))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    yield context


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("script", "over"),
    [
        ([chunked(FIRST) + LAST], [1, 1]),
        # Each in a record of its own: what is decrypted is one at a time.
        ([sized(FIRST), POISON], [1, 2]),
        ([sized(FIRST) + POISON], [1, 2]),
        ([sized(FIRST), GO, POISON], [1, 2]),
        ([chunked(FIRST), chunk(stream_of("poison")) + LAST], [1, 2]),
    ],
)
def test_it_is_the_same_behind_tls(
    script: list[Step], over: list[int], loop: Callable[[], Any], secure: ssl.SSLContext
) -> None:
    with raw_model(script, secure) as model:
        assert in_turn(model, loop) == ["first", "second"]
        assert model.over == over


def test_whom_nobody_vouches_for_is_not_asked(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with raw_model([sized(FIRST)], context) as model:
        assert asyncio.run(ask(agent_of(model.base_url))) == "upstream_unreachable"
        assert model.requests == []
