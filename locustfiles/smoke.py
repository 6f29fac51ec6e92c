"""Smoke: 50 questions of 10 users who ask one after the other; every answer must be whole.

Invariant: it ends when all are answered, or after a minute: then some are missing.
"""

from __future__ import annotations

from locustfiles.kit import rows, shapes, users
from locustfiles.kit.shapes import Stage

QUESTIONS, USERS, LONGEST_S = 50, 10, 60


# By its module: locust runs every user whose name stands in this one.
class SmokeUser(users.StreamUser):
    pieces, pause_ms = 20, (30, 70)
    drop_share = 0.05
    away_s = (0.1, 0.5)

    def on_start(self) -> None:
        super().on_start()
        shape = self.environment.shape_class
        users = shape.peak if isinstance(shape, Smoke) else USERS
        self._left = -(-QUESTIONS // users)

    def wait_time(self) -> float:
        """Once it has asked its share it only stays: who left would be replaced."""
        self._left -= 1
        return 0.1 if self._left else LONGEST_S


class Smoke(shapes.Staged):
    name = "smoke"
    users_most = USERS

    @property
    def answers_least(self) -> int:
        return QUESTIONS

    def stages(self, users: int, length_s: float) -> list[Stage]:
        return [Stage(LONGEST_S, users, users)]

    def is_done(self) -> bool:
        assert self.runner is not None
        answered = self.runner.stats.get(rows.ANSWER.name, rows.ANSWER.kind)
        return bool(answered.num_requests >= QUESTIONS)
