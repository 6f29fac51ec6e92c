"""Tokens signed with the keys of a JWT_JWKS_URL: a real server that rotates, lies and dies."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from plateau_sse.api import jwks
from plateau_sse.api.jwts import Jwts
from plateau_sse.errors import Problem, SettingsError
from plateau_sse.settings import Settings
from tests.tokens import SECRET, by_hand, claims

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(private: Any, kid: str, **more: Any) -> dict[str, Any]:
    kind: Any = {RSA: RSAAlgorithm, OTHER_RSA: RSAAlgorithm, EC: ECAlgorithm, ED: OKPAlgorithm}[
        private
    ]
    found: dict[str, Any] = kind.to_jwk(private.public_key(), as_dict=True)
    return {**found, "kid": kid, **more}


def signed(private: Any, kid: str | None, alg: str, **more: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**more), private, algorithm=alg, headers=headers)


class Provider:
    """What it says next is `content`; `asked` counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.content: Any = {"keys": [jwk(RSA, "r"), jwk(EC, "e"), jwk(ED, "d")]}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                content = provider.content
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                self.send_response(provider.status)
                if provider.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()
    yield found
    found.end()


def over(provider: Provider, scenario: Callable[[Jwts], Awaitable[None]]) -> None:
    async def opened() -> None:
        jwts = Jwts(
            Settings(
                jwt_jwks_url=provider.url,
                jwt_audience="plateau",
                jwt_issuer="https://id.example",
            )
        )
        try:
            await scenario(jwts)
        finally:
            await jwts.close()

    asyncio.run(opened())


async def code_of(jwts: Jwts, token: str) -> str:
    try:
        await jwts.verified(token)
    except Problem as problem:
        return problem.code
    return ""


def test_each_kind_of_key(provider: Provider) -> None:
    async def scenario(jwts: Jwts) -> None:
        tokens = [signed(RSA, "r", "RS256"), signed(EC, "e", "ES256"), signed(ED, "d", "EdDSA")]
        for one in tokens:
            assert (await jwts.verified(one)).user == "ulla"
        assert provider.asked == 1
        assert await code_of(jwts, signed(RSA, "r", "RS256", exp=1)) == "token_expired"

    over(provider, scenario)


def test_an_algorithm_is_the_keys_and_never_the_tokens(provider: Provider) -> None:
    public = json.dumps(jwk(RSA, "r"))
    provider.content["keys"].append(
        {"kty": "oct", "kid": "s", "k": "YS1zZWNyZXQtdGhhdC1pcy1pbi1hLXB1YmxpYy1kb2N1bWVudA"}
    )
    provider.content["keys"].append(jwk(OTHER_RSA, "x", use="enc"))

    async def scenario(jwts: Jwts) -> None:
        for token in (
            signed(RSA, "r", "RS512"),
            signed(RSA, "r", "PS256"),
            signed(RSA, "e", "RS256"),
            signed(OTHER_RSA, "r", "RS256"),
            # A key for encryption signs nothing; a symmetric one in public is no secret.
            signed(OTHER_RSA, "x", "RS256"),
            # The public key as if it were a secret.
            by_hand(public.encode(), kid="r"),
            by_hand(b"a-secret-that-is-in-a-public-document", kid="s"),
            jwt.encode(claims(), SECRET, "HS256", headers={"kid": "r"}),
            signed(RSA, None, "RS256"),
            jwt.encode(claims(), "", "none", headers={"kid": "r"}),
        ):
            assert await code_of(jwts, token) == "unauthorized", token

    over(provider, scenario)


