"""TLS to Redis: an authority of one's own, certificates of clients, names."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from plateau_sse.redis_urls import redis_url_of
from plateau_sse.serve.redis_server import options
from plateau_sse.settings import Settings
from plateau_sse.store.redis.connections import connect, connect_blocking, single_connection
from tests.authority import authority, client_of, query, secured
from tests.groups import DOWN_AFTER_MS, SERVICE, Node, Trio
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


def test_sentinels_and_their_servers_over_tls(folder: Path) -> None:
    base = free_ports(5)
    nodes: list[Node] = []
    try:
        for n in range(2):
            place = folder / f"node-{n}"
            configuration = options("streams", Settings(), place, base + n)
            configuration |= secured(folder, base + n) | {"repl-diskless-sync-delay": "0"}
            # A name that its certificate has.
            configuration["replica-announce-ip"] = "localhost"
            if n:
                configuration["replicaof"] = f"localhost {base}"
            nodes.append(Node(place, base + n, configuration, tls=client_of(folder)))
        for n in range(2, 5):
            place = folder / f"sentinel-{n}"
            place.mkdir()
            lines = [f"{name} {value}" for name, value in secured(folder, base + n).items()]
            lines += ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"]
            lines += [f"dir {place}", "sentinel announce-ip localhost"]
            lines += [f"sentinel monitor {SERVICE} localhost {base} 2"]
            lines += [f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}"]
            (place / "conf").write_text("\n".join([*lines, "protected-mode no\n"]))
            words = (str(place / "conf"), "--sentinel")
            nodes.append(Node(place, base + n, {}, words, tls=client_of(folder)))
        for n, node in enumerate(nodes):
            nodes[n] = replace(node, binary=BINARY)
            nodes[n].start()
        trio = Trio(nodes[:2], nodes[2:], tls_options=f"?{query(folder)}")
        trio.wait_until_whole()

        async def scenario(streams: Any, _: Any) -> None:
            run_id = await finished(streams, "a")
            await asyncio.to_thread(trio.fail_over)
            assert await streams.statuses([run_id]) == ["completed"]

        on_streams(redis_url_of(trio.url), scenario)
    finally:
        for node in nodes:
            node.end()
