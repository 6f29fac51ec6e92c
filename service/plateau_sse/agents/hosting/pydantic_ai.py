"""pydantic-ai's agents, hosted: one of our runs is one of theirs.

Invariant: a run ends with all that it has begun: whoever closes this generator has closed the
connection to the model. A call is executed on a person's word only where an earlier run of the
conversation has asked for that, and only as the model had written it, or as that person did.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plateau_sse.agents import AgentError, Finish, InputRequest, Message, Run, Yielded
from plateau_sse.agents.hosting.approvals import EDITABLE, Verdict, verdict_of, verdicts_of
from plateau_sse.agents.hosting.current import TOOLS
from plateau_sse.agents.hosting.exchange import UNANSWERED, new_in, note
from plateau_sse.agents.hosting.faults import fault_of
from plateau_sse.agents.hosting.pydantic_ai_events import Telling
from plateau_sse.agents.hosting.pydantic_ai_history import history_of, prompt_of
from plateau_sse.agents.memory.pydantic_ai import History

if TYPE_CHECKING:
    from plateau_sse.agents.hosting import Hosted


@dataclass(slots=True)
class _Given:
    """What a run of theirs begins with; `keeps` says whether the exchange is remembered."""

    prompt: Any
    history: list[Any] = field(default_factory=list)
    results: Any = None
    keeps: bool = False


async def run(agent: Any, run: Run, settings: Hosted) -> AsyncGenerator[Yielded, None]:
    from pydantic_ai.exceptions import OutputTokenLimitExceeded
    from pydantic_ai.usage import UsageLimits

    telling = Telling(agent.name or run.agent)
    try:
        record = History(run)
        deps = await settings.deps_of(run)
        given = await _given(agent, run, settings, record, deps, telling)
        events_of = agent.run_stream_events(
            given.prompt,
            message_history=given.history or None,
            deferred_tool_results=given.results,
            deps=deps,
            usage_limits=UsageLimits(request_limit=settings.max_steps),
            capabilities=[_noting(telling)],
            # It would be that of a variable here.
            infer_name=False,
        )
        with _threads():
            async with events_of as events:
                async for event in events:
                    if event.event_kind == "agent_run_result":
                        for item in _ended(event.result, run, record, given, telling):
                            yield item
                        continue
                    for item in telling.tell(event):
                        yield item
    except OutputTokenLimitExceeded:
        # The model was cut off before there was anything to go on with.
        yield Finish("length")
    except Exception as error:
        fault = fault_of(error) or _unfinished(error)
        if fault is None:
            for item in telling.failed():
                yield item
            raise
        raise fault from (None if fault is error else error)


def _unfinished(error: Exception) -> AgentError | None:
    """What its author has left out, in words of ours: theirs may tell of a request."""
    if type(error).__name__ != "UserError" or "DeferredToolRequests" not in str(error):
        return None
    said = "A tool waits for an answer: add DeferredToolRequests to the agent's output_type."
    return AgentError("agent_error", said)


def _threads() -> AbstractContextManager[Any]:
    """Its tools that are not asynchronous run in the runner's threads: in those of anyio one
    that hangs would have its place for good, and whoever stops the run would wait for it."""
    from pydantic_ai import Agent

    executor, using = TOOLS.get(), getattr(Agent, "using_thread_executor", None)
    return nullcontext() if executor is None or using is None else using(executor)


def _noting(telling: Telling) -> Any:
    """Notes what the events do not say."""
    from pydantic_ai.capabilities import Hooks

    async def note_kinds(_: Any, request: Any) -> Any:
        told = request.model_request_parameters
        for tool in (*told.function_tools, *told.output_tools):
            telling.kinds[tool.name] = tool.kind
        return request

    async def note_error(_: Any, *, call: Any, error: Exception, **__: Any) -> Any:
        telling.raised[call.tool_call_id] = error
        raise error

    return Hooks(before_model_request=note_kinds, tool_execute_error=note_error)


async def _given(
    agent: Any, run: Run, settings: Hosted, record: History, deps: Any, telling: Telling
) -> _Given:
    remembers = settings.input is History
    if run.resume:
        verdicts = verdicts_of(run.resume, record.waiting)
        return _Given(None, record.messages, _results(verdicts, record, telling), remembers)
    if settings.input is not None and not remembers:
        return _Given(await settings.input_of(run))
    prompt = prompt_of(run.messages) if run.messages else run.input
    if remembers:
        turns, new = new_in(run, record.said, waits=bool(record.waiting))
        record.back_to(turns)
        new = new if record.messages else run.messages
        note(run, record.said, new, len(record.messages), joins=bool(record.waiting))
        if record.messages and record.waiting:
            # Nothing may come between calls that wait and their results.
            prompt = prompt_of(new, whole=True) or prompt
            return _Given(prompt, record.messages, _gone_on(run, record, telling), True)
        if record.messages:
            return _Given(prompt, [*record.messages, *_since(new, prompt)], None, True)
    before = run.messages if prompt is None else run.messages[:-1]
    history = history_of(before)
    if history:
        from pydantic_ai.messages import ModelRequest

        # It says these itself only where nothing was said before.
        system = await agent.system_prompt_parts(deps=deps, message_history=history)
        if system:
            history.insert(0, ModelRequest(parts=system))
    return _Given(prompt, history, None, remembers)


def _since(new: Sequence[Message], prompt: Any) -> list[Any]:
    """What was said before the prompt and is not remembered; results that stand before it are
    those of calls that nobody waits for any more."""
    first = next((at for at, it in enumerate(new) if it.role == "user"), len(new))
    return history_of(new[first:] if prompt is None else new[first:-1])


def _results(verdicts: Mapping[str, Any], record: History, telling: Telling) -> Any:
    """What a person has said, by the ids that the calls have there."""
    from pydantic_ai.tools import DeferredToolResults, ToolApproved, ToolDenied

    results = DeferredToolResults()
    for ours, entry in verdicts.items():
        theirs = record.waiting[ours]
        telling.ids.same(theirs, ours)
        if ours not in record.approvals:
            answered = entry.get("status") != "cancelled"
            results.calls[theirs] = entry.get("payload") if answered else "(no answer)"
            continue
        verdict: Verdict = verdict_of(entry)
        if verdict.approved:
            results.approvals[theirs] = ToolApproved(override_args=verdict.arguments)
        else:
            results.approvals[theirs] = (
                ToolDenied(verdict.reason) if verdict.reason else ToolDenied()
            )
    return results


def _gone_on(run: Run, record: History, telling: Telling) -> Any:
    """Of the calls that wait still: what whoever executes them has given, or that the user has
    said something else."""
    from pydantic_ai.tools import DeferredToolResults, ToolDenied

    results = DeferredToolResults()
    given = {it.tool_call_id: it.text for it in run.messages if it.role == "tool"}
    for ours, theirs in record.waiting.items():
        telling.ids.same(theirs, ours)
        if ours in record.approvals:
            results.approvals[theirs] = ToolDenied(UNANSWERED)
        else:
            results.calls[theirs] = given.get(ours, UNANSWERED)
    return results


def _ended(
    result: Any, run: Run, record: History, given: _Given, telling: Telling
) -> Iterator[Yielded]:
    from pydantic_ai.tools import DeferredToolRequests

    if isinstance(result.output, DeferredToolRequests):
        yield from telling.ending(result)
        yield from _asked(result, run, record, given, telling)
        return
    if given.keeps:
        record.keep(result.all_messages(), said=record.said)
    else:
        record.forget()
    yield from telling.result(result)


def _asked(
    result: Any, run: Run, record: History, given: _Given, telling: Telling
) -> Iterator[Yielded]:
    """The calls that somebody else is to answer: a person, or whoever has asked."""
    requests = result.output
    approvals = [telling.ids.of(it.tool_call_id) for it in requests.approvals]
    waiting = {
        telling.ids.of(it.tool_call_id): it.tool_call_id
        for it in (*requests.approvals, *requests.calls)
    }
    if all(telling.kinds.get(it.tool_name) == "external" for it in requests.calls):
        if not approvals:
            # Told as the client's own calls, which it answers with messages.
            if given.keeps:
                record.keep(result.all_messages(), waiting, said=record.said)
            else:
                record.forget()
            yield Finish("tool_calls")
            return
    if run.memory is None:
        raise AgentError(
            "invalid_options",
            "A tool waits for a person's answer, and without a conversation there is nothing "
            "to go on with: send conversation_id.",
        )
    for call in (*requests.approvals, *requests.calls):
        ours = telling.ids.of(call.tool_call_id)
        if ours in approvals:
            said = f"May {call.tool_name} be called?"
            yield InputRequest(ours, said, "approval", ours, EDITABLE)
        else:
            yield InputRequest(ours, f"What does {call.tool_name} give?", "question", ours)
    known = record.said if given.keeps else None
    record.keep(result.all_messages(), waiting, approvals, known)
    yield Finish("input_required")
