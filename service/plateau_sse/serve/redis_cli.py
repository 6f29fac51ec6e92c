"""`redis-cli` commands for people.

Invariant: each can be pasted into a shell as it stands, and none holds a password: it comes
from the variable or the file that has it, or is asked for.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from plateau_sse.redis_urls import address_of
from plateau_sse.serve.data_dir import ADDRESSES


def redis_cli(url: str, variable: str, *words: str, ours_in: Path | None) -> str:
    """`redis-cli … WORDS` for the server at `url`, which `variable` names, where one does.
    `ours_in` is the DATA_DIR of one that serve has started, on this machine's loopback."""
    if ours_in is None:
        return f"redis-cli {_place(url, variable)} {shlex.join(words)}"
    # Both have one password, and it has no character that means anything to anybody.
    file = shlex.quote(str(ours_in.absolute() / ADDRESSES))
    password = f"$(sed 's/.*:\\(.*\\)@.*/\\1/' {file})"
    port = urlsplit(url).port
    return f'REDISCLI_AUTH="{password}" redis-cli -p {port} {shlex.join(words)}'


def has_secret(parts: SplitResult) -> bool:
    return parts.password is not None or "password" in parts.query


def _place(url: str, variable: str) -> str:
    parts = urlsplit(url)
    kind = address_of(url).kind
    if kind != "server":
        # redis-cli knows neither, and one server is not all of it.
        return f"-h A_SERVER_OF_THE_{kind.upper()}"
    if variable and parts.password is not None and not parts.query and parts.scheme != "unix":
        # redis-cli takes the user before `:PASSWORD` for one without a name.
        named = f"${{{variable}%%:*}}://default:${{{variable}#*://:}}"
        return f'-u "{f"${variable}" if parts.username else named}"'
    secret = " --askpass" if has_secret(parts) else ""
    if parts.scheme == "unix":
        return f"-s {shlex.quote(parts.path)}{secret}"
    user = f" --user {shlex.quote(parts.username)}" if parts.username else ""
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")
    return f"-u {shlex.quote(urlunsplit(bare))}{user}{secret}"
