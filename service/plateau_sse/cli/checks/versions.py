"""Python, the packages, and the Redis server that serve would start: what is too old."""

from __future__ import annotations

import asyncio
import platform
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from importlib import metadata

from plateau_sse.cli.checks import Finding, error, ok
from plateau_sse.errors import SettingsError
from plateau_sse.serve.redis_server import server_binary
from plateau_sse.settings import Settings

DISTRIBUTION = "plateau-sse"
# Sharded channels, and scripts that may run when memory is full.
REDIS = (7, 0)
LEAST = re.compile(r"([A-Za-z0-9._-]+)(\[[^]]*\])?>=([0-9.]+)")
SERVER = re.compile(r"\bv=([0-9.]+)")


def numbers(version: str) -> tuple[int, ...]:
    """To compare by: `7.0.15` is (7, 0, 15); what follows the numbers is left out."""
    found = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def packages() -> Iterator[Finding]:
    """What pyproject.toml asks for at least; scripts/setup installs more exactly."""
    old, count = [], 0
    for requirement in _requirements():
        match = LEAST.match(requirement)
        if match is None or ";" in requirement:
            continue
        count += 1
        name, extras, least = match[1], match[2] or "", match[3]
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            have = "not installed"
        if numbers(have) < numbers(least):
            old.append((f"{name} {have}", f"{name}{extras}>={least}"))
    python = f"Python {platform.python_version()}"
    if not old:
        yield ok("versions.packages", f"{python}, {count} packages, none of them too old")
        return
    wanted = " ".join(f"'{wanted}'" for _, wanted in old)
    yield error(
        "versions.packages",
        f"too old for this release: {', '.join(have for have, _ in old)}",
        f"{sys.executable} -m pip install --upgrade {wanted}",
    )


def _requirements() -> list[str]:
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        # Run from a checkout that was never installed.
        return []


async def server(settings: Settings) -> list[Finding]:
    """The program that serve starts for a role without a URL."""
    name = "versions.redis_server"
    if settings.redis_url and settings.cache_redis_url:
        return []
    try:
        binary = server_binary(settings)
    except SettingsError as wrong:
        mend = "REDIS_SERVER_BIN=redis-server"
        return [error(name, str(wrong).rstrip("."), f"apt-get install redis-server && {mend}")]
    version = SERVER.search(await _said(binary))
    if version is None:
        return [error(name, f"{binary} is no Redis server", "unset REDIS_SERVER_BIN")]
    if numbers(version[1]) < REDIS:
        text = f"{binary} is {version[1]}, and 7.0 is the least"
        return [error(name, text, "unset REDIS_SERVER_BIN")]
    which = binary if settings.redis_server_bin else "the bundled server"
    return [ok(name, f"serve starts {which}, {version[1]}")]


async def _said(binary: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *(binary, "--version"), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
    except OSError:
        return ""
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return said.decode(errors="replace")
