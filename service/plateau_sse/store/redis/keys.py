"""Every Redis key that Plateau uses, built in one place.

Invariant: all keys of a run, or of a conversation, carry the same literal hash tag `{<id>}`, so
that one script may touch them on a cluster; every key but the queue's gets a life from whoever
writes it first. `begin_with` names them all anew, before anything is opened.
"""

from __future__ import annotations

import sys
from base64 import urlsafe_b64encode
from typing import NamedTuple


class QueueKeys(NamedTuple):
    """In the order in which the scripts take them; the lines follow. Runs by when they began to
    wait, and those that are held by when their leases end; the place of each; the turn that was
    reached, and owners by their last; runners by when they last looked; a stream that says that
    there is something to take; of those that wait the ones that somebody had; the lines in
    which anybody waits; of each runner the lines that are its own; where several owners share
    the service, that they do, and those that wait by line, owner and turn."""

    since: str
    held: str
    places: str
    turn: str
    turns: str
    runners: str
    bell: str
    back: str
    asked: str
    serving: str
    shared: str
    owned: str


class ConversationsKeys(NamedTuple):
    """All conversations: by the time of their last message, the bytes and the owner of each,
    owners by their bytes, and conversations by owner and time."""

    idle: str
    sizes: str
    whose: str
    owners: str
    by: str


class WebhookKeys(NamedTuple):
    """Runs whose ends are to be posted, by when to see to that; what is posted of those for
    which that has failed."""

    due: str
    bodies: str


# What all of them begin with, for those who share a server: KEY_PREFIX.
PREFIX = ""
# The number is that of the form of runs and of the lines: runners of releases before it know
# nothing of what waits there.
_QUEUE = "{queue}:3:"
QUEUE = QueueKeys(*(_QUEUE + name for name in QueueKeys._fields))
AGENTS = "agents"
ANNOUNCED = "agents:announced"
# External runs by the time at which to look at them: they have no place in the queue.
# Their number is the queue's.
EXTERNAL = "runs:external:2"
# Whose turn it is to sweep.
JANITOR = "janitor"
# Who has figures of its own, by the time at which it last wrote them: hosts and processes.
HOSTS = "hosts"
WORKERS = "workers"
CONVERSATIONS = ConversationsKeys(
    *(f"{{conversations}}:{name}" for name in ("idle", "bytes", "whose", "owners", "by"))
)
WEBHOOK = WebhookKeys("{webhook}:due", "{webhook}:bodies")


def begin_with(prefix: str) -> None:
    """Once in a process."""
    module, before = sys.modules[__name__], len(PREFIX)

    def named(name: str) -> str:
        return prefix + name[before:]

    for name in ("_QUEUE", "AGENTS", "ANNOUNCED", "EXTERNAL", "JANITOR", "HOSTS", "WORKERS"):
        setattr(module, name, named(getattr(module, name)))
    for name in ("QUEUE", "CONVERSATIONS", "WEBHOOK"):
        found = getattr(module, name)
        setattr(module, name, type(found)(*map(named, found)))
    module.PREFIX = prefix  # type: ignore[attr-defined]


class ConversationKeys(NamedTuple):
    """In the order in which the scripts take them. The last is of a place that is no
    conversation's, but an owner's user's: `store/conversations/listed.py`."""

    messages: str
    bodies: str
    deletion: str
    coming: str
    wholes: str
    replaced: str
    memory: str
    line: str
    opener: str
    listed: str


class RunKeys(NamedTuple):
    """In the order in which the scripts take them."""

    record: str
    text: str
    events: str
    tokens: str
    marks: str


def run(run_id: str) -> RunKeys:
    record = f"{PREFIX}run:{{{run_id}}}"
    return RunKeys(
        record,
        f"{record}:text",
        f"{record}:events",
        f"{record}:tokens",
        f"{record}:marks",
    )


def conversation(place: str) -> ConversationKeys:
    name = f"{PREFIX}conversation:{{{place}}}"
    return ConversationKeys(
        f"{name}:index",
        f"{name}:bodies",
        f"{name}:deleted",
        f"{name}:coming",
        f"{name}:wholes",
        f"{name}:replaced",
        f"{name}:memory",
        f"{name}:line",
        f"{name}:opener",
        f"{name}:listed",
    )


def listed_runs(owner_name: str) -> str:
    """The latest runs of one owner, or of one user of an owner's, by when they were asked
    for."""
    return f"{PREFIX}listed:{owner_name}"


def line(name: str) -> str:
    """The runs that wait for a version of an agent, by their turns; `name` is `line_of` it."""
    return f"{_QUEUE}waiting:{name}"


def channel(run_id: str) -> str:
    """The sharded channel of a run's entries; append.lua takes the record's name for it, and
    converse.lua that which a run would have that is called as the conversation's place."""
    return run(run_id).record


def cache(key: str) -> str:
    return f"{PREFIX}cache:{key}"


def left_by(run_id: str) -> str:
    """The pointer of a run to the cached answer that it left; in the cache, too."""
    return f"{PREFIX}late:{urlsafe_b64encode(bytes.fromhex(run_id)).rstrip(b'=').decode()}"


def asked(name: str) -> str:
    """What a response was asked; in the cache, too, among what is there for who comes late."""
    return f"{PREFIX}late:asked:{name}"


def inflight(key: str) -> str:
    """The hint of who is answering a question."""
    return f"{PREFIX}inflight:{{{key}}}"


def chat(place: str) -> str:
    """Which run answers in a chat."""
    return f"{PREFIX}chat:{place}"


def stats(host: str) -> str:
    """Counters of a host, that survive its processes."""
    return f"{PREFIX}stats:{host}"


def stamps(host: str) -> str:
    """The latest batch that each process has added to them, in their slot."""
    return f"{PREFIX}stats:stamps:{{{stats(host)}}}"


def own_failures() -> str:
    """How often runs failed with each code that is an agent's own, on whatever host."""
    return f"{PREFIX}stats:own:failures"


def worker(process: str) -> str:
    """The figures of one process, `<host>:<pid>`."""
    return f"{PREFIX}worker:{process}"


def owner(owner_name: str) -> str:
    """The runs of one owner that have not ended, by the time at which they must have."""
    return f"{PREFIX}owner:{owner_name}"


def rate(owner_name: str) -> str:
    """When an owner would have begun the runs of late, were they a limit's time apart; in the
    slot of its runs."""
    return f"{PREFIX}owner:{{{owner(owner_name)}}}:rate"


def large(owner_name: str) -> str:
    """What of an owner's runs that have not ended was asked in many bytes."""
    return f"{PREFIX}owner:{{{owner(owner_name)}}}:large"
