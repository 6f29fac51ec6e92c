"""The page at / in a real browser, against a real `plateau serve`.

Invariant: whatever happens to the connection, what the page shows in the end is the parts that
the conversation keeps, drawn as they would be at once, and every event id appears once.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import httpx
import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import (
    staleness_of,
    text_to_be_present_in_element,
)
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import await_true, browser, by_id, console, fresh_tab
from tests.looks import (
    contrasts,
    emulate_nothing,
    emulate_phone,
    emulate_scheme,
    focused,
    named,
    small_targets,
    width_of,
)
from tests.processes import Serving, serving

TEXTS = Path(__file__).parent.parent / "texts"
ARTICLE = (TEXTS / "photosynthesis.txt").read_text()
KEY = "page-test-key-1"


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("page")) as started:
        yield started


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


DRAW = """
const [parts, done] = arguments;
const here = new URL(".", document.querySelector("script[type=module]").src);
Promise.all(["answer.js", "client.js"].map((name) => import(new URL(name, here))))
  .then(([{Answer}, {initial, partsOf}]) => {
    const node = document.createElement("article");
    new Answer(node).show({...initial, ...partsOf(parts)}, true);
    done(node.innerHTML);
  }).catch((error) => done(String(error)));
"""


class Page:
    """The page as someone in front of it sees and uses it."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        driver.get(url)

    def paste(self, text: str) -> None:
        by_id(self.driver, "input").click()
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def ask(self, text: str = "", task: str = "summary") -> str:
        """Ask about a text that the cache cannot know; return it."""
        text = text or f"{ARTICLE}\n\nReference {uuid4()}.\n"
        by_id(self.driver, "task").send_keys(task)
        self.paste(text)
        self.press("ask")
        return text

    def new(self) -> None:
        """Another conversation."""
        by_id(self.driver, "new").click()
        await_true(self.driver, lambda: self.cards == 0, "it is empty")

    @property
    def cards(self) -> int:
        """How many questions were asked."""
        return len(self.driver.find_elements(By.CSS_SELECTOR, "#answers > .run"))

    def card(self, number: int = 0) -> WebElement:
        """Of a question and its answer; the newest is the first."""
        at = f"#answers > .run:nth-last-child({number + 1})"
        return self.driver.find_element(By.CSS_SELECTOR, at)

    def part(self, name: str, number: int = 0) -> WebElement:
        return self.card(number).find_element(By.CSS_SELECTOR, f'[data-is="{name}"]')

    def press(self, name: str, number: int = 0) -> None:
        pressed = by_id(self.driver, name) if name == "ask" else self.part(name, number)
        if name in ("cancel", "drop"):
            # By the keyboard: it moves down while text arrives, from under a pointer.
            pressed.send_keys(Keys.ENTER)
        else:
            pressed.click()

    def shown(self, name: str, number: int = 0) -> str:
        if name in ("problem", "curl", "snippet", "module"):
            return by_id(self.driver, name).text
        part = self.part(name, number)
        # Figures are folded.
        return (part.get_attribute("textContent") or "") if "fact-" in name else part.text

    @property
    def text(self) -> str:
        """Of the answer alone: what else it was told stands beside it."""
        found = self.card().find_elements(By.CSS_SELECTOR, ".parts > .said")
        return "".join(one.get_attribute("textContent") or "" for one in found)

    @property
    def html(self) -> str:
        return self.part("answer").get_attribute("innerHTML") or ""

    def drawn(self, record: dict[str, Any]) -> str:
        """An answer that is kept, as the page draws it at once."""
        html: str = self.driver.execute_async_script(DRAW, record["parts"])
        return html

    @property
    def status(self) -> str:
        return self.card().get_attribute("data-status") or ""

    def until(self, status: str) -> None:
        await_true(self.driver, lambda: self.status == status, f"the run is {status}")

    def until_text(self, longer_than: int = 0) -> int:
        await_true(self.driver, lambda: len(self.text) > longer_than, "text arrives")
        return len(self.text)

    @property
    def conversation(self) -> str:
        hash_: str = self.driver.execute_script("return location.hash")
        return hash_.removeprefix("#c=")

    def record(self, **headers: str) -> dict[str, Any]:
        """What the conversation keeps of the latest answer."""
        url = urljoin(self.url, f"v1/conversations/{self.conversation}")
        said = httpx.get(url, headers=headers).json()["messages"]
        record: dict[str, Any] = said[-1]
        assert record["role"] == "assistant"
        return record

    def is_kept(self) -> bool:
        """Whether the latest answer has come to its end."""
        url = urljoin(self.url, f"v1/conversations/{self.conversation}")
        return httpx.get(url).json()["active_run"] is None

    def logged(self) -> list[tuple[str, str]]:
        """The (id, type) of each event in the page's log, oldest first."""
        rows: list[list[str]] = self.driver.execute_script(
            "return [...arguments[0].querySelectorAll('li:has(b)')].map((row) =>"
            " [row.querySelector('b').textContent, row.childNodes[1].textContent.trim()])",
            self.part("log"),
        )
        return [(row[0], row[1]) for row in rows]


