"""The tape: an answer as its text and the points at which something happens in it.

Invariant: a position is `at = bytes of text + points passed`, so what follows any position can
be found from text and points alone, and leads there however it is cut: a delta of `n` bytes
ends `n` further (and 1 where it opens its part), a mark 1 further.

A *point* is a mark, or the opening of a part of text or thoughts. One part is open at a time: a
mark, or another opening, ends it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event


class Entry(NamedTuple):
    """One event: the position behind it, as a number, and its JSON."""

    number: int
    data: bytes


class Point(NamedTuple):
    """`at` is the position behind it. A mark has `data`; an opening has the kind of its part,
    the part's number and, where it goes on with an earlier part, that one's as well."""

    at: int
    data: bytes = b""
    kind: str = ""
    part: int = 0
    continues: str = ""

    @classmethod
    def opening(cls, at: int, text: str) -> Point:
        """From `2 t` or `2 t 0`: number, kind, and the part that it continues."""
        part, kind, *continues = text.split(" ")
        return cls(at, b"", kind, int(part), continues[0] if continues else "")

    def shown(self) -> str:
        """As `opening` takes it."""
        return f"{self.part} {self.kind} {self.continues}".rstrip()


class Inside(ValueError):
    """The position lies within a character."""


def cut(
    attempt: int, at: int, opened: Point | None, text: bytes, points: Sequence[Point]
) -> list[Entry]:
    """The events that lead from `at` over these points and this text, in which `opened` is the
    last point before them: deltas of a few KiB, and the marks between. Raises Inside."""
    entries: list[Entry] = []
    number = ids.number(attempt, at)
    used, opens = 0, False

    def say(said: bytes) -> None:
        nonlocal number
        if not said and not opens:
            return
        if opened is None or not opened.kind:
            raise ValueError("text without a part")
        if said and said[0] & 0xC0 == 0x80:
            raise Inside
        head = events.delta_head(opened.kind, opened.part)
        continues = opened.continues if opens else ""
        for size, tail in events.delta_tails(said.decode(), continues):
            number += size
            entries.append(Entry(number, head + tail))

    for passed, point in enumerate(points, 1):
        until = point.at - at - passed
        say(text[used:until])
        used, opens = until, not point.data
        number += 1
        opened = point
        if point.data:
            entries.append(Entry(number, point.data))
    say(text[used:])
    return entries


def whole_characters(text: bytes) -> bytes:
    """Without a last character of which only a part is there."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 == 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[:-back] if back < wanted else text
        if byte < 0x80:
            break
    return text


class Tape:
    """One attempt's tape as far as it has come; `add` is what append.lua does to the one in the
    store."""

    def __init__(
        self, attempt: int = 1, text: bytes = b"", points: Sequence[Point] = ()
    ) -> None:
        self.attempt = attempt
        self.text = bytearray(text)
        self.points = list(points)
        self.parts = sum(1 for point in self.points if not point.data)

    @property
    def at(self) -> int:
        return len(self.text) + len(self.points)

    @property
    def marks_bytes(self) -> int:
        return sum(len(point.data) for point in self.points)

    def add(self, event: Event) -> None:
        """What the event leaves on the tape; a state leaves nothing."""
        kind = event.op.lower()
        if kind in ("t", "r"):
            self._say(kind, event)
        elif kind in ("m", "e"):
            self.points.append(Point(self.at + 1, event.data))

    def _say(self, kind: str, event: Event) -> None:
        number, _, continues = event.part.partition(" ")
        last = self.points[-1] if self.points else None
        same = last is not None and last.kind == kind and not continues
        if number and last is not None:
            same = same and int(number) == last.part
        if not same:
            self.points.append(Point(self.at + 1, b"", kind, self.parts, continues))
            self.parts += 1
        self.text += event.arg.encode()

    def entries(self, at: int = 0) -> list[Entry]:
        """What follows position `at` of this attempt. Raises Inside."""
        passed = bisect_right([point.at for point in self.points], at)
        opened = self.points[passed - 1] if passed else None
        text = bytes(self.text[at - passed :])
        return cut(self.attempt, at, opened, text, self.points[passed:])

    def said(self, kind: str = "t") -> str:
        """All that was said in parts of this kind."""
        found = bytearray()
        for index, point in enumerate(self.points):
            if point.kind == kind:
                found += self._text_of(index)
        return found.decode()

    def shown(self) -> list[dict[str, Any]]:
        """As records show it: parts of text and thoughts, and the marks between them as they
        are, but for the run's start and end."""
        found: list[dict[str, Any]] = []
        for index, point in enumerate(self.points):
            if point.data:
                mark = msgspec.json.decode(point.data)
                if not mark["type"].startswith("run."):
                    found.append(mark)
                continue
            part: dict[str, Any] = {
                "type": "text" if point.kind == "t" else "reasoning",
                "part": point.part,
                "text": self._text_of(index).decode(),
            }
            if point.continues:
                part["continues"] = int(point.continues)
            found.append(part)
        return found

    def _text_of(self, index: int) -> bytes:
        """Of the part that is opened by this point."""
        start = self.points[index].at - index - 1
        if index + 1 < len(self.points):
            return bytes(self.text[start : self.points[index + 1].at - index - 2])
        return bytes(self.text[start:])
