"""`redis-cli` commands for people.

Invariant: each can be pasted into a shell as it stands, and none holds a password: it comes
from the variable that has it, or is asked for.
"""

from __future__ import annotations

import shlex
from urllib.parse import SplitResult, urlsplit, urlunsplit


def redis_cli(url: str, variable: str, *words: str, ours: bool) -> str:
    """`redis-cli … WORDS` for the server at `url`, which `variable` names; `ours` are on this
    machine's loopback and have no password."""
    return f"redis-cli {_place(url, variable, ours=ours)} {shlex.join(words)}"


def has_secret(parts: SplitResult) -> bool:
    return parts.password is not None or "password" in parts.query


def _place(url: str, variable: str, *, ours: bool) -> str:
    parts = urlsplit(url)
    if ours:
        return f"-p {parts.port}"
    if parts.password is not None and not parts.query and parts.scheme != "unix":
        # redis-cli takes the user before `:PASSWORD` for one without a name.
        named = f"${{{variable}%%:*}}://default:${{{variable}#*://:}}"
        return f'-u "{f"${variable}" if parts.username else named}"'
    secret = " --askpass" if has_secret(parts) else ""
    if parts.scheme == "unix":
        return f"-s {shlex.quote(parts.path)}{secret}"
    user = f" --user {shlex.quote(parts.username)}" if parts.username else ""
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")
    return f"-u {shlex.quote(urlunsplit(bare))}{user}{secret}"