@pytest.fixture
def page(plateau: Serving, chrome: Chrome) -> Page:
    fresh_tab(chrome)
    console(chrome)
    return Page(chrome, plateau.url)


def assert_whole(page: Page) -> None:
    await_true(page.driver, lambda: page.is_kept(), "it is kept")
    record = page.record()
    assert record["status"] == "completed"
    assert page.html == page.drawn(record)
    places = [tuple(map(int, id_.split("-")[1:])) for id_, _ in page.logged() if id_ != "–"]
    assert len(places) > 2 and page.logged()[-1][1] == "run.completed"
    assert all(before < after for before, after in itertools.pairwise(places)), places


def test_an_answer_arrives_bit_by_bit(page: Page) -> None:
    page.ask()
    lengths = [page.until_text()]
    shares = []
    for _ in range(3):
        lengths.append(page.until_text(lengths[-1]))
        shares.append(float(page.part("progress").get_attribute("value") or 0))
    assert "Step 3 of 3" in page.shown("progress-label")
    assert 0 < shares[0] <= shares[-1] <= 1
    page.until("completed")
    assert_whole(page)
    assert page.shown("status") == "Complete."
    assert page.shown("fact-cache") == "no"
    assert (
        0 < int(page.shown("fact-first").split()[0]) < int(page.shown("fact-total").split()[0])
    )
    assert console(page.driver) == []


@pytest.mark.parametrize("meanwhile", ["it goes on", "it ends"])
def test_drop_and_resume_leave_no_gap(page: Page, meanwhile: str) -> None:
    page.ask()
    page.until_text(60)
    page.press("drop")
    await_true(page.driver, lambda: "Disconnected" in page.shown("status"), "it is dropped")
    dropped = page.text
    if meanwhile == "it ends":
        await_true(page.driver, page.is_kept, "it ends")
    assert page.text == dropped
    page.press("resume")
    page.until("completed")
    assert page.text.startswith(dropped) and len(page.text) > len(dropped)
    assert_whole(page)


def test_a_killed_web_worker_costs_nothing(plateau: Serving, page: Page) -> None:
    page.ask(task="flashcards")
    page.until_text(60)
    for pid in plateau.pids("gunicorn: worker"):
        os.kill(pid, signal.SIGKILL)
    await_true(page.driver, lambda: "reconnecting" in page.shown("status"), "it says so")
    page.until("completed")
    assert_whole(page)


def test_who_asks_the_same_elsewhere_is_answered_at_once(page: Page) -> None:
    text = page.ask()
    page.until("completed")
    answer = page.text
    first = page.conversation
    page.new()
    page.ask(text)
    page.until("completed")
    await_true(page.driver, lambda: page.shown("fact-cache") == "yes", "it was known")
    assert page.text == answer
    await_true(page.driver, lambda: "known already" in page.shown("status"), "it says so")
    assert page.html == page.drawn(page.record())
    assert page.conversation != first
    page.press("again")
    await_true(page.driver, lambda: page.cards == 2, "it is asked once more")
    page.until("completed")
    assert page.shown("fact-cache") == "no"


