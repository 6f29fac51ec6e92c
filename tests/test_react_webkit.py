"""The chat of test_react_kit.py in WebKit, which is what every browser of an iPhone is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import WebKitGTK

from tests.dialects.agents import WORDS
from tests.dialects.stage import Stage, anew
from tests.test_react_kit import Chat, check_told, kit, site, stage  # noqa: F401
from tests.way import way
from tests.webkit import webkit


@pytest.fixture(scope="module")
def safari() -> Iterator[WebKitGTK]:
    with webkit() as started:
        yield started


def test_it_is_told_reloaded_cut_and_whole(
    safari: WebKitGTK,
    site: str,  # noqa: F811
    stage: Stage,  # noqa: F811
) -> None:
    with way(stage.plateau.port) as between:
        with stage.gate() as gate:
            chat = Chat(safari, site, between, "told", gate=str(gate))
            chat.send(anew())
            chat.shows(WORDS[0])
            safari.refresh()
            chat.shows(WORDS[0])
            made = between.made
            between.cut()
            chat.until(lambda: between.made > made, "it comes back")
        chat.shows("end.")
        chat.ends()
        check_told(chat)
        assert len(chat.questions) == 1


def test_a_way_that_swallows_is_noticed(
    safari: WebKitGTK,
    site: str,  # noqa: F811
    stage: Stage,  # noqa: F811
) -> None:
    with way(stage.plateau.port) as between:
        with stage.gate() as gate:
            chat = Chat(safari, site, between, "told", gate=str(gate))
            chat.send(anew())
            chat.shows(WORDS[0])
            between.swallow()
        chat.until(lambda: "end." in chat.answers[0], "it is noticed", timeout_s=30)
        chat.ends()
        check_told(chat)


def test_it_is_stopped(safari: WebKitGTK, site: str, stage: Stage) -> None:  # noqa: F811
    with stage.gate() as gate:
        chat = Chat(safari, site, stage, "told", gate=str(gate))
        chat.send(anew())
        chat.shows(WORDS[0])
        chat.press("Stop")
        chat.ends()
    assert WORDS[0] in chat.answers[0] and "end." not in chat.answers[0]
