"""The runner: a process that claims runs from the queue and executes them.

Invariant: it never executes more than RUNNER_CONCURRENCY runs, renews the lease of each that it
holds, and looks for lost ones once a second. Agent code runs here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from plateau_sse import tasks
from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.errors import StoreError, StoreFull
from plateau_sse.ops.reporting import Reporter
from plateau_sse.runner.counting import count_end
from plateau_sse.runner.execution import Execution
from plateau_sse.runner.keeper import Keeper
from plateau_sse.runner.lease import LeaseKeeper
from plateau_sse.runner.watchdog import Watchdog
from plateau_sse.runner.writer import Refused
from plateau_sse.settings import Settings
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.figures.tally import Board
from plateau_sse.store.figures.workers import Figures, Workers
from plateau_sse.store.queue.queue import Leases, Queue, Ticket
from plateau_sse.store.runs import events
from plateau_sse.store.runs.appending import Appended, BlockingStreams
from plateau_sse.store.runs.streams import Claimed, Streams

log = logging.getLogger("plateau.runner")

# Cancelling must reach an agent within a second.
CANCEL_POLL_S = 0.5
BLOCK_MS = 1000
TAKE_OVER_AT_ONCE = 100
# How soon a run that waits for a place notices that it is to be cancelled.
KEEP_ALIVE_S = 1.0
PUBLISH_AGENTS_S = 600
PUBLISH_RETRY_S = 5
# What is left of the grace for handing back and closing.
GRACE_RESERVE_S = 3


class Runner:
    """Opened and driven by `run`; `name` is the consumer's in the queue."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        agents: Mapping[str, RegisteredAgent],
        streams: Streams,
        queue: Queue,
        keeper: Keeper,
        leases: Leases,
        stats: Stats,
        workers: Workers,
        blocking: BlockingStreams,
        board: Board | None = None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._agents = agents
        self._streams = streams
        self._queue = queue
        self._keeper = keeper
        self._stats = stats
        self._blocking = blocking
        self._reporter = Reporter(workers, self._figures, board=board)
        self._loop = asyncio.get_running_loop()
        self._leases = LeaseKeeper(leases, name, self._lease_lost)
        self._threads = ThreadPoolExecutor(settings.runner_concurrency, "agent")
        # What was taken over waits here for a place; nothing new is taken on meanwhile.
        self._places = asyncio.Semaphore(settings.runner_concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._executions: dict[str, Execution] = {}
        self._announce_at = float("-inf")

    async def serve(self, stopping: asyncio.Event) -> None:
        """Take and execute runs until `stopping`, then finish or hand back what is held."""
        self._leases.start()
        watchdog = Watchdog(
            self._loop, self._running, self._time_out, timeout_s=self._settings.run_timeout_s
        )
        watchdog.start()
        beating = asyncio.create_task(watchdog.keep_beating())
        taking = asyncio.create_task(self._take_runs())
        cancelling = asyncio.create_task(self._watch_cancels())
        counting = asyncio.create_task(self._stats.keep_flushing())
        reporting = asyncio.create_task(self._reporter.keep_reporting())
        try:
            await stopping.wait()
            await tasks.end(taking)
            await self._finish()
        finally:
            await tasks.end(taking, cancelling, counting, beating, reporting)
            watchdog.stop()
            self._leases.stop()
            self._threads.shutdown(wait=False, cancel_futures=True)
            with suppress(StoreError):
                await self._stats.flush()

    def _figures(self) -> Figures:
        return {"running": len(self._executions), "places": self._settings.runner_concurrency}

    def _running(self) -> dict[str, tuple[str, str]]:
        """By the name of its driving task: each run and its agent. Called from a thread."""
        return {
            run.task_name: (run.run_id, run.agent) for run in list(self._executions.values())
        }

    def _time_out(self, run_id: str) -> None:
        """End a run whose agent holds the loop. Called from a thread."""
        timeout_s = self._settings.run_timeout_s
        message = f"The attempt took longer than {timeout_s} s, and never yielded."
        self._blocking.end(run_id, events.failed("timeout", message, retryable=True))

    async def _finish(self) -> None:
        if self._tasks:
            grace_s = max(1, self._settings.graceful_timeout_s - GRACE_RESERVE_S)
            log.info("finishing %d runs, for %d s at most", len(self._tasks), grace_s)
            waiting = asyncio.create_task(self._stay_known())
            await asyncio.wait(self._tasks.values(), timeout=grace_s)
            await tasks.end(waiting)
        if self._tasks:
            log.info("handing back %d runs", len(self._tasks))
            await tasks.end(*self._tasks.values())

    async def _stay_known(self) -> None:
        """A successor takes what is enqueued meanwhile: nobody is turned away."""
        while True:
            with suppress(StoreError):
                await self._queue.take_over(self._name, 0)
            await asyncio.sleep(1)

    async def _take_runs(self) -> None:
        wait_s = 0.1
        inherited = False
        while True:
            try:
                await self._announce()
                if not inherited:
                    self._start(await self._queue.mine(self._name), retaken=True)
                    inherited = True
                await self._take_some()
                wait_s = 0.1
            except StoreError as error:
                log.warning("the streams instance does not answer, trying again: %s", error)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))
                wait_s = min(2.0, wait_s * 2)
                self._announce_at = float("-inf")
            except Exception:
                # Whatever it was: a late runner is better than one that takes nothing more.
                log.exception("runs could not be taken, trying again")
                await asyncio.sleep(1)

    async def _announce(self) -> None:
        """Make the group and the agents known, also to a store that was emptied."""
        if time.monotonic() < self._announce_at:
            return
        versions = {name: agent.version for name, agent in self._agents.items()}
        again_s = float(PUBLISH_AGENTS_S)
        try:
            await self._queue.open()
            await self._queue.publish_agents(versions)
        except StoreFull as error:
            # What is in the queue can be executed all the same, and that makes room.
            log.warning("the agents could not be announced, trying again: %s", error)
            again_s = PUBLISH_RETRY_S
        self._announce_at = time.monotonic() + again_s

    async def _take_some(self) -> None:
        # Asked for once a second at least: it is also how the others see that we live. However
        # full we are: readers of a lost run are to hear soon that it begins again.
        lost = await self._queue.take_over(self._name, TAKE_OVER_AT_ONCE)
        self._start(lost, retaken=True)
        free = self._settings.runner_concurrency - len(self._tasks)
        if free > 0:
            self._start(await self._queue.take(self._name, free, BLOCK_MS), retaken=False)
        else:
            await asyncio.wait(
                self._tasks.values(), timeout=1, return_when=asyncio.FIRST_COMPLETED
            )

    def _start(self, tickets: list[Ticket], *, retaken: bool) -> None:
        for ticket in tickets:
            # Our own run whose lease had run out: taking it over has renewed it.
            if ticket.entry in self._tasks:
                continue
            self._leases.hold(ticket.entry)
            work = self._execute(ticket, retaken=retaken)
            task = asyncio.create_task(work, name=ticket.entry)
            self._tasks[ticket.entry] = task
            task.add_done_callback(partial(self._ended, ticket.entry))

    def _ended(self, entry: str, _: asyncio.Task[None]) -> None:
        self._leases.release(entry)
        self._tasks.pop(entry, None)
        self._executions.pop(entry, None)

    def _lease_lost(self, entry: str) -> None:
        """Called from the thread that renews."""

        def stop() -> None:
            if entry in self._tasks:
                log.warning("another runner has taken over a run of ours, stopping it")
                self._tasks[entry].cancel()

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

    async def _execute(self, ticket: Ticket, *, retaken: bool) -> None:
        try:
            claimed = await self._claim(ticket, retaken=retaken)
            if claimed is not None:
                execution = Execution(
                    claimed,
                    ticket.run_id,
                    agents=self._agents,
                    streams=self._streams,
                    keeper=self._keeper,
                    threads=self._threads,
                    timeout_s=self._settings.run_timeout_s,
                    count=self._stats.count,
                )
                self._executions[ticket.entry] = execution
                await self._run_in_a_place(execution, claimed, ticket.run_id)
            await self._queue.done(ticket)
        except Refused as refused:
            log.warning("run %s: no longer ours (%s)", ticket.run_id, refused.code)
            # Fenced: another runner has it. A gap: the store came back without so much of it
            # that only another attempt can end it.
            if refused.code in ("ended", "gone"):
                with suppress(StoreError):
                    await self._queue.done(ticket)
        except StoreError as error:
            # The lease runs out and the run is taken over, by us or by another.
            log.warning("run %s: left for another attempt: %s", ticket.run_id, error)
        except Exception:
            log.exception("run %s: left for another attempt", ticket.run_id)

    async def _run_in_a_place(
        self, execution: Execution, claimed: Claimed, run_id: str
    ) -> None:
        """Wait for a place among those that execute. A run that waits is kept alive by empty
        appends; one that is to be cancelled needs no place."""
        placed = False
        try:
            while not placed and not execution.cancelled:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        placed = await self._places.acquire()
                except TimeoutError:
                    code = (await self._streams.append(run_id, claimed.attempt, [])).code
                    if code != "ok":
                        raise Refused(code) from None
            await execution.run()
            count_end(self._stats, execution)
        finally:
            if placed:
                self._places.release()

    async def _claim(self, ticket: Ticket, *, retaken: bool) -> Claimed | None:
        """The claimed run, or None where there is nothing (left) to execute. A number that may
        have been another attempt's is skipped: the store can lose the last second, and its
        readers would go on with another text."""
        attempt, claimant = 0, f"{self._name} {ticket.entry}"
        number = 1
        if retaken:
            held = await self._streams.claimant(ticket.run_id)
            if held is None:
                return None
            attempt, before = held
            _, with_entry, entry = before.rpartition(" ")
            if with_entry and entry != ticket.entry:
                # Its other place in the queue is the one that counts.
                return None
            # It was delivered before: what is not claimed may have been.
            number = attempt + 1 if attempt else 2
        if attempt >= self._settings.max_attempts:
            message = f"Its runner died, {attempt} times."
            last = events.failed("runner_lost", message, retryable=True)
            if (await self._streams.end(ticket.run_id, attempt, last)).code == "ok":
                self._stats.count("runs_failed_runner_lost")
            return None
        # By entry: a run that is in the queue twice is claimed once, by the same runner, too.
        for later in (number, number + 1):
            first = events.started(ticket.run_id, ticket.agent, later)
            claimed = await self._streams.claim(ticket.run_id, later, claimant, first)
            if not (isinstance(claimed, Appended) and claimed.code == "skip"):
                break
        if isinstance(claimed, Appended):
            log.info("run %s: nothing to do (%s)", ticket.run_id, claimed.code)
            return None
        if attempt:
            self._stats.count("runs_restarted")
        return claimed
