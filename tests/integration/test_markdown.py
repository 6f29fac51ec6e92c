"""What markdown.js draws where Markdown ends early, is none, or is made to cost.

Invariant: no word is lost and none shown twice, and the work grows with the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.browser import browser, console
from tests.scripted import scripted


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started, scripted() as service:
        started.get(service.url)
        console(started)
        yield started


DRAW = """
const [text, done] = arguments;
import("/markdown.js").then(({Writer}) => {
  const draw = (pieces) => {
    const root = document.createElement("div");
    const writer = new Writer(root);
    for (const piece of pieces) writer.write(piece);
    writer.end();
    return root;
  };
  const root = draw([text]);
  if (draw(text).innerHTML !== root.innerHTML) throw Error("the cut makes a difference");
  const links = [...root.querySelectorAll("[href]")].map((link) => link.href);
  const names = [...root.querySelectorAll("*")].map((node) => node.localName);
  done({text: root.textContent, links, names});
}).catch((error) => done(String(error)));
"""


def drawn(chrome: Chrome, text: str) -> dict[str, Any]:
    found = chrome.execute_async_script(DRAW, text)
    assert isinstance(found, dict), found
    return found


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (
            "see [a](http://x and more\n\nanother **one**",
            "see a](http://x and more\n\nanother **one**",
        ),
        ("![a](x", "a](x"),
        ("[a](http://x \\", "a](http://x \\"),
        ("a <", "a <"),
        ("- <", "<"),
        ("|a <", "a <"),
        ("a \\", "a \\"),
        ("\\", "\\"),
        ("# \\", "\\"),
        ("![a\\", "a\\"),
        ("```\n\\", "\\"),
        ("`a\\", "a\\"),
        ("it costs $$", "it costs $$"),
        ("a \\[", "a \\["),
        ("a `", "a `"),
        ("a [", "a ["),
        # What is there already is not shown again, and Markdown's own signs are none to see.
        ("1.", "1."),
        ("a <br", "a <br"),
        ("**b**", "b"),
        ("https://a.example/b", "https://a.example/b"),
        ("```js\nx\n```", "x"),
        ("a\n\n---", "a"),
        ("|a|\n|-", "a"),
    ],
)
def test_what_the_parser_holds_at_the_end_is_shown_once(
    chrome: Chrome, written: str, shown: str
) -> None:
    assert drawn(chrome, written)["text"] == shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (
            "handlers[name](event, then\n\n```js\nx()\n",
            "handlersname (event, then\n\n```js\nx()\n",
        ),
        ("[x](javascript:evil() then", "x (javascript:evil() then"),
        ("**[x](/docs)** more", "x (/docs) more"),
        ("![](/icon.svg)", "image (/icon.svg)"),
        ("[x](<img src=y>)", "x (<img src=y>)"),
        ("[x]() y", "x y"),
        ("see http:// y", "see http:// y"),
    ],
)
def test_an_address_that_is_refused_is_text(chrome: Chrome, written: str, shown: str) -> None:
    found = drawn(chrome, written)
    assert found["text"].rstrip() == shown.rstrip()
    assert found["links"] == []
    assert set(found["names"]) <= {"p", "a", "strong", "pre", "code"}


FAR = 9000


@pytest.mark.parametrize(
    ("before", "held", "after", "names"),
    [
        ("[a](", "x", " **b**", ["p", "a", "p", "strong"]),
        ("", "1", " **b**", ["p", "strong"]),
        ("a\n", "1", " **b**", ["p", "br", "p", "strong"]),
        ("http://a.example/", "x", " **b**", ["p", "a", "p", "strong"]),
        ("|a|\n|-", ":", "\n\n**b**", "div table thead tr th p p strong".split()),
    ],
)
def test_what_is_held_for_long_is_text(
    chrome: Chrome, before: str, held: str, after: str, names: list[str]
) -> None:
    found = drawn(chrome, before + FAR * held + after)
    assert found["text"].count(held) == FAR + before.count(held)
    assert found["text"].endswith("b") and found["names"] == names


HELD = """
const [begin, done] = arguments;
import("/markdown.js").then(({Writer}) => {
  const root = document.createElement("div");
  const writer = new Writer(root);
  writer.write(begin);
  let most = 0;
  for (let i = 0; i < 3000; i++) {
    writer.write("7".repeat(10));
    most = Math.max(most, writer.parser.pending.length);
  }
  done([most, root.textContent.length]);
}).catch((error) => done(String(error)));
"""


@pytest.mark.parametrize("begin", ["[a](", "", "http://"])
def test_little_is_held(chrome: Chrome, begin: str) -> None:
    most, shown = chrome.execute_async_script(HELD, begin)
    # Each character that comes costs what is held.
    assert most < 5000 and shown > 25_000


DEPTH = """
const [text, done] = arguments;
import("/markdown.js").then(({Writer}) => {
  const root = document.createElement("div");
  const writer = new Writer(root);
  writer.write(text);
  writer.end();
  let most = 0;
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    let depth = 0;
    for (let node = walker.currentNode; node !== root; node = node.parentNode) depth += 1;
    most = Math.max(most, depth);
  }
  done([most, root.textContent]);
}).catch((error) => done(String(error)));
"""


@pytest.mark.parametrize("sign", ["> ", "*a_b", "[*a", "*[b"])
def test_nothing_nests_without_end(chrome: Chrome, sign: str) -> None:
    depth, text = chrome.execute_async_script(DEPTH, 2000 * sign + "end")
    assert depth < 150 and text.endswith("end")
    for letter in "ab":
        assert text.count(letter) == 2000 * sign.count(letter)


CELLS = """
const [text, done] = arguments;
import("/markdown.js").then(({Writer}) => {
  const root = document.createElement("div");
  const writer = new Writer(root);
  writer.write(text);
  writer.end();
  const most = Math.max(...[...root.querySelectorAll("table")].map(
    (table) => table.querySelectorAll("td, th").length), 0);
  done([most, root.textContent]);
}).catch((error) => done(String(error)));
"""


@pytest.mark.parametrize("cell", ["| a ", "|a\n", "|a|b|\n|-|-|\n"])
def test_a_table_has_so_many_cells(chrome: Chrome, cell: str) -> None:
    """A browser lays out fifty thousand in one row within 14 s, in which nothing else goes."""
    most, text = chrome.execute_async_script(CELLS, cell * 20_000)
    assert most <= 2_001
    assert text.count("a") == 20_000


ADDED = """
const [done] = arguments;
import("/markdown.js").then(({Writer}) => {
  const {appendData} = CharacterData.prototype;
  let count = 0;
  CharacterData.prototype.appendData = function (text) {
    count += 1;
    return appendData.call(this, text);
  };
  const root = document.createElement("div");
  const writer = new Writer(root);
  for (let i = 0; i < 10; i++) writer.write("word ".repeat(100));
  writer.end();
  CharacterData.prototype.appendData = appendData;
  done([count, root.textContent.length]);
}).catch((error) => done(String(error)));
"""


def test_text_is_added_a_piece_at_a_time(chrome: Chrome) -> None:
    count, length = chrome.execute_async_script(ADDED)
    # To add to a node costs as much as it has.
    assert count <= 11 and length >= 4999


def test_blanks_before_code_do_not_grow(chrome: Chrome) -> None:
    found = drawn(chrome, f"```\na\n{' ' * FAR}b\n{chr(9) * FAR}c\n    d\n```\n**e**")
    a, b, c, d = found["text"].removesuffix("e").split("\n")
    assert (a, b.strip(), c.strip(), d) == ("a", "b", "c", "    d")
    assert len(b) + len(c) < 6000 and found["names"] == ["pre", "code", "p", "strong"]


WORK = """
const [texts, atOnce, done] = arguments;
const modules = ["answer", "markdown", "client"].map((name) => import(`/${name}.js`));
Promise.all(modules).then(([{Answer}, {Writer}, {initial}]) => {
  const {feed} = Writer.prototype;
  let fed = 0;
  Writer.prototype.feed = function (text) {
    fed += text.length;
    return feed.call(this, text);
  };
  const node = document.createElement("article");
  const answer = new Answer(node);
  const parts = texts.map((text, part) =>
    ({type: "text", part, text, ...(part > 1 && {continues: part - 2})}));
  const show = (count) => answer.show({...initial, parts: parts.slice(0, count)});
  if (!atOnce) parts.forEach((_, at) => show(at + 1));
  const before = [...node.querySelectorAll(".said")].map((one) => one.textContent);
  answer.show({...initial, parts}, true);
  Writer.prototype.feed = feed;
  const after = [...node.querySelectorAll(".said")].map((one) => one.textContent);
  done([fed, before, after]);
}).catch((error) => done(String(error)));
"""


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "bit by bit"])
def test_who_speak_in_turns_are_not_drawn_anew_each_time(chrome: Chrome, at_once: bool) -> None:
    texts = [f"{'abc'[at % 2]}{at} " for at in range(600)]
    texts += ["end?", "end <"]
    fed, _, after = chrome.execute_async_script(WORK, texts, at_once)
    assert [one.replace("\n", "") for one in after] == [
        "".join(texts[0::2]),
        "".join(texts[1::2]),
    ]
    assert fed <= 3 * len("".join(texts))


def test_who_is_interrupted_is_shown_to_the_end(chrome: Chrome) -> None:
    _, before, _ = chrome.execute_async_script(WORK, ["one <", "two"], False)
    assert before[0] == "one <"
