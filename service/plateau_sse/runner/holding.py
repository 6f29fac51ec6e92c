"""What waits to be put on the tape: pieces of text and of thoughts, and calls being written.

Invariant: pieces of a kind keep their order, and none is lost; the two kinds keep theirs
towards each other until parts have taken turns so often that a token each would use up the
openings of a tape. From then on they are gathered by kind, and for longer.
"""

from __future__ import annotations

from plateau_sse.runner.yields import Draft, Piece, TooLarge
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import MARK_BYTES, POINTS_MOST, Event, Kind
from plateau_sse.store.runs.tape import Tape

# The first piece at once, then pieces of this age: a token a piece would fill the 100 entries
# of a stream with less than most answers.
COALESCE_S = 0.03
# Points of a tape, and how long what opens a part waits from there on. 256 KiB that take turns
# with each token at 100 tokens a second need some 600 s; until then 990 are not used up.
IN_ORDER = 200
HOLDS = ((IN_ORDER, COALESCE_S), (600, 0.25), (POINTS_MOST, 1.0))
# From here on a thought that would open a part waits for the end, or for a mark. Text waits
# for nothing: once it has opened its part, nothing else ends that.
LAST_POINTS = 990
# A call that is being written says all of it each time: so much of it a second, and no more
# often than this.
DRAFT_S = 0.1
DRAFT_BYTES_S = 40_000
# Of so many at once, more than any model writes.
DRAFTS = 200


class _Segment:
    """Pieces of one kind, one behind the other."""

    __slots__ = ("chars", "kind", "pieces")

    def __init__(self, piece: Piece) -> None:
        self.kind: Kind = piece.kind
        self.pieces = [piece.text]
        self.chars = len(piece.text)

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self.chars += len(text)


class Held:
    """Text and thoughts on their way to the end of `tape`."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        # No two of a kind are beside each other.
        self._segments: list[_Segment] = []
        self._chars = 0

    @property
    def _open_kind(self) -> str:
        return self._tape.points[-1].kind if self._tape.points else ""

    @property
    def _goes_on(self) -> bool:
        """Whether the first of it belongs to the part that is open."""
        return bool(self._segments) and self._segments[0].kind == self._open_kind

    @property
    def _openings(self) -> int:
        return len(self._segments) - self._goes_on

    @property
    def _points(self) -> int:
        return len(self._tape.points)

    @property
    def keeps_order(self) -> bool:
        return self._points + self._openings < IN_ORDER

    def add(self, piece: Piece) -> None:
        """Raises TooLarge where it would open a part too many."""
        segments, kind = self._segments, piece.kind
        self._chars += len(piece.text)
        if segments and segments[-1].kind == kind:
            segments[-1].add(piece.text)
            return
        if len(segments) > 1 and not self.keeps_order:
            segments[-2].add(piece.text)
            return
        added = _Segment(piece)
        if segments and kind == self._open_kind and not self.keeps_order:
            segments.insert(0, added)
        else:
            segments.append(added)
        if self._points + self._openings > POINTS_MOST:
            segments.remove(added)
            self._chars -= added.chars
            raise _too_many()

    def check_mark(self) -> None:
        """Raises TooLarge where the tape has no room for a mark behind all of it."""
        if self._points + self._openings + 1 > POINTS_MOST:
            raise _too_many()

    @property
    def hold_s(self) -> float:
        """How long after an opening the next one may follow."""
        return next(hold for most, hold in HOLDS if self._points < most or most == POINTS_MOST)

    def what_waits(self) -> tuple[bool, bool]:
        """Whether there is something that goes on with the open part, and something that opens
        one, and not only at the end."""
        opening = self._segments[1:] if self._goes_on else self._segments
        if self._points >= LAST_POINTS:
            opening = [it for it in opening if it.kind == "t"]
        return self._goes_on, bool(opening)

    @property
    def chars(self) -> int:
        """Without what waits for the end."""
        if self._points < LAST_POINTS:
            return self._chars
        waiting = sum(it.chars for it in self._segments if self._is_for_the_end(it))
        return self._chars - waiting

    def _is_for_the_end(self, segment: _Segment) -> bool:
        if self._points < LAST_POINTS or segment.kind == "t":
            return False
        return not (self._goes_on and segment is self._segments[0])

    def take(self, *, opening: bool = True, ending: bool = False) -> list[Event]:
        """What goes on the tape now: with what opens parts, with what waits for the end."""
        if ending:
            going = self._segments
        elif opening:
            going = [it for it in self._segments if not self._is_for_the_end(it)]
        else:
            going = self._segments[: self._goes_on]
        self._segments = [it for it in self._segments if it not in going]
        self._chars -= sum(it.chars for it in going)
        return [
            events.delta(piece, segment.kind)
            for segment in going
            for piece in events.pieces("".join(segment.pieces))
        ]


def _too_many() -> TooLarge:
    return TooLarge(f"{POINTS_MOST:,} parts, calls, results and the like")


class Drafts:
    """Calls that are still being written: the latest of each, as often as may be, and never
    behind the call itself."""

    def __init__(self) -> None:
        self._waiting: dict[str, Draft] = {}
        # When each may be told again; those of this step whose calls are there.
        self._next: dict[str, float] = {}
        self._called: set[str] = set()

    def add(self, draft: Draft) -> None:
        is_known = draft.id in self._next or len(self._next) < DRAFTS
        if draft.id in self._called or not is_known:
            return
        self._next.setdefault(draft.id, float("-inf"))
        self._waiting[draft.id] = draft

    def drop(self, call_id: str) -> None:
        self._called.add(call_id)
        self._waiting.pop(call_id, None)
        self._next.pop(call_id, None)

    def begin_step(self) -> None:
        """Some agents number their calls anew in each; what waits is of the one before."""
        self._called.clear()
        self._waiting.clear()

    def clear(self) -> None:
        self._waiting.clear()

    @property
    def due(self) -> float | None:
        return min((self._next[it] for it in self._waiting), default=None)

    def take(self, now: float) -> list[Event]:
        taken: list[Event] = []
        for call_id in [it for it in self._waiting if self._next[it] <= now]:
            draft = self._waiting.pop(call_id)
            # Its call would be refused.
            if len(draft.arguments) > MARK_BYTES:
                continue
            event = draft.event()
            self._next[call_id] = now + max(DRAFT_S, len(event.data) / DRAFT_BYTES_S)
            if len(event.data) <= MARK_BYTES:
                taken.append(event)
        return taken
