"""OpenAI's Responses: items that are begun, grow and are done, then the response as a whole.

Invariant: `sequence_number` follows from where a frame ends on the tape, so that whoever comes
with `starting_after` is given what it lacks whatever was trimmed, and numbers only grow. What
cannot be told here (sources, files, data, steps, tools that the agent itself executes) is left
out, never bent; what cannot be taken back ends the stream with an `error`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from plateau_sse import jsontext
from plateau_sse.content import untold
from plateau_sse.dialects import places
from plateau_sse.dialects.events import decode, text_of, type_of
from plateau_sse.dialects.openai_items import call_item, closing, output_of, status_of
from plateau_sse.dialects.openai_items import item as item_of
from plateau_sse.live.dialect import OWN, PING, Due, Said, State
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.tape import Point, Tape

_ATTEMPT_BITS = 28
# Of what has no place on the tape: before everything, and behind it.
_CREATED, _QUEUED, _LAST = 0, 1, 2**53 - 1
_RESTARTED = "The answer has begun again, and what was sent cannot be taken back: ask again."
_KINDS = {b"message.delta": "text", b"reasoning.delta": "reasoning"}
_NAMES = {"text": b"output_text", "reasoning": b"reasoning_text"}
_EVENTS = {
    "completed": b"response.completed",
    "incomplete": b"response.incomplete",
    "failed": b"response.failed",
    "cancelled": b"response.failed",
}


class _Open(NamedTuple):
    """A part that grows: its number, and where its text begins, in bytes of the attempt's."""

    kind: str
    part: bytes
    start: int


class _At(NamedTuple):
    """`run` is the id of the run, `head` what each response object begins with. `created` and
    `begun`: the response was told to be. `items` so far, `calls` among them, and `points`
    passed. `after`: up to this place it was told on
    another connection, -1 once that lies behind. `void`: what that was nobody knows."""

    run: bytes = b""
    head: bytes = b""
    created: bool = False
    begun: bool = False
    open: _Open | None = None
    items: int = 0
    calls: int = 0
    points: int = 0
    after: int = -1
    void: bool = False


class _Frames:
    """What is told at one place, numbered from there."""

    def __init__(self, at: _At, place: int) -> None:
        self._after = at.after
        self._place = place
        self.content = bytearray()

    def add(self, kind: bytes, members: bytes) -> None:
        if self._place > self._after:
            self.content += _frame(kind, members, number_of(self._place))
        self._place += 1


class Responses:
    name = "responses"
    recalls = True
    headers: Mapping[str, str] = {}
    ping = PING
    start: State = _At()

    def opening(self) -> bytes:
        return b""

    def parting(self, state: State) -> None:
        """A clean end is the answer's: who is cut off comes back with `starting_after`."""

    def going_on(self, state: State, place: int, *, gone: bool = False) -> State:
        at: _At = state
        return at._replace(created=True, after=place, void=gone)

    def say(self, state: State, number: int, data: bytes, tag: bytes) -> Said:
        at: _At = state
        kind = type_of(data)
        if at.void and number:
            return Said(at, _error("restarted", _RESTARTED, _number_at(number)), True)
        if kind in _KINDS:
            return _grow(at, _KINDS[kind], number, data)
        if kind == b"run.restarted":
            return _restart(at, number, decode(data))
        if not number:
            return _state(at, kind, data)
        return _mark(at, kind, number, data)


RESPONSES = Responses()


def start_of(run_id: str, created: int) -> State:
    """Before everything of this run, or cached answer, which was `created` then: seconds since
    the epoch."""
    opened = {"id": f"resp_{run_id}", "object": "response", "created_at": created}
    return _At(run=run_id.encode(), head=jsontext.encode(opened)[1:-1])


def number_of(place: int) -> int:
    """A `sequence_number`, of a place of any attempt from the first on."""
    position, j = places.split(place)
    attempt, at = ids.split(position)
    return max(0, attempt - 1) << _ATTEMPT_BITS | places.of(at, j)


def place_of(number: int) -> int:
    """Where the frame with this `sequence_number` ends."""
    attempt, rest = number >> _ATTEMPT_BITS, number & ((1 << _ATTEMPT_BITS) - 1)
    at, j = places.split(rest)
    return places.of(ids.number(attempt + 1, at), j)


def _frame(kind: bytes, members: bytes, number: int) -> bytes:
    return b'event: %b\ndata: {"type":"%b",%b,"sequence_number":%d}\n\n' % (
        *(kind, kind),
        *(members, number),
    )


