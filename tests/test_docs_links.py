"""The pages of the docs lead where they say: every link to a file and to a heading is one."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.processes import REPOSITORY

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/*.md"),
        REPOSITORY / "clients" / "js" / "README.md",
    ]
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.*)$", _prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
        name, number = words.replace(" ", "-"), 0
        while name in found:
            number += 1
            name = f"{words.replace(' ', '-')}-{number}"
        found.add(name)
    return frozenset(found)


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def broken(page: Path, text: str) -> list[str]:
    found = []
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page, _prose(page)) == []


def test_what_leads_nowhere_is_found() -> None:
    page = REPOSITORY / "README.md"
    text = (
        "[a](docs/none.md) [b](docs/events.md#none) [c](docs/events.md#the-tape) [d](https://x)"
    )
    assert broken(page, text) == ["docs/none.md", "docs/events.md#none"]


def test_every_page_is_reached_from_the_way_in() -> None:
    way_in = REPOSITORY / "docs" / "README.md"
    named = {
        (way_in.parent / link.partition("#")[0]).resolve()
        for link in _LINK.findall(_prose(way_in))
    }
    pages = set(REPOSITORY.glob("docs/*.md")) - {way_in}
    assert pages <= named
