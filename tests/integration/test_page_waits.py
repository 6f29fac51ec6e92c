"""The page where the service is slow to answer, or does not.

Invariant: whatever is not answered, Ask works again, and a card follows one stream at most.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.browser import await_true, browser, by_id, fresh_tab
from tests.handmade import Tape
from tests.integration.test_answer_page import ask
from tests.integration.test_page import Page
from tests.scripted import Scripted, scripted


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


@pytest.fixture
def service() -> Iterator[Scripted]:
    with scripted() as started:
        yield started


SPY = """
window.sources = [];
const Native = EventSource;
window.EventSource = class extends Native {
  constructor(...all) { super(...all); sources.push(this); }
};
const {fetch} = window;
window.fetch = (url, options) => options.method === "POST" || !String(url).includes("/runs/")
  ? fetch(url, options)
  : new Promise((done) => (window.answer = (record) => done(Response.json(record))));
"""
GONE = "const source = sources.at(-1); source.close(); source.onerror();"
ANSWERED = "answer({status: 'running'}); setTimeout(arguments[0], 100);"


def test_a_late_record_does_not_take_the_stream_away(service: Scripted, chrome: Chrome) -> None:
    fresh_tab(chrome)
    page = Page(chrome, service.url)
    chrome.execute_script(SPY)
    tape = Tape()
    script = service.script(tape.started(), tape.say("One "), released=2)
    script.steps += [tape.say("two"), tape.completed()]
    ask(page)
    page.until_text()
    chrome.execute_script(GONE)
    page.press("drop")
    await_true(chrome, lambda: "Disconnected" in page.shown("status"), "it is dropped")
    page.press("resume")
    await_true(chrome, lambda: page.shown("status") == "Writing…", "it goes on")
    chrome.execute_async_script(ANSWERED)
    assert page.shown("status") == "Writing…"
    page.press("drop")
    assert chrome.execute_script("return sources.map((one) => one.readyState)") == [2, 2]
    script.release()
    page.press("resume")
    page.until("completed")
    assert page.text == "One two"


SILENT = """
const half = arguments[0];
const {fetch} = window;
const {timeout} = AbortSignal;
window.waits = [];
AbortSignal.timeout = (ms) => {
  waits.push(ms);
  return timeout.call(AbortSignal, 50);
};
window.speak = () => {
  window.fetch = fetch;
  AbortSignal.timeout = timeout;
};
window.fetch = (url, {signal}) => new Promise((done, failed) => {
  const body = new ReadableStream({start: (into) =>
    signal?.addEventListener("abort", () => into.error(signal.reason))});
  if (half) done(new Response(body, {status: 202}));
  else signal?.addEventListener("abort", () => failed(signal.reason));
});
"""


@pytest.mark.parametrize("half", [False, True], ids=["nothing", "half of it"])
def test_a_question_that_is_not_answered_does_not_end_all(
    service: Scripted, chrome: Chrome, half: bool
) -> None:
    fresh_tab(chrome)
    page = Page(chrome, service.url)
    chrome.execute_script(SILENT, half)
    page.paste("Hello")
    page.press("ask")
    await_true(chrome, lambda: "within 30 s." in page.shown("problem"), "it is said")
    assert set(chrome.execute_script("return waits")) == {30_000}
    assert by_id(chrome, "ask").get_attribute("aria-disabled") == "false"
    # What was typed is there until it has been taken.
    assert by_id(chrome, "input").get_property("value") == "Hello"
    chrome.execute_script("speak()")
    tape = Tape()
    service.script(tape.started(), tape.say("Hi"), tape.completed())
    page.press("ask")
    await_true(chrome, lambda: page.cards == 1, "it is asked again")
    page.until("completed")
    assert not by_id(chrome, "problem").is_displayed()


HOLD = """
const [url, done] = arguments;
window.held = Array.from({length: 6}, () => new EventSource(url));
Promise.all(held.map((one) => new Promise((open) => (one.onopen = open)))).then(() => done());
"""


def test_where_the_browser_has_no_connection_left_it_is_said(
    service: Scripted, chrome: Chrome
) -> None:
    """As six tabs with an answer each would take them all."""
    fresh_tab(chrome)
    page = Page(chrome, service.url)
    tape = Tape()
    script = service.script(tape.started(), tape.say("One"), released=2)
    script.steps += [tape.completed()]
    service.posted.append({})
    chrome.execute_async_script(HOLD, f"{service.url}v1/runs/0/events")
    second = Tape()
    service.script(second.started(), second.say("Two"), second.completed())
    ask(page)
    await_true(chrome, lambda: "six connections" in page.shown("status"), "it is said")
    chrome.execute_script("held.forEach((one) => one.close())")
    page.until("completed")
    assert page.text == "Two" and not page.shown("problem")
    script.release()
