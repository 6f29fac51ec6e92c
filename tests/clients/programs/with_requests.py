"""requests by line: `id:` and `data:`, nothing else."""

from __future__ import annotations

import requests

from tests.clients.programs.program import Asking, tell, until_ended


def follow(asking: Asking) -> bool:
    with requests.request(
        asking.method, asking.url, data=asking.body, headers=asking.headers, stream=True
    ) as response:
        response.raise_for_status()
        # It takes any text without a charset for Latin-1; event streams are UTF-8.
        response.encoding = "utf-8"
        asking.answered(response.headers.get("Location"))
        event_id = asking.last
        for line in response.iter_lines(chunk_size=1, decode_unicode=True):
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                if tell(event_id, line[6:]):
                    return True
                asking.last = event_id
    return False


until_ended(follow, requests.RequestException)