def _response(at: _At, closing: Mapping[str, Any]) -> bytes:
    rest = jsontext.encode(closing)[1:]
    return b'"response":{%b,%b,%b' % (at.head, OWN, rest)


def _state(at: _At, kind: bytes, data: bytes) -> Said:
    """What has no place on the tape."""
    if kind == b"run.queued" and not at.begun:
        content = b""
        members = _response(at, closing("queued", {}, []))
        if not at.created:
            content = _frame(b"response.created", members, _CREATED)
        if at.after < places.of(ids.number(1, 0), _QUEUED):
            content += _frame(b"response.queued", members, _QUEUED)
        return Said(at._replace(created=True), content, False)
    if kind == b"run.failed":
        end = decode(data)
        return Said(at, _error(end["code"], end["message"], _LAST), True)
    return Said(at, b"", False)


def _error(code: str, message: str, number: int) -> bytes:
    told = jsontext.encode({"code": code, "message": message, "param": None})
    return _frame(b"error", told[1:-1], number)


def _restart(at: _At, number: int, event: Mapping[str, Any]) -> Said:
    if at.items:
        last = (int(event["attempt"]) << _ATTEMPT_BITS) - 1
        told = _number_at(number) if number else last
        return Said(at, _error("restarted", _RESTARTED, told), True)
    return Said(_At(at.run, at.head, at.created, at.begun), b"", False)


def _number_at(position: int) -> int:
    return number_of(places.of_mark(position))


def _grow(at: _At, kind: str, number: int, data: bytes) -> Said:
    """A delta of the part that is open is told at the cost of two searches in its bytes."""
    start = data.index(b'"part":') + 7
    part, text = data[start : data.index(b",", start)], text_of(data)
    if at.open is not None and at.open.kind == kind and at.open.part == part:
        if at.after >= 0:
            at = at._replace(after=-1)
        return Said(at, _delta(at, number, text), False)
    attempt, end = ids.split(number)
    opened_at = end - len(msgspec.json.decode(text).encode())
    before = opened_at - at.points - 1
    then = at._replace(
        open=_Open(kind, part, before),
        items=at.items + 1,
        points=at.points + 1,
        after=-1,
    )

    def make(said: bytes, _: Sequence[Point]) -> bytes:
        frames = _Frames(at, places.of_mark(ids.number(attempt, opened_at)))
        _close(frames, at, said, "completed")
        item = item_of(then.run, kind, part, "", "in_progress")
        item["content"] = []
        _item(frames, b"added", then, item)
        told = _content_part(kind, "")
        frames.add(b"response.content_part.added", _in_item(then) + b',"part":' + told)
        return bytes(frames.content) + _delta(then, number, text)

    return _said(then, at, before, make)


def _said(then: _At, at: _At, until: int, make: Any, *, last: bool = False) -> Said:
    """What ends the part that is open says all of it, once that has been read."""
    if at.open is None or at.open.start == until:
        return Said(then, make(b"", ()), last)
    return Said(then, b"", last, Due(at.open.start, until, make))


def _delta(at: _At, number: int, text: bytes) -> bytes:
    if text == b'""' or at.open is None:
        return b""
    logprobs = b',"logprobs":[]' if at.open.kind == "text" else b""
    members = b'%b,"delta":%b%b' % (_in_item(at), text, logprobs)
    kind = b"response.%b.delta" % _NAMES[at.open.kind]
    return _frame(kind, members, number_of(places.of_delta(number)))


def _in_item(at: _At) -> bytes:
    """Of what belongs to the content of the latest item, which is open."""
    assert at.open is not None
    prefix = b"msg" if at.open.kind == "text" else b"rs"
    return b'"item_id":"%b_%b_%b","output_index":%d,"content_index":0' % (
        *(prefix, at.run, at.open.part),
        at.items - 1,
    )


def _content_part(kind: str, text: str) -> bytes:
    return jsontext.encode(item_of(b"", kind, b"", text, "completed")["content"][0])


def _item(frames: _Frames, how: bytes, at: _At, item: dict[str, Any]) -> None:
    members = b'"output_index":%d,"item":%b' % (at.items - 1, jsontext.encode(item))
    frames.add(b"response.output_item." + how, members)


