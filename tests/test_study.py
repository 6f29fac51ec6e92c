"""The agent `study` on real texts: what it writes, how it arrives, and that it stays quick."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.agents import AgentError, Progress, Run, Usage, Yielded
from plateau_sse.agents.ranking import choose, rank, read
from plateau_sse.agents.registry import load_agents
from plateau_sse.agents.sentences import HEADING, MAX_SENTENCE, split
from plateau_sse.agents.study import INPUT_BYTES, pieces, study
from plateau_sse.settings import Settings

TEXTS = Path(__file__).parent / "texts"
PHOTOSYNTHESIS = (TEXTS / "photosynthesis.txt").read_text()
NOTES = (TEXTS / "lecture_notes.txt").read_text()
WATTENMEER = (TEXTS / "wattenmeer.txt").read_text()
TASKS = ("summary", "flashcards", "quiz")

CHINESE = (
    "光合作用是植物利用光能将二氧化碳和水转化为有机物的过程。光合作用在叶绿体中进行。"
    "叶绿体含有叶绿素，叶绿素吸收红光和蓝光。植物在光反应中分解水，释放氧气。"
    "卡尔文循环利用二氧化碳合成糖。1961年，梅尔文·卡尔文因此获得诺贝尔化学奖。"
    "没有光合作用，大气中就不会有氧气。"
)
RUSSIAN = (
    "Фотосинтез превращает свет в химическую энергию. Хлорофилл поглощает красный свет. "
    "В 1961 году Мелвин Калвин получил премию. Растения выделяют кислород."
)


def study_all(text: str, **options: Any) -> list[Yielded]:
    async def main() -> list[Yielded]:
        run = Run("r1", "study", text, (), {"pace_ms": 0, **options})
        return [part async for part in study(run)]

    return asyncio.run(main())


def study_text(text: str, **options: Any) -> str:
    return "".join(part for part in study_all(text, **options) if isinstance(part, str))


def sentences_of(text: str) -> list[str]:
    return [item.text for item in split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $3.50. He left.", ["Dr. Smith paid $3.50.", "He left."]),
        ("It was, e.g. in Jan. 2020, cold.", ["It was, e.g. in Jan. 2020, cold."]),
        ("J. R. Smith lives in the U.S. The rest moved.", 2),
        ("Eat vitamin C. The body needs it.", 2),
        ("See Fig. 3 and No. 5 for more. He said no. Then he left.", 3),
        ("Wait... what? “Why?” she asked. “No!” He ran.", 4),
        ("Version 2.0.1 is at example.com today. Get it.", 2),
        ("and so on… until it ends… The end", ["and so on… until it ends…", "The end"]),
        ("no capitals here. still two sentences.", 2),
        ("Am 3. Oktober kam z. B. Dr. Jansen. Er blieb.", 2),
        ("¿Qué tal? ¡Hola! Bien.", 3),
        ("它需要光！对吗？是的。", 3),
        ("Hello", ["Hello"]),
        ("", []),
        ("!!! ... ---", []),
        (
            "- one is first\n- two is\n  second\n3. three",
            ["one is first", "two is second", "three"],
        ),
        ("hard wrapped\nlines are well-\nknown", ["hard wrapped lines are well-known"]),
        ("```\ncode. more code.\n```\nText.", ["Text."]),
        ("See [the docs](http://x.y/z.html) and **this**.[3]", ["See the docs and this."]),
    ],
)
def test_sentences(text: str, expected: list[str] | int) -> None:
    found = sentences_of(text)
    assert (len(found) if isinstance(expected, int) else found) == expected, found


@pytest.mark.parametrize(
    "text", ["# A title\nText.", "A title\n=======\nText.", "A title\n\nText follows it here."]
)
def test_headings(text: str) -> None:
    heading, prose = split(text)
    assert (heading.text, heading.kind, prose.section) == ("A title", HEADING, "A title")


def test_the_best_sentence_is_about_the_subject() -> None:
    reading = read(PHOTOSYNTHESIS)
    best = choose(reading, rank(reading), 6)
    chosen = " ".join(reading.items[at].text for at in best)
    assert reading.language == "en"
    assert "Photosynthesis is the process" in chosen
    assert "Calvin cycle" in chosen
    assert "light reactions" in chosen


def test_a_repeated_sentence_is_chosen_once() -> None:
    reading = read(
        "Water flows to the salt in the cell. " * 50 + "Cells with salt take up water."
    )
    assert len(choose(reading, rank(reading), 10)) == 2


def test_a_summary_is_made_of_sentences_of_the_text_in_their_order() -> None:
    answer = study_text(PHOTOSYNTHESIS, length=6)
    points = re.findall(r"^- (.*)$", answer, re.MULTILINE)
    places = [PHOTOSYNTHESIS.index(point) for point in points]
    assert answer.startswith("## Summary: How a leaf makes sugar\n\n**Photosynthesis is the")
    assert len(points) == 5
    assert places == sorted(places)


def test_flashcards_ask_for_what_the_text_explains() -> None:
    cards = study_text(NOTES, task="flashcards", length=10)
    assert "**Front:** Page table\n\n**Back:** The map from pages to frames" in cards
    assert "**Front:** What is chlorophyll?" in study_text(PHOTOSYNTHESIS, task="flashcards")
    assert "**Front:** Was ist das Wattenmeer?" in study_text(WATTENMEER, task="flashcards")


@pytest.mark.parametrize("text", [PHOTOSYNTHESIS, NOTES, WATTENMEER, CHINESE])
def test_a_quiz_and_its_key_agree(text: str) -> None:
    answer = study_text(text, task="quiz", length=4)
    body, key = answer.split("## Answers\n\n")
    questions = body.split("### Question ")[1:]
    answers = re.findall(r"^\d+\. ([A-D])\) (.+)$", key, re.MULTILINE)
    assert len(questions) == len(answers) == 4
    assert len({right for _, right in answers}) == 4
    for question, (letter, right) in zip(questions, answers, strict=True):
        asked, *choices = re.split(r"^- ", question, flags=re.MULTILINE)
        assert "_____" in asked
        assert len({choice[3:].strip() for choice in choices}) == 4
        assert f"{letter}) {right}" in [choice.strip() for choice in choices]
        assert right.casefold() in text.casefold()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "text", ["Hello", "!?", "Kurz.", CHINESE, RUSSIAN, "a\n" * 50, "\0 \ud800"]
)
def test_any_text_gets_a_readable_answer(text: str, task: str) -> None:
    assert study_text(text, task=task).strip()


def test_the_same_text_always_gives_the_same_answer() -> None:
    for task in TASKS:
        assert study_all(WATTENMEER, task=task) == study_all(WATTENMEER, task=task)


def test_it_arrives_in_small_pieces_with_progress_and_usage() -> None:
    parts = study_all(PHOTOSYNTHESIS, task="quiz")
    texts = [part for part in parts if isinstance(part, str)]
    progress = [part for part in parts if isinstance(part, Progress)]
    assert max(len(text.split()) for text in texts) <= 2
    assert [part.current_agent for part in progress[:3]] == ["reader", "ranker", "writer"]
    shares = [part.percentage or 0 for part in progress]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    words = len("".join(texts).split())
    assert parts[-1] == Usage(read(PHOTOSYNTHESIS).word_count, words)


@pytest.mark.parametrize(
    "text", ["\n\n a b\n", "one two  three\n\nfour", "x" * 100, " ", "光" * 80]
)
def test_pieces_joined_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


def test_the_pace_can_be_watched_and_can_be_overridden() -> None:
    async def timed(**options: Any) -> float:
        began = time.monotonic()
        async for _ in study(Run("r1", "study", "Hello there, all of you.", (), options)):
            pass
        return time.monotonic() - began

    # Nineteen words with heading and closing line: ten pieces, 20 ms behind each.
    assert asyncio.run(timed()) > 0.15
    assert asyncio.run(timed(pace_ms=0)) < 0.15


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "poem"}, "summary, flashcards or quiz"),
        ({"task": ["quiz"]}, "summary, flashcards or quiz"),
        ({"length": 0}, "from 1 to 20"),
        ({"length": 21}, "from 1 to 20"),
        ({"length": True}, "whole number"),
        ({"length": "5"}, "whole number"),
        ({"length": 2.5}, "whole number"),
        ({"pace_ms": 201}, "from 0 to 200"),
        ({"tempo": 3}, "task, length and pace_ms"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(AgentError, match=said) as caught:
        study_all(NOTES, **options)
    assert caught.value.code == "invalid_options"


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(AgentError, match="no text"):
        study_all(" \n ")


DISTINCT = " ".join(f"w{number * 7}" for number in range(INPUT_BYTES // 6))[:INPUT_BYTES]


@pytest.mark.parametrize(
    "text",
    [
        PHOTOSYNTHESIS * (INPUT_BYTES // len(PHOTOSYNTHESIS.encode())),
        "x" * INPUT_BYTES,
        "." * (INPUT_BYTES - 1) + "a",
        "Word " * (INPUT_BYTES // 5),
        "光" * (INPUT_BYTES // 3),
        "[" * INPUT_BYTES,
        DISTINCT,
    ],
    ids="article word full-stops sentence character brackets distinct".split(),
)
def test_the_longest_text_is_bounded_and_leaves_the_loop_to_others(text: str) -> None:
    async def main() -> tuple[str, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        run = Run("r1", "study", text, (), {"task": "quiz", "pace_ms": 0, "length": 20})
        parts = [part async for part in study(run)]
        ticking.cancel()
        return "".join(part for part in parts if isinstance(part, str)), ticks

    began = time.monotonic()
    answer, ticks = asyncio.run(main())
    took_s = time.monotonic() - began
    assert len(answer) < 20 * 8 * MAX_SENTENCE
    # In a thread the interpreter is shared by turns of 5 ms.
    assert ticks >= 3 or took_s < 0.1


def test_a_longer_one_is_refused_by_name() -> None:
    for text in ("a" * (INPUT_BYTES + 1), "ä" * (INPUT_BYTES // 2 + 1), "w1 " * 350_000):
        with pytest.raises(AgentError, match="study reads 64 KiB") as caught:
            load_agents(Settings())["study"].begin(Run("r1", "study", text, ()))
        assert caught.value.code == "invalid_options"


def test_what_is_asked_at_once_leaves_no_memory_behind() -> None:
    """A runner of its own; six of a megabyte once took 1.45 GiB."""
    code = (
        "import asyncio, sys, psutil\n"
        "from plateau_sse.agents import Run\n"
        "from plateau_sse.agents.study import study\n"
        "from plateau_sse.heap import give_back_free_pages\n"
        "async def one(text):\n"
        "    run = Run('r', 'study', text, (), {'pace_ms': 0})\n"
        "    return [part async for part in study(run)]\n"
        "async def main(text):\n"
        "    await one('A plateau is high. ' * 50)\n"
        "    process, before, most = psutil.Process(), 0, 0\n"
        "    before = process.memory_info().rss\n"
        "    for turn in range(3):\n"
        "        await asyncio.gather(*(one(text) for _ in range(6)))\n"
        "        most = max(most, process.memory_info().rss)\n"
        "    give_back_free_pages()\n"
        "    print(most - before, process.memory_info().rss - before)\n"
        "asyncio.run(main(sys.stdin.read()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=DISTINCT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    most, left = (int(word) / 2**20 for word in done.stdout.split())
    assert left < 32, (most, left)


def test_work_grows_with_the_text_and_not_with_its_square() -> None:
    def seconds(copies: int) -> float:
        began = time.process_time()
        reading = read(PHOTOSYNTHESIS * copies)
        choose(reading, rank(reading), 20)
        return time.process_time() - began

    seconds(1)
    # 16 times the text: a quadratic step would take 256 times as long.
    assert seconds(64) < 64 * max(seconds(4), 0.001)
