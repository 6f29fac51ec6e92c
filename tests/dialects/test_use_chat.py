"""`useChat` of @ai-sdk/react in a real browser, on a page of another origin, at a service of
two workers: what is on the page is what the record says, whatever happens on the way there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from selenium.webdriver import Chrome

from tests.browser import await_true, browser, by_id
from tests.clients.packages import NODE, install
from tests.dialects.agents import PIXEL, TEXT, THOUGHT, WORDS
from tests.dialects.stage import Stage, anew, staged
from tests.processes import wait_until

IN_NODE = Path(__file__).parent / "in_node"
ESBUILD = IN_NODE / "node_modules" / "esbuild" / "bin" / "esbuild"
HTML = (
    '<!doctype html><meta charset="utf-8"><body><script type="module" src="page.js"></script>'
)


@contextmanager
def page_served(folder: Path) -> Iterator[str]:
    """The page's address, whose origin is not the service's."""
    page = IN_NODE / "page.jsx"
    how = ["--bundle", "--format=esm", "--jsx=automatic", f"--outfile={folder / 'page.js'}"]
    define = '--define:process.env.NODE_ENV="production"'
    subprocess.run([NODE, ESBUILD, page, *how, define, "--log-level=error"], check=True)
    (folder / "index.html").write_text(HTML)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Standard error is for what is wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if cause := install(IN_NODE):
        pytest.skip(cause)
    with page_served(tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, site: str) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("use-chat"), API_KEYS="") as found:
        yield found


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


class Page:
    """A chat as someone in front of it sees and uses it."""

    def __init__(
        self, driver: Chrome, site: str, stage: Stage, agent: str, chat: str = "", **body: Any
    ) -> None:
        self.driver = driver
        self.chat = chat or anew()
        asked = {"agent": agent, **body}
        address = {"service": stage.url, "chat": self.chat, "body": json.dumps(asked)}
        driver.get(f"{site}?{urlencode(address)}")
        self.until(lambda: by_id(driver, "status").text, "the page is there")

    def send(self, text: str) -> None:
        self.driver.execute_cdp_cmd("Page.bringToFront", {})
        by_id(self.driver, "question").send_keys(text)
        self.click("send")

    def click(self, name: str) -> None:
        by_id(self.driver, name).click()

    @property
    def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._text_of("messages"))
        return found

    @property
    def status(self) -> str:
        return self._text_of("status")

    @property
    def error(self) -> str:
        return self._text_of("error")

    @property
    def answer(self) -> list[dict[str, Any]]:
        """Its parts."""
        last = self.messages[-1]
        assert last["role"] == "assistant"
        parts: list[dict[str, Any]] = last["parts"]
        return parts

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.answer if part["type"] == "text")

    def shows(self, text: str) -> None:
        self.until(lambda: text in self._text_of("messages"), f"it shows {text!r}")

    def ends(self, status: str = "ready") -> None:
        self.until(lambda: self.status == status, f"it is {status}")

    def until(self, condition: Any, what: str) -> None:
        await_true(self.driver, condition, what)

    def _text_of(self, name: str) -> str:
        found: str = by_id(self.driver, name).get_property("textContent")  # type: ignore[assignment]
        return found


def check_told(page: Page) -> None:
    """All parts, in their order, as a person has them."""
    assert [part["type"] for part in page.answer] == [
        *("step-start", "reasoning", "tool-search", "tool-fetch"),
        *("source-url", "source-document", "step-start", "text", "file", "data-weather"),
    ]
    assert page.text == TEXT and page.answer[1]["text"] == THOUGHT
    search, fetch = page.answer[2:4]
    assert search["state"] == "output-available" and search["output"] == ["found", {"more": 1}]
    assert (fetch["state"], fetch["errorText"]) == ("output-error", "no such page")
    assert page.answer[4]["url"] == "https://x.test/" and page.answer[5]["filename"] == "y.pdf"
    assert page.answer[8]["url"] == PIXEL and page.answer[9]["data"] == {"at": 1}
    assert (page.status, page.error) == ("ready", "")


def test_a_question_is_answered_with_all_its_parts(
    chrome: Chrome, site: str, stage: Stage
) -> None:
    page = Page(chrome, site, stage, "told")
    page.send(anew())
    page.shows("end.")
    page.ends()
    check_told(page)
    assert [message["role"] for message in page.messages] == ["user", "assistant"]


def test_a_page_that_is_loaded_again_goes_on(chrome: Chrome, site: str, stage: Stage) -> None:
    with stage.gate() as gate:
        page = Page(chrome, site, stage, "told", gate=str(gate))
        page.send(anew())
        page.shows(WORDS[0])
        chrome.refresh()
        page.shows(WORDS[0])
        assert page.status == "streaming"
    page.shows("end.")
    page.ends()
    check_told(page)
    assert [message["role"] for message in page.messages] == ["user", "assistant"]


def test_a_second_tab_reads_along(chrome: Chrome, site: str, stage: Stage) -> None:
    first_tab = chrome.current_window_handle
    with stage.gate() as gate:
        first = Page(chrome, site, stage, "told", gate=str(gate))
        first.send(anew())
        first.shows(WORDS[0])
        chrome.switch_to.new_window("tab")
        second = Page(chrome, site, stage, "told", first.chat, gate=str(gate))
        second.shows(WORDS[0])
        gate.touch()
        second.shows("end.")
        second.ends()
        check_told(second)
        chrome.close()
        chrome.switch_to.window(first_tab)
    first.shows("end.")
    first.ends()
    check_told(first)


def test_a_worker_that_is_killed_breaks_the_stream_and_the_page_resumes_it(
    chrome: Chrome, site: str, stage: Stage
) -> None:
    """`useChat` says so, and resumes where it is told to."""
    with stage.gate() as gate:
        page = Page(chrome, site, stage, "told", gate=str(gate))
        page.send(anew())
        page.shows(WORDS[0])
        before = stage.plateau.pids("gunicorn: worker")
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        page.ends("error")
        wait_until(
            lambda: (
                len({*stage.plateau.pids("gunicorn: worker")} - {*before}) == 2
                and stage.plateau.is_ready()
            ),
            "others are there",
        )
        page.click("resume")
        page.until(lambda: page.status == "streaming", "it streams again")
    page.shows("end.")
    page.ends()
    check_told(page)
    assert [message["role"] for message in page.messages] == ["user", "assistant"]


def test_stop_stops_the_run(chrome: Chrome, site: str, stage: Stage) -> None:
    with stage.gate() as gate:
        page = Page(chrome, site, stage, "told", gate=str(gate))
        page.send(anew())
        page.shows(WORDS[0])
        stream = f"{stage.url}/api/chat/{page.chat}/stream"
        run_id = httpx.head(stream).headers["x-plateau-run"]
        page.click("stop")
        page.ends()
        wait_until(lambda: stage.record(run_id)["status"] == "cancelled", "it is cancelled")
        # And nothing is there to be resumed.
        chrome.refresh()
        page.until(lambda: page.status == "ready", "nothing streams")
    assert [message["role"] for message in page.messages] == ["user"]


def test_a_failure_is_shown(chrome: Chrome, site: str, stage: Stage) -> None:
    page = Page(chrome, site, stage, "fails", before=True)
    page.send(anew())
    page.ends("error")
    assert page.error == "It broke." and page.text == "Half an "
    (tool,) = (part for part in page.answer if part["type"] == "tool-search")
    assert tool["state"] == "output-error"


def test_regenerate_asks_anew(chrome: Chrome, site: str, stage: Stage) -> None:
    page = Page(chrome, site, stage, "told")
    page.send(anew())
    page.shows("end.")
    page.ends()
    before = page.messages[-1]["id"]
    page.click("regenerate")
    page.until(lambda: page.messages[-1]["id"] != before, "another answer")
    page.shows("end.")
    page.ends()
    check_told(page)
    assert len(page.messages) == 2


def test_a_tool_of_the_page_goes_round(chrome: Chrome, site: str, stage: Stage) -> None:
    page = Page(chrome, site, stage, "calls")
    page.send(anew())
    page.shows("It is cold in Rome.")
    page.ends()
    assert json.loads(by_id(chrome, "tools").text) == ["call-1", "call-2"]
    assert page.text == "Let me see. It is cold in Rome."
    assert [message["role"] for message in page.messages] == ["user", "assistant"]


def test_a_persons_word_on_a_call_goes_round(chrome: Chrome, site: str, stage: Stage) -> None:
    """Asked by one run, answered to the next; the events are a producer's own."""
    page = Page(chrome, site, stage, "external")
    stream = f"{stage.url}/api/chat/{page.chat}/stream"
    seen = [""]

    def produce(*events: dict[str, Any]) -> None:
        def run_id() -> str:
            found: str = httpx.head(stream).headers.get("x-plateau-run", "")
            return found

        wait_until(lambda: run_id() not in seen, "the next run is on")
        seen.append(run_id())
        url = f"{stage.url}/v1/runs/{seen[-1]}/events"
        httpx.post(url, json=events).raise_for_status()

    page.send(anew())
    produce(
        {"type": "message.delta", "text": "May I? "},
        {"type": "tool.call", "id": "c1", "name": "delete", "arguments": {"page": 1}},
        {
            **{"type": "input.request", "id": "i1", "kind": "approval"},
            **{"message": "Delete?", "tool_call_id": "c1"},
        },
        {"type": "run.completed", "finish_reason": "input_required"},
    )
    page.shows("approval-requested")
    page.ends()
    page.click("approve")
    produce(
        {"type": "tool.result", "id": "c1", "output": "gone"},
        {"type": "message.delta", "text": "Done."},
        {"type": "run.completed"},
    )
    page.shows("Done.")
    page.ends()
    assert [message["role"] for message in page.messages] == ["user", "assistant"]
    (call,) = (part for part in page.answer if part["type"] == "tool-delete")
    assert (call["state"], call["output"]) == ("output-available", "gone")
    assert call["approval"] == {"id": "i1", "approved": True}
    assert page.text == "May I? Done." and page.error == ""
