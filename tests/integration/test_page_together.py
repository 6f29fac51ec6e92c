"""A conversation that somebody else asks in, too, at the same moment: a phone beside a tab."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import httpx
import pytest

from tests.browser import await_true
from tests.integration.test_page import Page, chrome, page, plateau  # noqa: F401

# The question of the page waits before it is sent, or its answer before it is read.
HELD = """
const {fetch} = window;
const held = new Promise((go) => (window.go = go));
window.fetch = async (url, options) => {
  if (options?.method !== "POST") return fetch(url, options);
  if (arguments[0] === "question") await held;
  const answer = await fetch(url, options);
  window.isAsked = true;
  await held;
  return answer;
};
"""


def asked_elsewhere(page: Page, text: str) -> dict[str, Any]:  # noqa: F811
    body = {"agent": "study", "input": text, "options": {"pace_ms": 80}}
    url = urljoin(page.url, "v1/runs")
    said: dict[str, Any] = httpx.post(
        url, json={**body, "conversation_id": page.conversation}
    ).json()
    return said


def pairs(page: Page) -> list[tuple[str, bool, str | None]]:  # noqa: F811
    """Of each card its question, whether its answer is of that, and how it ended."""
    found = []
    for number in reversed(range(page.cards)):
        word = page.shown("title", number).split()[0]
        status = page.card(number).get_attribute("data-status")
        found.append((word, word in page.shown("answer", number), status))
    return found


@pytest.mark.parametrize("held", ["question", "answer"])
def test_two_who_ask_at_once_are_both_answered(page: Page, held: str) -> None:  # noqa: F811
    driver = page.driver
    page.ask(f"Zero {uuid4()} is. First of all.")
    page.until("completed")
    driver.execute_script(HELD, held)
    page.ask(f"Mine {uuid4()} is this. It has. Many parts. So many.")
    if held == "answer":
        await_true(driver, lambda: driver.execute_script("return isAsked"), "it is asked")
    asked_elsewhere(page, f"Theirs {uuid4()} is this. It has. Many parts. So many.")
    await_true(driver, lambda: "Theirs" in [one[0] for one in pairs(page)], "the other is told")
    driver.execute_script("go()")
    wanted = {(word, True, "completed") for word in ("Zero", "Mine", "Theirs")}
    await_true(driver, lambda: set(pairs(page)) == wanted, "both are answered")
    live = pairs(page)
    driver.refresh()
    await_true(driver, lambda: page.cards == 3, "it is loaded")
    assert pairs(page) == live


def test_what_somebody_else_asked_last_is_what_is_asked_again(page: Page) -> None:  # noqa: F811
    page.ask(f"Mine {uuid4()} is this. And nothing more.")
    page.until("completed")
    other = asked_elsewhere(page, f"Theirs {uuid4()} is. It has. Many. Many. Many. Parts.")
    await_true(page.driver, lambda: page.cards == 2 and bool(page.text), "it is told")
    httpx.post(urljoin(page.url, other["cancel_url"]))
    page.until("cancelled")
    page.press("again")
    await_true(page.driver, lambda: page.cards == 3, "it is asked again")
    page.until("completed")
    assert page.shown("title").startswith("Theirs")
