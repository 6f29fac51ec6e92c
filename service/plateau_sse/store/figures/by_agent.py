"""What is counted of each agent: how its runs ended, and the tokens that they took.

Invariant: agents have names that nobody knew when the memory was laid out, and are as many as
somebody likes. So a process has a bounded number of places, each with a name that is written
before anything is counted there and that stays: who sends what a dead process has left knows
whose it is. An agent that finds no place, or whose name is too long for one, is counted as
`other`.
"""

from __future__ import annotations

from plateau_sse.errors import RUN_FAILURES

OTHER = "other"
# Of a run: how it ended if it did not fail.
ENDS = ("completed", "cancelled")
TOKENS = ("input", "output", "cached_input", "reasoning")
OF_AGENT = (*ENDS, *RUN_FAILURES, OTHER, *(f"{kind}_tokens" for kind in TOKENS))
# Of a process; one more is `other`.
AGENTS_MOST = 16
# In UTF-8.
NAME_BYTES = 64
PREFIX = "agent:"

_CELL_BYTES = 8
_NAME_CELLS = NAME_BYTES // _CELL_BYTES
_CELL = {what: cell for cell, what in enumerate(OF_AGENT)}
COUNT_CELLS = (AGENTS_MOST + 1) * len(OF_AGENT)
NAMES_CELLS = AGENTS_MOST * _NAME_CELLS


class Places:
    """The names of one process' places, in `cells` (64 bits each, `NAMES_CELLS` of them)."""

    def __init__(self, cells: memoryview) -> None:
        self._bytes = cells.cast("B")
        self._place: dict[str, int] = {}
        for place in range(AGENTS_MOST):
            if name := self._name(place):
                self._place[name] = place

    def cell(self, agent: str, what: str) -> int:
        """Where `what`, one of `OF_AGENT`, is counted of it; another end is `other`."""
        place = self._place.get(agent)
        if place is None:
            place = self._taken(agent)
        return place * len(OF_AGENT) + _CELL.get(what, _CELL[OTHER])

    def field(self, cell: int) -> str:
        """What the store calls that cell: `agent:<name>:<what>`."""
        place, what = divmod(cell, len(OF_AGENT))
        name = OTHER if place == AGENTS_MOST else self._name(place)
        return f"{PREFIX}{name}:{OF_AGENT[what]}"

    def _taken(self, agent: str) -> int:
        """A place for a newcomer."""
        written = agent.encode()
        place = len(self._place)
        if not written or len(written) > NAME_BYTES or b"\0" in written:
            return AGENTS_MOST
        if agent == OTHER or place == AGENTS_MOST:
            return AGENTS_MOST
        self._bytes[place * NAME_BYTES : (place + 1) * NAME_BYTES] = written.ljust(
            NAME_BYTES, b"\0"
        )
        self._place[agent] = place
        return place

    def _name(self, place: int) -> str:
        written = bytes(self._bytes[place * NAME_BYTES : (place + 1) * NAME_BYTES])
        return written.rstrip(b"\0").decode()


def parted(field: str) -> tuple[str, str]:
    """The agent's name and what is counted, of such a field."""
    name, _, what = field.removeprefix(PREFIX).rpartition(":")
    return name, what