def _close(frames: _Frames, at: _At, said: bytes, status: str) -> None:
    """The part that is open, which has said this."""
    if at.open is None:
        return
    kind, part, _ = at.open
    text = said.decode()
    logprobs = b',"logprobs":[]' if kind == "text" else b""
    place = _in_item(at)
    done = b'%b,"text":%b%b' % (place, jsontext.encode(text), logprobs)
    frames.add(b"response.%b.done" % _NAMES[kind], done)
    frames.add(b"response.content_part.done", place + b',"part":' + _content_part(kind, text))
    _item(frames, b"done", at, item_of(at.run, kind, part, text, status))


def _mark(at: _At, kind: bytes, number: int, data: bytes) -> Said:
    """Whatever it is, it ends the part that is open."""
    _, end = ids.split(number)
    until = end - at.points - 1
    then = at._replace(open=None, points=at.points + 1, after=-1)
    place = places.of_mark(number)
    if kind in (b"run.completed", b"run.failed", b"run.cancelled"):
        return _end(then, at, number, until, decode(data))
    call = decode(data) if kind == b"tool.call" else {}
    if call.get("client"):
        then = then._replace(items=at.items + 1, calls=at.calls + 1)

    def make(said: bytes, _: Sequence[Point]) -> bytes:
        frames = _Frames(at, place)
        _close(frames, at, said, "completed")
        if call.get("client"):
            _call(frames, then, call)
        return bytes(frames.content)

    if kind == b"run.started":
        return _begin(then, at, place)
    return _said(then, at, until, make)


def _begin(then: _At, at: _At, place: int) -> Said:
    content = b""
    members = _response(at, closing("in_progress", {}, []))
    if not at.created:
        content = _frame(b"response.created", members, _CREATED)
    if not at.begun:
        frames = _Frames(at, place)
        frames.add(b"response.in_progress", members)
        content += frames.content
    return Said(then._replace(created=True, begun=True), content, False)


def _call(frames: _Frames, at: _At, call: dict[str, Any]) -> None:
    item = call_item(at.run, at.calls - 1, call)
    place = b'"item_id":"%b","output_index":%d' % (item["id"].encode(), at.items - 1)
    arguments = jsontext.encode(item["arguments"])
    _item(frames, b"added", at, item | {"arguments": "", "status": "in_progress"})
    name = b"response.function_call_arguments."
    frames.add(name + b"delta", place + b',"delta":' + arguments)
    done = b'%b,"name":%b,"arguments":%b' % (place, jsontext.encode(item["name"]), arguments)
    frames.add(name + b"done", done)
    _item(frames, b"done", at, item)


def _end(then: _At, at: _At, number: int, until: int, event: dict[str, Any]) -> Said:
    """The response as a whole, of all that has happened."""
    attempt, _ = ids.split(number)
    name = event["type"].removeprefix("run.")
    status = status_of(name, event.get("finish_reason"))

    def make(said: bytes, points: Sequence[Point]) -> bytes:
        frames = _Frames(at, places.of_mark(number))
        # Of one that ends before anybody has begun it there is nothing before.
        content = b""
        if not at.created:
            opened = _response(at, closing("in_progress", {}, []))
            content = _frame(b"response.created", opened, _CREATED)
        part = status if status in ("completed", "incomplete") else "incomplete"
        if at.open is not None:
            _close(frames, at, said[at.open.start :], part)
        parts = Tape(attempt, said, points).shown()
        final = event.get("output") or ""
        if rest := untold(parts, final):
            then_ = at._replace(open=_Open("text", b"output", 0), items=at.items + 1)
            _whole(frames, then_, rest)
        output = output_of(at.run.decode(), parts, status, final)
        members = _response(at, closing(status, event, output))
        frames.add(_EVENTS[status], members)
        return content + bytes(frames.content)

    if not at.items:
        return Said(then, make(b"", ()), True)
    return Said(then, b"", True, Due(0, until, make, points=True))


def _whole(frames: _Frames, at: _At, text: str) -> None:
    """An item of a text that is there at once."""
    assert at.open is not None
    item = item_of(at.run, "text", at.open.part, "", "in_progress")
    _item(frames, b"added", at, item | {"content": []})
    place = _in_item(at)
    frames.add(b"response.content_part.added", place + b',"part":' + _content_part("text", ""))
    told = jsontext.encode(text)
    frames.add(b"response.output_text.delta", b'%b,"delta":%b,"logprobs":[]' % (place, told))
    _close(frames, at, text.encode(), "completed")
