"""Conversations: what was said last, as people see it and as a model is given it.

Invariant: a conversation is an index of at most MAX_MESSAGES messages, each kept whole for
people; the latest MAX_CONTENT_MESSAGES have a body for the model, too, of at most
MAX_CONTENT_LENGTH characters. Adding and trimming is one step, so whoever adds at the same time
loses nothing. All conversations together stay within a quarter of the store: the longest idle
go first.

A deletion holds for everything that was asked before it, also where nothing has been added yet:
a run is announced in its conversation before it is enqueued.

A body ends with ` …` where it was cut, and with ` … [cancelled]` or ` … [failed]` where the
answer was broken off. The index is read first, and alone; bodies are cut when they are written,
and read only for the messages that still have one. Whole messages are read by nobody but who
shows them, so that a run costs no more for them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from plateau_sse.content import parts_of, words_of
from plateau_sse.settings import Settings
from plateau_sse.store.conversations import wholes
from plateau_sse.store.conversations.graphemes import cut
from plateau_sse.store.conversations.wholes import Whole
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

log = logging.getLogger("plateau.conversations")

# After the last message.
LIFE_S = 7 * 86_400
# Of the store's bound, for all of them together.
SHARE = 4
# While we read, newer messages may have taken the bodies of those that we are after.
TRIES = 3
_NONE = "-"
_NOW = 2**53
# What a body ends with that is not all of the text, or whose answer is not all that was to be.
_CUT = " …"
_BROKEN_OFF = " … [{}]"

_FORGET = """#!lua flags=allow-oom
-- KEYS  index, bodies, deletion, coming, wholes, replaced, memory, line, opener, listed
-- ARGV  ms of the last message that may go with it
-- Gives 1 where the conversation is gone, 0 where somebody has said more meanwhile.
local last = redis.call('LINDEX', KEYS[1], -1)
if last and tonumber(last:match('^%S+ %S+ (%d+)')) > tonumber(ARGV[1]) then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[5], KEYS[6], KEYS[7], KEYS[9], KEYS[10])
return 1
"""

# A full store allows it: it makes room.
_DELETE = """#!lua flags=allow-oom
-- KEYS  index, bodies, deletion, coming, wholes, replaced, memory, line, opener, listed
-- ARGV  life of the note in s
-- Where nothing was said and nothing is coming there is nothing to note: so deletions of what
-- never was leave nothing behind, however many.
if redis.call('EXISTS', KEYS[1], KEYS[4], KEYS[7], KEYS[8]) > 0 then
  local time = redis.call('TIME')
  redis.call('SET', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000), 'EX', ARGV[1])
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[9])
"""

# Refused when memory is full, as the run is that it announces.
_ANNOUNCE = """#!lua
-- KEYS  coming      ARGV  token, life_s
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


class Message(NamedTuple):
    """One message: `length` is that of its whole text, in characters. Of one that is read
    `content` is what a model is given of it, None where that is nothing any more; of one that
    is to be added it is the whole in words, and `whole` is what people see. `token` opens the
    run that a question asked for; `attempt` is the one that gave an answer, 0 where that is not
    known. The role `tool` is that of results which were sent instead of a question."""

    id: str
    role: str
    at_ms: int
    length: int
    content: str | None
    reply_to: str = ""
    token: str = ""
    attempt: int = 0
    whole: Whole | None = None

    @property
    def run_id(self) -> str:
        """The run that a question asked for, or that gave an answer."""
        return self.id.partition("-")[0]


def script(name: str, flags: str = "") -> str:
    """A script that says in the end what the conversation takes."""
    folder = files("plateau_sse.store.conversations")
    head, body = (folder.joinpath(f"{it}.lua").read_text("utf-8") for it in ("taken", name))
    return f"#!lua{flags}\n{head}{body}"


def place_of(owner: str, user: str, conversation_id: str) -> str:
    """The name of a conversation in the store: the same id of another owner or user is another
    conversation."""
    text = msgspec.json.encode([owner, user, conversation_id])
    return blake2b(text, digest_size=16).hexdigest()


def asked(run_id: str, messages: Sequence[Mapping[str, Any]], token: str) -> Message:
    """What a run answers, at the end of its messages: the user's, or results of tools."""
    results: list[Mapping[str, Any]] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        results.insert(0, message)
    if results:
        role = "tool"
        words = "\n".join(words_of(result["content"]) for result in results)
        parts: list[dict[str, Any]] = [
            {"type": "tool.result", "id": it["tool_call_id"], "output": it["content"]}
            for it in results
        ]
    else:
        role, content = "user", messages[-1]["content"]
        words, parts = words_of(content), parts_of(content)
    now_ms, whole = int(time.time() * 1000), Whole(parts)
    message_id = f"{run_id}-user"
    # Results of tools are no text of the whole.
    length = len(words if results else whole.content)
    return Message(message_id, role, now_ms, length, words, token=token, whole=whole)


