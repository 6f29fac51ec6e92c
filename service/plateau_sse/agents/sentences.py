"""Text into sentences: paragraphs, headings and list items first, then sentence ends.

Invariant: the work is linear in the text, whatever it is (a megabyte of full stops, one line
without a space), and no piece that comes out is longer than `MAX_SENTENCE` characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SENTENCE = 600

PROSE, ITEM, HEADING = "prose", "item", "heading"

# What may end a sentence, with the quotes and brackets that close behind it.
END = re.compile(r"[.!?…‽؟۔।።。！？]+[\"'”’»›)\]）」』]*")
FULL_WIDTH = frozenset("。！？")
# Not followed by a look-ahead on purpose: it would make a long run of dots quadratic.
LAST_WORD = re.compile(r"[^\s(\[\"'“‘«„/]+\Z")
NEXT_WORD = re.compile(r"[\"'“‘«„(\[¿¡*_]*(\w[\w'’-]{0,30})?")

# Never the last word of a sentence.
TITLES = frozenset(
    "mr mrs ms dr prof st sr jr gen col sgt capt lt rev hon pres gov sen rep fig figs "
    "eq eqs no nos vol vols pp ed eds ch sec art op cf vs al ca approx dept est e.g i.e "
    "viz resp incl z.b d.h u.a bzw vgl nr abb str hr fr m mme mlle p.ex sra srta ud uds "
    "núm pág".split()
)
# Sometimes the last one: only where the next word can be no start of a sentence.
ABBREVIATIONS = frozenset(
    "etc inc ltd corp co bros u.s u.k e.u u.n a.m p.m b.c a.d ph.d b.sc m.sc usw jan "
    "feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun min max "
    "avg ave blvd rd".split()
)
STARTERS = frozenset(
    "a an the this that these those it its he she they we you i in on at by for from "
    "with as if when while after before since because although though but and or so yet "
    "however there here one some many most all both each every no not what why how who "
    "where then thus once today der die das ein eine es er sie wir le la les un une il "
    "elle el los las una lo gli".split()
)
MONTHS = frozenset(
    "januar februar märz april mai juni juli august september oktober november dezember".split()
)

HEADING_MARK = re.compile(r"#{1,6}\s+(.*?)\s*#*\Z")
RULE = re.compile(r"(=+|-{2,}|\*{3,}|_{3,})\Z")
BULLET = re.compile(r"(?:[-*+•‣◦▪–—·]|\(?(?:\d{1,3}|[a-zA-Z])[.)])\s+(?=\S)")
FENCE = ("```", "~~~")
EMPHASIS = re.compile(r"\*\*|__|`")
LINK = re.compile(r"!?\[([^\[\]]{0,200})\]\([^()\s]{0,500}\)")
NOTE = re.compile(r"\[\d{1,3}\]")
SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """`paragraph` counts from 0; `first` tells that it opens its paragraph; `section` is the
    nearest heading above it, or empty."""

    text: str
    kind: str = PROSE
    paragraph: int = 0
    first: bool = True
    section: str = ""


def split(text: str) -> Iterator[Sentence]:
    """The sentences of `text` in order, headings among them, Markdown marks taken off."""
    section = ""
    for number, (kind, block) in enumerate(_blocks(text)):
        block = _plain(block)
        if kind == HEADING and any(map(str.isalnum, block)):
            section = block[:MAX_SENTENCE]
            yield Sentence(section, HEADING, number, section=section)
        elif kind != HEADING:
            for index, sentence in enumerate(split_paragraph(block)):
                yield Sentence(sentence, kind, number, index == 0, section)


def _plain(block: str) -> str:
    block = NOTE.sub("", LINK.sub(r"\1", EMPHASIS.sub("", block)))
    return SPACE.sub(" ", block).strip()


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each paragraph, heading and list item; code blocks are left out."""
    lines: list[str] = []
    kind, fenced = PROSE, False
    for raw in text.splitlines():
        line = raw.strip().removeprefix("> ").lstrip("\ufeff")
        mark = HEADING_MARK.match(line) if line.startswith("#") else None
        if line.startswith(FENCE):
            fenced = not fenced
        if fenced or not line or line.startswith(FENCE):
            yield from _block(kind, lines, alone=not line)
            lines, kind = [], PROSE
        elif mark:
            yield from _block(kind, lines, alone=False)
            yield HEADING, mark[1]
            lines, kind = [], PROSE
        elif RULE.match(line):
            # A rule under a single line makes that line a heading.
            underlined = len(lines) == 1 and kind == PROSE and line[0] in "=-"
            yield from _block(HEADING if underlined else kind, lines, alone=False)
            lines, kind = [], PROSE
        elif BULLET.match(line):
            # "Terms" or "Why memory?" straight above a list is the list's heading.
            above = (
                len(lines) == 1 and kind == PROSE and _looks_like_heading(lines[0].rstrip(":?"))
            )
            yield from _block(HEADING if above else kind, lines, alone=False)
            lines, kind = [BULLET.sub("", line, count=1)], ITEM
        else:
            lines.append(line)
    yield from _block(kind, lines, alone=True)


