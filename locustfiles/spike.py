"""Spike: from few to many within seconds, and back."""

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

__all__ = ["CachedUser", "ConversationUser", "FanoutUser", "SlowUser", "Spike", "StreamUser"]

RISES_WITHIN_S = 5


class Spike(shapes.Staged):
    name = "spike"
    users_most, length_s = 600, 90.0

    def stages(self, users: int, length_s: float) -> list[Stage]:
        few = max(1, users // 20)
        quiet_s = length_s / 4
        return [
            Stage(quiet_s, few, few),
            Stage(length_s - 2 * quiet_s, users, users / RISES_WITHIN_S),
            Stage(quiet_s, few, users / RISES_WITHIN_S),
        ]
