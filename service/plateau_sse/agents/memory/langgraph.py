"""A checkpointer of LangGraph's whose threads are Plateau's conversations.

    from plateau_sse.agents.memory import Checkpointer

    graph = builder.compile(checkpointer=Checkpointer())

Invariant: a thread is here for as long as its run is on; between runs its newest checkpoint is
in the conversation's memory, and of subgraphs that of those that wait. Importing this imports
LangGraph.
"""

from __future__ import annotations

from typing import Any

import msgspec
from langgraph.checkpoint.memory import InMemorySaver

# Of the form below.
FORM = 1


class Checkpointer(InMemorySaver):  # type: ignore[misc]
    """Only an agent that Plateau hosts fills and keeps it; elsewhere it forgets at its end."""

    def load(self, thread_id: str, state: bytes) -> None:
        """What `dump` gave; ValueError for anything else."""
        try:
            form, checkpoints, writes, blobs = msgspec.msgpack.decode(state)
        except (msgspec.MsgspecError, TypeError, ValueError):
            raise ValueError("no state of a checkpointer") from None
        if form != FORM:
            raise ValueError(f"a state of another form: {form!r}")
        for ns, name, checkpoint, metadata in checkpoints:
            self.storage[thread_id][ns][name] = (tuple(checkpoint), tuple(metadata), None)
        for ns, name, task, index, write in writes:
            task_id, channel, value, path = write
            stored = (task_id, channel, tuple(value), path)
            self.writes[(thread_id, ns, name)][(task, index)] = stored
        for ns, channel, version, value in blobs:
            self.blobs[(thread_id, ns, channel, version)] = tuple(value)

    def dump(self, thread_id: str, *, waits: bool) -> bytes:
        """The newest checkpoint; with those of subgraphs where the graph `waits`."""
        checkpoints: list[Any] = []
        writes: list[Any] = []
        blobs: list[Any] = []
        for ns, found in self.storage.get(thread_id, {}).items():
            if not found or (ns and not waits):
                continue
            name = max(found)
            checkpoint, metadata, _ = found[name]
            checkpoints.append((ns, name, checkpoint, metadata))
            for (task, index), write in self.writes.get((thread_id, ns, name), {}).items():
                writes.append((ns, name, task, index, write))
            versions = self.serde.loads_typed(checkpoint)["channel_versions"]
            for channel, version in versions.items():
                value = self.blobs.get((thread_id, ns, channel, version))
                if value is not None:
                    blobs.append((ns, channel, version, value))
        return msgspec.msgpack.encode((FORM, checkpoints, writes, blobs))
