"""Where a request comes from, as far as that can be known.

Invariant: what a header says of it counts where the operator trusts who has sent it
(FORWARDED_ALLOW_IPS), never where a client may have.
"""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

from plateau_sse.settings import Settings

_FORWARDED_FOR = b"x-forwarded-for"
HOPS_MOST = 20

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_trusted(scope: Scope, settings: Settings) -> bool:
    """Whether the nearest hop is one that the operator trusts."""
    if scope["client"] is None:
        # Over a Unix socket, which has no port; a peer of another kind has left already.
        return scope["server"] is not None and scope["server"][1] is None
    address = _address(scope["client"][0])
    return address is not None and _is_listed(address, settings)


def client_of(scope: Scope, settings: Settings) -> str:
    """Who asks: an address, or the network that one host has of IPv6; '' for nobody known. Of
    those that hops name it is the last that is no hop itself: what stands before may be
    anything."""
    found = _address(scope["client"][0]) if scope["client"] else None
    if is_trusted(scope, settings):
        told = [value for name, value in scope["headers"] if name == _FORWARDED_FOR]
        named = b",".join(told).decode("latin-1").split(",")[-HOPS_MOST:]
        for text in reversed(named):
            address = _address(text.strip())
            if address is None:
                break
            found = address
            if not _is_listed(address, settings):
                break
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, 64), strict=False))
    return "" if found is None else str(found)


def _is_listed(address: Address, settings: Settings) -> bool:
    return any(address in network for network in settings.forwarded_allow_ips)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        # As a socket that takes both families shows the older one.
        return address.ipv4_mapped or address
    return address
