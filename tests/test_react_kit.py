"""A chat on `plateau-client/react`, packed and installed as its users do, in a real browser, on
another origin than the service of two workers: what is on the page is what the record says."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from selenium.webdriver import Chrome, WebKitGTK
from selenium.webdriver.common.by import By

import plateau_sse.web
from tests.browser import await_true, browser
from tests.clients.packages import NODE, NPM, install
from tests.dialects.agents import TEXT, THOUGHT, WORDS
from tests.dialects.stage import Stage, anew, staged
from tests.processes import wait_until
from tests.way import Way

KIT = Path(__file__).parents[1] / "clients" / "js"
SERVED = Path(plateau_sse.web.__file__).parent
HTML = (
    '<!doctype html><meta charset="utf-8"><body><script type="module" src="chat.js"></script>'
)


@pytest.fixture(scope="module")
def kit() -> Path:
    if cause := install(KIT):
        pytest.skip(cause)
    return KIT


def run(*command: object, folder: Path) -> None:
    env = {**os.environ, "PATH": f"{NODE.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [NODE, *map(str, command)], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_served_is_made_of_the_package_and_small(kit: Path, tmp_path: Path) -> None:
    run("build.mjs", tmp_path, folder=kit)
    for name in ("client.js", "conversation.js"):
        assert (tmp_path / name).read_bytes() == (SERVED / name).read_bytes(), name
    assert len(gzip.compress((SERVED / "client.js").read_bytes(), 9)) < 4096


def test_a_chat_takes_thirty_lines() -> None:
    """The one that is tried here and in `test_react_ways.py`."""
    assert len((KIT / "tests" / "chat.jsx").read_text().splitlines()) <= 30


def test_its_types_are_right(kit: Path) -> None:
    run(kit / "node_modules" / "typescript" / "bin" / "tsc", "--project", ".", folder=kit)


@contextmanager
def page_served(kit: Path, folder: Path) -> Iterator[str]:
    """The chat's address: made of the packed package, beside React."""
    run(NPM, "pack", "--pack-destination", folder, folder=kit)
    (packed,) = folder.glob("plateau-client-*.tgz")
    modules = folder / "node_modules"
    shutil.copytree(kit / "node_modules", modules, symlinks=True)
    own = modules / "plateau-client"
    own.mkdir()
    subprocess.run(["tar", "-xzf", packed, "-C", own, "--strip-components=1"], check=True)
    shutil.copy(kit / "tests" / "chat.jsx", folder)
    bundle = ["--bundle", "--format=esm", "--jsx=automatic", "--outfile=chat.js"]
    define = '--define:process.env.NODE_ENV="development"'
    esbuild = modules / "esbuild" / "bin" / "esbuild"
    run(esbuild, "chat.jsx", *bundle, define, "--log-level=error", folder=folder)
    (folder / "index.html").write_text(HTML)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
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
def site(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with page_served(kit, tmp_path_factory.mktemp("chat")) as found:
        yield found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, site: str) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("react"), API_KEYS="") as found:
        yield found


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


class Chat:
    """As someone in front of it sees and uses it."""

    def __init__(
        self,
        driver: Chrome | WebKitGTK,
        site: str,
        stage: Stage | Way,
        agent: str,
        conversation: str = "",
        keys: str = "",
        **options: str,
    ) -> None:
        self.driver = driver
        self.conversation = conversation or anew()
        address = {
            "url": stage.url,
            "agent": agent,
            "conversation": self.conversation,
            "options": json.dumps(options),
            "keys": keys,
        }
        driver.get(f"{site}?{urlencode(address)}")
        self.until(lambda: self.status == "idle" or self.answers, "it is loaded")

    @property
    def status(self) -> str | None:
        return self.driver.find_element(By.TAG_NAME, "form").get_attribute("data-status")

    @property
    def answers(self) -> list[str]:
        found = self.driver.find_elements(By.CSS_SELECTOR, "section.assistant")
        return [str(one.get_attribute("textContent")) for one in found]

    @property
    def questions(self) -> list[str]:
        found = self.driver.find_elements(By.CSS_SELECTOR, "section.user")
        return [one.text for one in found]

    def send(self, text: str) -> None:
        self.driver.find_element(By.TAG_NAME, "input").send_keys(text)
        self.press("Send")

    def press(self, name: str) -> None:
        self.driver.find_element(By.XPATH, f"//button[text()='{name}']").click()

    def shows(self, text: str) -> None:
        self.until(lambda: any(text in one for one in self.answers), f"it shows {text!r}")

    def ends(self) -> None:
        self.until(lambda: self.status == "idle", "it is over")

    def until(self, condition: object, what: str, *, timeout_s: float = 20) -> None:
        await_true(self.driver, condition, what, timeout_s=timeout_s)  # type: ignore[arg-type]


SHOWN = f'Thoughts{THOUGHT}search: ["found",{{"more":1}}]fetch: "no such page"XY{TEXT}'


def check_told(chat: Chat, turns: int = 1) -> None:
    assert chat.answers == [SHOWN] * turns


