"""TLS to Redis: an authority of one's own, certificates of clients, names."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from plateau_sse.redis_urls import redis_url_of
from plateau_sse.serve.redis_server import options
from plateau_sse.settings import Settings
from plateau_sse.store.redis import trust
from plateau_sse.store.redis.connections import connect, connect_blocking, single_connection
from tests.authority import authority, client_of, query, secured
from tests.groups import Node, sentinel_trio
from tests.processes import free_ports
from tests.store import finished, on_streams

# The bundled server has none.
BINARY = shutil.which(os.environ.get("REDIS_TLS_BIN", "redis-server")) or ""
pytestmark = pytest.mark.skipif(
    not (BINARY and shutil.which("openssl")),
    reason="needs openssl, and a redis-server with TLS (Debian's) on the PATH",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Node]:
    port, place = free_ports(1), folder / "server"
    configuration = options("streams", Settings(), place, port) | secured(folder, port)
    node = Node(place, port, configuration, tls=client_of(folder), binary=BINARY)
    node.start()
    yield node
    node.end()


async def says(url: str) -> str:
    redis = connect(url, "test", retries=0)
    try:
        await redis.ping()
    except ConnectionError as error:
        return str(error)
    finally:
        await redis.aclose()
    return ""


def test_an_authority_and_a_certificate_of_ones_own(server: Node, folder: Path) -> None:
    url = redis_url_of(f"rediss://localhost:{server.port}/2?{query(folder)}")

    async def scenario(streams: Any, redis: Any) -> None:
        assert await streams.statuses([await finished(streams, "a")]) == ["completed"]
        assert await redis.dbsize() > 0
        connection = single_connection(url, "test")
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.disconnect()

    on_streams(url, scenario)
    with connect_blocking(url, "test") as client:
        assert client.ping()
    bare = f"rediss://localhost:{server.port}?ssl_ca_certs={folder / 'ca.pem'}"
    assert asyncio.run(says(bare)), "a client without a certificate was served"


def test_the_authorities_of_the_machine_are_named_as_everywhere(
    server: Node, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = query(folder).partition("&")[2]
    url = f"rediss://localhost:{server.port}?{files}"
    assert "certificate verify failed" in asyncio.run(says(url))
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    assert asyncio.run(says(url)) == ""


def test_a_server_of_another_name_is_not_trusted(server: Node, folder: Path) -> None:
    url = f"rediss://127.0.0.1:{server.port}?{query(folder)}"
    assert "127.0.0.1" in asyncio.run(says(url))
    assert asyncio.run(says(f"{url}&ssl_check_hostname=false")) == ""


def counted(monkeypatch: pytest.MonkeyPatch) -> list[ssl.SSLContext]:
    """Grows with each time that the machine's authorities are read, from none on."""
    monkeypatch.setattr(trust, "_shared", {})
    read: list[ssl.SSLContext] = []
    really = ssl.create_default_context

    def create() -> ssl.SSLContext:
        read.append(really())
        return read[-1]

    monkeypatch.setattr(ssl, "create_default_context", create)
    return read


async def twenty_at_once(url: str) -> None:
    redis = connect(url, "test", connections=20)
    try:
        await asyncio.gather(*(redis.blpop("nothing", 1) for _ in range(20)))
    finally:
        await redis.aclose()


def test_connections_share_what_was_read_of_files(
    server: Node, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each it would be 40 ms of a loop that does nothing else, and 0.8 MiB for good."""
    read = counted(monkeypatch)
    url = f"rediss://localhost:{server.port}?{query(folder)}"

    async def scenario() -> None:
        await twenty_at_once(url)
        alone: Any = single_connection(url, "test")
        await alone.connect()
        await alone.disconnect()

    asyncio.run(scenario())
    assert len(read) == 1


def test_a_certificate_that_is_replaced_is_shown_from_then_on(
    server: Node, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "LOOK_S", 0)
    for name in ("ca.pem", "client.pem", "client.key"):
        shutil.copy(folder / name, tmp_path)
    url = f"rediss://localhost:{server.port}?{query(tmp_path)}"
    assert asyncio.run(says(url)) == ""
    others = tmp_path / "others"
    others.mkdir()
    authority(others)
    for name in ("client.pem", "client.key"):
        shutil.copy(others / name, tmp_path)
    assert asyncio.run(says(url)), "it showed what is no more in its file"
    for name in ("client.pem", "client.key"):
        shutil.copy(folder / name, tmp_path)
    assert asyncio.run(says(url)) == ""
    shutil.copy(others / "ca.pem", tmp_path)
    assert "certificate verify failed" in asyncio.run(says(url))
    (tmp_path / "ca.pem").write_text("half of it")
    assert asyncio.run(says(url)), "it trusts whom it is told no more to trust"
    shutil.copy(folder / "ca.pem", tmp_path)
    assert asyncio.run(says(url)) == ""


@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_authority_in_a_folder_that_is_replaced_is_trusted_no_more(
    server: Node, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """What was found there once is kept in OpenSSL's memory."""
    monkeypatch.setattr(trust, "LOOK_S", 0)
    found = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", folder / "ca.pem"],
        capture_output=True,
        check=True,
        text=True,
    )
    # Where an authority of that name is looked for.
    place = tmp_path / f"{found.stdout.strip()}.0"
    shutil.copy(folder / "ca.pem", place)
    files = query(folder).partition("&")[2]
    if by == "option":
        files += f"&ssl_ca_path={tmp_path}"
    else:
        monkeypatch.setenv("SSL_CERT_DIR", f"/nowhere:{tmp_path}")
    url = f"rediss://localhost:{server.port}?{files}"
    assert asyncio.run(says(url)) == ""
    others = tmp_path / "others"
    others.mkdir()
    authority(others)
    # The folder itself is as it was.
    place.write_bytes((others / "ca.pem").read_bytes())
    assert "certificate verify failed" in asyncio.run(says(url))


def test_sentinels_and_their_servers_over_tls(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sentinel_trio(folder / "trio", certificates=folder, binary=BINARY) as trio:

        async def scenario(streams: Any, _: Any) -> None:
            run_id = await finished(streams, "a")
            await asyncio.to_thread(trio.fail_over)
            assert await streams.statuses([run_id]) == ["completed"]

        on_streams(redis_url_of(trio.url), scenario)
        # Whoever makes many connections asks a Sentinel before each.
        read = counted(monkeypatch)
        asyncio.run(twenty_at_once(trio.url))
        assert len(read) == 1
