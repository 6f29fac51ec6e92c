"""Asking an agent, and ending what was asked.

Invariant: a question whose answer was lost on the way is asked again under the same
`Idempotency-Key`, so it cannot start a second run.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from plateau_sse.client.faults import (
    Unreachable,
    not_plateau,
    object_of,
    problem_of,
    shown,
)
from plateau_sse.client.patience import Notice, Patience, unheard
from plateau_sse.client.ways import SILENCE_S, Way, at_once, awaited, blocking

_NOT_THERE = (httpx.ConnectError, httpx.ConnectTimeout)


class Ask(TypedDict, total=False):
    """What `POST /v1/runs` takes."""

    agent: str
    input: str
    messages: list[dict[str, Any]]
    conversation_id: str
    user: str
    options: dict[str, Any]
    cache: dict[str, Any]
    resume: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was asked for. The URLs are whole, and open it without a key. `cache`: hit,
    joined or miss. `said` is all that the service said."""

    id: str
    cache: str
    events_url: str
    record_url: str
    cancel_url: str
    said: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Question:
    url: str
    body: Ask
    key: str
    idempotency_key: str
    patience: Patience

    async def asked(self, way: Way) -> Run:
        url = f"{self.url.rstrip('/')}/v1/runs"
        headers = {"Idempotency-Key": self.idempotency_key or uuid.uuid4().hex}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        while True:
            try:
                within_s = self.patience.begin()
                response = await way.ask("POST", url, headers, self.body, within_s)
            except _NOT_THERE as error:
                raise Unreachable(f"Could not reach {shown(self.url)}: {error}") from None
            except httpx.TransportError as error:
                pause_s = self.patience.pause_s(type(error).__name__, "asking again")
                await way.sleep(pause_s)
                continue
            except httpx.RequestError as error:
                # Redirects without end, or a body in an encoding that it is not in.
                raise not_plateau(self.url, error) from None
            if response.status_code not in (200, 202):
                raise problem_of(response)
            return _run_of(self.url, url, response)


def _run_of(base: str, url: str, response: httpx.Response) -> Run:
    said = object_of(response.content)
    if not isinstance(said.get("id"), str) or not isinstance(said.get("events_url"), str):
        raise not_plateau(base)
    try:
        events_url = urljoin(url, said["events_url"])
        parts = urlsplit(events_url)
        cancel_url = urljoin(url, str(said.get("cancel_url", "")))
    except ValueError as error:
        raise not_plateau(base, error) from None
    return Run(
        id=said["id"],
        cache=response.headers.get("x-cache", "hit" if said.get("cached") else "miss"),
        events_url=events_url,
        record_url=urlunsplit(parts._replace(path=parts.path.removesuffix("/events"))),
        cancel_url=cancel_url,
        said=said,
    )


def ask(
    url: str,
    *,
    key: str = "",
    idempotency_key: str = "",
    retry_for_s: float = 60.0,
    http: httpx.Client | None = None,
    notice: Notice = unheard,
    **body: Unpack[Ask],
) -> Run:
    """Starts a run at the service that `url` names, or is given the one that has the answer.
    Raises Unreachable, Refused."""
    question = _Question(url, body, key, idempotency_key, Patience(url, retry_for_s, notice))
    with blocking(http) as way:
        return at_once(question.asked(way))


async def ask_async(
    url: str,
    *,
    key: str = "",
    idempotency_key: str = "",
    retry_for_s: float = 60.0,
    http: httpx.AsyncClient | None = None,
    notice: Notice = unheard,
    **body: Unpack[Ask],
) -> Run:
    """`ask` for whoever awaits."""
    question = _Question(url, body, key, idempotency_key, Patience(url, retry_for_s, notice))
    async with awaited(http) as way:
        return await question.asked(way)


async def _cancelled(way: Way, run: Run | str, within_s: float) -> None:
    url = run if isinstance(run, str) else run.cancel_url
    try:
        response = await way.ask("POST", url, {}, within_s=within_s)
    except httpx.TransportError as error:
        raise Unreachable(f"Could not reach {shown(url)}: {type(error).__name__}") from None
    except httpx.RequestError as error:
        raise not_plateau(url, error) from None
    if response.is_error and (refused := problem_of(response)).code != "run_finished":
        raise refused


def cancel(
    run: Run | str, *, http: httpx.Client | None = None, within_s: float = SILENCE_S
) -> None:
    """Ends a run, given as `ask` gave it or as its `cancel_url`; one that has ended stays as
    it is. Raises Unreachable, Refused."""
    with blocking(http) as way:
        at_once(_cancelled(way, run, within_s))


async def cancel_async(
    run: Run | str, *, http: httpx.AsyncClient | None = None, within_s: float = SILENCE_S
) -> None:
    """`cancel` for whoever awaits."""
    async with awaited(http) as way:
        await _cancelled(way, run, within_s)
