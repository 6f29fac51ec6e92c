"""The intake, which takes on requests: the cache first, then a run that answers the same, then
one of its own.

Invariant: equal questions are answered by one run while it is on: a caller gets the cached
answer, a share in the live run, or leads one that the next can join. An answer is stored before
its run ends, and a hint goes after that: who finds neither finds the question free.

Who leads puts a record, then the hint (both in one round trip), then the place in the queue.
Whoever is about to enqueue (to lead, or to see to a run that has no place yet) has seen the
hint and looks at the cache once more, since the run before may have ended between the two
looks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from plateau_sse.content import latest_text, too_long
from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake import refusals
from plateau_sse.intake.admission import Admission
from plateau_sse.intake.ask import IF_BUSY, Ask, Taken
from plateau_sse.intake.placement import Placement
from plateau_sse.intake.start import Start
from plateau_sse.intake.versions import Versions
from plateau_sse.owners import kept_for, scope_of
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache, Question, digest_of, key_at, key_of
from plateau_sse.store.answers.packing import FORMAT
from plateau_sse.store.conversations import calls
from plateau_sse.store.conversations.calls import Called
from plateau_sse.store.conversations.conversations import (
    Conversations,
    Message,
    answered,
    asked,
)
from plateau_sse.store.conversations.listed import Listed
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.announcements import About, Announced
from plateau_sse.store.queue.job import Job
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.tracing import Tracing

log = logging.getLogger("plateau.intake")

# Each means that another was faster. After these the run is executed without a hint.
TRIES = 5
SAYS_SO_S = (0.0, 0.02, 0.1)
# Questions that a worker remembers: those that many ask at once.
ASKED_MOST = 1000


class Asked(NamedTuple):
    """An ask with what its run would be given; `said` is the run under whose id it stands in
    its conversation already, '' where it does not."""

    ask: Ask
    job: Job
    said: str


class Intake:
    """One a worker. An idempotency key is good for `window_s` at least."""

    def __init__(
        self,
        placement: Placement,
        admission: Admission,
        versions: Versions,
        start: Start,
        cache: Cache,
        inflight: Inflight,
        conversations: Conversations,
        listed: Listed,
        stats: Stats,
        *,
        window_s: int,
        tracing: Tracing | None = None,
    ) -> None:
        self._placement = placement
        self._admission = admission
        self._versions = versions
        self._start = start
        self._cache = cache
        self._inflight = inflight
        self._conversations = conversations
        self._listed = listed
        self._stats = stats
        self._window_s = window_s
        self._tracing = tracing
        self._asked: OrderedDict[str, None] = OrderedDict()

    async def agents(self) -> Mapping[str, Announced]:
        """Each agent that there is, by its name. Raises StoreError."""
        found = await self._versions.known()
        if not found and await self._start.runner_has_come():
            found = await self._versions.known()
        return found

    @property
    def known(self) -> Mapping[str, Announced]:
        """As `agents` was last, which waits for nothing."""
        return self._versions.last

    async def take(self, ask: Ask, check: Callable[[], None] = lambda: None) -> Taken:
        """Answer from the cache, join, or enqueue. Raises Problem and StoreError; and what
        `check` raises, which is called before a run is begun or joined: a hit, and a run that
        the caller has begun already, need nothing of it."""
        if self._tracing is None:
            return await self._take_once_there(ask, check)
        with self._tracing.asking(ask.agent, ask.traceparent, ask.request_id) as asking:
            here = ask._replace(traceparent=asking.traceparent)
            taken = await self._take_once_there(here, check)
            asked = ""
            if taken.how == "joined" or taken.is_repeat:
                with suppress(StoreError):
                    asked = await self._placement.traceparent_of(taken.run_id)
            asking.took(taken.run_id, taken.how, asked)
            return taken

    async def _take_once_there(self, ask: Ask, check: Callable[[], None]) -> Taken:
        """Where no runner is alive, the first is waited for."""
        try:
            return await self._take(ask, check)
        except Problem as problem:
            if problem.code != "no_runner":
                raise
            if not await self._start.runner_has_come():
                self._stats.count("runs_refused_no_runner")
                log.warning("a run was refused: no runner is alive")
                raise
        return await self._take(ask, check)

    async def _take(self, ask: Ask, check: Callable[[], None]) -> Taken:
        run_ids: list[str] = []
        if ask.idempotency_key:
            now_s = await self._placement.time_s()
            key, window_s = ask.idempotency_key, self._window_s
            run_ids = list(ids.derived_run_ids(ask.owner, key, window_s, now_s))
            earlier = await self._placement.join_keyed(ask, run_ids)
            if earlier is not None:
                return earlier
        try:
            return await self._take_new(ask, check, run_ids)
        except Problem as refusal:
            if run_ids and refusal.code == "rate_limited":
                # A twin under the same key may have been let in at the same moment.
                for wait_s in SAYS_SO_S:
                    await asyncio.sleep(wait_s)
                    twin = await self._placement.join_keyed(ask, run_ids)
                    if twin is not None:
                        return twin
            raise

    async def _take_new(self, ask: Ask, check: Callable[[], None], run_ids: list[str]) -> Taken:
        """Of what no earlier caller has asked under these ids."""
        if ask.is_external:
            check()
            run_id = _first_or_new(run_ids)
            recorded = await self._placement.record(ask, Job([]), run_id)
            return await self._placement.place(ask, recorded)
        asked_for = await self._asked_for(ask, run_ids)
        ask, answer = asked_for.ask, None
        is_new = ask.joins and self._is_new(asked_for.job.flight)
        if is_new:
            # Hardly a hit. What is asked of the streams meanwhile holds up nobody who has one.
            self._admission.look_ahead()
        if ask.is_kept and ask.mode == "use":
            answer = await self._cache.get(asked_for.job.cache_key)
            self._stats.count("cache_misses" if answer is None else "cache_hits")
        turn_ids = [asked_for.said] if asked_for.said else run_ids
        if answer is None:
            check()
            taken = await self._take_run(asked_for, _first_or_new(turn_ids), is_new=is_new)
        else:
            # A twin under the same key may have run between the two looks.
            earlier = None
            if ask.idempotency_key:
                earlier = await self._placement.join_keyed(ask, run_ids)
            taken = earlier or _hit(asked_for.job, answer)
        if asked_for.job.place:
            await asyncio.gather(
                self._converse(asked_for, taken, _first_or_new(turn_ids)),
                self._listed.add_conversation(ask.account, ask.user, ask.conversation_id),
            )
        return taken

    async def _asked_for(self, ask: Ask, run_ids: Sequence[str]) -> Asked:
        """The question as the agent will get it. What was said under its key already, which a
        hit leaves no run of, is no part of it."""
        version = await self._versions.of(ask.agent)
        about = self._versions.about(ask.agent)
        ask = await self._as_kept(ask, about)
        place, context, replaced, turn_id = ask.place, list[Message](), list[str](), ""
        asked_ms = int(time.time() * 1000)
        if place:
            # Before it is read: what is deleted after that was asked before, by one clock.
            asked_ms = int(await self._placement.time_s() * 1000)
            context = await self._conversations.read(place)
            found = next((at for at, it in enumerate(context) if it.run_id in run_ids), None)
            if found is not None:
                context, turn_id = context[:found], context[found].run_id
            if ask.again:
                context, replaced = self._conversations.before(context, ask.messages)
        messages = ask.with_context(context, await self._called(ask, context))
        if about.input_bytes is not None and (
            said := too_long(ask.agent, latest_text(messages), about.input_bytes)
        ):
            raise refusals.input_too_long(said)
        question = Question(
            agent=ask.agent,
            version=version,
            owner=kept_for(ask.owner, version),
            # What answers all users alike is not asked once for each.
            user=ask.user if scope_of(version) == "user" else "",
            # An agent sees which conversation it is in, and may know more of it than we do.
            # Before anything has been said there is no more to know.
            conversation=place if context else "",
            messages=messages,
            options=ask.options,
        )
        digest = cache_key = flight = reader = ""
        if ask.is_kept and ask.mode != "off":
            digest = digest_of(question)
            cache_key = flight = key_at(ask.agent, version, digest)
            if ask.owner != question.owner:
                # The answer is everyone's, the run is the user's who asked.
                reader = ask.owner
                question = question._replace(owner=reader)
                flight = key_of(question)
            if (place and not context) or ask.memory:
                # What is said in one conversation must not be told in another only.
                flight = key_of(question._replace(conversation=place or ask.memory))
        job = Job(
            messages,
            ask.options,
            ask.user,
            version,
            cache_key,
            ask.ttl_s,
            flight=flight,
            conversation=ask.conversation_id,
            place=place,
            instead_of=replaced,
            reader=reader,
            account=ask.account if place or ask.memory else "",
            asked_ms=asked_ms,
            format=FORMAT,
            request_id=ask.request_id,
            memory=ask.memory,
            traceparent=ask.traceparent,
            question=digest,
        )
        return Asked(ask, job, turn_id)

    async def _called(self, ask: Ask, context: Sequence[Message]) -> Called | None:
        """What has called for the results that come without their calls; who remembers the
        conversation itself has the calls, too."""
        wanted = calls.unasked(ask.messages) if ask.place and not ask.memory else frozenset()
        if not wanted:
            return None
        called = await calls.find(self._conversations, ask.place, context, wanted)
        if called is None:
            raise refusals.no_calls(wanted)
        return called

    async def _as_kept(self, ask: Ask, about: About) -> Ask:
        """With what its agent makes of it."""
        if about.cache and not about.memory:
            return ask
        memory = (ask.thread or ask.place) if about.memory else ""
        if memory and ask.options.get(IF_BUSY, "wait") not in ("wait", "refuse"):
            raise refusals.if_busy()
        is_kept = about.cache
        if memory and is_kept:
            # An answer that follows from what an agent remembers is none to the question.
            has_memory = await self._conversations.has_memory(memory)
            is_kept = not has_memory and not ask.options.get("resume")
        return ask._replace(memory=memory, is_kept=is_kept)

    def _is_new(self, flight: str) -> bool:
        """Whether nobody has asked it here lately."""
        was_asked = flight in self._asked
        self._asked[flight] = None
        self._asked.move_to_end(flight)
        if len(self._asked) > ASKED_MOST:
            self._asked.popitem(last=False)
        return not was_asked

    async def _take_run(self, asked_for: Asked, run_id: str, *, is_new: bool) -> Taken:
        """What is new mostly nobody is answering: who asks it tries to lead without a look, and
        is told who does where somebody does, or where he is refused."""
        ask, flight = asked_for.ask, asked_for.job.flight
        if not ask.joins:
            return await self._execute(asked_for, run_id)
        holder = "" if is_new else await self._inflight.holder(flight)
        for _ in range(TRIES):
            joined = await self._placement.join(holder) if holder else None
            if joined is not None:
                return await self._share(asked_for, joined)
            try:
                led = await self._lead(asked_for, ids.new_run_id(), instead_of=holder)
            except Problem as refusal:
                led = await self._begun_meanwhile(flight, holder, refusal)
                if not led:
                    raise
            if isinstance(led, Taken):
                return led
            holder = led
        return await self._execute(asked_for, ids.new_run_id())

    async def _begun_meanwhile(self, flight: str, holder: str, refusal: Problem) -> str:
        """Who is refused a run may share one. Of those who ask at the same moment more than a
        minute has room for, one is let in, and is a step from saying so."""
        for wait_s in SAYS_SO_S if refusal.code == "rate_limited" else (0.0,):
            await asyncio.sleep(wait_s)
            led = await self._inflight.holder(flight)
            if led not in ("", holder):
                return led
        return ""

    async def _share(self, asked_for: Asked, joined: Taken) -> Taken:
        """The live run; or the answer, where its leader is about to find that it is there."""
        answer = None
        if joined.status in ("queued", "unplaced"):
            answer = await self._cache.get(asked_for.job.cache_key)
        if answer is not None:
            await self._placement.withdraw(joined, asked_for.ask.agent)
            return _hit(asked_for.job, answer)
        self._stats.count("runs_joined")
        try:
            return await self._placement.place(asked_for.ask, joined)
        except (StoreError, Problem):
            with suppress(StoreError):
                await self._drop_if_over(asked_for.job.flight, joined.run_id)
            raise

    async def _drop_if_over(self, flight: str, run_id: str) -> None:
        """The hint of a run that its caller has left. Where others share it they have it put
        into the queue: it is still the one to join."""
        if not await self._placement.is_on(run_id):
            await self._inflight.drop(flight, run_id)

    async def _lead(self, asked_for: Asked, run_id: str, *, instead_of: str) -> Taken | str:
        """A run of its own that others can join; or the one that has begun to lead before."""
        ask, job = asked_for.ask, asked_for.job
        hint = self._inflight.taking(job.flight, run_id, instead_of=instead_of)
        recorded = await self._placement.record(ask, job, run_id, [hint])
        holder: bytes = hint.reply
        try:
            if holder.decode() != run_id:
                await self._placement.withdraw_new(ask, recorded)
                return holder.decode()
            answer = await self._cache.get(job.cache_key)
            if answer is None:
                return await self._placement.place(ask, recorded)
            await self._inflight.drop(job.flight, run_id)
            await self._placement.withdraw_new(ask, recorded)
        except (StoreError, Problem):
            with suppress(StoreError):
                await self._placement.withdraw(recorded, ask.agent)
                await self._drop_if_over(job.flight, run_id)
            raise
        return _hit(job, answer)

    async def _execute(self, asked_for: Asked, run_id: str) -> Taken:
        """A run whoever else is answering; those who come later may join it if they find no
        other."""
        ask, flight = asked_for.ask, asked_for.job.flight
        recorded = await self._placement.record(ask, asked_for.job, run_id)
        taken = await self._placement.place(ask, recorded)
        if flight and taken.status in ("queued", "running"):
            with suppress(StoreError):
                await self._inflight.take(flight, run_id)
        return taken

    async def _converse(self, asked_for: Asked, taken: Taken, message_id: str) -> None:
        """What the user has said, and where the answer is there already that as well; else the
        runner adds it, and what we could not."""
        asked_of, job = asked_for.ask.messages, asked_for.job
        add = partial(
            self._conversations.add,
            job.place,
            owner=job.account,
            asked_ms=job.asked_ms,
            instead_of=job.instead_of,
        )
        if taken.answer is not None:
            final, parts = taken.answer.final, taken.answer.parts
            said = [asked(message_id, asked_of, "")]
            if final or parts:
                agent, reason = taken.answer.agent, taken.answer.finish_reason
                about: Any = {"agent": agent, "finish_reason": reason, "cached": True}
                said.append(answered(message_id, final, parts, **about))
            await add(said)
            return
        try:
            # By who joins as well: should the conversation have been deleted since the run was
            # asked for, it is asked again.
            await add([asked(taken.run_id, asked_of, taken.token)])
        except StoreError as error:
            log.warning(
                "run %s: its message has to wait for its answer: %s", taken.run_id, error
            )


def _first_or_new(run_ids: list[str]) -> str:
    """Made only where it is needed: a hit needs none."""
    return run_ids[0] if run_ids else ids.new_run_id()


def _hit(job: Job, answer: Answer) -> Taken:
    return Taken(f"hit-{job.cache_key}", answer.token, answer, "completed", "hit")
