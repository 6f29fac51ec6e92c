"""What `plateau serve` prints once it is up.

Invariant: it is printed as a whole, when the address answers and a run posted to it would be
executed; each `redis-cli` line can be pasted into a shell as it stands.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path

from plateau_sse.serve.redis_cli import redis_cli
from plateau_sse.settings import Settings

LAST_LINE = "Ctrl+C stops it."
ANSWER_WITHIN_S = 0.5


def local_host(settings: Settings) -> str:
    """Under which this machine reaches itself."""
    host = settings.host.strip("[]")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def page_url(settings: Settings) -> str:
    """Where a browser on this machine finds the page."""
    host = local_host(settings)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/"


def answers(settings: Settings, *, runner: bool) -> bool:
    """Is the service up at its address, and with `runner` ready to execute runs, too?"""
    # The short report may be a moment old.
    token = settings.admin_token.encode() if settings.admin_token.isprintable() else b""
    try:
        with socket.create_connection(
            (local_host(settings), settings.port), ANSWER_WITHIN_S
        ) as connection:
            connection.sendall(
                b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Authorization: Bearer " + token + b"\r\n\r\n"
            )
            answer = b""
            while more := connection.recv(65536):
                answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        healthy = head.startswith(b"HTTP/1.1 200 ")
        return healthy and (
            not runner or json.loads(body)["components"]["runner"]["status"] == "up"
        )
    except (OSError, ValueError, KeyError):
        return False


def banner(settings: Settings, started: Mapping[str, Path]) -> str:
    """`started` has the roles whose servers are ours, `streams` and `cache`, each with the
    DATA_DIR of its server."""
    lines = [f"Plateau is up: {page_url(settings)}"]
    for role, variable, url in (
        ("streams", "REDIS_URL", settings.redis_url),
        ("cache", "CACHE_REDIS_URL", settings.cache_redis_url),
    ):
        if url:
            command = redis_cli(url, variable, "INFO", "memory", ours_in=started.get(role))
            lines += [f"Memory of the {role}:", f"  {command}"]
        else:
            lines.append("There is no cache: CACHE_REDIS_URL is not set.")
    return "\n".join([*lines, LAST_LINE])


def print_banner(settings: Settings, started: Mapping[str, Path]) -> None:
    # Flushed, for whoever reads it through a pipe.
    print(banner(settings, started), flush=True)
