"""What a chat, or a thread, has at the moment: the answer that it asked for last.

Invariant: what has ended is there for a minute: a page may be reloaded in its last second.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from plateau_sse.api import hits
from plateau_sse.api.state import State
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.conversations.chats import LATE_S, Chat
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.looks import OtherRelease
from plateau_sse.store.runs.shares import Denied


class Found(NamedTuple):
    key: str
    answer: Answer


async def answer_of(state: State, chat: Chat) -> Found | None:
    """The cached answer that it was given; None where it is a run, or was given long ago, or is
    gone. Raises StoreError."""
    if not ids.HIT_ID.fullmatch(chat.run_id):
        return None
    if time.time() * 1000 - chat.asked_ms > LATE_S * 1000:
        return None
    key = hits.key_of(chat.run_id)
    answer = await state["cache"].read(key)
    if answer is None or answer.token != chat.token:
        return None
    return Found(key, answer)


async def is_on(state: State, chat: Chat) -> bool:
    """Whether it is a run that is on, or has just ended. Raises StoreError."""
    if ids.HIT_ID.fullmatch(chat.run_id):
        return False
    try:
        run = await state["streams"].outline(chat.run_id, chat.token)
    except (Denied, OtherRelease):
        return False
    if run is None:
        return False
    return run.ended_ms is None or run.now_ms - run.ended_ms <= LATE_S * 1000
