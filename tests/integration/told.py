"""What a running service says of itself, in the three places where operators look.

    with Told(web.url) as told:
        told.within("runner", "no runner is alive", "no_runner")
        told.no_more("runner", "no_runner")

Invariant: a fault counts as told where /health, the JSON and its feed all tell it, each in its
own words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from plateau_sse.eventsource import EventReader
from tests.processes import Serving, launch, wait_until

TOKEN = "the-operators-own-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
METRICS = "/api/admin/metrics"
WITHIN_S = 10.0

# As it is shipped, but that a minute is shorter, and the dead are sooner forgotten.
HURRIED = """
import sys
from plateau_sse.ops import watch
from plateau_sse.store.figures import workers

watch.WINDOW_S = 5.0
workers.LIFE_S = 12

from plateau_sse.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


@contextmanager
def hurried(folder: Path, command: str, env: dict[str, str]) -> Iterator[Serving]:
    """`plateau web` or `runner`; up when the block begins where it has an address."""
    started = launch(
        folder, arguments=["-c", HURRIED, command], env={"ADMIN_TOKEN": TOKEN, **env}
    )
    try:
        if command == "web":
            started.url = f"http://127.0.0.1:{started.port}"
            wait_until(started.is_ready, f"{folder.name} is ready", timeout_s=30)
        yield started
        if started.process.poll() is None:
            started.stop()
        assert not (left := started.leftovers()), left
    finally:
        started.kill()


class Told:
    """`picture` is the latest that the feed has sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.picture: dict[str, Any] = {}
        self.pictures = 0
        self._client = httpx.Client(base_url=url, timeout=15, trust_env=False, headers=BEARER)
        self._thread = threading.Thread(target=self._follow)
        self._over = threading.Event()

    def __enter__(self) -> Told:
        self._thread.start()
        wait_until(lambda: self.picture, "the feed sends a picture")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)
        self._client.close()

    def _follow(self) -> None:
        headers = {"Accept": "text/event-stream"}
        events = EventReader()
        with self._client.stream("GET", METRICS, headers=headers) as response:
            for chunk in response.iter_bytes():
                for message in events.feed(chunk):
                    self.picture = json.loads(message.data)
                    self.pictures += 1
                if self._over.is_set():
                    return

    def health(self) -> dict[str, Any]:
        answer = self._client.get("/health")
        report: dict[str, Any] = answer.json()
        assert answer.status_code == (503 if report["status"] == "down" else 200)
        return report

    def is_well(self) -> bool:
        return bool(self.health()["status"] == "up")

    def is_ready(self) -> tuple[bool, str]:
        """And the cause, where it is not."""
        answer = self._client.get("/health/ready")
        return answer.status_code == 200, answer.json().get("cause", "")

    def metrics(self) -> dict[str, Any]:
        answer = self._client.get(METRICS)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def said(self, component: str, rule: str) -> tuple[str, str, str]:
        """The cause of the component, and what the rule says in the JSON and in the feed; ''
        for each that says nothing."""
        report = self.health()
        part = report["components"][component]
        if part["status"] != "up":
            assert part["status"] in ("degraded", "down")
            assert report["status"] != "up"
        return part.get("cause", ""), _says(self.metrics(), rule), _says(self.picture, rule)

    def within(
        self,
        component: str,
        cause: str,
        rule: str,
        says: str = "",
        *,
        within_s: float = WITHIN_S,
    ) -> None:
        """Fail unless all three tell it in time; `says` is `cause` unless it is given."""
        wanted = (cause, says or cause, says or cause)
        seen: list[Any] = []

        def told() -> bool:
            seen[:] = self.said(component, rule)
            return all(want in have for want, have in zip(wanted, seen, strict=True))

        self._wait(told, f"{component} and {rule} are told", seen, within_s)

    def no_more(self, component: str, rule: str, *, within_s: float = 30) -> None:
        seen: list[Any] = []

        def gone() -> bool:
            seen[:] = self.said(component, rule)
            return not any(seen)

        self._wait(gone, f"{component} and {rule} are well", seen, within_s)

    def _wait(self, condition: Any, what: str, seen: list[Any], within_s: float) -> None:
        try:
            wait_until(condition, what, timeout_s=within_s)
        except AssertionError as error:
            error.add_note(f"/health, JSON and feed say: {seen}")
            raise


def _says(picture: dict[str, Any], rule: str) -> str:
    rows = [row for row in picture["advice"] if row["rule"] == rule]
    assert all(row["change"] for row in rows) and len(rows) <= 1
    return str(rows[0]["says"]) if rows else ""
