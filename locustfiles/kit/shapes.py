"""Shapes of load, in stages, and what all of them bring along: options, rows, a verdict.

Invariant: a shape ends by itself, and what is judged is all that it has sent.
"""

from __future__ import annotations

from abc import abstractmethod
from argparse import Namespace
from typing import Any, ClassVar, NamedTuple

from locust import LoadTestShape, events, runners
from locust.env import Environment

from locustfiles.kit import judging, options, timeline


def remember(environment: Environment, **_: Any) -> None:
    """A listener of `events.init`: after it locust makes one user of none given."""
    shape, given = environment.shape_class, environment.parsed_options
    if isinstance(shape, Staged) and given is not None:
        shape.users_given = given.num_users or 0
        shape.length_given_s = given.run_time or 0
        if not given.headless:
            # Locust's page shows what is there, and writes what is asked for in its place.
            given.num_users = shape.peak
            shape.form = given


class Stage(NamedTuple):
    """For `for_s` seconds so many users, `rate` a second coming or going."""

    for_s: float
    users: int
    rate: float


class Staged(LoadTestShape):
    """`--users` is the peak, `--run-time` the length, where a shape asks for either."""

    abstract = True
    use_common_options = True
    name: ClassVar[str]
    users_most: ClassVar[int] = 0
    length_s: ClassVar[float] = 0.0
    users_given: int = 0
    length_given_s: int = 0
    form: Namespace | None = None

    def reset_time(self) -> None:
        """Called as a run begins."""
        super().reset_time()  # type: ignore[no-untyped-call]
        if self.form is not None:
            self.users_given = self.form.num_users or 0
            self.length_given_s = self.form.run_time or 0

    @property
    def peak(self) -> int:
        return self.users_given or self.users_most

    @property
    def answers_least(self) -> int:
        """One a user of the peak."""
        return self.peak

    @abstractmethod
    def stages(self, users: int, length_s: float) -> list[Stage]:
        """One after the other."""

    def is_done(self) -> bool:
        """Whether it may end before its time."""
        return False

    def tick(self) -> tuple[int, float] | None:
        if self.is_done():
            return None
        run_s = self.get_run_time()  # type: ignore[no-untyped-call]
        length_s = self.length_given_s or self.length_s
        ends_s = 0.0
        for stage in self.stages(self.peak, length_s):
            ends_s += stage.for_s
            if run_s < ends_s:
                return stage.users, stage.rate
        return None


# In seconds: a generator that gets no CPU for a while is late, not gone; taken for gone, its
# users would be made a second time.
runners.HEARTBEAT_LIVENESS = 20
events.init_command_line_parser.add_listener(options.add)
events.init.add_listener(remember)
events.init.add_listener(timeline.begin)
events.quitting.add_listener(judging.judge)
