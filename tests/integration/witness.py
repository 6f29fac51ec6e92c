"""Who is there while others attack: a producer and its reader, and who asks whether the worker
answers.

    with Witness(plateau.url) as witness:
        ...
    witness.check()

Invariant: what is told of a worker's loop does not depend on how busy the machine is: of the
time that a canary waits only that counts in which the worker computes.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.integration.api_client import ask, messages

WITHIN_S = 30.0
PACE_S, CANARY_S = 0.05, 0.02


def computed_s(pid: int) -> float:
    """What its main thread has computed so far."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


class Witness:
    """A run of its own whose producer is outside, as the owner of `key`; `said` are numbers,
    `text` is what its reader was told."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._over = threading.Event()
        self.said = 0
        self.text = self.last = ""
        self.failed = ""

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self._url, headers=self._headers, timeout=WITHIN_S, trust_env=False
        )

    def __enter__(self) -> Self:
        with self._client() as client:
            self._run = ask(client, "external")
        self._threads = [threading.Thread(target=it) for it in (self._listen, self._say)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(WITHIN_S)
            assert not thread.is_alive()

    def _say(self) -> None:
        path = f"/v1/runs/{self._run['id']}/events"
        with self._client() as client:
            while not self._over.wait(PACE_S):
                event = {"type": "message.delta", "text": f"{self.said} "}
                answer = client.post(path, json=[event])
                if answer.status_code != 200:
                    self.failed = answer.text
                    break
                self.said += 1
            client.post(path, json=[{"type": "run.completed"}])

    def _listen(self) -> None:
        with self._client() as client, client.stream("GET", self._run["events_url"]) as told:
            for event in messages(told.iter_lines()):
                self.last = event.type
                if event.type == "message.delta":
                    self.text += event.data["text"]

    def check(self) -> None:
        """It has been told all of what was said, once, and its end."""
        assert not self.failed, self.failed
        assert self.said and self.last == "run.completed"
        assert self.text == "".join(f"{number} " for number in range(self.said))


class Canary:
    """Asks the worker `pid` again and again, on one connection. `longest_s` is the most that it
    computed while one of these waited: for so long its loop answered nobody."""

    def __init__(self, url: str, pid: int) -> None:
        self._url, self._pid = url, pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sing)
        self.longest_s, self.songs = 0.0, 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()

    def _sing(self) -> None:
        with httpx.Client(base_url=self._url, timeout=WITHIN_S, trust_env=False) as client:
            while not self._over.wait(CANARY_S):
                began_at, before = time.monotonic(), computed_s(self._pid)
                assert client.get("/health/live").status_code == 200
                computed = computed_s(self._pid) - before
                waited_s = time.monotonic() - began_at
                self.longest_s = max(self.longest_s, min(waited_s, computed))
                self.songs += 1
