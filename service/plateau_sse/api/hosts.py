"""The hosts that the service may be asked as, where nobody needs a key.

Invariant: a page of another site reaches nothing under a name of that site which leads to this
machine (DNS rebinding): a name is this machine's own, or one that the operator has listed. An
address is nobody's name, and one without a dot no site's: it is a container's or a machine's of
the network. Whoever sends no host is no browser.
"""

from __future__ import annotations

import ipaddress
import socket

from starlette.types import Scope

from plateau_sse.errors import Problem
from plateau_sse.settings import Settings

ANY = "*"


class Hosts:
    """Made once, before the fork."""

    def __init__(self, settings: Settings) -> None:
        # With keys a page lacks what it needs; then only what is listed is looked at.
        self._is_open = ANY in settings.allowed_hosts or not (
            settings.is_keyless or settings.allowed_hosts
        )
        own = (socket.gethostname(), settings.host.strip("[]"))
        self._names = {name.lower() for name in (*own, *settings.allowed_hosts)}

    def fault_of(self, scope: Scope) -> Problem | None:
        """What is wrong with whom this asks; None for nothing."""
        if self._is_open:
            return None
        for name, value in scope["headers"]:
            if name == b"host":
                return None if self._is_ours(value.decode("latin-1")) else _refused(value)
        return None

    def _is_ours(self, host: str) -> bool:
        if host.startswith("["):
            return True
        name = host.partition(":")[0].lower().rstrip(".")
        if "." not in name or name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            return False
        return True


def _refused(host: bytes) -> Problem:
    shown = host.decode("latin-1")[:100]
    return Problem(
        "host_not_allowed",
        f"{shown} is not a name of this service: without API_KEYS it is asked as localhost, by "
        "an address or a name without a dot, or as one of ALLOWED_HOSTS.",
    )