def answered(
    run_id: str,
    text: str,
    parts: list[Any],
    *,
    attempt: int = 0,
    **about: Any,
) -> Message:
    """A run's answer: its id is the run's. `parts` are as records show them; `about` is what
    else `Whole` has of it."""
    whole = Whole(parts, **about)
    if whole.content != text:
        whole.text = text
    return Message(
        run_id,
        "assistant",
        int(time.time() * 1000),
        len(text),
        text,
        f"{run_id}-user",
        attempt=attempt,
        whole=whole,
    )


class Limits(NamedTuple):
    """Of one conversation: messages, those of them that a model is given, and the characters of
    each that it is given."""

    messages: int
    bodies: int
    length: int


def limits_of(settings: Settings) -> Limits:
    return Limits(
        settings.max_messages, settings.max_content_messages, settings.max_content_length
    )


class Conversations:
    """`bound` gives what the whole store may take, in bytes; `share` how much of it is taken,
    0 to 1."""

    def __init__(
        self,
        redis: Redis,
        limits: Limits,
        bound: Callable[[], Awaitable[int]],
        count: Callable[[str], None] = lambda _: None,
        share: Callable[[], Awaitable[float]] | None = None,
    ) -> None:
        scripts = files("plateau_sse.store.conversations")
        self._redis: Any = redis
        self._converse = redis.register_script(script("converse", " flags=allow-oom"))
        self._idlest = redis.register_script(scripts.joinpath("idlest.lua").read_text("utf-8"))
        self._forget = redis.register_script(_FORGET)
        self._delete = redis.register_script(_DELETE)
        self._announce = redis.register_script(_ANNOUNCE)
        self._limits = limits
        self._bound = bound
        self._count = count
        self._share = share

    async def add(
        self,
        place: str,
        messages: Sequence[Message],
        *,
        owner: str = "",
        asked_ms: int | None = None,
        instead_of: Sequence[str] = (),
    ) -> None:
        """Add these in their order to a conversation of `owner`, those that are there already
        excepted: of them an answer is replaced by that of a later attempt. Given `asked_ms`, by
        the store's clock, not at all where the conversation was deleted after that time, unless
        one of them has been added since: a run from before is shared by who asks the same
        again. The messages `instead_of` which they come go, and are not added any more."""
        messages_most, bodies_most, length_most = self._limits
        args: list[str | int | bytes] = [LIFE_S, messages_most, bodies_most, asked_ms or _NOW]
        args.append(" ".join(instead_of))
        # The script may write to a full store, so that what is on ends well: little, then. And
        # no conversation alone is more than the share of all: it does not go for itself.
        most = wholes.most_at(0.0 if self._share is None else await self._share())
        of_share = await self._bound() // SHARE // messages_most
        most = min(most, max(of_share, wholes.TIGHT_BYTES))
        for message in messages:
            args += [message.id, _entry(message), _given(message, length_most)]
            whole, words = message.whole or Whole([]), message.content or ""
            args.append(wholes.pack(whole, words, most))
        with store_errors():
            taken = int(await self._converse(keys=list(keys.conversation(place)), args=args))
        if taken:
            await self.make_room(place, messages[-1].at_ms, taken, owner)

    def before(
        self, context: list[Message], messages: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Message], list[str]]:
        """What was said before the same was asked last, and the ids of what was since, or is
        still to come of that; all, and none, where it was not."""
        words = _given(asked("", messages, ""), self._limits.length)
        for index in range(len(context) - 1, -1, -1):
            if context[index].role == "user" and context[index].content == words:
                runs = dict.fromkeys(message.run_id for message in context[index:])
                return context[:index], [it for run in runs for it in (f"{run}-user", run)]
        return context, []

    async def index(self, place: str) -> list[Message]:
        """In the order of arrival, without what was said; [] for none."""
        with store_errors():
            entries: list[bytes] = await self._redis.lrange(
                keys.conversation(place).messages, 0, -1
            )
        return [_message(entry.decode()) for entry in entries]

    async def whole(self, place: str, message_id: str) -> Whole | None:
        """One message as people see it, None where that is not kept."""
        with store_errors():
            packed: bytes | None = await self._redis.hget(
                keys.conversation(place).wholes, message_id
            )
        return None if packed is None else wholes.unpack(packed)

    async def read(self, place: str) -> list[Message]:
        """The index, the latest with what a model is given of them."""
        key = keys.conversation(place)
        found: list[Message] = []
        for _ in range(TRIES):
            found = await self.index(place)
            latest = found[-self._limits.bodies :] if self._limits.bodies else []
            if not latest:
                return found
            with store_errors():
                bodies: list[bytes | None] = await self._redis.hmget(
                    key.bodies, [message.id for message in latest]
                )
            found[-len(latest) :] = [
                message._replace(content=None if body is None else body.decode())
                for message, body in zip(latest, bodies, strict=True)
            ]
            if None not in bodies:
                break
        return found

    async def read_whole(self, place: str) -> list[Message]:
        """As `read`, each with its whole where that is kept: releases before kept none."""
        found = await self.read(place)
        if not found:
            return found
        with store_errors():
            packed: list[bytes | None] = await self._redis.hmget(
                keys.conversation(place).wholes, [message.id for message in found]
            )
        return [
            message._replace(whole=None if data is None else wholes.unpack(data))
            for message, data in zip(found, packed, strict=True)
        ]

    async def has_memory(self, place: str) -> bool:
        """Whether an agent remembers anything of it."""
        with store_errors():
            return bool(await self._redis.exists(keys.conversation(place).memory))

    async def announce(self, place: str, token: str, *, life_s: int) -> None:
        """A run is about to be enqueued that will have ended within `life_s`; `token` is its
        caller's."""
        with store_errors():
            await self._announce(keys=[keys.conversation(place).coming], args=[token, life_s])

    async def retract(self, place: str, token: str) -> None:
        """It was refused: nothing is coming."""
        with store_errors():
            await self._redis.srem(keys.conversation(place).coming, token)

    async def delete(self, place: str, *, remember_s: int) -> None:
        """Forget all of it; what is being answered for it, and began before, is not added
        within `remember_s` either."""
        with store_errors():
            await self._delete(keys=list(keys.conversation(place)), args=[remember_s])
        # Also where it was gone already: whoever deleted it may not have come as far as this.
        await self._note(place, int(time.time() * 1000), 0)

    async def make_room(self, place: str, at_ms: int, taken: int, owner: str = "") -> None:
        """It takes so many bytes of this owner's now, '' for whose it was: of whoever has most,
        what is idle for longest goes for it."""
        going = await self._note(place, at_ms, taken, owner)
        for name, idle_ms in going:
            with store_errors():
                gone = await self._forget(keys=list(keys.conversation(name)), args=[idle_ms])
            if gone:
                self._count("conversations_evicted")
                await self._note(name, at_ms, 0)

    async def _note(
        self, place: str, at_ms: int, taken: int, owner: str = ""
    ) -> list[tuple[str, int]]:
        """What a conversation takes now; those that have to go for it, with the time of their
        last message."""
        bound = await self._bound() // SHARE
        with store_errors():
            reply: list[bytes] = await self._idlest(
                keys=list(keys.CONVERSATIONS),
                args=[place, at_ms, taken, bound, LIFE_S * 1000, owner],
            )
        names, times = reply[::2], reply[1::2]
        return [(name.decode(), int(at)) for name, at in zip(names, times, strict=True)]


