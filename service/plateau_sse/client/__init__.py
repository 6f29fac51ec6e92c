"""Answers of Plateau in Python: asked for, followed over broken connections, cancelled.

    from plateau_sse.client import ask, follow

    stream = follow(ask("http://127.0.0.1:8000", agent="study", input=notes))
    for event in stream:  # or: async for, with ask_async
        print(stream.answer.text)

Invariant: this is a client; the service itself imports nothing of it.
"""

from plateau_sse.client.answer import Answer, Event, Part
from plateau_sse.client.asking import Ask, Run, ask, ask_async, cancel, cancel_async
from plateau_sse.client.faults import Refused, Unreachable
from plateau_sse.client.following import Following, follow

__all__ = [
    "Answer",
    "Ask",
    "Event",
    "Following",
    "Part",
    "Refused",
    "Run",
    "Unreachable",
    "ask",
    "ask_async",
    "cancel",
    "cancel_async",
    "follow",
]
