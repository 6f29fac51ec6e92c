"""httpx-sse, and `json.loads` of each event."""

from __future__ import annotations

import httpx
from httpx_sse import connect_sse

from tests.clients.programs.program import Asking, tell, until_ended


def follow(asking: Asking) -> bool:
    # Pings come every 15 s: httpx gives up after 5.
    with (
        httpx.Client(timeout=30) as client,
        connect_sse(
            client,
            asking.method,
            asking.url,
            content=asking.body,
            headers=asking.headers,
        ) as source,
    ):
        source.response.raise_for_status()
        asking.answered(source.response.headers.get("Location"))
        for event in source.iter_sse():
            # Its ids begin anew with each response, and a state has none.
            asking.last = event.id or asking.last
            if tell(event.id, event.data):
                return True
    return False


until_ended(follow, httpx.TransportError)
