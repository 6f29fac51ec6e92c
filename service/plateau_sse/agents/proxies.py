"""Which proxy stands between this machine and an endpoint: what HTTPS_PROXY, HTTP_PROXY,
ALL_PROXY and NO_PROXY say, in either case, as other programs of the machine read them.

Invariant: a proxy is used for the addresses that it is meant for and no others; a proxy that
cannot be used is an error, never a way around it.
"""

from __future__ import annotations

import ipaddress
import os
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Proxy(NamedTuple):
    """`name` is the variable that it comes from, `headers` prove who we are to it."""

    name: str
    host: str
    port: int
    headers: dict[str, str]


def proxy_for(
    host: str, port: int, *, is_secure: bool, environ: Mapping[str, str] = os.environ
) -> Proxy | None:
    """None where the address is reached without one. ValueError where it is no proxy's address;
    nothing of it is quoted: it may hold a password."""
    if _is_exempt(host, port, _value("NO_PROXY", environ)[1]):
        return None
    names = ("HTTPS_PROXY" if is_secure else "HTTP_PROXY", "ALL_PROXY")
    found = (_value(name, environ) for name in names)
    name, text = next((it for it in found if it[1]), ("", ""))
    if not text:
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        at = parts.hostname, parts.port or 80
    except ValueError:
        at = None, 0
    if parts.scheme != "http" or not at[0]:
        raise ValueError(f"{name} must be http://host:port; other proxies are not spoken to")
    headers = {}
    if parts.username or parts.password:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return Proxy(name, at[0], at[1], headers)


def _value(name: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Lower case goes first, as most programs have it."""
    for spelt in (name.lower(), name):
        if text := environ.get(spelt, "").strip():
            return spelt, text
    return name, ""


def _is_exempt(host: str, port: int, exempt: str) -> bool:
    return any(_names(entry.strip().lower(), host.lower(), port) for entry in exempt.split(","))


def _names(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means it: `*`, an address, a network, or a name with all
    that ends with it; each may have a port."""
    if entry in ("", "*"):
        return entry == "*"
    with suppress(ValueError):
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        try:
            return ipaddress.ip_address(host) in network
        except ValueError:
            return False
    name, colon, given = entry.rpartition(":")
    if colon and given.isdigit():
        return int(given) == port and _names(name, host, port)
    suffix = entry.removeprefix("*").removeprefix(".")
    return host == suffix or host.endswith(f".{suffix}")
