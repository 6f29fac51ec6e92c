"""httpx by line: `id:` and `data:`, nothing else."""

from __future__ import annotations

import httpx

from tests.clients.programs.program import Asking, tell, until_ended


def follow(asking: Asking) -> bool:
    # Pings come every 15 s: httpx gives up after 5.
    with httpx.stream(
        asking.method, asking.url, content=asking.body, headers=asking.headers, timeout=30
    ) as response:
        response.raise_for_status()
        asking.answered(response.headers.get("Location"))
        event_id = asking.last
        for line in response.iter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                if tell(event_id, line[6:]):
                    return True
                asking.last = event_id
    return False


until_ended(follow, httpx.TransportError)