def test_keys_are_rotated(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    provider.content = {"keys": [jwk(RSA, "old")]}

    async def scenario(jwts: Jwts) -> None:
        old, new = signed(RSA, "old", "RS256"), signed(EC, "new", "ES256")
        assert await code_of(jwts, old) == ""
        # Whoever makes ids up does not have it asked for more often.
        for number in range(20):
            assert await code_of(jwts, signed(EC, f"made-up-{number}", "ES256"))
        assert provider.asked == 1
        provider.content = {"keys": [jwk(EC, "new")]}
        monkeypatch.setattr(jwks, "AGAIN_S", 0)
        assert await code_of(jwts, new) == ""
        # What was signed with one that is gone is worth nothing, though it was good before.
        assert await code_of(jwts, old) == "unauthorized"

    over(provider, scenario)


def test_a_set_that_is_old_is_fetched_behind_who_asks(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(jwts: Jwts) -> None:
        token = signed(RSA, "r", "RS256")
        assert await code_of(jwts, token) == ""
        provider.content = {"keys": [jwk(EC, "e")]}
        monkeypatch.setattr(jwks, "FRESH_S", 0)
        monkeypatch.setattr(jwks, "AGAIN_S", 0)
        assert await code_of(jwts, token) == ""
        deadline = time.monotonic() + 10
        while await code_of(jwts, token) != "unauthorized":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    over(provider, scenario)


def test_a_set_that_nobody_asked_for_in_a_while_is_fetched_first(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key may have been withdrawn in the night."""

    async def scenario(jwts: Jwts) -> None:
        token = signed(RSA, "r", "RS256")
        assert await code_of(jwts, token) == ""
        provider.content = {"keys": [jwk(EC, "e")]}
        for name in ("FRESH_S", "OLD_S", "AGAIN_S"):
            monkeypatch.setattr(jwks, name, 0)
        assert await code_of(jwts, token) == "unauthorized"

    over(provider, scenario)


def test_one_that_hangs_is_waited_for_once(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ones are good for a day: nobody is to wait for each try."""
    monkeypatch.setattr(jwks, "FETCH_S", 0.5)

    async def scenario(jwts: Jwts) -> None:
        token = signed(RSA, "r", "RS256")
        assert await code_of(jwts, token) == ""
        keys: Any = jwts._keys
        keys._fetched_at -= jwks.OLD_S + 1
        monkeypatch.setattr(jwks, "AGAIN_S", 0)
        with socket.create_server(("127.0.0.1", 0)) as hangs:
            keys._url = f"http://127.0.0.1:{hangs.getsockname()[1]}/"
            assert await code_of(jwts, token) == ""
            while keys._failed_at < 0:
                await code_of(jwts, token)
                await asyncio.sleep(0.01)
            monkeypatch.setattr(jwks, "FETCH_S", 60)
            async with asyncio.timeout(30):
                if keys._fetching is not None:
                    await keys._fetching
                for _ in range(10):
                    assert await code_of(jwts, token) == ""
                    # This one, too, hangs.
                    assert keys._fetching is not None
        # Its thread ends with the other side of its connection.

    over(provider, scenario)


def test_an_entry_that_is_none_costs_the_others_nothing(provider: Provider) -> None:
    async def scenario(jwts: Jwts) -> None:
        strange: list[Any] = [1, None, {"kty": "RSA", "alg": ["RS256"]}, {"kty": ["RSA"]}, []]
        provider.content = {"keys": [*strange, jwk(RSA, "r")]}
        assert await code_of(jwts, signed(RSA, "r", "RS256")) == ""

    over(provider, scenario)


def test_a_set_that_comes_in_drops_is_waited_for_no_longer_than_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks, "FETCH_S", 0.3)
    ends = threading.Event()

    def drip(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer, suppress(OSError):
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not ends.wait(0.02):
                peer.sendall(b" ")

    async def scenario(url: str) -> None:
        jwts = Jwts(Settings(jwt_jwks_url=url))
        try:
            assert await code_of(jwts, signed(RSA, "r", "RS256")) == "keys_unavailable"
            keys: Any = jwts._keys
            if keys._fetching is not None:
                await keys._fetching
        finally:
            await jwts.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            asyncio.run(asyncio.wait_for(scenario(url), 30))
        finally:
            ends.set()
            thread.join(10)


def test_a_password_in_the_address_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        jwts = Jwts(Settings(jwt_jwks_url="https://me:secret@id.example/jwks"))
        try:
            assert await code_of(jwts, signed(RSA, "r", "RS256")) == "keys_unavailable"
        finally:
            await jwts.close()

    asyncio.run(scenario())
    assert "JWT_JWKS_URL cannot be used" in caplog.text and "secret" not in caplog.text
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"JWT_JWKS_URL": "https://me:secret@id.example:x/"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("end_s", [1e11, 1e13, 10**400, float("inf"), float("nan")])
def test_an_end_in_milliseconds_is_none(provider: Provider, end_s: float) -> None:
    """A token that is good for fifty thousand years, by a slip."""

    async def scenario(jwts: Jwts) -> None:
        assert await code_of(jwts, signed(RSA, "r", "RS256", exp=end_s)) == "unauthorized"

    over(provider, scenario)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (500, {"keys": [jwk(EC, "x")]}),
        (404, b""),
        (302, b""),
        (200, b"no JSON"),
        (200, {"keys": []}),
        (200, {"keys": {}}),
        (200, [1]),
        (200, {"keys": [{"kty": "RSA", "kid": "r", "n": "!", "e": "AQAB"}]}),
        (200, b" " * (jwks.SET_BYTES + 1)),
    ],
)
def test_what_is_no_set_changes_nothing(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, status: int, content: Any
) -> None:
    async def scenario(jwts: Jwts) -> None:
        token = signed(RSA, "r", "RS256")
        good = provider.content
        provider.status, provider.content = status, content
        assert await code_of(jwts, token) == "keys_unavailable"
        provider.status, provider.content = 200, good
        keys: Any = jwts._keys
        keys._asked_at = float("-inf")
        assert await code_of(jwts, token) == ""
        provider.status, provider.content = status, content
        monkeypatch.setattr(jwks, "FRESH_S", 0)
        monkeypatch.setattr(jwks, "AGAIN_S", 0)
        asked = provider.asked
        while provider.asked < asked + 2:
            assert await code_of(jwts, token) == ""
            await asyncio.sleep(0.01)
        # For a day; then nobody knows whether they were withdrawn.
        monkeypatch.setattr(jwks, "STALE_S", 0)
        assert await code_of(jwts, token) == "keys_unavailable"

    over(provider, scenario)


def test_nobody_who_waits_asks_twice(provider: Provider) -> None:
    async def scenario(jwts: Jwts) -> None:
        token = signed(RSA, "r", "RS256")
        found = await asyncio.gather(*(code_of(jwts, token) for _ in range(50)))
        assert set(found) == {""} and provider.asked == 1

    over(provider, scenario)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plateau_sse.settings.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"plateau-sse\[jwks\]"):
        Settings.from_env({"JWT_JWKS_URL": "https://id.example/jwks.json"})


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"JWT_SECRET": "x" * 31}, "at least 32 bytes"),
        ({"JWT_SECRET": "-----BEGIN PUBLIC KEY-----\n" + "x" * 99}, "JWT_JWKS_URL"),
        ({"JWT_SECRET": SECRET, "JWT_JWKS_URL": "https://id.example/"}, "not both"),
        ({"JWT_JWKS_URL": "file:///etc/passwd"}, "http"),
    ],
)
def test_settings_that_cannot_be_meant(env: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        Settings.from_env(env)
    assert "x" * 31 not in str(refused.value)
