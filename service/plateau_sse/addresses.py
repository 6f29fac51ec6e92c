"""Where an endpoint is, and as whom it is asked: what people write in their settings, as a
request needs it.

Invariant: nothing of a URL is quoted in an error: it may hold a password.
"""

from __future__ import annotations

from base64 import b64encode
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

USUAL = {"http": 80, "https": 443}


class Target(NamedTuple):
    """A URL, as far as a request needs it."""

    is_secure: bool
    host: str
    port: int
    path: str
    headers: dict[str, str]


def url_of(base: str, path: str = "/chat/completions") -> str:
    """The address of `path` below `base`, whose query stays behind it (Azure's `api-version`);
    a base may be the address of chat.completions itself."""
    parts = urlsplit(base)
    below = parts.path.rstrip("/").removesuffix("/chat/completions") + path
    return urlunsplit(parts._replace(path=below, fragment=""))


def key_header(name: str, key: str) -> dict[str, str]:
    """How the key is sent: in the header that is called `name`."""
    if not key:
        return {}
    return {name: f"Bearer {key}" if name.lower() == "authorization" else key}


def target_of(url: str) -> Target:
    """ValueError where it is no address; nothing of it is quoted: it may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("OPENAI_BASE_URL must begin with http:// or https://, and name a host")
    try:
        host = (
            parts.hostname
            if parts.hostname.isascii()
            else parts.hostname.encode("idna").decode()
        )
        usual = USUAL[parts.scheme]
        port = parts.port or usual
    except ValueError:
        raise ValueError("the host or the port of OPENAI_BASE_URL is none") from None
    name = f"[{host}]" if ":" in host else host
    headers = {"Host": name if port == usual else f"{name}:{port}"}
    if parts.username or parts.password:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?[]")
    return Target(
        parts.scheme == "https", host, port, f"{path}?{query}" if query else path, headers
    )
