"""Soak: the same load for half an hour; memory must stay on a level, and so must latency."""

from __future__ import annotations

from locustfiles.kit import shapes
from locustfiles.kit.shapes import Stage
from locustfiles.kit.users import (
    CachedUser,
    ConversationUser,
    FanoutUser,
    SlowUser,
    StreamUser,
)

__all__ = ["CachedUser", "ConversationUser", "FanoutUser", "SlowUser", "Soak", "StreamUser"]


class Soak(shapes.Staged):
    name = "soak"
    users_most, length_s = 300, 1800.0

    def stages(self, users: int, length_s: float) -> list[Stage]:
        return [Stage(length_s, users, max(1.0, users / 10))]
