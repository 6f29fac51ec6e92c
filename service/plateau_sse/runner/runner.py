"""The runner: a process that claims runs from the queue and executes them.

Invariant: it never executes more than RUNNER_CONCURRENCY runs, renews the lease of each that it
holds, and looks for lost ones once a second. Agent code runs here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from plateau_sse import tasks
from plateau_sse.agents.hosting.current import TOOLS
from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.errors import StoreError
from plateau_sse.ops.reporting import Reporter
from plateau_sse.runner.beat import Beat, Before
from plateau_sse.runner.claiming import Claims
from plateau_sse.runner.counting import count_end
from plateau_sse.runner.driving import bound_closing
from plateau_sse.runner.execution import HAND_BACK_S, Execution
from plateau_sse.runner.handing_back import hand_back, hand_back_blocking
from plateau_sse.runner.keeper import Keeper
from plateau_sse.runner.lease import LeaseKeeper
from plateau_sse.runner.marks import make_task
from plateau_sse.runner.places import Places
from plateau_sse.runner.settling import Settling
from plateau_sse.runner.taking import Taking
from plateau_sse.runner.threads import Threads
from plateau_sse.runner.tools import Tools
from plateau_sse.runner.watchdog import EXIT_CODE, Watchdog
from plateau_sse.runner.writer import Refused
from plateau_sse.settings import Settings
from plateau_sse.store.conversations.lines import Lines
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.figures.tally import Board
from plateau_sse.store.figures.workers import Figures, Workers
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.due import Due
from plateau_sse.store.queue.queue import Leases, Queue, Ticket
from plateau_sse.store.runs import events
from plateau_sse.store.runs.appending import BlockingStreams
from plateau_sse.store.runs.streams import Claimed, Streams
from plateau_sse.tracing import Tracing

log = logging.getLogger("plateau.runner")

# Cancelling must reach an agent within a second.
CANCEL_POLL_S = 0.5
THREADS_POLL_S = 1.0
# What is left of the grace for handing back and closing.
GRACE_RESERVE_S = 3
# For what an agent that has stopped has still to be waited for.
HAND_BACK_MORE_S = 0.5


class Runner:
    """Opened and driven by `run`; `name` is its own in the queue."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        agents: Mapping[str, RegisteredAgent],
        streams: Streams,
        queue: Queue,
        announcements: Announcements,
        keeper: Keeper,
        lines: Lines,
        leases: Leases,
        stats: Stats,
        workers: Workers,
        blocking: BlockingStreams,
        board: Board | None,
        beat: Beat,
        before: Before | None = None,
        due: Due | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._name = name
        self._due = due
        self._tracing = tracing
        self._beat = beat
        self._settings = settings
        self._agents = agents
        self._streams = streams
        self._queue = queue
        self._keeper = keeper
        self._claims = Claims(
            name,
            before,
            streams,
            stats,
            settings.max_attempts,
            settings.begun_life_s,
            {name: it.hosted.attempts for name, it in agents.items() if it.hosted},
        )
        self._stats = stats
        self._blocking = blocking
        self._reporter = Reporter(workers, self._figures, urgent=self._urgent, board=board)
        self._loop = asyncio.get_running_loop()
        self._renewing = leases
        self._leases = LeaseKeeper(leases, name, self._lease_lost)
        self._threads = Threads()
        self._tools = Tools(settings.runner_concurrency)
        self._settling = Settling(self._loop)
        # What was taken over waits here for a place; nothing new is taken on meanwhile.
        self._places = Places(settings.runner_concurrency, streams, lines)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._taking = Taking(
            name,
            agents,
            queue,
            announcements,
            before,
            self._start,
            self._tasks,
            settings.runner_concurrency,
            settings.queue_timeout_s,
            lambda: self._places.waiting,
        )
        self._executions: dict[str, Execution] = {}
        # What is held of the queue: all that is to be handed back.
        self._held: dict[str, Claimed | None] = {}
        # Those that are being taken out of the queue: whoever renews finds them gone.
        self._over: set[str] = set()
        self._worn = False
        self._is_leaving = False

    async def serve(self, stopping: asyncio.Event) -> int:
        """Take and execute runs until `stopping`, then finish or hand back what is held; gives
        the exit code. One whose threads hang stops by itself."""
        bound_closing(self._loop)
        self._loop.set_task_factory(make_task)
        # By default as many as the machine has cores, and four: tools would wait for tools.
        self._loop.set_default_executor(self._tools)
        TOOLS.set(self._tools)
        self._leases.start()
        watchdog = Watchdog(
            self._beat.marks,
            self._time_out,
            timeout_s=self._settings.run_timeout_s,
            beat=self._beat.give,
        )
        watchdog.start()
        beating = asyncio.create_task(watchdog.keep_beating())
        reporting = asyncio.create_task(self._reporter.keep_reporting())
        await self._reporter.has_begun()
        taking = asyncio.create_task(self._taking.keep_taking())
        wearing = asyncio.create_task(self._watch_threads(stopping))
        cancelling = asyncio.create_task(self._watch_cancels())
        counting = asyncio.create_task(self._stats.keep_flushing())
        try:
            await stopping.wait()
            self._is_leaving = True
            await tasks.end(taking)
            await self._finish()
        finally:
            await tasks.end(taking, wearing, cancelling, counting, beating, reporting)
            watchdog.stop()
            self._settling.stop()
            self._beat.stop()
            self._leases.stop()
            with suppress(StoreError):
                await self._stats.flush()
        return EXIT_CODE if self._worn else 0

    def _figures(self) -> Figures:
        return {
            "running": len(self._executions),
            "places": self._settings.runner_concurrency,
            "hanging": self._hanging,
            "leaving": int(self._is_leaving),
        }

    def _urgent(self) -> tuple[int, bool]:
        """What others are to learn at once."""
        return self._hanging, self._is_leaving

    @property
    def _hanging(self) -> int:
        """Threads of agents in which something does not end, though its run has."""
        return self._threads.hanging + self._tools.hanging

    async def _watch_threads(self, stopping: asyncio.Event) -> None:
        """Each that hangs holds memory, and what it waits for: a successor has none."""
        most = self._settings.runner_concurrency
        while True:
            await asyncio.sleep(THREADS_POLL_S)
            if self._hanging >= most:
                break
        log.error(
            "%d threads of agents hang: leaving them behind with this process. A plain "
            "generator, or a tool, that waits for something without a timeout does that.",
            most,
        )
        self._worn = True
        stopping.set()

    def _time_out(self, run_id: str) -> None:
        """End a run whose agent holds the loop; this process is left behind it. Called from a
        thread."""
        timeout_s = self._settings.run_timeout_s
        message = f"The attempt took longer than {timeout_s} s, and never yielded."
        ended = False
        try:
            self._blocking.end(run_id, events.failed("timeout", message, retryable=True))
            ended = run_id in self._held
        finally:
            self._leases.stop()
            # Where it goes on it may be any of them: this was a try of each.
            others = self._held if ended else {}
            hand_back_blocking(self._name, self._lines, others, self._renewing, self._blocking)

    async def _finish(self) -> None:
        lines = self._lines
        if self._tasks:
            grace_s = max(1, self._settings.graceful_timeout_s - GRACE_RESERVE_S)
            log.info("finishing %d runs, for %d s at most", len(self._tasks), grace_s)
            waiting = asyncio.create_task(self._stay_known())
            await asyncio.wait(self._tasks.values(), timeout=grace_s)
            await tasks.end(waiting)
        held, left = dict(self._held), list(self._tasks.values())
        if left:
            log.info("handing back %d runs", len(left))
            for task in left:
                # Once: what its agent does last is not to be broken off.
                task.cancel()
            await asyncio.wait(left, timeout=HAND_BACK_S + HAND_BACK_MORE_S)
        self._leases.stop()
        await hand_back(self._name, lines, held, self._queue, self._streams)

    @property
    def _lines(self) -> set[str]:
        """All that it may have taken from, and not let go of."""
        return {*self._taking.lines, *self._queue.left, *self._leases.lines()}

    async def _stay_known(self) -> None:
        """A successor takes what is enqueued meanwhile: nobody is turned away. Without lines of
        its own it leaves theirs to whoever has the agents, in whatever version."""
        while True:
            with suppress(StoreError):
                await self._queue.take(self._name, (), 0)
            await asyncio.sleep(1)

    def _start(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            run_id = ticket.run_id
            # Our own run whose lease had run out: taking it has renewed it.
            if run_id in self._tasks:
                continue
            self._leases.hold(ticket)
            self._held[run_id] = None
            task = asyncio.create_task(self._execute(ticket), name=run_id)
            self._tasks[run_id] = task
            task.add_done_callback(partial(self._ended, run_id))

    def _ended(self, run_id: str, _: asyncio.Task[None]) -> None:
        self._leases.release(run_id)
        self._tasks.pop(run_id, None)
        self._executions.pop(run_id, None)
        self._held.pop(run_id, None)
        self._over.discard(run_id)

    def _lease_lost(self, run_id: str) -> None:
        """Called from the thread that renews."""

        def stop() -> None:
            if run_id in self._tasks and run_id not in self._over:
                log.warning("another runner has taken over a run of ours, stopping it")
                self._tasks[run_id].cancel()

        self._loop.call_soon_threadsafe(stop)

    async def _watch_cancels(self) -> None:
        while True:
            await asyncio.sleep(CANCEL_POLL_S)
            watched = {run.run_id: run for run in self._executions.values()}
            if not watched:
                continue
            with suppress(StoreError):
                for run_id, reason in (
                    await self._streams.cancel_reasons(list(watched))
                ).items():
                    watched[run_id].stop(reason)

    def _timeout_s(self, name: str) -> float:
        hosted = self._agents[name].hosted if name in self._agents else None
        most_s = float(self._settings.run_timeout_s)
        return most_s if hosted is None else min(hosted.timeout_s or most_s, most_s)

    async def _execute(self, ticket: Ticket) -> None:
        try:
            claimed = await self._claims.claim(ticket)
            if claimed is not None:
                self._held[ticket.run_id] = claimed
                execution = Execution(
                    claimed,
                    ticket.run_id,
                    agents=self._agents,
                    streams=self._streams,
                    keeper=self._keeper,
                    threads=self._threads,
                    beat=self._beat,
                    timeout_s=self._timeout_s(claimed.agent),
                    life_s=self._settings.begun_life_s,
                    count=self._stats.count,
                    tracing=self._tracing,
                )
                self._executions[ticket.run_id] = execution
                try:
                    async with self._places.one(execution, claimed):
                        await execution.run()
                        count_end(self._stats, execution)
                finally:
                    execution.end_trace()
                    self._settling.ended(len(claimed.request))
            await self._done(ticket)
        except Refused as refused:
            log.warning("run %s: no longer ours (%s)", ticket.run_id, refused.code)
            # Fenced: another runner has it. A gap: the store came back without so much of it
            # that only another attempt can end it.
            if refused.code in ("ended", "gone"):
                with suppress(StoreError):
                    await self._done(ticket)
        except StoreError as error:
            # The lease runs out and the run is taken over, by us or by another.
            log.warning("run %s: left for another attempt: %s", ticket.run_id, error)
        except Exception:
            log.exception("run %s: left for another attempt", ticket.run_id)

    async def _done(self, ticket: Ticket) -> None:
        """It has ended. Until that is noted it stays ours, or is another's who finds it so."""
        if self._due is not None:
            await self._due.note(ticket.run_id, 0)
        self._over.add(ticket.run_id)
        await self._queue.done(ticket, self._name)
