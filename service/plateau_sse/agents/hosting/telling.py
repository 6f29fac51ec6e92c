"""What the adapters of several frameworks need to tell their runs."""

from __future__ import annotations

import base64
from typing import Any

from plateau_sse.agents import Data, File, Yielded
from plateau_sse.store.runs.events import MARK_BYTES

# Some endpoints keep what they have to remember in the ids of calls.
ID_CHARS = 128
# What stands around a file's URL in its event, its media type included.
_AROUND_BYTES = 1024


class Ids:
    """Ids of calls, unique within a run; models number theirs anew in each of their answers, or
    have none. What is looked up is the latest call that goes by an id."""

    def __init__(self) -> None:
        self._ours: dict[str, str] = {}
        self._taken: set[str] = set()

    def new(self, theirs: str) -> str:
        """For a call that begins."""
        name = theirs if 0 < len(theirs) <= ID_CHARS else "call"
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}-{count}"
        self._taken.add(found)
        self._ours[theirs] = found
        return found

    def of(self, theirs: str) -> str:
        return self._ours.get(theirs) or self.new(theirs)

    def same(self, theirs: str, ours: str) -> None:
        """The call of that id of ours goes by this one, too; it may be an earlier run's."""
        self._taken.add(ours)
        self._ours[theirs] = ours


def file_of(media_type: str, data: bytes) -> Yielded:
    """As a `data:` URL; of one that is too large only that it was there is told."""
    if len(data) * 4 / 3 > MARK_BYTES - _AROUND_BYTES:
        left_out = {"media_type": media_type, "bytes": len(data), "left_out": "too large"}
        return Data("file", left_out)
    return File(media_type, f"data:{media_type};base64,{base64.b64encode(data).decode()}")


def jsonable(value: Any) -> Any:
    """As values of JSON; what has no form there is its text. For frameworks on pydantic."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, serialize_unknown=True, bytes_mode="base64")
