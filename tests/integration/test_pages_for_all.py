"""Each page, looked at by axe-core in both themes and three sizes: whoever uses a keyboard, a
screen reader, another contrast or a small screen is to find all of it.

Invariant: a page is looked at as it is filled, with everything unfolded too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from selenium.webdriver import Chrome

from tests.browser import await_true, browser, by_id, fresh_tab
from tests.clients.packages import install
from tests.handmade import Tape
from tests.integration.test_answer_page import ask
from tests.integration.test_docs_page import Docs
from tests.integration.test_ops_page import Ops
from tests.integration.test_page import Page, open_all
from tests.looks import emulate_nothing, emulate_phone, emulate_scheme, width_of
from tests.processes import Serving, serving
from tests.sample_agents import TABLE
from tests.scripted import Scripted, scripted

KIT = Path(__file__).parents[2] / "clients" / "js"
TOKEN = f"all-{uuid4().hex}"
SIZES = (320, 768, 1280)
LOOK = """
const done = arguments[1];
axe.run({exclude: arguments[0]}, {resultTypes: ["violations"]}).then(({violations}) =>
  done(violations.flatMap(({id, nodes}) =>
    nodes.map(({target, html}) => `${id}: ${target} ${html.slice(0, 200)}`))));
"""


@pytest.fixture(scope="module")
def axe() -> str:
    if cause := install(KIT):
        pytest.skip(cause)
    return (KIT / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"ADMIN_TOKEN": TOKEN}
    with serving(tmp_path_factory.mktemp("pages"), env=env) as started:
        yield started


@pytest.fixture
def service() -> Iterator[Scripted]:
    with scripted() as started:
        yield started


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


@pytest.fixture(autouse=True)
def afresh(chrome: Chrome) -> Iterator[None]:
    fresh_tab(chrome)
    yield
    emulate_nothing(chrome)


def assert_for_all(driver: Chrome, axe: str, but: Sequence[str] = ()) -> None:
    """In every theme and size nothing is found, and nothing has to be scrolled sideways."""
    driver.set_script_timeout(60)
    driver.execute_script(axe)
    # Colours are compared as they are, not on their way to another.
    driver.execute_script(
        "const sheet = new CSSStyleSheet();"
        "sheet.replaceSync('* { transition: none !important; animation: none !important; }');"
        "document.adoptedStyleSheets = [sheet];"
    )
    for scheme in ("light", "dark"):
        for width in SIZES:
            emulate_scheme(driver, scheme)
            emulate_phone(driver, width)
            found: list[str] = driver.execute_async_script(LOOK, [[one] for one in but])
            assert not found, "\n".join([f"{scheme}, {width}:", *found])
            assert width_of(driver) <= width, (scheme, width)


def test_the_page_before_anything_is_asked(chrome: Chrome, plateau: Serving, axe: str) -> None:
    page = Page(chrome, plateau.url)
    page.press("ask")
    await_true(chrome, by_id(chrome, "problem").is_displayed, "a problem")
    assert_for_all(chrome, axe)
    open_all(page)
    assert_for_all(chrome, axe)


def test_the_page_with_earlier_ones(chrome: Chrome, plateau: Serving, axe: str) -> None:
    page = Page(chrome, plateau.url)
    page.ask()
    page.until("completed")
    open_all(page)
    rows = "return document.querySelectorAll('#talks a, #earlier a').length"
    await_true(chrome, lambda: chrome.execute_script(rows) >= 2, "they are listed")
    assert_for_all(chrome, axe)


def test_an_answer_with_all_that_there_may_be(
    chrome: Chrome, service: Scripted, axe: str
) -> None:
    page = Page(chrome, service.url)
    tape = Tape()
    steps = [
        tape.started(),
        ("", {"type": "run.progress", "step": 1, "total_steps": 2, "message": "looking"}),
        tape.say("They ask **where**.\n\n# A heading\n\n### Deeper", 0, "reasoning"),
        ("", {"type": "tool.delta", "id": "w", "name": "find", "arguments": '{"q": '}),
        tape.mark("tool.call", id="a", name="find", arguments={"at": "harbour"}),
        tape.mark("tool.result", id="a", output=[{"basin": "North"}]),
        tape.mark("tool.call", id="b", name="weather", arguments="{}"),
        tape.mark("tool.result", id="b", error="the station is silent"),
        tape.mark("tool.call", id="c", name="left", arguments={}),
        tape.mark("step", name="answering"),
        tape.say(
            f"{TABLE}\n\n> Quoted.\n\n```\ncode\n```\n\n1. one\n2. two\n\n- [x] done\n", 1
        ),
        tape.mark("file", media_type="text/plain", url="data:text/plain,hello"),
        tape.mark("data", name="weather", id="w", value={"wind": 3}),
        tape.mark("source", id="s1", url="https://harbour.example/", title="Berths"),
        tape.mark("source", id="s2", media_type="application/pdf", filename="fees.pdf"),
        tape.mark("input.request", id="q1", kind="approval", message="Book it?"),
        tape.mark("input.request", id="q2", kind="question", message="For whom?"),
        tape.mark("input.request", id="q3", kind="question", message="When?", schema=WHEN),
    ]
    script = service.script(*steps, released=len(steps))
    script.steps.append(tape.completed(finish_reason="input_required"))
    ask(page)
    page.until_text()
    open_all(page)
    assert_for_all(chrome, axe)
    script.release()
    page.until("completed")
    assert_for_all(chrome, axe)
    failed = Tape(tag="abcdef")
    why = {"code": "overcast", "message": "It rains.", "retryable": True}
    service.script(failed.started(), failed.mark("run.failed", **why))
    ask(page)
    page.until("failed")
    assert_for_all(chrome, axe)


WHEN = {"type": "string", "enum": ["today", "tomorrow"]}


def test_the_page_of_operators(chrome: Chrome, plateau: Serving, axe: str) -> None:
    ops = Ops(chrome, plateau.url)
    ops.until_asked()
    assert_for_all(chrome, axe)
    ops.enter(TOKEN)
    ops.until_shown()
    assert_for_all(chrome, axe)


def test_the_description_of_the_routes(chrome: Chrome, plateau: Serving, axe: str) -> None:
    Docs(chrome, plateau.url)
    # What Swagger UI makes is as it was released.
    assert_for_all(chrome, axe, but=["#docs"])
