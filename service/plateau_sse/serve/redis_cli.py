"""`redis-cli` commands for people.

Invariant: each can be pasted into a shell as it stands, and none holds a password: it comes
from the variable or the file that has it, or is asked for.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

from plateau_sse.redis_urls import PORT, Kind, address_of, has_password, user_of
from plateau_sse.serve.data_dir import ADDRESSES

# What a URL says of TLS, in redis-cli's words.
_OF_TLS = {
    "ssl_ca_certs": "--cacert",
    "ssl_ca_path": "--cacertdir",
    "ssl_certfile": "--cert",
    "ssl_keyfile": "--key",
}


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


def setting(variable: str, url: str) -> str:
    """What sets it, for a shell."""
    return f"{variable}={shlex.quote(url)}"


def _place(url: str, variable: str) -> str:
    parts, address = urlsplit(url), address_of(url)
    if variable and _is_understood(parts, address.kind):
        # redis-cli takes the user before `:PASSWORD` for one without a name.
        named = f"${{{variable}%%:*}}://default:${{{variable}#*://:}}"
        return f'-u "{f"${variable}" if parts.username else named}"'
    return " ".join([*_where(parts, address.kind), *_who(address.url), *_trust(address.url)])


def _is_understood(parts: SplitResult, kind: Kind) -> bool:
    """Whether redis-cli takes the URL as it stands in the variable: it knows no options, and
    before 7.2 no brackets around a host."""
    is_plain = kind == "server" and parts.scheme != "unix" and not parts.query
    return is_plain and parts.password is not None and "[" not in parts.netloc


def _where(parts: SplitResult, kind: Kind) -> list[str]:
    if kind != "server":
        # redis-cli knows neither, and one server is not all of it.
        tls = ["--tls"] if parts.scheme.startswith("rediss") else []
        return ["-h", f"A_SERVER_OF_THE_{kind.upper()}", *tls]
    if parts.scheme == "unix":
        return ["-s", shlex.quote(unquote(parts.path))]
    if parts.hostname and ":" in parts.hostname:
        tls = ["--tls"] if parts.scheme == "rediss" else []
        host = shlex.quote(unquote(parts.hostname))
        return ["-h", host, "-p", str(parts.port or PORT), *_database(parts), *tls]
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")
    return ["-u", shlex.quote(urlunsplit(bare))]


def _database(parts: SplitResult) -> list[str]:
    number = parts.path.strip("/")
    return ["-n", number] if number not in ("", "0") else []


def _who(url: str) -> Iterator[str]:
    user = user_of(url)
    if user != "default":
        yield f"--user {shlex.quote(user)}"
    if has_password(url):
        yield "--askpass"


def _trust(url: str) -> Iterator[str]:
    options = parse_qs(urlsplit(url).query)
    for name, word in _OF_TLS.items():
        for value in options.get(name, ()):
            yield f"{word} {shlex.quote(value)}"
    if options.get("ssl_cert_reqs") == ["none"]:
        yield "--insecure"
