"""Origins that may ask (ALLOWED_ORIGINS), in the form in which browsers send them.

Invariant: what comes out is what an `Origin` header holds, so that it is compared as it is;
what no browser sends is refused, since it would never match.
"""

from __future__ import annotations

import ipaddress
import re

from plateau_sse.errors import SettingsError

# Scheme, host and port; a name in other letters than ASCII's is sent in its xn-- form.
_ORIGIN = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+|(?<=^file://))"
    r"(?::([0-9]{0,9}))?/?"
)


def origins_of(text: str) -> tuple[str, ...]:
    """Those of a list with commas between; raises SettingsError."""
    listed = filter(None, map(str.strip, text.split(",")))
    forms = [form for origin in listed for form in _forms_of(origin)]
    return tuple(dict.fromkeys(forms))


def _forms_of(origin: str) -> list[str]:
    """How browsers write an origin; SettingsError for what is none (RFC 6454, 6.2)."""
    parts = _ORIGIN.fullmatch(origin)
    if parts is None:
        raise _no_origin(origin)
    scheme, host, port = parts[1].lower(), parts[2], parts[3]
    number = int(port) if port else None
    if scheme not in ("http", "https"):
        # Of an app or an extension. Some systems keep the capitals of its name, some do not.
        rest = host if number is None else f"{host}:{number}"
        return [f"{scheme}://{rest}", f"{scheme}://{rest.lower()}"]
    host = _canonical_host(host.lower())
    if not host or not (number is None or 0 < number < 2**16):
        raise _no_origin(origin)
    default = {"http": 80, "https": 443}[scheme]
    return [f"{scheme}://{host}" + ("" if number in (None, default) else f":{number}")]


def _no_origin(origin: str) -> SettingsError:
    scheme, separator, rest = origin.partition("://")
    wrong = f"{origin!r} has a host or a port that is none"
    if "@" in origin:
        # Not repeated: a password may be in it.
        wrong = "one has a user in it"
    elif re.search(r"[*;\s]", origin):
        wrong = f"{origin!r} stands for several: name each"
    elif not (scheme and separator):
        wrong = f"{origin!r} has no scheme"
    elif re.search(r"[/?#\\]", rest):
        wrong = f"{origin!r} has a path or a query"
    elif not rest.isascii():
        wrong = f"browsers send the host of {origin!r} in ASCII, as xn--…"
    return SettingsError(
        "ALLOWED_ORIGINS must be origins such as https://app.example or http://localhost:5173, "
        f"separated by commas, and {wrong}."
    )


def _canonical_host(host: str) -> str:
    """An address or a name of the web in the form that browsers give it; '' for neither."""
    try:
        if host.startswith("["):
            return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        if re.fullmatch(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", host):
            # Whatever ends in a number is an address.
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        return ""
    return host if re.fullmatch(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?", host) else ""
