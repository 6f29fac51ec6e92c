"""HOST and PORT: free, or who answers there."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from contextlib import suppress
from typing import Any

import httpx
import psutil

from plateau_sse.cli.checks import Finding, error, ok, warning
from plateau_sse.serve.banner import local_host, page_url
from plateau_sse.settings import Settings

CONNECT_S = 2.0
ANSWER_S = 4.0


async def check(settings: Settings) -> list[Finding]:
    host = local_host(settings)
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, settings.port)
    except OSError:
        # A name is looked up once more, in a thread as the first time.
        return [await asyncio.to_thread(_free, settings)]
    writer.close()
    return [await _who(settings)]


def _free(settings: Settings) -> Finding:
    host, port = settings.host.strip("[]"), settings.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # Not listening: a serve that starts meanwhile is not in the way of it, nor it of that.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as wrong:
            return _unusable(settings, wrong)
    return ok("address", f"PORT={port} is free on {host}: nothing serves there")


def _unusable(settings: Settings, wrong: OSError) -> Finding:
    text = f"HOST={settings.host}, PORT={settings.port} cannot be listened on: {wrong.strerror}"
    match wrong.errno:
        case errno.EACCES | errno.EADDRINUSE:
            return error("address", text, f"PORT={_another(settings)}")
        case _:
            return error("address", text, "HOST=127.0.0.1")


def _another(settings: Settings) -> int:
    """A port that is free with the two after it, from 8000 or the one asked for on."""
    for first in range(max(settings.port + 1, 8000), 65530):
        with suppress(OSError):
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    return 8000


async def _who(settings: Settings) -> Finding:
    url = page_url(settings)
    timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
    try:
        # An answer may also come drop by drop.
        async with (
            asyncio.timeout(ANSWER_S),
            httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
        ):
            answer = await http.get(url + "health")
            if settings.admin_token and _says_no_cause(answer.text):
                # Only now: whoever else listens there is not told it.
                answer = await http.get(url + "health", headers=_bearer(settings))
        components = _components(answer.text)
    except (httpx.HTTPError, TimeoutError):
        answer, components = None, None
    if answer is None or components is None:
        server = answer.headers.get("server", "") if answer is not None else ""
        who = _owner(settings.port) or server or "something"
        what = "does not answer" if answer is None else "is not Plateau"
        text = f"PORT={settings.port} is taken by {who}, which {what}"
        return error("address", text, f"PORT={_another(settings)}")
    return _health(url, answer.json()["status"], components, settings)


def _bearer(settings: Settings) -> dict[bytes, bytes]:
    # As bytes: httpx takes text for ASCII, and a token may be anything.
    return {b"Authorization": b"Bearer " + settings.admin_token.encode()}


def _says_no_cause(text: str) -> bool:
    """Whether it is Plateau's short report, of something that is not well."""
    parts = (_components(text) or {}).values()
    return any(part["status"] != "up" for part in parts) and not any(map(_causes, parts))


def _causes(part: dict[str, Any]) -> bool:
    return "cause" in part


def _components(text: str) -> dict[str, Any] | None:
    """Those of Plateau's /health; None where it is somebody else's."""
    try:
        components = json.loads(text)["components"]
        return components if {"streams", "cache", "runner"} <= components.keys() else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _health(url: str, status: str, components: dict[str, Any], settings: Settings) -> Finding:
    if status == "up":
        return ok("address", f"Plateau is up at {url}")
    ill = [
        f"{name}: {part.get('cause', part['status'])}"
        for name, part in components.items()
        if part["status"] != "up"
    ]
    text = f"Plateau at {url} is {status}: {'; '.join(ill)}"
    level = error if status == "down" else warning
    if not any(map(_causes, components.values())):
        return level("address", text, "ADMIN_TOKEN=…  # to whoever has it /health says why")
    opening = ' -H "Authorization: Bearer $ADMIN_TOKEN"' if settings.admin_token else ""
    return level("address", text, f"curl -s{opening} {url}health")


def _owner(port: int) -> str:
    """The process that listens there, where this user may know it."""
    with suppress(psutil.Error, OSError):
        for it in psutil.net_connections("tcp"):
            if (
                it.status == psutil.CONN_LISTEN
                and getattr(it.laddr, "port", 0) == port
                and it.pid
            ):
                return f"{psutil.Process(it.pid).name()} (pid {it.pid})"
    return ""