def test_a_question_is_answered_in_its_order(chrome: Chrome, site: str, stage: Stage) -> None:
    chat = Chat(chrome, site, stage, "told")
    chat.send(anew())
    chat.shows("end.")
    chat.ends()
    check_told(chat)
    # And a reload shows what the service keeps.
    chrome.refresh()
    chat.shows("end.")
    check_told(chat)
    assert len(chat.questions) == 1


def test_a_reload_and_a_second_tab_read_along(chrome: Chrome, site: str, stage: Stage) -> None:
    first_tab = chrome.current_window_handle
    with stage.gate() as gate:
        first = Chat(chrome, site, stage, "told", gate=str(gate))
        first.send(anew())
        first.shows(WORDS[0])
        chrome.refresh()
        first.shows(WORDS[0])
        chrome.switch_to.new_window("tab")
        second = Chat(chrome, site, stage, "told", first.conversation, gate=str(gate))
        second.shows(WORDS[0])
    second.shows("end.")
    second.ends()
    check_told(second)
    chrome.close()
    chrome.switch_to.window(first_tab)
    first.shows("end.")
    first.ends()
    check_told(first)
    assert len(first.questions) == len(second.questions) == 1


def test_pages_that_were_left_hold_no_connection(
    chrome: Chrome, site: str, stage: Stage
) -> None:
    """A browser keeps some of them as they were, and opens six to one address."""
    for _ in range(7):
        chat = Chat(chrome, site, stage, "told")
    chat.send(anew())
    chat.shows("end.")
    chat.ends()
    # Back at one of them whatever runs is told again.
    chrome.back()
    chat.until(lambda: chat.status == "idle", "it is there")
    chat.send(anew())
    chat.shows("end.")
    chat.ends()


def replace_by_killing(stage: Stage) -> None:
    before = stage.plateau.pids("gunicorn: worker")
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_until(
        lambda: (
            len({*stage.plateau.pids("gunicorn: worker")} - {*before}) == 2
            and stage.plateau.is_ready()
        ),
        "others are there",
    )


def test_a_worker_that_is_killed_costs_nothing(chrome: Chrome, site: str, stage: Stage) -> None:
    with stage.gate() as gate:
        chat = Chat(chrome, site, stage, "told", gate=str(gate))
        chat.send(anew())
        chat.shows(WORDS[0])
        replace_by_killing(stage)
    chat.shows("end.")
    chat.ends()
    check_told(chat)


def test_every_tab_shows_whatever_runs(chrome: Chrome, site: str, stage: Stage) -> None:
    """Two tabs and a phone, three runs, one from each; the workers are killed in the first."""
    tabs = [chrome.current_window_handle]
    with stage.gate() as gate:
        chats = [Chat(chrome, site, stage, "told", gate=str(gate))]
        for kind in ("tab", "window"):
            chrome.switch_to.new_window(kind)
            tabs.append(chrome.current_window_handle)
            chats.append(
                Chat(chrome, site, stage, "told", chats[0].conversation, gate=str(gate))
            )
        chrome.set_window_size(320, 640)
        chrome.switch_to.window(tabs[0])
        chats[0].send(anew())
        for tab, chat in zip(tabs, chats, strict=True):
            chrome.switch_to.window(tab)
            chat.shows(WORDS[0])
        replace_by_killing(stage)
    for turn in (1, 2, 3):
        for tab, chat in zip(tabs, chats, strict=True):
            chrome.switch_to.window(tab)
            chat.until(
                lambda chat=chat, turn=turn: chat.answers == [SHOWN] * turn,
                f"it shows {turn} answers",
            )
            chat.ends()
            assert len(chat.questions) == turn
        if turn < 3:
            chrome.switch_to.window(tabs[turn])
            chats[turn].send(anew())
    for tab in tabs[1:]:
        chrome.switch_to.window(tab)
        chrome.close()
    chrome.switch_to.window(tabs[0])


def test_stop_stops_the_run(chrome: Chrome, site: str, stage: Stage) -> None:
    with stage.gate() as gate:
        chat = Chat(chrome, site, stage, "told", gate=str(gate))
        chat.send(anew())
        chat.shows(WORDS[0])
        chat.press("Stop")
        chat.ends()
    found = httpx.get(f"{stage.url}/v1/conversations/{chat.conversation}").json()
    assert found["messages"][-1]["status"] == "cancelled" and found["active_run"] is None
    assert WORDS[0] in chat.answers[0] and "end." not in chat.answers[0]


def test_a_failure_is_shown_and_the_next_question_is_asked(
    chrome: Chrome, site: str, stage: Stage
) -> None:
    chat = Chat(chrome, site, stage, "fails")
    chat.send(anew())
    alert = chrome.find_element(By.CSS_SELECTOR, "[role=alert]")
    chat.until(lambda: alert.text == "It broke.", "it says what is wrong")
    chat.ends()
    chat.send(anew())
    chat.until(lambda: len(chat.questions) == 2, "the next is asked")
    chat.until(lambda: alert.text == "It broke.", "and is answered")


def test_again_asks_anew(chrome: Chrome, site: str, stage: Stage) -> None:
    chat = Chat(chrome, site, stage, "told")
    chat.send(anew())
    chat.shows("end.")
    chat.ends()
    chat.press("Again")
    chat.until(lambda: len(chat.answers) == 2 and chat.status == "idle", "another answer")
    check_told(chat, 2)
