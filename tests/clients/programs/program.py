"""What the programs in Python share: python -m tests.clients.programs.<name>, and then

    follow URL
    resume URL LAST_EVENT_ID
    post URL BODY [IDEMPOTENCY_KEY]

Invariant: each prints what its library hands over, a line of JSON for each event, and ends with
0 when the terminal event has come. They are written as users write them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from urllib.parse import urljoin

TERMINAL = ("run.completed", "run.failed", "run.cancelled")
RETRY_S = 1.0


def tell(event_id: str, data: str) -> bool:
    """Print an event; whether it is the last one. Raises where its data is no JSON."""
    sys.stdout.write(json.dumps({"id": event_id, "data": data}) + "\n")
    sys.stdout.flush()
    return json.loads(data)["type"] in TERMINAL


class Asking:
    """What to send next: at first what was asked for, then a GET of where the answer is."""

    def __init__(self) -> None:
        mode, self.url, *more = sys.argv[1:]
        self.last = more[0] if mode == "resume" else ""
        self.body = more[0].encode() if mode == "post" else None
        self._key = more[1] if mode == "post" and more[1:] else ""

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Accept": "text/event-stream"}
        if self.last:
            headers["Last-Event-ID"] = self.last
        if self.body is not None:
            headers["Content-Type"] = "application/json"
            if self._key:
                headers["Idempotency-Key"] = self._key
        return headers

    def answered(self, location: str | None) -> None:
        """The answer has begun: from now on it is followed."""
        if location is not None:
            self.url, self.body = urljoin(self.url, location), None


def until_ended(follow: Callable[[Asking], bool], broken: type[Exception]) -> None:
    """Follow again whenever the connection broke, or ended before the answer did."""
    asking = Asking()
    while True:
        try:
            if follow(asking):
                return
        except broken:
            pass
        time.sleep(RETRY_S)
