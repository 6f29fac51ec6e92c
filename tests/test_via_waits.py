"""Who asks in a dialect, and hears nothing but that the connection lives, is not given up."""

from __future__ import annotations

import httpx

from plateau_sse.cli.dialects import SPOKEN, Question
from plateau_sse.cli.via import Via
from plateau_sse.client.patience import Patience
from tests.raw_model import chunk, head_of, raw_model, sized, stream_of

PINGS = head_of("Transfer-Encoding: chunked") + chunk(b": ping\n\n") + b"0\r\n\r\n"


class Noted(Patience):
    """With what has become of it."""

    def reset(self) -> None:
        self.log = [*getattr(self, "log", []), "progress"]
        super().reset()

    def pause_s(self, why: str, then: str) -> float:
        self.log.append("pause")
        super().pause_s(why, then)
        return 0.0


def test_a_ping_is_progress() -> None:
    """A run that waits in line is told of by nothing else; its worker is replaced meanwhile."""
    question = Question("notes", "Why?", {}, "")
    with (
        raw_model([PINGS], then=[[sized(stream_of("Because."))]]) as model,
        httpx.Client() as http,
    ):
        url = model.base_url.removesuffix("/v1")
        patience = Noted(url, 5.0)
        via = Via(url, SPOKEN["chat"], question, http, patience, "", {})
        events = [event for heard in via.follow() for event in heard.events]
    assert "".join(it.get("text", "") for it in events) == "Because."
    # The first is its making.
    assert patience.log[:3] == ["progress", "progress", "pause"]
