"""The agent `study`: a summary, flashcards or a quiz, made from the text that it is given.

It needs no model and no network: it reads the text, ranks its sentences and writes with the
text's own words.

Invariant: the same text and options always give the same answer, since answers are cached; and
the event loop is never held for longer than a short text takes: long ones are worked on in a
thread.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from plateau_sse.agents import AgentError, Progress, Run, Usage, Yielded
from plateau_sse.agents.definitions import is_definition
from plateau_sse.agents.questions import Question, make_card, make_question
from plateau_sse.agents.ranking import Reading, choose, rank, read
from plateau_sse.agents.sentences import HEADING
from plateau_sse.agents.terms import Term, find_terms

# What is known of a text takes two hundred times its bytes. Who is to have it sees to that.
INPUT_BYTES = 64 * 1024
PACE_MS = 20
WORDS_A_PIECE = 2
PIECE_CHARACTERS = 24
# About 3 ms of work.
SHORT_TEXT = 8_000
WORDS_A_MINUTE = 220

# What clients of models send to whatever answers; there is no model here.
OF_MODELS = frozenset(
    "model temperature top_p max_tokens max_completion_tokens seed stop tools tool_choice "
    "parallel_tool_calls response_format presence_penalty frequency_penalty logit_bias "
    "reasoning_effort verbosity service_tier store metadata".split()
)

DEFAULT_LENGTH = {"summary": 5, "flashcards": 8, "quiz": 5}
PIECE = re.compile(rf"(?:\s*\S{{1,{PIECE_CHARACTERS}}}){{1,{WORDS_A_PIECE}}}\s*|\s+")
# Of a long text only this many of the best sentences are looked at for definitions.
CANDIDATES = 400
DEFINES = 1.6

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the options ask for; `length` counts sentences, cards or questions."""

    task: str
    length: int
    pace_ms: int


@dataclass(frozen=True, slots=True)
class Material:
    """A text with all that is known about it."""

    reading: Reading
    scores: list[float]
    terms: list[Term]


async def study(run: Run) -> AsyncIterator[Yielded]:
    """Streams Markdown. Options: `task` (summary, flashcards, quiz), `length` (1-20), `pace_ms`
    (0-200, between pieces of two words). Usage counts words, as there are no tokens here."""
    plan = _plan(run.options)
    text = run.input
    if not text.strip():
        raise AgentError(
            "invalid_options", "There is no text to study: send some as the input."
        )
    yield Progress(1, 3, f"reading {len(text):,} characters", "reader", 5.0)
    reading = await _work(text, lambda: read(text))
    yield Progress(2, 3, f"ranking {_sentences(len(reading.items))}", "ranker", 25.0)
    scores = await _work(text, lambda: rank(reading))
    terms = await _work(text, lambda: find_terms(reading))
    material = Material(reading, scores, terms)
    yield Progress(3, 3, f"writing the {plan.task}", "writer", 40.0)
    parts = await _work(text, lambda: list(WRITERS[plan.task](material, plan.length)))
    written = 0
    for done, part in enumerate(parts, start=1):
        for piece in pieces(part):
            yield piece
            await asyncio.sleep(plan.pace_ms / 1000)
        written += len(part.split())
        message = f"part {done} of {len(parts)}"
        yield Progress(3, 3, message, "writer", 40.0 + 60.0 * done / len(parts))
    yield Usage(reading.word_count, written)


async def _work(text: str, work: Callable[[], T]) -> T:
    return work() if len(text) <= SHORT_TEXT else await asyncio.to_thread(work)


def pieces(text: str) -> Iterator[str]:
    """`text` cut behind every second word; joined again they are the text."""
    return (match[0] for match in PIECE.finditer(text))


def _plan(options: Any) -> Plan:
    unknown = sorted(set(options) - {"task", "length", "pace_ms"} - OF_MODELS)
    if unknown:
        raise AgentError(
            "invalid_options",
            f"study has no option {unknown[0]!r}: it takes task, length and pace_ms.",
        )
    task = options.get("task", "summary")
    if not isinstance(task, str) or task not in DEFAULT_LENGTH:
        raise AgentError("invalid_options", "task must be summary, flashcards or quiz.")
    length = _whole(options, "length", DEFAULT_LENGTH[task], 1, 20)
    return Plan(task, length, _whole(options, "pace_ms", PACE_MS, 0, 200))


def _whole(options: Any, name: str, default: int, least: int, most: int) -> int:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise AgentError(
            "invalid_options", f"{name} must be a whole number from {least} to {most}."
        )
    return value


