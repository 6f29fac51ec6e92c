"""What settings may say, and what is made of it.

Invariant: a reader gives what is within range, or raises a ValueError that says what is; it
quotes nothing, since it may be a secret.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

UNITS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1024,
    "m": 10**6,
    "mb": 1024**2,
    "g": 10**9,
    "gb": 1024**3,
}


def parse_size(text: str) -> int:
    """Bytes from Redis' own notation: `10mb` is 10 MiB, `10m` 10,000,000."""
    match = re.fullmatch(r"([0-9]{1,15})([bkmg]{0,2})", text.strip().lower())
    if match is None or match[2] not in UNITS or not int(match[1]):
        # Redis takes 0 for no bound at all.
        raise ValueError("a size such as 10mb")
    return int(match[1]) * UNITS[match[2]]


def _memory(least_mb: int, example: str) -> Any:
    """Without a unit a size is bytes: who writes 10 for 10mb is told so, since so little holds
    nothing."""

    def parse(text: str) -> int:
        try:
            size = parse_size(text)
        except ValueError:
            size = 0
        if not least_mb * UNITS["mb"] <= size <= 1024 * UNITS["gb"]:
            raise ValueError(f"a size from {least_mb}mb to 1024gb, such as {example}")
        return size

    return parse


cache_memory, stream_memory = _memory(1, "10mb"), _memory(4, "64mb")
_worker_memory = _memory(1, "120mb")


def worker_memory(text: str) -> int:
    """A size, or 0 where there is to be no bound."""
    if text.strip() == "0":
        return 0
    try:
        return int(_worker_memory(text))
    except ValueError as error:
        raise ValueError(f"{error}, or 0 for none") from None


BODY_BYTES_LEAST, BODY_BYTES_MOST = 16 * 1024, 16 * 1024**2


def body_size(text: str) -> int:
    size = parse_size(text)
    if not BODY_BYTES_LEAST <= size <= BODY_BYTES_MOST:
        raise ValueError("a size from 16kb to 16mb")
    return size


_KEY_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{0,64}")


def key_prefix(text: str) -> str:
    """Without braces, which would put all of it into one slot of a cluster."""
    prefix = text.strip()
    if not _KEY_PREFIX.fullmatch(prefix):
        raise ValueError("letters, digits and _.:-, at most 64, such as plateau:")
    return prefix


def flag(text: str) -> bool:
    values = {
        "1": True,
        "true": True,
        "yes": True,
        "0": False,
        "false": False,
        "no": False,
        "": False,
    }
    if text.strip().lower() not in values:
        raise ValueError("1 or 0")
    return values[text.strip().lower()]


def listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def hosts(text: str) -> tuple[str, ...]:
    names = listed(text)
    if not all(name == "*" or _HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("names such as ai.example, without scheme or port, or * for any")
    return tuple(name.lower() for name in names)


def endpoint(text: str) -> str:
    """An address that can be asked. The error quotes nothing of it: a key may be in it."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    except ValueError:
        pass
    raise ValueError("http://host[:port]/… or https://…")


def header(text: str) -> str:
    name = text.strip()
    if not re.fullmatch(r"[A-Za-z0-9-]{1,100}", name):
        raise ValueError("the name of a header: api-key, Authorization")
    return name


SECRET_LEAST, SECRET_MOST = 24, 64


def signing_secret(text: str) -> bytes:
    """As Standard Webhooks has it: base64 behind `whsec_`."""
    try:
        secret = base64.b64decode(text.strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        secret = b""
    if not SECRET_LEAST <= len(secret) <= SECRET_MOST:
        raise ValueError(
            f"whsec_ and then {SECRET_LEAST} to {SECRET_MOST} random bytes in base64, such as "
            'echo "whsec_$(openssl rand -base64 32)" makes'
        )
    return secret


def agents(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in listed(text):
        if part.startswith("-") and part[1:].strip():
            pairs.append((part[1:].strip(), ""))
            continue
        name, equals, target = part.partition("=")
        module, colon, attribute = target.partition(":")
        if not (name.strip() and equals and module.strip() and colon and attribute.strip()):
            raise ValueError("name=module:callable, or -name for one less, by commas")
        pairs.append((name.strip(), target.strip()))
    return tuple(pairs)


PREFIX_CHARS = 200
# A dot segment would lead somewhere else once a client has resolved it.
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~@:+-]+)*")


def path_prefix(text: str) -> str:
    """What stands before our paths in URLs: '' or `/segments`, without the slash at its end."""
    prefix = text.strip(" \t").removesuffix("/")
    if len(prefix) > PREFIX_CHARS or not _PREFIX.fullmatch(prefix):
        raise ValueError(
            "a path such as /ai or /apps/ai, of letters, digits and -._~@:+, with at most "
            f"{PREFIX_CHARS} characters"
        )
    return prefix


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """gunicorn reads the variable, too, and ends with a traceback where it cannot."""
    parts = [part.strip() for part in text.split(",")]
    if parts == ["*"]:
        parts = ["0.0.0.0/0", "::/0"]
    try:
        return tuple(ipaddress.ip_network(part) for part in parts)
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.0/8,::1, or * for all") from None


def whole(least: int, most: int = 2**31) -> Any:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\s*[0-9]{1,10}\s*", text) or not least <= int(text) <= most:
            raise ValueError(
                f"a whole number from {least}" + (f" to {most}" if most < 2**31 else "")
            )
        return int(text)

    return parse
