"""Agents that remember by themselves, of all frameworks: what of a request is new to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dialects.stage import anew
from tests.hosting.endpoint import Asked
from tests.hosting.hosts import MODULES, Host, hosting
from tests.hosting.wires import Piece, Say


def say(asked: Asked) -> list[Piece]:
    return [Say(f"Heard {asked.user}.")]


SCRIPTS = {"say": say}


@pytest.fixture(scope="module", params=MODULES)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    with hosting(request.param, tmp_path_factory.mktemp("exchanges"), SCRIPTS) as found:
        yield found


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def given(host: Host) -> list[str]:
    """What its model was told last, without what the agent itself adds."""
    body = host.model.requests[-1].body
    found = []
    for it in body.get("messages") or body["input"]:
        content = it.get("content")
        if it.get("role") in ("user", "assistant") and content:
            texts = (
                [content] if isinstance(content, str) else [part["text"] for part in content]
            )
            found.append("".join(texts))
    return found


HISTORY = [user("say 1"), assistant("One."), user("say 2")]


def test_a_whole_exchange_is_told_where_nothing_is_remembered(host: Host) -> None:
    body: dict[str, Any] = {"model": "chat_keeper", "messages": HISTORY}
    assert host.post("/v1/chat/completions", body).status_code == 200
    assert given(host) == ["say 1", "One.", "say 2"]
    # Nor is it where the memory of the conversation is empty.
    body = {"model": "chat_keeper", "input": HISTORY, "conversation": anew()}
    for text in ("say 2", "say 3"):
        assert host.post("/v1/responses", body).status_code == 200
        assert given(host)[-1] == text
        body["input"] = "say 3"
    assert given(host) == ["say 1", "One.", "say 2", "Heard say 2.", "say 3"]
