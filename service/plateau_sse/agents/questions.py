"""Gaps: sentences with a term or a number taken out, and wrong answers to go with it.

Invariant: every answer stands in the text, a wrong choice never stands in its own question, and
the same text always gives the same questions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from plateau_sse.agents.definitions import (
    Card,
    defined_subject,
    explain,
    labelled,
    without_article,
)
from plateau_sse.agents.ranking import UNSPACED, Reading, tokens
from plateau_sse.agents.terms import Term

GAP = "_____"
CHOICES = 4
# Wrong choices are drawn from this many of the likeliest, so that they are not always the same.
DRAWN_FROM = 9
LABELS = 2000

NUMBER = re.compile(
    r"(?<![\w.,:-])(?:\d{1,3}(?:[ \u202f\u00a0]\d{3})+|\d+(?:[.,]\d+)*)(?![\w-]|[.,:]\d)"
)
YEAR = re.compile(r"1[0-9]{3}|20[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Question:
    """`choices` is empty where the text offers too few wrong answers to choose from."""

    text: str
    answer: str
    choices: tuple[str, ...] = ()


def make_card(reading: Reading, at: int, terms: Sequence[Term]) -> Card | None:
    """A card from the sentence `at`, or None where nothing in it can be asked."""
    card = explain(reading, reading.items[at])
    if card:
        return card
    gap = find_gap(reading, at, terms)
    return Card(gap.text, gap.answer, gap.answer) if gap else None


def make_question(
    reading: Reading, at: int, terms: Sequence[Term], used: frozenset[str] = frozenset()
) -> Question | None:
    """A question from the sentence `at` whose answer is not in `used` (lower case), or None."""
    gap = find_gap(reading, at, terms, used)
    if gap is None:
        return None
    if NUMBER.fullmatch(gap.answer):
        wrong = _other_numbers(gap.answer, gap.text)
    else:
        wrong = _other_labels(reading, gap) or _other_terms(gap, terms)
    if len(wrong) < CHOICES - 1:
        return gap
    choices = sorted([gap.answer, *wrong], key=lambda choice: _digest(gap.text, choice))
    return Question(gap.text, gap.answer, tuple(choices))


def find_gap(
    reading: Reading, at: int, terms: Sequence[Term], used: frozenset[str] = frozenset()
) -> Question | None:
    """The sentence `at` with what it defines, else a number, else a term taken out."""
    item = reading.items[at]
    text = item.text
    if len(text) < 25 and not UNSPACED.search(text):
        return None
    label = labelled(item)
    if label and label.term.casefold() not in used:
        return Question(f"{GAP}: {label.back}", label.term)
    found = defined_subject(reading, text)
    answers = [without_article(found["subject"])] if found else []
    answers += [match[0] for match in NUMBER.finditer(text) if len(match[0]) > 1]
    fitting = [term for term in terms if _places(text, term.text)]
    # The theme of the whole text would be too easy a guess.
    fitting.sort(key=lambda term: (-len(term.key), not term.as_noun, term.count))
    answers += [term.text for term in fitting]
    for answer in answers:
        if answer.casefold() not in used:
            spelling = _spelling(answer, terms)
            return Question(_with_gap(text, _places(text, answer)), spelling)
    return None


def _spelling(answer: str, terms: Sequence[Term]) -> str:
    """The answer as it is spelt inside sentences."""
    folded = answer.casefold()
    return next((term.text for term in terms if term.text.casefold() == folded), answer)


def _places(text: str, answer: str) -> list[tuple[int, int]]:
    if UNSPACED.search(answer):
        at = text.find(answer)
        return [(at, at + len(answer))] if at >= 0 else []
    pattern = rf"(?<![\w-]){re.escape(answer)}(?![\w-])"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]


def _with_gap(text: str, places: list[tuple[int, int]]) -> str:
    for start, end in reversed(places):
        text = text[:start] + GAP + text[end:]
    # "an _____" would give away how the answer begins.
    return re.sub(rf"\b([Aa])n? (?={GAP})", r"\1(n) ", text)


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).digest()


def _other_labels(reading: Reading, gap: Question) -> list[str]:
    """For a list of terms with their meanings: three others of its terms, else none."""
    labels = [card.term for card in map(labelled, reading.items[:LABELS]) if card]
    others = [
        label
        for label in dict.fromkeys(labels)
        if label != gap.answer and label.casefold() not in gap.text.casefold()
    ]
    if gap.answer not in labels or len(others) < CHOICES - 1:
        return []
    return sorted(others, key=lambda other: _digest(gap.text, "wrong", other))[: CHOICES - 1]


def _other_terms(gap: Question, terms: Sequence[Term]) -> list[str]:
    """Terms of the same make as the answer that do not stand in the question."""
    answer = gap.answer
    inside = set(tokens(gap.text)) | set(tokens(answer))

    def is_apart(other: str) -> bool:
        folded, wanted = other.casefold(), answer.casefold()
        return not (inside.intersection(tokens(other)) or folded in wanted or wanted in folded)

    def likeness(other: str) -> int:
        return (
            2 * (len(other.split()) == len(answer.split()))
            + 2 * ((other[-1] == "s") == (answer[-1] == "s"))
            + 3 * (other[0].isupper() == answer[0].isupper())
            + 2 * (other.isupper() == answer.isupper())
        )

    apart = [term.text for term in terms if is_apart(term.text)]
    apart.sort(key=lambda other: -likeness(other))
    drawn = sorted(apart[:DRAWN_FROM], key=lambda other: _digest(gap.text, "wrong", other))
    return drawn[: CHOICES - 1]


def _other_numbers(answer: str, text: str) -> list[str]:
    """Three numbers of the same order and the same format."""
    if YEAR.fullmatch(answer):
        steps = sorted((-19, -12, -8, -3, 4, 7), key=lambda step: _digest(text, str(step)))
        return [str(int(answer) + step) for step in steps[: CHOICES - 1]]
    value = int(re.sub(r"\D", "", answer)[:15])
    if value < 10:
        near = [value + 1, value + 2, value - 1 if value > 1 else value + 3]
    else:
        near = [value * 2, value // 2, value + max(1, value // 4)]
    return [_punctuated(str(other), answer) for other in near]


def _punctuated(digits: str, like: str) -> str:
    """`digits` with the marks of `like` at the same places, counted from the right."""
    marks = {
        sum(map(str.isdigit, like[at:])): mark
        for at, mark in enumerate(like)
        if not mark.isdigit()
    }
    if marks and min(marks) != 3:
        # A decimal mark has a digit before it; a mark of thousands may fall away.
        digits = digits.zfill(min(marks) + 1)
    out = ""
    for left, digit in zip(range(len(digits), 0, -1), digits, strict=True):
        out += (marks.get(left, "") if out else "") + digit
    return out
