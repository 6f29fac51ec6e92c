"""Ramp: ten users for a while, then up to a thousand within a minute, who stay for another."""

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

__all__ = ["CachedUser", "ConversationUser", "FanoutUser", "Ramp", "SlowUser", "StreamUser"]


class Ramp(shapes.Staged):
    name = "ramp"
    users_most, length_s = 1000, 135.0

    def stages(self, users: int, length_s: float) -> list[Stage]:
        few_s, climb_s = length_s / 9, length_s * 4 / 9
        return [
            Stage(few_s, min(10, users), 10),
            Stage(climb_s, users, users / climb_s),
            Stage(length_s - few_s - climb_s, users, users),
        ]