def _block(kind: str, lines: list[str], *, alone: bool) -> Iterator[tuple[str, str]]:
    if not lines:
        return
    if kind == PROSE and alone and len(lines) == 1 and " " in lines[0]:
        kind = HEADING if _looks_like_heading(lines[0]) else PROSE
    elif kind == PROSE and len(lines) > 1 and _is_run_in_heading(lines[0], lines[1]):
        yield HEADING, lines[0]
        lines = lines[1:]
    joined = " ".join(lines)
    # "well-" and "known" on two lines are one word, whatever the hyphen was for.
    yield kind, re.sub(r"(\w-) (?=[a-zà-ÿ])", r"\1", joined) if len(lines) > 1 else joined


def _looks_like_heading(line: str) -> bool:
    return (
        0 < len(line) <= 80
        and len(line.split()) <= 10
        and line[-1] not in '.!?…:;,。！？।؟"”»)'
        and line[0].isupper()
    )


def _is_run_in_heading(line: str, following: str) -> bool:
    """A short line right above prose; a line that was wrapped is about as long as the next."""
    return (
        len(line) <= 50
        and len(line) * 2 < len(following)
        and following[0].isupper()
        and _looks_like_heading(line)
    )


def split_paragraph(text: str) -> Iterator[str]:
    """The sentences of one paragraph, given with single spaces."""
    # Notes typed without capitals are still sentences.
    lower_starts = text.islower()
    start = 0
    for match in END.finditer(text):
        if _ends_sentence(text, start, match, lower_starts):
            yield from _bounded(text[start : match.end()].strip())
            start = match.end()
    yield from _bounded(text[start:].strip())


def _ends_sentence(text: str, start: int, match: re.Match[str], lower_starts: bool) -> bool:
    end = match.end()
    if end == len(text):
        return True
    if match[0][0] in FULL_WIDTH:
        return True
    if text[end] != " ":
        return False
    following = NEXT_WORD.match(text, end + 1)
    next_word = (following and following[1]) or ""
    if next_word[:1].islower() and not lower_starts:
        return False
    if not match[0].startswith(".") or match[0].startswith(".."):
        return True
    return _full_stop_ends(text[max(start, match.start() - 40) : match.start()], next_word)


def _full_stop_ends(before: str, next_word: str) -> bool:
    """Whether a single full stop between these two ends a sentence."""
    found = LAST_WORD.search(before)
    word = found[0] if found else ""
    lowered, follower = word.lower(), next_word.lower()
    if lowered in TITLES:
        # "No. 5" is a number; "He said no. Then he left." is a sentence.
        return lowered == "no" and not next_word[:1].isdigit()
    if lowered in ABBREVIATIONS:
        return follower in STARTERS
    if len(word) == 1 and word.isalpha() and word != "I":
        # An initial (J. Smith), unless what follows opens a sentence (vitamin C. The …).
        return follower in STARTERS
    if word.isdigit() and len(word) <= 2:
        # "2. Oktober", and a number that opens an item on the same line.
        return follower not in MONTHS and before.strip() != word
    return True


def _bounded(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = len(text)
        if end - start > MAX_SENTENCE:
            end = _cut(text, start + 200, start + MAX_SENTENCE)
        piece = text[start:end].strip()
        if any(map(str.isalnum, piece)):
            yield piece
        start = end


def _cut(text: str, least: int, most: int) -> int:
    """Where to cut an endless sentence: behind a clause, else behind a word, else anywhere."""
    for marks in (("; ", ": ", "、", "，"), (", ",), (" ",)):
        cut = max(text.rfind(mark, least, most) for mark in marks)
        if cut >= 0:
            return cut + 1
    return most
