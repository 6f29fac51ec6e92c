"""Agents of OpenAI's Agents SDK, hosted: one of our runs is one of theirs.

Invariant: a run ends with all that it has begun: whoever closes this generator has closed the
connection to the model. A call is executed on a person's word only where an earlier run of the
conversation has asked for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from plateau_sse.agents import AgentError, Finish, InputRequest, Message, Run, ToolCall, Yielded
from plateau_sse.agents.hosting.approvals import APPROVAL, verdict_of, verdicts_of
from plateau_sse.agents.hosting.exchange import UNANSWERED, new_in, note
from plateau_sse.agents.hosting.faults import fault_of
from plateau_sse.agents.hosting.openai_agents_events import Telling, counts_of
from plateau_sse.agents.hosting.openai_agents_items import items_of
from plateau_sse.agents.memory.openai_agents import Session

if TYPE_CHECKING:
    from plateau_sse.agents.hosting import Hosted

# For the connection to the model, once the run is not wanted any more.
CLOSE_S = 1.0
REFUSED = "The person has refused that this be done."


async def run(agent: Any, run: Run, settings: Hosted) -> AsyncGenerator[Yielded, None]:
    from agents import Runner
    from agents.tool import default_tool_error_function

    telling = Telling(agent.name, {default_tool_error_function(None, Exception())})
    try:
        session = Session(run)
        context = await settings.deps_of(run)
        remembers = session.notes = settings.input is Session
        given = await _given(agent, run, settings, session, context, telling)
        for call in _calls(given, telling) if run.resume else ():
            yield call
        result = Runner.run_streamed(
            agent,
            given,
            context=context,
            max_turns=settings.max_steps,
            session=session if remembers else None,
        )
        before = counts_of(result.context_wrapper.usage)
        events = result.stream_events()
        try:
            async for event in events:
                for item in telling.tell(event):
                    yield item
            for item in telling.ending(result.context_wrapper.usage, before):
                yield item
            for item in _ended(result, run, session, telling):
                yield item
        finally:
            await _leave(result, events)
    except Exception as error:
        if telling.cut:
            # The SDK takes an answer for none that its model cut off.
            yield Finish(telling.cut)
            return
        fault = fault_of(error)
        if fault is None:
            raise
        raise fault from (None if fault is error else error)


async def _leave(result: Any, events: Any) -> None:
    """Its events alone, when they are closed, wait for the whole run, and all its tokens."""
    task = result.run_loop_task
    if task is None or task.done():
        await events.aclose()
        return
    result.cancel()
    await asyncio.wait({task}, timeout=CLOSE_S)
    with suppress(Exception):
        await events.aclose()


async def _given(
    agent: Any, run: Run, settings: Hosted, session: Session, context: Any, telling: Telling
) -> Any:
    """What a run of theirs begins with: items, a text, or the state of one that waits."""
    if run.resume:
        verdicts = verdicts_of(run.resume, session.waiting)
        state = await _state(agent, session, context)
        _judge(state, verdicts, session, telling)
        session.go_on()
        return state
    if settings.input is not None and settings.input is not Session:
        session.go_on()
        return await settings.input_of(run)
    if settings.input is None:
        session.go_on()
        return items_of(run.messages) or run.input
    turns, new = new_in(run, session.said, waits=session.state is not None)
    session.back_to(turns)
    new = run.messages if session.is_empty else new
    note(run, session.said, new, session.size, joins=session.state is not None)
    items = items_of(new if session.is_empty else _said(new)) or run.input
    if session.state is None:
        return items
    # The user has said something else: the calls are closed, and it goes on with that.
    state = await _state(agent, session, context)
    for item in state.get_interruptions():
        telling.failures.add(UNANSWERED)
        state.reject(item, rejection_message=UNANSWERED)
    state.add_input(items)
    session.go_on()
    return state


def _said(new: Sequence[Message]) -> Sequence[Message]:
    """From what the user has said on: results before that are of calls that the session has
    with theirs, since the SDK leaves no call to whoever has asked."""
    first = next((at for at, it in enumerate(new) if it.role == "user"), 0)
    return new[first:]


async def _state(agent: Any, session: Session, context: Any) -> Any:
    from agents import RunState

    assert session.state is not None
    return await RunState.from_json(
        agent, session.state, context_deserializer=lambda _: context
    )


def _judge(state: Any, verdicts: Mapping[str, Any], session: Session, telling: Telling) -> None:
    """Tells the SDK what a person has said of each call."""
    ours = {theirs: ours for ours, theirs in session.waiting.items()}
    for item in state.get_interruptions():
        call_id = ours[item.call_id]
        telling.ids.same(item.call_id, call_id)
        verdict = verdict_of(verdicts[call_id])
        if verdict.arguments is not None:
            raise AgentError(
                "invalid_options", "This agent's calls are approved as they are, or not at all."
            )
        if verdict.approved:
            state.approve(item)
        else:
            said = verdict.reason or REFUSED
            telling.failures.add(said)
            state.reject(item, rejection_message=said)


def _calls(state: Any, telling: Telling) -> Iterator[Yielded]:
    """Those that waited: their results belong to them."""
    for item in state.get_interruptions():
        yield ToolCall(telling.ids.of(item.call_id), item.name or "tool", item.arguments or "")


def _ended(result: Any, run: Run, session: Session, telling: Telling) -> Iterator[Yielded]:
    if not result.interruptions:
        yield from telling.result(result.final_output)
        return
    if run.memory is None:
        raise AgentError(
            "invalid_options",
            "A tool waits for a person's answer, and without a conversation there is nothing "
            "to go on with: send conversation_id.",
        )
    waiting = {}
    for item in result.interruptions:
        call_id = telling.ids.of(item.call_id)
        waiting[call_id] = item.call_id
        said = f"May {item.name} be called?"
        yield InputRequest(call_id, said, "approval", call_id, APPROVAL)
    session.wait(_told(result.to_state()), waiting)
    yield Finish("input_required")


def _told(state: Any) -> dict[str, Any]:
    """The state without the context, which each run is given anew, and which may hold keys."""
    told: dict[str, Any] = state.to_json(context_serializer=lambda _: {})
    context = told.get("context")
    if isinstance(context, dict) and context.get("context") is not None:
        context["context"] = {}
    return told
