"""The end of each run, posted to somebody as Standard Webhooks has it.

Invariant: it is posted at least once while it is worth it (`GIVE_UP_S`): until the receiver has
said 2xx it stays in the store. Each attempt says the same under the same `webhook-id`, which is
the run, so that a receiver knows a repeat. A receiver that is away or slow costs bounded memory
and no run any time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from plateau_sse import jsontext
from plateau_sse.errors import StoreError
from plateau_sse.store.queue.due import Due
from plateau_sse.store.runs.looks import OtherRelease
from plateau_sse.store.runs.records import Record
from plateau_sse.store.runs.streams import Streams

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("plateau.webhook")

POLL_S = 1.0
AT_ONCE = 16
ANSWERS_WITHIN_S = 15.0
# A run that has not ended is looked at so often: it may be ended by others than a runner.
LOOK_AGAIN_S = 30.0
# Between attempts: as long as it has been tried for, so each time twice as long.
AGAIN_LEAST_S, AGAIN_MOST_S = 1.0, 600.0
GIVE_UP_S = 86_400
# Of an answer; a longer one is left out, and said to be.
OUTPUT_BYTES = 8 * 1024


def body_of(run_id: str, record: Record) -> bytes:
    """What is posted of a run that has ended."""
    ended_ms = record.ended_ms or 0
    ended = datetime.fromtimestamp(ended_ms / 1000, UTC)
    output = record.output
    is_long = output is not None and len(output.encode()) > OUTPUT_BYTES
    started_ms = record.started_ms
    content: dict[str, Any] = {
        "type": f"run.{record.status}",
        "timestamp": ended.isoformat().replace("+00:00", "Z"),
        "data": {
            "id": run_id,
            "status": record.status,
            "agent": record.agent,
            "attempt": record.attempt,
            "output": None if is_long else output,
            "output_omitted": is_long,
            "error": record.error,
            "finish_reason": record.finish_reason,
            "usage": record.usage,
            "model": record.model,
            "created_at": record.created_ms / 1000,
            "started_at": None if started_ms is None else started_ms / 1000,
            "ended_at": ended_ms / 1000,
        },
    }
    return jsontext.encode(content)


def signed(secret: bytes, webhook_id: str, body: bytes, at_s: int) -> dict[str, str]:
    """The headers that say whose it is."""
    text = f"{webhook_id}.{at_s}.".encode() + body
    digest = hmac.new(secret, text, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


class Webhook:
    def __init__(self, url: str, secret: bytes, due: Due, streams: Streams) -> None:
        self._url = url
        self._secret = secret
        self._due = due
        self._streams = streams

    async def keep_posting(self) -> None:
        # It costs 7 MiB: only who posts has it.
        import httpx

        timeout = httpx.Timeout(ANSWERS_WITHIN_S)
        async with httpx.AsyncClient(timeout=timeout, follow_redirects=False) as http:
            while True:
                try:
                    taken = await self._due.take(AT_ONCE)
                except StoreError as error:
                    log.warning("ends of runs wait to be posted: %s", error)
                    taken = []
                if taken:
                    await asyncio.gather(*(self._see_to(http, run_id) for run_id in taken))
                else:
                    await asyncio.sleep(POLL_S * random.uniform(0.5, 1.0))

    async def _see_to(self, http: httpx.AsyncClient, run_id: str) -> None:
        """Where this fails it is somebody's again once the lease is over."""
        try:
            body = await self._due.body(run_id) or await self._body(run_id)
            if body is not None and await self._post(http, run_id, body):
                await self._due.done(run_id)
        except StoreError as error:
            log.warning("run %s: its end waits to be posted: %s", run_id, error)
        except Exception:
            log.exception("run %s: its end could not be posted", run_id)

    async def _body(self, run_id: str) -> bytes | None:
        """None where there is nothing to post, or not yet."""
        try:
            record = await self._streams.record(run_id)
        except OtherRelease:
            # Whoever keeps runs in that form posts it.
            await self._due.note(run_id, LOOK_AGAIN_S)
            return None
        if record is None:
            # It never began, or its record has gone.
            await self._due.done(run_id)
            return None
        if record.ended_ms is None:
            await self._due.note(run_id, LOOK_AGAIN_S)
            return None
        return body_of(run_id, record)

    async def _post(self, http: httpx.AsyncClient, run_id: str, body: bytes) -> bool:
        """Whether nothing is left to be done."""
        now = time.time()
        said = await self._said(http, signed(self._secret, run_id, body, int(now)), body)
        if said == "":
            return True
        ended_at: float = _ended_at(body)
        age_s = max(0.0, now - ended_at)
        if age_s > GIVE_UP_S:
            log.error("run %s: its end was never taken, and is given up: %s", run_id, said)
            return True
        wait_s = min(AGAIN_MOST_S, max(AGAIN_LEAST_S, age_s)) * random.uniform(0.8, 1.2)
        log.warning("run %s: its end was not taken (%s), again in %.0f s", run_id, said, wait_s)
        await self._due.note(run_id, wait_s)
        await self._due.keep(run_id, body)
        return False

    async def _said(self, http: httpx.AsyncClient, headers: dict[str, str], body: bytes) -> str:
        """Why it was not taken, '' where it was. What is answered beside the status is not
        read."""
        import httpx

        try:
            async with http.stream(
                "POST", self._url, content=body, headers=headers
            ) as response:
                is_taken = response.is_success
                return "" if is_taken else f"status {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__


def _ended_at(body: bytes) -> float:
    ended_at: float = msgspec.json.decode(body)["data"]["ended_at"]
    return ended_at
