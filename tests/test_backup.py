"""`deploy/backup`: what is saved while a server serves is all there where it is put back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plateau_sse.serve.redis_server import server_binary
from plateau_sse.settings import Settings
from plateau_sse.store.runs.streams import Streams
from tests.conftest import Server, end_server, start_server
from tests.processes import REPOSITORY, serving
from tests.store import everything, finished, on_streams

REDIS_CLI = shutil.which("redis-cli")

pytestmark = pytest.mark.skipif(REDIS_CLI is None, reason="redis-cli is not installed")


def backup(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    settings = Settings(redis_server_bin=os.environ.get("REDIS_SERVER_BIN", ""))
    return subprocess.run(
        [REPOSITORY / "deploy" / "backup", *arguments],
        env={**os.environ, "REDIS_SERVER_BIN": server_binary(settings), **env},
        capture_output=True,
        text=True,
        timeout=100,
    )


def done(shown: subprocess.CompletedProcess[str]) -> str:
    assert shown.returncode == 0, shown.stderr
    return shown.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One of this test's own."""
    started = start_server("streams", tmp_path / "before")
    yield started
    if started.process.poll() is None:
        end_server(started)


def test_what_was_saved_is_put_back(server: Server, tmp_path: Path) -> None:
    async def fill(streams: Streams, redis: Any) -> tuple[str, tuple[Any, ...]]:
        run_id = await finished(streams, "Wa", "rum?")
        return run_id, await everything(redis, run_id)

    run_id, before = on_streams(server.url, fill)
    copy, folder = tmp_path / "copy.rdb", tmp_path / "after"
    done(backup("save", server.url, str(copy)))
    assert copy.stat().st_mode & 0o077 == 0
    end_server(server)
    said = done(backup("restore", str(copy), str(folder)))
    assert "keys are in" in said
    again = start_server("streams", folder)

    async def look(_: Streams, redis: Any) -> tuple[Any, ...]:
        return await everything(redis, run_id)

    try:
        assert on_streams(again.url, look) == before and any(before)
        with again.client() as client:
            lives = [client.ttl(key) for key in client.scan_iter()]
            assert lives and all(life_s != -1 for life_s in lives)
    finally:
        end_server(again)
    assert {path.name for path in folder.iterdir()} == {"appendonlydir"}


def test_a_service_goes_on_with_what_was_put_back(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy.rdb"
    body = {"agent": "study", "input": "Water is wet. It flows.", "conversation_id": "c1"}
    with serving(data) as running:
        answer = httpx.post(
            f"{running.url}/v1/runs", json=body, headers={"Prefer": "wait=20"}, timeout=30
        )
        assert answer.json()["status"] == "completed"
        said = httpx.get(f"{running.url}/v1/conversations/c1").json()["messages"]
        assert len(said) == 2
        done(backup("save", running.streams_url, str(copy)))
        assert copy.stat().st_size > 0
        copy.unlink()
        # As the guide has it, for who shares the machine with others.
        bare = f"redis://{running.streams_url.rpartition('@')[2]}"
        command = "sed 's/.*:\\(.*\\)@.*/\\1/' servers.json"
        password = subprocess.check_output(command, shell=True, cwd=data, text=True).strip()
        assert password and password in running.streams_url
        done(backup("save", bare, str(copy), REDISCLI_AUTH=password))
        done(backup("restore", str(copy), str(tmp_path / "other"), REDISCLI_AUTH=password))
    shutil.rmtree(data / "streams")
    done(backup("restore", str(copy), str(data / "streams")))
    with serving(data) as running:
        assert httpx.get(f"{running.url}/v1/conversations/c1").json()["messages"] == said


def test_one_server_is_saved_and_in_the_words_of_redis_cli(tmp_path: Path) -> None:
    copy = tmp_path / "copy.rdb"
    for url, said in (
        ("redis+sentinel://:secret@a,b/main", "a copy is of one server"),
        ("rediss+cluster://:secret@a,b", "a copy is of one server"),
        ("rediss://:secret@a?ssl_ca_certs=/ca.pem", "--cacert FILE"),
    ):
        refused = backup("save", url, str(copy))
        assert refused.returncode == 1 and said in refused.stderr
        assert "secret" not in refused.stderr
    assert backup("save", "redis://a").returncode == 2
    assert list(tmp_path.iterdir()) == []
    # What one that was ended has left is no copy, whatever redis-cli makes of the words.
    (tmp_path / "copy.rdb.part").write_text("half")
    assert backup("save", "redis://127.0.0.1:9", str(copy), "ping").returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("openssl")),
    reason="needs openssl, and a redis-server with TLS (Debian's) on the PATH",
)
def test_over_tls_the_authority_is_an_option(tmp_path: Path) -> None:
    folder, copy = tmp_path / "tls", tmp_path / "copy.rdb"
    server = start_server("streams", folder, "redis-server", way="tls")
    try:
        url = server.url.partition("?")[0]
        refused = backup("save", url, str(copy))
        assert refused.returncode == 1 and not copy.exists()
        files = {"--cacert": "ca.pem", "--cert": "client.pem", "--key": "client.key"}
        words = [word for name, file in files.items() for word in (name, str(folder / file))]
        done(backup("save", url, str(copy), *words))
        assert copy.stat().st_size > 0
    finally:
        end_server(server)


def test_nothing_that_is_there_is_written_over(server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy.rdb"
    done(backup("save", server.url, str(copy)))
    refused = backup("restore", str(copy), str(tmp_path / "before"))
    assert refused.returncode == 1 and "has data already" in refused.stderr


def test_a_copy_that_fails_leaves_the_one_before(server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy.rdb"
    done(backup("save", server.url, str(copy)))
    before = copy.read_bytes()
    end_server(server)
    failed = backup("save", server.url, str(copy))
    assert failed.returncode == 1 and "could not copy" in failed.stderr
    assert copy.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_copy_is_a_file(server: Server, tmp_path: Path) -> None:
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    for place in (folder, pipe):
        refused = backup("save", server.url, str(place))
        assert refused.returncode == 1 and "no file: name one" in refused.stderr
    assert list(folder.iterdir()) == [] and pipe.is_fifo()


def test_a_server_that_says_nothing_is_given_up(server: Server, tmp_path: Path) -> None:
    server.process.send_signal(signal.SIGSTOP)
    try:
        failed = backup("save", server.url, str(tmp_path / "copy.rdb"))
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert failed.returncode == 1 and "nothing for 10 s" in failed.stderr
    assert not list(tmp_path.glob("copy*"))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.rdb"
    damaged.write_bytes(b"REDIS0011" + b"x" * 100)
    for file, words in ((damaged, "did not read"), (tmp_path / "none", "there is no")):
        failed = backup("restore", str(file), str(tmp_path / "folder"))
        assert failed.returncode == 1 and words in failed.stderr, failed.stderr
    assert backup("restore").returncode == 2
    assert not list((tmp_path / "folder").iterdir())
