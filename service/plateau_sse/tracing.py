"""Traces of runs, through OpenTelemetry: who asked, how long it waited, what the agent and its
model took, and who came back.

Invariant: nothing of OpenTelemetry is imported, and nothing done, unless
OTEL_EXPORTER_OTLP_ENDPOINT is set. A collector that is slow or away costs spans, and never a
request: they wait in a bounded queue, and a thread of its own sends them. What is asked and
what is answered is in no span.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from plateau_sse import __version__
from plateau_sse.errors import Problem
from plateau_sse.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

# Spans that wait to be sent are given so long when the process ends.
CLOSE_S = 2.0
# Version, trace, span, flags (W3C Trace Context).
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def tracing_of(settings: Settings, part: str) -> Tracing | None:
    """For one process, which must not fork any more: `part` is web or runner."""
    endpoint = settings.otel_exporter_otlp_endpoint
    return Tracing(endpoint, part) if endpoint else None


class Tracing:
    """Sends to the collector at `endpoint`. Whatever else OpenTelemetry's variables say holds:
    headers, the sampler, the service's name."""

    def __init__(self, endpoint: str, part: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.version": __version__, "plateau.part": part})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "plateau"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        url = f"{endpoint.rstrip('/')}/v1/traces"
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("plateau", __version__)

    async def close(self) -> None:
        """Send what waits, for `CLOSE_S` at most. In a thread that nobody waits for longer:
        where the collector is away, the exporter tries for as long as it likes."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def send() -> None:
            self._provider.force_flush()
            with suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=send, daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await sent.wait()

    @contextmanager
    def asking(self, agent: str, traceparent: str, request_id: str) -> Iterator[Asking]:
        """For as long as a request is taken on, cached answers included. `traceparent` is the
        client's."""
        from opentelemetry.trace import SpanKind

        attributes = {"plateau.agent": agent, "plateau.request.id": request_id}
        span = self._start("ask", traceparent, SpanKind.SERVER, attributes)
        with _ended(span):
            yield Asking(span)

    def resumed(self, run_id: str, asked: str, dialect: str) -> None:
        """A reader has come back to a run that `asked` for: it was there before."""
        from opentelemetry.trace import SpanKind

        attributes = {"plateau.run.id": run_id, "plateau.dialect": dialect}
        span = self._start("resume", "", SpanKind.SERVER, attributes)
        _link(span, asked)
        span.end()

    def run(self, run_id: str, agent: str, attempt: int, asked: str, asked_ms: int) -> RunTrace:
        """From the claim of an attempt on; `asked` is who asked for it, at `asked_ms`."""
        from opentelemetry.trace import SpanKind

        if attempt == 1 and asked_ms:
            waited = self._start(
                "queue", asked, SpanKind.INTERNAL, {}, start_time=asked_ms * 1_000_000
            )
            waited.end()
        attributes = {
            "plateau.run.id": run_id,
            "plateau.agent": agent,
            "plateau.attempt": attempt,
        }
        return RunTrace(self, self._start("run", asked, SpanKind.CONSUMER, attributes))

    def _start(
        self,
        name: str,
        traceparent: str,
        kind: Any,
        attributes: Mapping[str, Any],
        start_time: int | None = None,
    ) -> Span:
        """`start_time` in ns since the epoch."""
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        # Never the one that this thread happens to be in.
        context, parent = Context(), _parsed(traceparent)
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        return self._tracer.start_span(
            name, context, kind=kind, attributes=attributes, start_time=start_time
        )


class Asking:
    """A request that is taken on."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        return _written(self._span.get_span_context())

    def took(self, run_id: str, how: str, asked: str) -> None:
        """`asked`: of whoever's run that is, where it is another's; '' else."""
        self._span.set_attributes({"plateau.run.id": run_id, "plateau.cache": how})
        _link(self._span, asked)


class RunTrace:
    """An attempt at a run."""

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span

    def first_text(self) -> None:
        self._span.add_event("first text")

    @contextmanager
    def call(self, name: str) -> Iterator[Mapping[str, str]]:
        """As `agents.Trace` says."""
        from opentelemetry.trace import SpanKind

        here = _written(self._span.get_span_context())
        span = self._tracing._start(name, here, SpanKind.CLIENT, {})
        with _ended(span):
            yield {"traceparent": _written(span.get_span_context())}

    def end(self, end: str, usage: Mapping[str, int] | None) -> None:
        """`end` as `Stats.count_end` takes it; '' for an attempt that goes to another."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("plateau.end", end or "handed back")
        for kind in ("input_tokens", "output_tokens"):
            if usage and kind in usage:
                self._span.set_attribute(f"gen_ai.usage.{kind}", usage[kind])
        if end not in ("completed", "cancelled", ""):
            self._span.set_status(StatusCode.ERROR, end)
        self._span.end()


@contextmanager
def _ended(span: Span) -> Iterator[None]:
    """However it ends. Of an error no more is told than its kind: its text may hold what was
    asked."""
    from opentelemetry.trace import StatusCode

    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        code = error.code if isinstance(error, Problem) else type(error).__name__
        span.set_status(StatusCode.ERROR, code)
        raise
    finally:
        span.end()


def _parsed(traceparent: str) -> SpanContext | None:
    from opentelemetry.trace import SpanContext, TraceFlags

    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    trace, span, flags = (int(part, 16) for part in match.groups())
    context = SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _written(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _link(span: Span, traceparent: str) -> None:
    other = _parsed(traceparent)
    if other is not None:
        span.add_link(other)
