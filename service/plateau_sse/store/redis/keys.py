"""Every Redis key that Plateau uses, built in one place.

Invariant: all keys of a run, or of a conversation, carry the same literal hash tag `{<id>}`, so
that one script may touch them on a cluster; every key but the queue gets a life from whoever
writes it first.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import NamedTuple

# The number is that of the tape: runs of releases before it are none that can be read.
QUEUE = "runs:queue:2"
GROUP = "runners"
AGENTS = "agents"
# External runs by the time at which to look at them: no queue entry stands for those.
# Their number is the queue's.
EXTERNAL = "runs:external:2"
# Whose turn it is to sweep.
JANITOR = "janitor"
# Who has figures of its own, by the time at which it last wrote them: hosts and processes.
HOSTS = "hosts"
WORKERS = "workers"


class ConversationsKeys(NamedTuple):
    """All conversations: by the time of their last message, and the bytes of each."""

    idle: str
    sizes: str


CONVERSATIONS = ConversationsKeys("{conversations}:idle", "{conversations}:bytes")


class ConversationKeys(NamedTuple):
    """In the order in which the scripts take them."""

    messages: str
    bodies: str
    deletion: str
    coming: str
    wholes: str


class RunKeys(NamedTuple):
    """In the order in which the scripts take them."""

    record: str
    text: str
    events: str
    tokens: str
    marks: str


def run(run_id: str) -> RunKeys:
    record = f"run:{{{run_id}}}"
    return RunKeys(
        record,
        f"{record}:text",
        f"{record}:events",
        f"{record}:tokens",
        f"{record}:marks",
    )


def conversation(place: str) -> ConversationKeys:
    name = f"conversation:{{{place}}}"
    return ConversationKeys(
        f"{name}:index",
        f"{name}:bodies",
        f"{name}:deleted",
        f"{name}:coming",
        f"{name}:wholes",
    )


def channel(run_id: str) -> str:
    """The sharded channel of a run's entries; append.lua takes the record's name for it."""
    return run(run_id).record


def run_of(channel_name: bytes) -> str:
    """The run whose channel this is."""
    return channel_name[5:-1].decode()


def cache(key: str) -> str:
    return f"cache:{key}"


def left_by(run_id: str) -> str:
    """The pointer of a run to the cached answer that it left; in the cache, too."""
    return f"late:{urlsafe_b64encode(bytes.fromhex(run_id)).rstrip(b'=').decode()}"


def inflight(key: str) -> str:
    """The hint of who is answering a question."""
    return f"inflight:{{{key}}}"


def stats(host: str) -> str:
    """Counters of a host, that survive its processes."""
    return f"stats:{host}"


def stamps(host: str) -> str:
    """The latest batch that each process has added to them, in their slot."""
    return f"stats:stamps:{{{stats(host)}}}"


def worker(process: str) -> str:
    """The figures of one process, `<host>:<pid>`."""
    return f"worker:{process}"


def owner(owner_name: str) -> str:
    """The runs of one owner that have not ended, by the time at which they must have."""
    return f"owner:{owner_name}"
