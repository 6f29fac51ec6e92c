"""Which form a client wants: one JSON document, or server-sent events (RFC 9110, 12.5.1).

Invariant: whoever has not asked for events gets JSON, whatever the header holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

# What nearly every request says; nothing else is taken apart.
_KNOWN = {
    b"*/*": False,
    b"application/json": False,
    b"text/event-stream": True,
    b"application/json, text/event-stream": True,
    b"application/json, text/plain, */*": False,
}
_EVENTS = ("*/*", "text/*", "text/event-stream")
_JSON = ("*/*", "application/*", "application/json")
# An item of a list, and within it a parameter: a quoted string may hold commas and semicolons.
_ITEM = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+"?+)++', re.DOTALL)
_PARAMETER = re.compile(r'(?:[^;"]++|"(?:[^"\\]++|\\.)*+"?+)++', re.DOTALL)
_WEIGHT = re.compile(r'q\s*=\s*"?(\d{0,9}(?:\.\d{0,9})?)"?', re.ASCII)
# Browsers send ten at most.
ITEMS_MOST = 100


def wants_events(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether events are liked better than JSON, or as well and asked for by name."""
    lines = [value for name, value in headers if name == b"accept"]
    if not lines:
        return False
    known = _KNOWN.get(lines[0]) if len(lines) == 1 else None
    return _prefers_events(b",".join(lines)) if known is None else known


def _prefers_events(accept: bytes) -> bool:
    weights: dict[str, float] = {}
    items = _ITEM.finditer(accept.decode("latin-1").lower())
    for item in islice(items, ITEMS_MOST):
        kind, *parameters = [part.strip() for part in _PARAMETER.findall(item[0])] or [""]
        # Java's URLConnection means anything by a lone star.
        kind = "*/*" if kind == "*" else kind
        weights[kind] = max(weights.get(kind, 0.0), _weight_of(parameters))
    events, json = _weight_in(weights, _EVENTS), _weight_in(weights, _JSON)
    return events > json or (events == json > 0 and _EVENTS[-1] in weights)


def _weight_of(parameters: list[str]) -> float:
    """What cannot be read as a weight is taken for none, which counts as one."""
    for parameter in parameters:
        found = _WEIGHT.fullmatch(parameter)
        if found is not None and found[1].strip("."):
            return min(float(found[1]), 1.0)
    return 1.0


def _weight_in(weights: dict[str, float], ranges: tuple[str, ...]) -> float:
    """That of the most specific of the `ranges`, which begin with the widest."""
    return next((weights[kind] for kind in reversed(ranges) if kind in weights), 0.0)