def summary(material: Material, length: int) -> Iterator[str]:
    """A heading, the sentence that says most, the others in the order of the text, terms."""
    reading = material.reading
    best = choose(reading, material.scores, length)
    if not best:
        yield _too_short("a summary")
        return
    opening = next(at for at, item in enumerate(reading.items) if item.kind != HEADING)
    lead = opening if opening in best else best[0]
    points = [f"- {_as_point(reading.items[at].text)}\n" for at in sorted(best) if at != lead]
    yield f"## {_heading(reading, 'Summary')}\n\n"
    yield f"**{reading.items[lead].text}**\n\n"
    for number, point in enumerate(points, start=1):
        yield point if number < len(points) else f"{point}\n"
    terms = _key_terms(material, 6)
    if len(terms) > 1:
        yield f"Key terms: {', '.join(terms)}\n\n"
    total = sum(1 for score in material.scores if score > 0)
    minutes = max(1, round(reading.word_count / WORDS_A_MINUTE))
    takes = f"the whole text takes about {minutes} min to read"
    yield f"*{len(best)} of {_sentences(total)}; {takes}.*\n"


def _sentences(count: int) -> str:
    return f"{count:,} sentence" if count == 1 else f"{count:,} sentences"


def _heading(reading: Reading, what: str) -> str:
    return f"{what}: {reading.title}" if reading.title else what


def _as_point(text: str) -> str:
    return text[0].upper() + text[1:]


def _key_terms(material: Material, count: int) -> list[str]:
    kept: list[Term] = []
    for term in material.terms:
        inside = any(set(term.key) & set(other.key) for other in kept)
        if term.count > 1 and not inside and len(kept) < count:
            kept.append(term)
    return [term.text for term in kept]


def _too_short(what: str) -> str:
    return f"There is too little text here for {what}. Send a paragraph or two.\n"


def _sources(material: Material, length: int) -> list[int]:
    """More sentences than needed, best first, since not each of them can be asked about;
    those that define something come forward."""
    scores = material.scores[:]
    best = sorted(range(len(scores)), key=lambda at: -scores[at])[:CANDIDATES]
    for at in best:
        if is_definition(material.reading, material.reading.items[at]):
            scores[at] *= DEFINES
    return choose(material.reading, scores, 2 * length + 10)


def flashcards(material: Material, length: int) -> Iterator[str]:
    """Cards in the order of the text."""
    cards: dict[int, tuple[str, str]] = {}
    answers: set[str] = set()
    for at in _sources(material, length):
        card = make_card(material.reading, at, material.terms)
        if card and card.term.casefold() not in answers and len(cards) < length:
            answers.add(card.term.casefold())
            cards[at] = (card.front, card.back)
    if not cards:
        yield _too_short("flashcards")
        return
    yield f"## {_heading(material.reading, 'Flashcards')}\n\n"
    for number, at in enumerate(sorted(cards), start=1):
        front, back = cards[at]
        yield f"### Card {number}\n\n**Front:** {front}\n\n**Back:** {back}\n\n"
    yield from _fewer(len(cards), length, "cards")


def quiz(material: Material, length: int) -> Iterator[str]:
    """Questions in the order of the text, then the key."""
    questions: dict[int, Question] = {}
    used: set[str] = set()
    for at in _sources(material, length):
        question = make_question(material.reading, at, material.terms, frozenset(used))
        if question and len(questions) < length:
            used.add(question.answer.casefold())
            questions[at] = question
    if not questions:
        yield _too_short("a quiz")
        return
    yield f"## {_heading(material.reading, 'Quiz')}\n\n"
    yield "What belongs in the gap?\n\n"
    ordered = [questions[at] for at in sorted(questions)]
    for number, question in enumerate(ordered, start=1):
        lettered = zip("ABCD", question.choices, strict=False)
        choices = "".join(f"- {letter}) {choice}\n" for letter, choice in lettered)
        yield f"### Question {number}\n\n{question.text}\n\n" + (choices and choices + "\n")
    yield from _fewer(len(ordered), length, "questions")
    yield "## Answers\n\n"
    for number, question in enumerate(ordered, start=1):
        yield f"{number}. {_key(question)}\n"


def _key(question: Question) -> str:
    if not question.choices:
        return question.answer
    letter = "ABCD"[question.choices.index(question.answer)]
    return f"{letter}) {question.answer}"


def _fewer(count: int, length: int, what: str) -> Iterator[str]:
    if count < length:
        yield f"*The text has material for {count} of the {length} {what} asked for.*\n\n"


WRITERS: dict[str, Callable[[Material, int], Iterator[str]]] = {
    "summary": summary,
    "flashcards": flashcards,
    "quiz": quiz,
}