def is_broken_off(given: str) -> bool:
    """Whether this, which a model is given, is an answer that was broken off."""
    ends = (_BROKEN_OFF.format(status) for status in ("cancelled", "failed"))
    return given.endswith(tuple(ends))


def _given(message: Message, most: int) -> str:
    """What a model is given of it: with a remark where that is not all, no longer for it."""
    words = message.content or ""
    status = message.whole.status if message.whole is not None else "completed"
    end = "" if status == "completed" or not words else _BROKEN_OFF.format(status)
    if len(words) + len(end) <= most:
        return words + end
    end = end or _CUT
    return cut(words, most - len(end)) + end if len(end) < most else cut(words, most)


def _entry(message: Message) -> str:
    """No part of it holds a space. A question's token and an answer's attempt share the last
    place: releases that know of no attempts expect six parts."""
    last = message.token or (str(message.attempt) if message.attempt else "")
    parts = (message.reply_to or _NONE, last or _NONE)
    return " ".join((message.id, message.role, str(message.at_ms), str(message.length), *parts))


def _message(entry: str) -> Message:
    message_id, role, at_ms, length, reply_to, last = entry.split(" ")
    found = Message(
        message_id,
        role,
        int(at_ms),
        int(length),
        None,
        "" if reply_to == _NONE else reply_to,
    )
    if last == _NONE:
        return found
    if role == "assistant":
        return found._replace(attempt=int(last))
    return found._replace(token=last)
