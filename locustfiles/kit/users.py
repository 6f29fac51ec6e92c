"""The users: who asks and reads how.

Invariant: each checks all that it reads; what is random is how it comes and goes.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import gevent
from gevent.lock import BoundedSemaphore
from locust import between, task

from locustfiles.kit import rows
from locustfiles.kit.asking import Asker
from locustfiles.kit.reading import Asked, Manner
from locustfiles.kit.rows import Fault

# As a conversation remembers, each of them whole: MAX_MESSAGES.
MESSAGES_MOST = 10


def sometimes(share: float) -> Callable[[], bool]:
    return lambda: random.random() < share


class StreamUser(Asker):
    """Creates a run, follows it, breaks off and resumes at random."""

    measures = (*Asker.measures, rows.FIRST_TOKEN)
    weight = 3
    wait_time = between(5, 10)
    pieces, pause_ms, width = 40, (60, 140), 40
    drop_share = 0.03
    away_s: tuple[float, float] = (0.2, 1.5)

    @task
    def stream(self) -> None:
        manner = Manner(
            drops=sometimes(self.drop_share), away_s=lambda: random.uniform(*self.away_s)
        )
        pause_ms = random.randint(*self.pause_ms)
        if self.spoken is not None:
            question = self.question(count=self.pieces, pause_ms=pause_ms, width=self.width)
            self.read_in(self.spoken, question, manner)
            return
        asked = self.ask(
            rows.ANSWER,
            count=self.pieces,
            pause_ms=pause_ms,
            width=self.width,
            streamed=True,
        )
        if asked is not None:
            self.read(asked, manner)


class CachedUser(Asker):
    """Asks what others have asked: the n-th of the prompts 1/n as often as the first."""

    measures = (*Asker.measures, rows.FIRST_CACHED)
    weight = 18
    wait_time = between(1, 3)
    prompts: ClassVar[list[str]] = [f"Question {number} of many" for number in range(200)]
    weights: ClassVar[list[float]] = [1 / (rank + 1) for rank in range(len(prompts))]

    @task
    def cached(self) -> None:
        prompt = random.choices(self.prompts, self.weights)[0]
        # About 2 KB, in a quarter of a second.
        asked = self.ask(rows.ANSWER, prompt, count=8, pause_ms=30, width=250)
        if asked is not None:
            self.read(asked, Manner())


class ConversationUser(Asker):
    """Talks in a conversation, looks at what is remembered of it, and forgets it in the end."""

    measures = (*Asker.measures, rows.FIRST_TOKEN)
    weight = 3
    wait_time = between(2, 5)
    turns = (2, 7)

    @task
    def converse(self) -> None:
        conversation = f"load-{uuid.uuid4().hex}"
        said: list[str] = []
        for _ in range(random.randint(*self.turns)):
            if not self._turn(conversation, said):
                break
            self.wait()  # type: ignore[no-untyped-call]
        self.client.delete(
            f"/v1/conversations/{conversation}",
            headers=self.authorization(),
            name="/v1/conversations/[id]",
        )

    def _turn(self, conversation: str, said: list[str]) -> bool:
        asked = self.ask(
            rows.TURN,
            count=10,
            pause_ms=50,
            width=40,
            streamed=True,
            conversation_id=conversation,
        )
        if asked is None:
            return False
        ledger = self.read(asked, Manner(row=rows.TURN))
        if ledger is None:
            return False
        said.append(ledger.text)
        return self._remembered(conversation, said)

    def _remembered(self, conversation: str, said: list[str]) -> bool:
        with self.client.get(
            f"/v1/conversations/{conversation}",
            headers=self.authorization(),
            name="/v1/conversations/[id]",
            catch_response=True,
        ) as answer:
            if answer.status_code != 200:
                answer.failure(Fault(f"a conversation: {answer.status_code}"))
                return False
            messages = answer.json()["messages"]
            roles = [message["role"] for message in messages]
            expected = ["user", "assistant"] * min(len(said), MESSAGES_MOST // 2)
            if roles != expected:
                answer.failure(Fault("a conversation: not what was said in it"))
                return False
            if messages[-1]["content"] != said[-1]:
                answer.failure(Fault("a conversation: another answer than was read"))
                return False
        return True


@dataclass
class Room:
    """A run that many read; `seats` are left."""

    asked: Asked
    seats: int


class Rooms:
    """The runs that readers of this process share."""

    def __init__(self, seats: int) -> None:
        self._seats = seats
        self._room: Room | None = None
        self._one_enters = BoundedSemaphore()

    def enter(self, ask: Callable[[], Asked | None]) -> Asked | None:
        """A run that is on and has a seat; `ask()` makes a new one."""
        with self._one_enters:
            room = self._room
            if room is None or room.asked.ended or not room.seats:
                asked = ask()
                if asked is None:
                    return None
                room = self._room = Room(asked, self._seats)
            room.seats -= 1
            return room.asked


class FanoutUser(Asker):
    """One of many readers of one run. Few break off; who comes late catches up first."""

    weight = 75
    wait_time = between(0.5, 5)
    # More pieces than a stream has entries.
    pieces, pause_ms, width = 120, 250, 40
    drop_share = 0.001
    rooms: ClassVar[Rooms] = Rooms(seats=200)

    @task
    def follow(self) -> None:
        asked = self.rooms.enter(
            lambda: self.ask(
                rows.SHARED, count=self.pieces, pause_ms=self.pause_ms, width=self.width
            )
        )
        if asked is None:
            return
        manner = Manner(
            row=rows.SHARED,
            drops=sometimes(self.drop_share),
            away_s=lambda: random.uniform(0.5, 3),
            alone=False,
        )
        if self.spoken is not None and asked.question is not None:
            question = asked.question._replace(chat=uuid.uuid4().hex)
            self.read_in(self.spoken, question, manner)
            asked.ended = True
        else:
            self.read(asked, manner)


class SlowUser(Asker):
    """Reads a byte at a time, slower than the answer comes."""

    measures = ()
    weight = 1
    wait_time = between(1, 5)
    # 100 KB in 25 s, and some 1.6 KB of it a second.
    pieces, pause_ms, width = 100, 250, 1000
    breath, breath_s = 32, 0.02
    rooms: ClassVar[Rooms] = Rooms(seats=200)

    @task
    def dawdle(self) -> None:
        asked = self.rooms.enter(
            lambda: self.ask(
                rows.SLOW, count=self.pieces, pause_ms=self.pause_ms, width=self.width
            )
        )
        if asked is not None:
            self.read(asked, Manner(row=rows.SLOW, bite=1, rest=self._breather(), alone=False))

    def _breather(self) -> Callable[[], None]:
        taken = 0

        def rest() -> None:
            nonlocal taken
            taken += 1
            if taken % self.breath == 0:
                gevent.sleep(self.breath_s)

        return rest
