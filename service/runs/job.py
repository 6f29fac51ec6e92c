"""What a run was asked: written by the web worker that took it on, read by the runner.

Invariant: both sides agree on this one struct; unknown members are ignored, so that a newer
web worker and an older runner can share a Redis.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Job(msgspec.Struct, omit_defaults=True):
    """`cache_key` is empty where the answer is not to be stored."""

    messages: list[dict[str, str]]
    options: dict[str, Any] = {}
    user: str = ""
    version: str = ""
    cache_key: str = ""
    ttl_s: int | None = None

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Job:
        return msgspec.json.decode(data, type=cls)
