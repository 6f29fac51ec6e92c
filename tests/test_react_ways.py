"""The chat of test_react_kit.py where the way between page and service breaks, or the page is
not there for a while: what is shown in the end is what the record says, within 30 s."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from selenium.webdriver import Chrome

from tests import tokens
from tests.browser import browser
from tests.dialects.agents import WORDS
from tests.dialects.stage import Stage, anew, staged
from tests.test_react_kit import Chat, check_told, kit, site, stage  # noqa: F401
from tests.way import Way, way

# Of what a proxy swallows nobody is told: a page finds out by the service's silence.
NOTICED_S = 30
FROZEN_S = 60
# Of a token: longer than the service takes a clock to be wrong by.
TOKEN_S = 8
AGENTS = "told=tests.dialects.agents:told,asks=tests.dialects.agents:asks"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, site: str) -> Iterator[Stage]:  # noqa: F811
    """Its users come with tokens, from pages of an origin that it knows."""
    more = tokens.ENV | {"API_KEYS": "", "AGENTS": AGENTS}
    more["ALLOWED_ORIGINS"] = site.rstrip("/")
    with staged(tmp_path_factory.mktemp("guarded"), **more) as found:
        yield found


class BackEnd(ThreadingHTTPServer):
    """Knows who is logged in, and gives a token that ends soon; `given` counts them."""

    given = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Giving)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Giving(BaseHTTPRequestHandler):
    server: BackEnd

    def do_GET(self) -> None:
        self.server.given += 1
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(tokens.token(exp=int(time.time()) + TOKEN_S).encode())

    def log_message(self, *_: object) -> None:
        """Standard error is for what is wrong."""


@pytest.fixture
def back_end() -> Iterator[BackEnd]:
    with BackEnd() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def between(stage: Stage) -> Iterator[Way]:  # noqa: F811
    with way(stage.plateau.port) as found:
        yield found


def test_a_proxy_that_cuts(
    chrome: Chrome,
    site: str,  # noqa: F811
    stage: Stage,  # noqa: F811
    between: Way,
) -> None:
    with stage.gate() as gate:
        chat = Chat(chrome, site, between, "told", gate=str(gate))
        chat.send(anew())
        chat.shows(WORDS[0])
        for _ in range(3):
            made = between.made
            between.cut()
            chat.until(lambda made=made: between.made > made, "it comes back")
    chat.shows("end.")
    chat.ends()
    check_told(chat)


def test_a_proxy_that_swallows(
    chrome: Chrome,
    site: str,  # noqa: F811
    stage: Stage,  # noqa: F811
    between: Way,
) -> None:
    with stage.gate() as gate:
        chat = Chat(chrome, site, between, "told", gate=str(gate))
        chat.send(anew())
        chat.shows(WORDS[0])
        between.swallow()
        since = time.monotonic()
    chat.until(lambda: "end." in chat.answers[0], "it is noticed", timeout_s=NOTICED_S)
    # Had it not been swallowed it would have been told at once.
    assert time.monotonic() - since > 5
    chat.ends()
    check_told(chat)


def test_a_tab_that_was_frozen(chrome: Chrome, site: str, stage: Stage) -> None:  # noqa: F811
    with stage.gate() as gate:
        chat = Chat(chrome, site, stage, "told", gate=str(gate))
        chat.send(anew())
        chat.shows(WORDS[0])
        chrome.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "frozen"})
        # How long it is frozen is what is tried here.
        time.sleep(FROZEN_S)
    chrome.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "active"})
    chat.shows("end.")
    chat.ends()
    check_told(chat)


def test_a_token_that_has_ended_is_renewed(
    chrome: Chrome,
    site: str,  # noqa: F811
    stage: Stage,  # noqa: F811
    between: Way,
) -> None:
    chat = Chat(chrome, site, between, "told")
    chat.send(anew())
    chat.shows("end.")
    chat.ends()
    # With what it kept of the conversation the service forgets what opens its events.
    url = f"{stage.url}/v1/conversations/{chat.conversation}"
    opened = httpx.get(url).json()["events_url"]
    httpx.delete(url).raise_for_status()
    assert httpx.get(f"{stage.url}{opened}").status_code == 401
    since = time.monotonic()
    between.cut()
    body = {"agent": "told", "input": anew(), "conversation_id": chat.conversation}
    httpx.post(f"{stage.url}/v1/runs", json=body).raise_for_status()
    chat.until(lambda: len(chat.answers) == 1, "what is asked now is shown", timeout_s=15)
    chat.ends()
    assert time.monotonic() - since < 15


def test_a_key_that_has_ended_is_renewed(
    chrome: Chrome,
    site: str,  # noqa: F811
    guarded: Stage,
    back_end: BackEnd,
) -> None:
    with guarded.gate() as gate:
        chat = Chat(chrome, site, guarded, "told", keys=back_end.url, gate=str(gate))
        chat.send(anew())
        chat.shows(WORDS[0])
        given = back_end.given
        chat.until(lambda: back_end.given > given, "another is asked for", timeout_s=40)
    chat.shows("end.")
    chat.ends()
    check_told(chat)
    chat.send(anew())
    chat.until(lambda: len(chat.answers) == 2, "the next is asked with another key")
    chat.ends()
    check_told(chat, 2)


def test_what_it_asks_is_approved(
    chrome: Chrome,
    site: str,  # noqa: F811
    guarded: Stage,
    back_end: BackEnd,
) -> None:
    chat = Chat(chrome, site, guarded, "asks", keys=back_end.url)
    chat.send(anew())
    chat.until(lambda: chat.answers == ["May I? Book it"], "it asks")
    chat.ends()
    chat.press("Book it")
    chat.shows("So be it: {'approved': True}")
    chat.ends()
