"""What the user had said in an exchange that an agent remembers, by digests.

Invariant: a turn is what a memory can go back behind: what the user had said to one run, and
how many messages of the memory came of it. Their digests are those of the latest messages of
the user, in order; `gone` is how many there were before.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from plateau_sse.agents import Message
from plateau_sse.content import words_of

# Of eight characters each.
DIGESTS_MOST = 100
_DIGEST_BYTES = 6
# Of a text that was cut, as those of Plateau's own context may be: it may be any.
ANY = "?"
_CUT = " …"


def digests_of(messages: Iterable[Message]) -> list[str]:
    """Of what is the user's among them."""
    return [_digest(it) for it in messages if it.role == "user"]


def _digest(message: Message) -> str:
    words = words_of(message.content)
    if words.endswith(_CUT):
        return ANY
    found = blake2b(words.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
    return urlsafe_b64encode(found).decode()


def alike(some: Sequence[str], others: Sequence[str]) -> int:
    """How many of them are the same, from the first on."""
    count = 0
    for one, other in zip(some, others, strict=False):
        if one != other and ANY not in (one, other):
            break
        count += 1
    return count


def alike_from_end(some: Sequence[str], others: Sequence[str]) -> int:
    """The same, from the last on."""
    return alike(some[::-1], others[::-1])


@dataclass(slots=True)
class Turn:
    """`begins` is the first of its messages in the memory; below 0 where that gave way."""

    begins: int
    digests: list[str]


class Said:
    """`told` is what `told` gave, '' for nothing; the memory has `size` messages."""

    def __init__(self, told: str = "", size: int = 0) -> None:
        self.gone = 0
        self.turns: list[Turn] = []
        try:
            gone, *turns = told.split()
            for turn in reversed(turns):
                count, digests = turn.split(":")
                size -= int(count)
                self.turns.insert(0, Turn(size, digests.split(",")))
            self.gone = int(gone)
        except ValueError:
            # None, or another release's: nothing can be compared.
            self.turns = []

    @property
    def digests(self) -> list[str]:
        return [it for turn in self.turns for it in turn.digests]

    def whole(self, count: int) -> tuple[int, int]:
        """The turns that are within so many of the digests, and how many digests they have."""
        turns = within = 0
        for turn in self.turns:
            if within + len(turn.digests) > count:
                break
            turns, within = turns + 1, within + len(turn.digests)
        return turns, within

    def back_to(self, turns: int) -> int:
        """Only so many turns are left, and this many messages of the memory: 0 where some that
        came before them gave way."""
        if turns >= len(self.turns):
            raise ValueError("nothing is taken back")
        begins = max(0, self.turns[turns].begins)
        self.turns = self.turns[:turns] if begins else []
        self.gone = self.gone if self.turns else 0
        return begins

    def begin(self, digests: Sequence[str], size: int, *, joins: bool = False) -> None:
        """A run is told this, by a memory of that size; it `joins` the turn before where that
        one cannot end without it."""
        if not digests:
            return
        if joins and self.turns:
            self.turns[-1].digests += digests
        else:
            self.turns.append(Turn(size, list(digests)))
        over = len(self.digests) - DIGESTS_MOST
        while over > 0:
            first = self.turns[0].digests
            self.gone += min(over, len(first))
            over, self.turns[0].digests = over - len(first), first[max(over, 0) :]
            if not self.turns[0].digests:
                del self.turns[0]

    def join(self) -> None:
        """It cannot be said any more what came of what."""
        if self.turns:
            self.turns = [Turn(0, self.digests)]

    def told(self, size: int) -> str:
        """For a memory that has come to this size."""
        if self.turns and self.turns[-1].begins > size:
            self.join()
        # Of a turn that has left nothing nothing is known.
        turns = [it for it in self.turns if it.begins < size]
        if not turns:
            return ""
        ends = [*(it.begins for it in turns[1:]), size]
        counted = zip(turns, ends, strict=True)
        said = (f"{end - it.begins}:{','.join(it.digests)}" for it, end in counted)
        return " ".join((str(self.gone), *said))
