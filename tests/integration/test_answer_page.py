"""What an answer looks like on the page: thoughts, tools, sources, tables; and that nothing of
it can become more than text.

Invariant: an answer that streams, one that is taken up half way and one from the cache end as
the same nodes; no word of a model, a tool or an application makes a node, an attribute or a
request.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.browser import await_true, browser, console, fresh_tab
from tests.handmade import Event, Tape
from tests.integration.test_page import Page, assert_whole
from tests.looks import (
    contrasts,
    emulate_nothing,
    emulate_phone,
    emulate_scheme,
    named,
    width_of,
)
from tests.processes import Serving, serving
from tests.sample_agents import TABLE
from tests.scripted import Scripted, scripted

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"AGENTS": "harbour=tests.sample_agents:harbour", "PYTHONPATH": str(REPOSITORY)}
    with serving(tmp_path_factory.mktemp("answers"), env=env) as started:
        yield started


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


@pytest.fixture
def service() -> Iterator[Scripted]:
    with scripted() as started:
        yield started


@pytest.fixture(autouse=True)
def emulated(chrome: Chrome) -> Iterator[None]:
    fresh_tab(chrome)
    console(chrome)
    yield
    emulate_nothing(chrome)


def ask(page: Page, text: str = "") -> str:
    """Another agent than those that the page may know; what was asked."""
    choose(page, "harbour")
    text = text or f"Where to moor? {uuid4()}"
    page.paste(text)
    before = page.cards
    page.press("ask")
    await_true(page.driver, lambda: page.cards == before + 1, "it is asked")
    return text


def choose(page: Page, agent: str) -> None:
    page.driver.execute_script(
        "const [name] = arguments; const agent = document.getElementById('agent');"
        "agent.value = name; if (agent.value !== name) agent.value = '';"
        "document.getElementById('other').value = name;"
        "agent.dispatchEvent(new Event('input', {bubbles: true}));",
        agent,
    )


def all_of(page: Page, selector: str) -> list[str]:
    """Their texts, whether they are folded or not."""
    found: list[str] = page.driver.execute_script(
        "return [...arguments[0].querySelectorAll(arguments[1])]"
        ".map((node) => node.textContent.trim())",
        page.part("answer"),
        selector,
    )
    return found


def assert_harbour(page: Page) -> None:
    assert all_of(page, ".thoughts summary") == ["Thoughts"]
    thought = "They ask where to moor : the berths first , then the weather ."
    assert all_of(page, ".thoughts .said") == [thought]
    assert all_of(page, ".thoughts[open]") == []
    assert all_of(page, ".tool summary") == [
        "find_berths done",
        "weather failed: the station is silent",
    ]
    assert "36" in all_of(page, ".tool pre")[1]
    assert all_of(page, "th") == ["basin", "depth", "berths"]
    assert all_of(page, "td") == ["North", "4.2 m", "36", "South", "2.8 m", "112"]
    assert all_of(page, ".said h4, li:not(.sources li), .parts > .said strong") == [
        "Where to moor",
        "visiting boats",
        "Call ahead.",
    ]
    assert all_of(page, ".sources a") == ["Berths and fees"]
    links = page.part("answer").find_elements(By.TAG_NAME, "a")
    assert {one.get_attribute("href") for one in links} == {"https://harbour.example/berths"}
    assert {one.get_attribute("rel") for one in links} == {"noopener noreferrer nofollow"}
    assert_whole(page)


def test_it_streams_is_taken_up_half_way_and_comes_from_the_cache(
    plateau: Serving, chrome: Chrome
) -> None:
    page = Page(chrome, plateau.url)
    text = ask(page)
    await_true(chrome, lambda: all_of(page, ".thoughts[open] .said"), "its thoughts are open")
    page.until_text(20)
    chrome.refresh()
    await_true(chrome, lambda: all_of(page, ".tool"), "it is there again")
    page.until("completed")
    assert_harbour(page)
    assert page.shown("fact-tokens") == "12 → 34"
    whole = page.html
    page.new()
    ask(page, text)
    page.until("completed")
    await_true(chrome, lambda: page.shown("fact-cache") == "yes", "it was known")
    assert_harbour(page)
    assert page.html == whole
    chrome.refresh()
    page.until("completed")
    assert page.html == whole
    assert console(chrome) == []


def test_one_is_asked_at_a_time(service: Scripted, chrome: Chrome) -> None:
    page = Page(chrome, service.url)
    first, second = Tape(), Tape(tag="abcdef")
    one = service.script(first.started(), first.say("One "), released=2)
    one.steps += [first.say("two"), first.completed()]
    ask(page)
    page.until_text()
    page.paste("And?")
    page.press("ask")
    await_true(chrome, lambda: "being written" in page.shown("problem"), "it is refused")
    assert len(service.posted) == 1
    one.release()
    page.until("completed")
    service.script(second.started(), second.say("Other"), second.completed())
    page.press("ask")
    await_true(chrome, lambda: page.cards == 2, "it is asked")
    page.until("completed")
    assert (page.text, page.shown("answer", 1)) == ("Other", "One two")
    assert page.shown("title") == "And?" and not page.shown("problem")
    asked = [one["conversation_id"] for one in service.posted]
    assert len(set(asked)) == 1


def test_what_it_asks_is_answered_in_place(service: Scripted, chrome: Chrome) -> None:
    page = Page(chrome, service.url)
    tape = Tape()
    request = {"id": "q1", "kind": "approval", "message": "Book berth 12?"}
    question = {"id": "q2", "kind": "question", "message": "For whom?"}
    steps = [tape.started(), tape.mark("input.request", **request)]
    service.script(*steps, tape.completed(finish_reason="input_required"))
    ask(page)
    await_true(chrome, lambda: buttons(page) == ["Approve", "Decline"], "it can be approved")
    assert "waits for your answer" in page.shown("status")
    tape = Tape(tag="abcdef")
    steps = [tape.started(), tape.say("Booked."), tape.mark("input.request", **question)]
    service.script(*steps, tape.completed(finish_reason="input_required"))
    page.part("requests").find_element(By.XPATH, ".//button[.='Decline']").click()
    await_true(chrome, lambda: page.text == "Booked.", "it goes on")
    answer = {"id": "q1", "status": "resolved", "payload": {"approved": False}}
    assert service.posted[1]["resume"] == [answer]
    tape = Tape(tag="012345")
    service.script(tape.started(), tape.say("For Ann."), tape.completed())
    await_true(chrome, lambda: buttons(page) == ["Send"], "a question is answered in words")
    page.part("requests").find_element(By.TAG_NAME, "input").send_keys("Ann", Keys.ENTER)
    await_true(chrome, lambda: page.text == "For Ann.", "it goes on")
    assert service.posted[2]["resume"][0]["payload"] == "Ann"
    assert buttons(page) == [] and console(chrome) == []


def buttons(page: Page) -> list[str]:
    found = page.part("requests").find_elements(By.TAG_NAME, "button")
    return [one.text for one in found]


def test_a_call_is_seen_while_it_is_written(service: Scripted, chrome: Chrome) -> None:
    page = Page(chrome, service.url)
    tape = Tape()
    writing: Event = {"type": "tool.delta", "id": "c", "name": "find", "arguments": '{"q": '}
    early = {"type": "tool.result", "id": "c", "output": "soon", "preliminary": True}
    script = service.script(tape.started(), ("", writing), released=2)
    script.steps += [tape.mark("tool.call", id="c", name="find", arguments='{"q": 1}')]
    script.steps += [("", early), tape.mark("tool.result", id="c", output="there")]
    script.steps += [tape.mark("tool.call", id="d", name="left", arguments={})]
    script.steps += [tape.mark("run.cancelled", reason="requested")]
    ask(page)
    await_true(chrome, lambda: all_of(page, ".writing") == ['find {"q":'], "it is written")
    script.release(4)
    await_true(chrome, lambda: all_of(page, ".writing") == ["find → soon"], "a first result")
    assert all_of(page, ".tool summary") == ["find running…"]
    script.release()
    page.until("cancelled")
    assert all_of(page, ".tool summary") == ["find done", "left no result"]
    assert all_of(page, ".writing") == []


EVIL = "<img src=x onerror=evil()>"
SCRIPT = "<script>evil()</script>"
LINK = "javascript:evil()"
MARKDOWN = (
    f"{EVIL}{SCRIPT}",
    f"[x]({LINK})",
    "[x](JaVaScRiPt:evil()) [x](\tjava\nscript:evil())",
    f"[x](data:text/html,{SCRIPT})",
    "[x](vbscript:evil()) [x](//evil.example/) [x](/ops) [x](file:///etc/passwd)",
    f'[x](https://a.example/" onclick="evil()) ![{EVIL}](https://evil.example/pixel.png)',
    "![](https://evil.example/pixel.png) ![x](/icon.svg)",
    f'```html" onclick="evil()\n{EVIL}\n```\n',
    f"| {EVIL} | b |\n|---|---|\n| {SCRIPT} | [x]({LINK}) |\n",
    f"> {EVIL}\n\n- [x] {SCRIPT}\n- [ ] {EVIL}\n\n# {EVIL}\n",
    f"$${EVIL}$$ \\({SCRIPT}\\) **{EVIL}** *{SCRIPT}* `{EVIL}` ~~{SCRIPT}~~",
    "999999999999. x\n\n<svg onload=evil()>\n<iframe srcdoc='<script>evil()</script>'>",
)
LOOK = """
const allowed = arguments[1];
const nodes = [...arguments[0].querySelectorAll("*")];
return {
  names: [...new Set(nodes.map((n) => n.localName))].filter((n) => !allowed.includes(n)),
  attributes: [...new Set(nodes.flatMap((n) => n.getAttributeNames()))],
  links: nodes.filter((n) => n.hasAttribute("href")).map((n) => n.href),
  evil: window.evil_ran ?? 0,
};
"""
NAMES = (
    "a blockquote br button code dd del details div em h4 h5 h6 hr li ol p pre s span strong "
    "summary table tbody td th thead tr ul"
).split()
ATTRIBUTES = {
    *("class", "href", "rel", "target", "tabindex", "aria-label", "data-state", "open"),
    *("start", "type"),
}


def assert_tame(page: Page) -> None:
    found: dict[str, Any] = page.driver.execute_script(LOOK, page.part("answer"), NAMES)
    assert (found["names"], found["evil"]) == ([], 0)
    assert set(found["attributes"]) <= ATTRIBUTES, found["attributes"]
    assert all(re.match(r"(https?://|mailto:)", one) for one in found["links"]), found["links"]


def stranger_proof(page: Page) -> None:
    page.driver.execute_script(
        "window.evil = () => { window.evil_ran = 1; }; window.stopped = [];"
        "addEventListener('securitypolicyviolation', (e) => stopped.push(e.blockedURI));"
    )


def test_no_markdown_becomes_more_than_it_may(service: Scripted, chrome: Chrome) -> None:
    page = Page(chrome, service.url)
    stranger_proof(page)
    tape = Tape()
    steps = [tape.started()]
    for part, text in enumerate(MARKDOWN):
        kind = ("message", "reasoning")[part % 2]
        half = len(text) // 2
        steps += [tape.say(text[:half], part, kind), tape.say(text[half:], part, kind)]
    steps += [tape.say("".join(MARKDOWN), len(MARKDOWN)), tape.completed()]
    service.script(*steps)
    ask(page, f"{EVIL}{SCRIPT}")
    page.until("completed")
    assert_tame(page)
    links = chrome.execute_script(LOOK, page.part("answer"), NAMES)["links"]
    assert "https://evil.example/pixel.png" in links
    assert chrome.execute_script("return stopped") == []
    assert service.strangers == []
    # What was no Markdown is there to be read.
    assert EVIL in page.text and SCRIPT in page.text
    assert console(chrome) == []


def test_no_field_of_an_event_becomes_more_than_text(service: Scripted, chrome: Chrome) -> None:
    page = Page(chrome, service.url)
    stranger_proof(page)
    tape = Tape()
    text = f"{EVIL}{SCRIPT}"
    usage = {"input_tokens": text, "output_tokens": text}
    progress = {"step": 1, "total_steps": 2, "current_agent": text, "message": text}
    steps = [
        tape.mark("run.started", run=text, agent=text, attempt=1),
        ("", {"type": "run.progress", **progress, "percentage": text}),
        ("", {"type": "tool.delta", "id": text, "name": text, "arguments": text}),
        tape.mark("tool.call", id=text, name=text, arguments=text),
        ("", {"type": "tool.result", "id": text, "output": text, "preliminary": True}),
        tape.mark("tool.result", id=text, output=text),
        tape.mark("tool.call", id="2", name=text, arguments={text: text}, client=True),
        tape.mark("tool.result", id="2", error=text),
        tape.mark("tool.result", id="3", output={text: text}),
        tape.mark("source", id=text, url=LINK, title=text),
        tape.mark("source", id=text, url=text, media_type=text, filename=text),
        tape.mark("source", id=text, url=f"https://a.example/{EVIL}"),
        tape.mark("file", media_type=text, url=LINK),
        tape.mark("file", media_type=text, url=f"data:text/html,{SCRIPT}"),
        tape.mark("file", media_type="image/png", url="https://evil.example/pixel.png"),
        tape.mark("data", name=text, id=text, value={text: [text]}),
        tape.mark("step", name=text),
        tape.mark("input.request", id=text, kind=text, message=text, schema={text: text}),
        tape.mark("constructor", name=text),
        tape.mark(text, text=text),
    ]
    ends = [
        tape.mark("run.failed", code=text, message=text, retryable=True),
        tape.mark("run.completed", finish_reason=text, usage=usage, model=text, output=text),
    ]
    script = service.script(*steps, ends[0], released=len(steps))
    ask(page, text)
    await_true(chrome, lambda: len(all_of(page, ".step")) == 1, "all of it is drawn")
    assert_tame(page)
    script.release()
    page.until("failed")
    service.script(*steps, (ends[0][0], ends[1][1]))
    page.new()
    ask(page, text)
    page.until("completed")
    assert_tame(page)
    assert all_of(page, ".asks")[0].endswith(text)
    card = page.card().get_attribute("innerHTML") or ""
    assert "<img" not in card and "<script" not in card
    assert chrome.execute_script("return [window.evil_ran ?? 0, stopped]") == [0, []]
    assert service.strangers == []
    assert console(chrome) == []


CUT = """
const [texts, done] = arguments;
Promise.all([import("/answer.js"), import("/client.js")]).then(([{Answer}, {initial}]) => {
  const drawn = (pieces) => {
    const node = document.createElement("article");
    const answer = new Answer(node);
    let text = "";
    for (const piece of pieces) {
      text += piece;
      answer.show({...initial, parts: [{type: "text", part: 0, text}]}, false);
    }
    answer.show({...initial, parts: [{type: "text", part: 0, text}]}, true);
    return node.innerHTML;
  };
  done(texts.map((pieces) => [drawn(pieces), drawn([pieces.join("")])]));
}).catch((error) => done(String(error)));
"""
TRICKY = (
    TABLE,
    "".join(MARKDOWN),
    "|\n|--|<\n![ x | y\n|a\n",
    "> " * 60
    + "deep\n"
    + "- " * 60
    + "deep\n"
    + "".join(" " * 2 * i + "- x\n" for i in range(40)),
    "- a\n  - b\n    1. c\r\n\r\n      code\n\n```\nopen **fence",
    "𝒜 é ü \u200b\t tab ****** `` ``` \n**a `b** c`\n" * 3,
)


def test_how_it_was_cut_makes_no_difference(service: Scripted, chrome: Chrome) -> None:
    page = Page(chrome, service.url)
    chooser = random.Random(7)
    texts = []
    for text in TRICKY:
        cuts = sorted(chooser.sample(range(1, len(text)), min(60, len(text) - 1)))
        ends = zip([0, *cuts], [*cuts, len(text)], strict=True)
        texts.append([text[begin:end] for begin, end in ends])
    found = page.driver.execute_async_script(CUT, texts)
    assert isinstance(found, list), found
    for streamed, at_once in found:
        assert streamed == at_once


def test_two_who_speak_at_once_are_not_torn_apart(service: Scripted, chrome: Chrome) -> None:
    page = Page(chrome, service.url)
    tape = Tape()
    steps = [tape.started(), tape.say("One **bo", 0), tape.say("Other", 1)]
    steps += [tape.say("ld** word.", 2, continues=0), tape.say(" text", 3, continues=1)]
    service.script(*steps, tape.completed())
    ask(page)
    page.until("completed")
    assert all_of(page, ".said") == ["One bold word.", "Other text"]
    assert all_of(page, "strong") == ["bold"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_in_both_themes(plateau: Serving, chrome: Chrome, scheme: str) -> None:
    emulate_scheme(chrome, scheme)
    emulate_phone(chrome, 390)
    page = Page(chrome, plateau.url)
    ask(page, "A question that is looked at.")
    page.until("completed")
    for one in chrome.find_elements(By.CSS_SELECTOR, ".answer summary"):
        chrome.execute_script("arguments[0].parentElement.open = true", one)
    assert width_of(chrome) <= 390
    assert contrasts(chrome)[2] == []
    assert [role for role, name in named(chrome) if not name and role != "table"] == []
    # A finger needs room; a word within a sentence has what the sentence has.
    small = chrome.execute_script(
        "return [...document.querySelectorAll('.answer summary, .sources a, .answer button')]"
        ".filter((n) => n.getBoundingClientRect().height < 43.5).map((n) => n.outerHTML)"
    )
    assert small == []


def test_the_parser_is_as_it_was_released() -> None:
    folder = files("plateau_sse.web").joinpath("vendor/streaming-markdown")
    told = folder.joinpath("README.md").read_text()
    (found,) = re.findall(r"^\| `smd\.min\.js` \| `([0-9a-f]{64})` \|$", told, re.MULTILINE)
    content = folder.joinpath("smd.min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == found
    assert "MIT" in folder.joinpath("LICENSE").read_text()