def test_code_works_as_it_is_pasted(page: Page, tmp_path: Path) -> None:
    text = f'It\'s "so". {ARTICLE}'
    page.paste(text)
    code = {
        name: by_id(page.driver, name).get_attribute("textContent") or ""
        for name in ("curl", "snippet", "module")
    }
    page.driver.set_script_timeout(30)
    said = [
        page.driver.execute_async_script(
            "const done = arguments[0]; const seen = [];"
            "const console = {log: (...all) => { seen.push(all);"
            " if (/^(run[.])?completed$/.test(all.at(-2))) done(seen); }};"
            "(async () => {" + code[name] + "})().catch((error) => done(String(error)));"
        )
        for name in ("snippet", "module")
    ]
    whole = "".join(row[2] for row in said[0])
    assert len(whole) > 10 and said[1][-1] == ["completed", whole]
    told = subprocess.run(
        ["sh", "-c", code["curl"]], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    events = [json.loads(it[6:]) for it in told.splitlines() if it.startswith("data: ")]
    assert events[-1]["type"] == "run.completed"
    assert "".join(it.get("text", "") for it in events) == whole


def test_code_is_copied(page: Page) -> None:
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    origin = {"origin": page.url, "permissions": permissions}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", origin)
    # A tab that has no window is looked at by nobody.
    page.driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    for name in ("curl", "snippet", "module"):
        button = page.driver.find_element(By.CSS_SELECTOR, f"[data-copy={name}]")
        open_all(page)
        button.click()
        copied = text_to_be_present_in_element(
            (By.CSS_SELECTOR, f"[data-copy={name}]"), "Copied"
        )
        WebDriverWait(page.driver, 10).until(copied)
        content = page.driver.execute_async_script(
            "navigator.clipboard.readText().then(arguments[0])"
        )
        assert content == by_id(page.driver, name).get_attribute("textContent")


def test_a_reload_keeps_conversation_and_form(page: Page) -> None:
    page.ask(task="flashcards")
    page.until_text(60)
    page.paste("What I am about to ask.")
    page.driver.refresh()
    await_true(page.driver, lambda: page.status == "running", "it has rejoined")
    assert by_id(page.driver, "input").get_property("value") == "What I am about to ask."
    page.until("completed")
    assert_whole(page)
    answer = page.text
    page.driver.refresh()
    page.until("completed")
    assert page.text == answer


def test_earlier_conversations_are_listed_and_opened(page: Page) -> None:
    page.ask(f"Plateaus are flat. {uuid4()}")
    page.until("completed")
    first, answer = page.conversation, page.text
    page.new()
    assert by_id(page.driver, "runs-title").text.upper() == "NEW CONVERSATION"
    page.ask(f"Valleys are not. {uuid4()}")
    page.until("completed")
    shown = [one.get_attribute("textContent") for one in talks(page)]
    assert "Valleys" in str(shown[0]) and "Plateaus" in str(shown[1])
    assert [one.get_attribute("aria-current") for one in talks(page)[:2]] == ["page", None]
    talks(page)[1].click()
    await_true(page.driver, lambda: page.cards == 1 and page.text == answer, "it is opened")
    assert page.conversation == first
    page.driver.back()
    await_true(page.driver, lambda: "Valleys" in page.shown("title"), "the way back")
    by_id(page.driver, "forget").click()
    page.driver.switch_to.alert.accept()
    await_true(page.driver, lambda: page.cards == 0, "it is gone")
    await_true(page.driver, lambda: "Plateaus" in talks(page)[0].text, "from the list, too")


def talks(page: Page) -> list[WebElement]:
    return page.driver.find_elements(By.CSS_SELECTOR, "#talks a")


def test_earlier_answers_are_listed_and_opened(page: Page) -> None:
    text = f"Tides. {uuid4()}"
    body = {"agent": "study", "input": text}
    run = httpx.post(urljoin(page.url, "v1/runs"), json=body).json()
    page.driver.find_element(By.CSS_SELECTOR, "#runs-box summary").click()
    found = f"#earlier a[href='#r={run['id']}']"
    await_true(page.driver, lambda: page.driver.find_element(By.CSS_SELECTOR, found), "listed")
    page.driver.find_element(By.CSS_SELECTOR, found).click()
    await_true(page.driver, lambda: page.cards == 1, "it is opened")
    page.driver.execute_script("location.hash = '#r=nonsense'")
    trouble = by_id(page.driver, "trouble")
    await_true(page.driver, trouble.is_displayed, "what is not there is said not to be")


def test_a_second_tab_shows_whatever_runs(page: Page) -> None:
    driver = page.driver
    page.ask(task="flashcards")
    page.until_text(60)
    first, address = driver.current_window_handle, driver.current_url
    driver.switch_to.new_window("tab")
    second = Page(driver, address)
    second.until_text(60)
    second.until("completed")
    assert second.html == second.drawn(second.record())
    second.ask(f"Another. {uuid4()}")
    second.until("completed")
    html, tab = second.html, driver.current_window_handle
    driver.switch_to.window(first)
    await_true(driver, lambda: page.cards == 2 and page.status == "completed", "it is told")
    assert page.html == html and "Another." in page.shown("title")
    driver.switch_to.window(tab)
    driver.close()
    driver.switch_to.window(first)


def test_cancel(page: Page) -> None:
    page.ask(task="flashcards")
    page.until_text()
    page.press("cancel")
    page.until("cancelled")
    await_true(page.driver, page.is_kept, "it is kept")
    assert page.record()["status"] == "cancelled"
    assert page.shown("status") == "Stopped."
    assert page.part("cancel").get_attribute("aria-disabled") == "true"


def test_problems_stand_beside_the_form(page: Page) -> None:
    page.press("ask")
    await_true(page.driver, lambda: by_id(page.driver, "problem").is_displayed(), "a problem")
    assert "input" in page.shown("problem") and "invalid_request" in page.shown("problem")
    assert page.driver.switch_to.active_element.get_attribute("id") == "input"
    assert by_id(page.driver, "input").get_attribute("aria-invalid") == "true"
    by_id(page.driver, "agent").send_keys("other")
    by_id(page.driver, "other").send_keys("nobody")
    page.paste("Some text.")
    page.press("ask")
    await_true(page.driver, lambda: "unknown_agent" in page.shown("problem"), "which agent")
    assert by_id(page.driver, "other").get_attribute("aria-invalid") == "true"


def test_a_failed_run_says_why(page: Page) -> None:
    by_id(page.driver, "agent").send_keys("openai")
    page.paste(f"Hello {uuid4()}")
    page.press("ask")
    page.until("failed")
    assert "upstream_not_configured" in page.shown("failure")


def test_a_key_is_asked_for_and_kept_in_the_tab(chrome: Chrome, tmp_path: Path) -> None:
    with serving(tmp_path, env={"API_KEYS": KEY}) as locked:
        fresh_tab(chrome)
        page = Page(chrome, locked.url)
        await_true(chrome, lambda: by_id(chrome, "key").is_displayed(), "a field for the key")
        assert chrome.switch_to.active_element.get_attribute("id") == "key"
        text = page.ask()
        refused = chrome.find_element(By.CSS_SELECTOR, "#problem strong")
        by_id(chrome, "key").send_keys("wrong-key-0", Keys.ENTER)
        WebDriverWait(chrome, 10).until(staleness_of(refused))
        assert "unauthorized" in page.shown("problem")
        by_id(chrome, "key").clear()
        by_id(chrome, "key").send_keys(KEY, Keys.ENTER)
        page.until("completed")
        record = page.record(Authorization=f"Bearer {KEY}")
        assert page.html == page.drawn(record)
        assert not by_id(chrome, "problem").is_displayed()
        assert KEY not in chrome.current_url
        assert chrome.execute_script("return localStorage.length + document.cookie.length") == 0
        chrome.refresh()
        page.until("completed")
        page.new()
        page.ask(text)
        await_true(chrome, lambda: page.shown("fact-cache") == "yes", "the key is still known")


def test_the_agents_of_runners_can_be_chosen_once_the_key_is_there(
    chrome: Chrome, tmp_path: Path
) -> None:
    def listed() -> list[str]:
        options = by_id(chrome, "agent").find_elements(By.TAG_NAME, "option")
        return [it.text for it in options]

    def chosen() -> str:
        return str(by_id(chrome, "agent").get_property("value"))

    env = {"API_KEYS": KEY, "AGENTS": "words=tests.sample_agents:words"}
    with serving(tmp_path, env=env) as locked:
        fresh_tab(chrome)
        page = Page(chrome, locked.url)
        page.ask()
        await_true(chrome, lambda: by_id(chrome, "key").is_displayed(), "a field for the key")
        assert listed() == ["study", "openai", "other…"]
        by_id(chrome, "key").send_keys(KEY, Keys.TAB)
        with_words = ["study", "openai", "words", "other…"]
        await_true(chrome, lambda: listed() == with_words, "all of them")
        by_id(chrome, "agent").send_keys("words")
        page.press("ask")
        page.until("completed")
        headers = {"Authorization": f"Bearer {KEY}"}
        runs = httpx.get(f"{locked.url}/v1/runs", headers=headers).json()["runs"]
        assert runs[0]["agent"] == "words"
        chrome.refresh()
        await_true(chrome, lambda: listed() == with_words and chosen() == "words", "the same")


def test_client_js_serves_a_page_of_another_origin(page: Page) -> None:
    driver = page.driver
    driver.get(urljoin(page.url.replace("127.0.0.1", "localhost"), "/health"))
    driver.set_script_timeout(30)
    result = driver.execute_async_script(
        """
        const [host, input, done] = arguments;
        (async () => {
          const {follow} = await import(`${host}/client.js`);
          const body = JSON.stringify({agent: "study", input});
          const headers = {"Content-Type": "application/json"};
          const response = await fetch(`${host}/v1/runs`, {method: "POST", headers, body});
          const url = new URL((await response.json()).events_url, response.url);
          follow(url, ({closed, output}) => {
            if (closed || output) done([location.origin, closed, output]);
          });
        })().catch((error) => done(String(error)));
        """,
        page.url,
        f"{ARTICLE} {uuid4()}",
    )
    origin, closed, output = result
    assert origin != page.url and not closed and len(output) > 60


# One text for all that only look, so that but one of them has to wait for it.
SEEN = f"{ARTICLE}\n\nReference {uuid4()}.\n"


@pytest.fixture
def emulated(chrome: Chrome) -> Iterator[None]:
    """Undoes what a test has emulated."""
    yield
    emulate_nothing(chrome)


def open_all(page: Page) -> None:
    page.driver.execute_script(
        "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    )


@pytest.mark.parametrize("width", [360, 320])
def test_a_phone_shows_it_all(page: Page, emulated: None, width: int) -> None:
    emulate_phone(page.driver, width)
    assert width_of(page.driver) <= width
    page.ask(SEEN)
    page.until_text()
    assert width_of(page.driver) <= width
    page.until("completed")
    open_all(page)
    assert width_of(page.driver) <= width
    assert small_targets(page.driver) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(page: Page, emulated: None, scheme: str) -> None:
    emulate_scheme(page.driver, scheme)
    page.ask(SEEN)
    page.until("completed")
    page.press("ask")
    await_true(page.driver, lambda: by_id(page.driver, "problem").is_displayed(), "a problem")
    open_all(page)
    ground, seen, low = contrasts(page.driver)
    assert ground > 0.8 if scheme == "light" else ground < 0.05
    assert seen > 40 and low == []


def test_all_of_it_works_by_keyboard(page: Page) -> None:
    def send(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    order: list[str] = []
    while order[-1:] != ["refresh"]:
        assert len(order) < 60
        send(Keys.TAB)
        order.append(focused(page.driver))
        if order[-1] == "task":
            send("f")
    first = order.index("agent")
    assert order[first:] == ["agent", "task", "sample", "input", "ask", "refresh"]
    assert order[:6] == ["a"] * 4 + ["summary", "new"]
    assert by_id(page.driver, "task").get_property("value") == "flashcards"
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB * 2).key_up(
        Keys.SHIFT
    ).perform()
    assert focused(page.driver) == "input"
    page.driver.execute_cdp_cmd("Input.insertText", {"text": f"{ARTICLE} {uuid4()}"})
    ActionChains(page.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
        Keys.CONTROL
    ).perform()
    page.until_text()
    assert focused(page.driver) == "input"
    # The answer stands before the form.
    for _ in range(20):
        ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(
            Keys.SHIFT
        ).perform()
        if focused(page.driver) == "drop":
            break
    send(Keys.ENTER)
    await_true(page.driver, lambda: "Disconnected" in page.shown("status"), "it is dropped")
    # What can do no more hands the focus on.
    assert focused(page.driver) == "resume"
    send(Keys.SPACE)
    await_true(page.driver, lambda: focused(page.driver) == "drop", "it is connected")
    page.until("completed")
    assert focused(page.driver) == "copy"
    assert_whole(page)


def test_a_screen_reader_is_told_what_is_what(page: Page) -> None:
    page.ask()
    page.until_text()
    driver = page.driver
    assert {"button", "link", "textbox", "combobox", "checkbox"} <= {
        role for role, _ in named(driver)
    }
    assert [role for role, name in named(driver) if not name] == []
    # Each word of an answer would be read out if it were live: only the status line is.
    live = "return arguments[0].closest('[aria-live], [role=status]')"
    assert driver.execute_script(live, page.part("answer")) is None
    assert page.part("status").get_attribute("role") == "status"
    assert page.part("answer").get_attribute("aria-busy") == "true"
    page.until("completed")
    assert page.part("answer").get_attribute("aria-busy") == "false"
    ids = driver.execute_script(
        "return [...document.querySelectorAll('[id]')].map((n) => n.id)"
    )
    assert len(ids) == len(set(ids))
    assert driver.execute_script("return document.documentElement.lang") == "en"
    assert driver.execute_script("return document.querySelectorAll('h1').length") == 1
