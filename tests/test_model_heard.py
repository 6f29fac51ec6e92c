"""What a model says beside its text: refusals, thoughts, images, sources, who it is and what it
has used. Each is told once, in its order and in its place."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model_answers import become, choice, delta, document, end, message, said

TEXT = "Hello you"
HELLO, YOU = delta(content="Hello "), delta(content="you")


def parts(*given: Any) -> dict[str, Any]:
    return delta(content=list(given))


def text(piece: str) -> dict[str, str]:
    return {"type": "text", "text": piece}


REFUSED: dict[str, bytes] = {
    "in deltas": said(delta(refusal="Hello "), delta(content=None, refusal="you"), end()),
    "among parts": said(parts({"type": "refusal", "refusal": TEXT}), end()),
    "in a document": document(message=message(None, refusal=TEXT)),
    "with no reason": said(delta(refusal=TEXT)),
    "the message once more": said(
        delta(refusal=TEXT), end(message=message(None, refusal=TEXT))
    ),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_text_and_no_good_answer(
    streams_url: str, cache_url: str, body: bytes
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert (told.text, told.last["finish_reason"]) == (TEXT, "content_filter")
    assert kept is None


def test_a_refusal_that_is_cut_is_cut(streams_url: str, cache_url: str) -> None:
    told, _ = become(streams_url, cache_url, said(delta(refusal="Hel"), end("length")))
    assert (told.text, told.last["finish_reason"]) == ("Hel", "length")


HM, SO = "Hm. ", "So."


def thoughts(name: str, *given: Any) -> bytes:
    return said(*(delta(**{name: it}) for it in given), HELLO, YOU, end())


THOUGHT_OF: dict[str, bytes] = {
    # DeepSeek, and whoever came after it.
    "reasoning_content": thoughts("reasoning_content", HM, SO),
    "beside content that is null": said(
        delta(role="assistant", content=None, reasoning_content=""),
        delta(content=None, reasoning_content=HM),
        delta(content="", reasoning_content=SO),
        delta(content="Hello ", reasoning_content=None),
        YOU,
        end(),
    ),
    # OpenRouter, Ollama, Groq, vLLM, LM Studio.
    "reasoning": thoughts("reasoning", HM, SO),
    "both, the same": said(
        *(delta(reasoning=it, reasoning_content=it) for it in (HM, SO)), HELLO, YOU, end()
    ),
    "reasoning, and its details": said(
        *(
            delta(
                content="",
                reasoning=it,
                reasoning_details=[{"type": "reasoning.text", "text": it, "index": 0}],
            )
            for it in (HM, SO)
        ),
        delta(reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}]),
        HELLO,
        YOU,
        end(),
    ),
    "details alone": thoughts(
        "reasoning_details",
        [{"type": "reasoning.summary", "summary": HM}],
        [{"type": "reasoning.text", "text": SO, "signature": "s"}],
    ),
    "thinking": thoughts("thinking", HM, SO),
    "in an object": thoughts("reasoning", {"content": HM}, {"text": SO}),
    # Mistral.
    "parts": said(
        parts({"type": "thinking", "thinking": [text(HM)]}),
        parts({"type": "thinking", "thinking": [text("So"), text(".")], "closed": True}),
        parts(text("Hello ")),
        YOU,
        end(),
    ),
    "parts of words": said(
        parts({"type": "thinking", "thinking": HM}, {"type": "reasoning", "reasoning": "So"}),
        parts({"type": "reasoning", "text": "."}, {"type": "redacted_thinking", "data": "x"}),
        HELLO,
        YOU,
        end(),
    ),
    "a document": document(message=message(TEXT, reasoning_content=HM + SO)),
    "a document in parts": document(
        message=message([{"type": "thinking", "thinking": [text(HM + SO)]}, text(TEXT)])
    ),
    "the message once more": said(
        delta(reasoning=HM),
        delta(reasoning=SO),
        HELLO,
        YOU,
        end(message=message(TEXT, reasoning=HM + SO)),
    ),
    "messages that grow": said(
        choice(message=message("", reasoning=HM)),
        choice(message=message("", reasoning=HM + SO)),
        choice(message=message("Hello ", reasoning=HM + SO)),
        choice(message=message(TEXT, reasoning=HM + SO)),
        end(),
    ),
    "more of them in the message than in deltas": said(
        delta(reasoning=HM), HELLO, end(message=message(TEXT, reasoning=HM + SO))
    ),
}


@pytest.mark.parametrize("body", THOUGHT_OF.values(), ids=THOUGHT_OF)
def test_thoughts_are_told_once_and_apart_from_the_text(
    streams_url: str, cache_url: str, body: bytes
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert told.last["type"] == "run.completed", told.last
    assert (told.thoughts, told.text, told.record.output) == (HM + SO, TEXT, TEXT)
    assert told.events[1]["type"] == "reasoning.delta"
    assert kept is not None and kept.parts == told.record.parts


def test_thoughts_and_text_that_take_turns_keep_their_order(
    streams_url: str, cache_url: str
) -> None:
    turns = [
        {"type": "thinking", "thinking": "1"},
        text("a"),
        {"type": "thinking", "thinking": "2"},
    ]
    for body in (
        said(parts(*turns), delta(content="b"), end()),
        said(*map(parts, turns), delta(content="b"), end()),
        document(message=message([*turns, text("b")])),
    ):
        told, kept = become(streams_url, cache_url, body)
        assert [it["text"] for it in told.record.parts] == ["1", "a", "2", "b"]
        assert kept is not None and kept.parts == told.record.parts


def test_halves_of_a_character_meet_though_thoughts_come_between(
    streams_url: str, cache_url: str
) -> None:
    body = said(
        delta(content="a\ud83c"),
        delta(reasoning="b\ud83c"),
        delta(content="\udfd4"),
        delta(reasoning="\udfd4"),
        delta(content="\ud83c", reasoning="\ud83c"),
        end(),
    )
    told, _ = become(streams_url, cache_url, body)
    assert (told.text, told.thoughts) == ("a🏔\ufffd", "b🏔\ufffd")


@pytest.mark.parametrize("given", [True, [], {}, {"x": "y"}, [{"type": "x"}], [None, 7]])
def test_thoughts_that_are_not_understood_are_left_out(
    streams_url: str, cache_url: str, given: Any
) -> None:
    told, kept = become(streams_url, cache_url, thoughts("reasoning", given))
    assert (told.text, told.thoughts) == (TEXT, "") and kept is not None


@pytest.mark.parametrize("place", ["a field", "a part"])
def test_thoughts_that_are_nested_too_deep_are_left_out(
    streams_url: str, cache_url: str, place: str
) -> None:
    nested: Any = "Hm."
    for _ in range(700):
        nested = {"text": nested}
    part = parts({"type": "thinking", "thinking": nested})
    body = (
        thoughts("reasoning", nested) if place == "a field" else said(part, HELLO, YOU, end())
    )
    told, kept = become(streams_url, cache_url, body)
    assert (told.text, told.thoughts) == (TEXT, "") and kept is not None


PIXEL = "data:image/png;base64,AAAA"
PAGE = "https://x.test/a%20b.webp?size=1"
IMAGES: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "images of a delta": (
        said(delta(images=[{"type": "image_url", "image_url": {"url": PIXEL}}]), end()),
        [("image/png", PIXEL)],
    ),
    "by their address, beside text": (
        said(HELLO, delta(content="you", images=[{"image_url": {"url": PAGE}}]), end()),
        [("image/webp", PAGE)],
    ),
    "an address that says nothing of its kind": (
        said(HELLO, delta(images=[{"url": "https://x.test/1"}]), end()),
        [("image/*", "https://x.test/1")],
    ),
    "a part": (
        said(parts(text("Hi"), {"type": "image_url", "image_url": {"url": PIXEL}}), end()),
        [("image/png", PIXEL)],
    ),
    "a part with its address": (
        said(parts({"type": "image_url", "image_url": PIXEL}), end()),
        [("image/png", PIXEL)],
    ),
    "the message once more": (
        said(
            delta(images=[{"image_url": {"url": PIXEL}}]),
            end(message=message("", images=[{"image_url": {"url": PIXEL}}, {"url": PAGE}])),
        ),
        [("image/png", PIXEL), ("image/webp", PAGE)],
    ),
    "a document": (
        document(message=message(TEXT, images=[{"image_url": {"url": PIXEL}}])),
        [("image/png", PIXEL)],
    ),
}


@pytest.mark.parametrize(("body", "expected"), IMAGES.values(), ids=IMAGES)
def test_images_are_files_each_told_once(
    streams_url: str, cache_url: str, body: bytes, expected: list[tuple[str, str]]
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert told.last["type"] == "run.completed", told.last
    assert [(it["media_type"], it["url"]) for it in told.only("file")] == expected
    assert kept is not None and kept.parts == told.record.parts


def test_an_image_that_is_too_large_is_left_out_and_said(
    streams_url: str, cache_url: str
) -> None:
    image = {"image_url": {"url": PIXEL + "A" * 40_000}}
    told, kept = become(streams_url, cache_url, said(HELLO, delta(images=[image]), end()))
    assert (told.last["type"], told.last["finish_reason"]) == ("run.completed", "other")
    about = {"type": "file", "media_type": "image/png", "bytes": 40_026}
    assert [(it["name"], it["value"]) for it in told.only("data")] == [("left_out", about)]
    assert told.only("file") == [] and kept is None


ONE, TWO = "https://x.test/1", "http://x.test/2"


def cited(url: Any, title: Any = None) -> dict[str, Any]:
    inner = {"url": url, "title": title, "start_index": 0, "end_index": 5}
    return {"type": "url_citation", "url_citation": inner}


CITED: dict[str, bytes] = {
    "in deltas": said(
        delta(content="Hello ", annotations=[cited(ONE, "One")]),
        delta(content="you", annotations=[cited(ONE, "One"), cited(TWO)]),
        end(),
    ),
    "flat": said(
        delta(
            annotations=[{"type": "url_citation", "url": ONE, "title": "One"}, cited(TWO, "")]
        ),
        HELLO,
        YOU,
        end(),
    ),
    "behind the end": said(
        HELLO, YOU, end(), choice(delta={"annotations": [cited(ONE, "One"), cited(TWO)]})
    ),
    "in the message once more": said(
        HELLO,
        delta(content="you", annotations=[cited(ONE, "One")]),
        end(message=message(TEXT, annotations=[cited(ONE, "One"), cited(TWO)])),
    ),
    "a document": document(
        message=message(TEXT, annotations=[cited(ONE, "One"), cited(ONE), cited(TWO)])
    ),
    "lists beside the choices": said(
        {**HELLO, "search_results": [{"url": ONE, "title": "One"}], "citations": [ONE, TWO]},
        {**YOU, "citations": [ONE, TWO]},
        end(),
    ),
    "among what is none": said(
        delta(
            annotations=[
                *(None, 5, "x", {}, {"type": "file_citation", "file_citation": {}}),
                *(cited(5), cited("javascript:alert(1)"), cited("https://" + "x" * 3000)),
                *(cited(ONE, "One"), cited(TWO, 5)),
            ]
        ),
        delta(annotations="x"),
        HELLO,
        YOU,
        end(),
    ),
}


@pytest.mark.parametrize("body", CITED.values(), ids=CITED)
def test_what_it_stands_on_is_told_once(streams_url: str, cache_url: str, body: bytes) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert told.text == TEXT and told.last["finish_reason"] == "stop"
    sources = [(it["id"], it["url"], it.get("title")) for it in told.only("source")]
    assert sources == [("source_0", ONE, "One"), ("source_1", TWO, None)]
    assert kept is not None and kept.parts == told.record.parts


def test_sources_have_a_bound(streams_url: str, cache_url: str) -> None:
    many = [cited(f"https://x.test/{n}") for n in range(2000)]
    told, _ = become(streams_url, cache_url, said(HELLO, delta(annotations=many), YOU, end()))
    shown = [it for it in told.record.parts if it["type"] == "source"]
    assert told.last["type"] == "run.completed" and len(shown) == 100


COUNTS = {"prompt_tokens": 7, "completion_tokens": 11}


def test_the_model_that_answered_is_named(streams_url: str, cache_url: str) -> None:
    usage = {"choices": [], "usage": COUNTS}
    for body, counted in (
        (said({**HELLO, "model": "m-1"}, {**end(), "model": "m-1"}, usage), True),
        (said({**HELLO, "model": "other"}, {**end(), "model": "m-1"}), False),
        (
            said({"model": "m-1", **HELLO}, {**YOU, "model": ""}, {**end(), "model": None}),
            False,
        ),
        (said(HELLO, end(), {**usage, "model": "m-1"}), True),
    ):
        told, kept = become(streams_url, cache_url, body)
        assert told.last["model"] == told.record.model == "m-1"
        assert (told.last["usage"] is not None) == counted
        assert kept is not None and kept.model == "m-1"
    told, _ = become(streams_url, cache_url, said({**HELLO, "model": 5}, end(), usage))
    assert told.last["model"] is None


DETAILS: dict[str, dict[str, Any]] = {
    "OpenAI's": {
        "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 9},
    },
    "DeepSeek's": {
        "prompt_cache_hit_tokens": 5,
        "prompt_cache_miss_tokens": 2,
        "completion_tokens_details": {"reasoning_tokens": 9},
    },
    "flat": {"cached_tokens": 5, "reasoning_tokens": 9},
}


@pytest.mark.parametrize("details", DETAILS.values(), ids=DETAILS)
def test_what_was_cached_and_what_was_thought_is_counted(
    streams_url: str, cache_url: str, details: dict[str, Any]
) -> None:
    body = said(HELLO, end(), {"choices": [], "usage": {**COUNTS, **details}})
    told, kept = become(streams_url, cache_url, body)
    usage = {
        "input_tokens": 7,
        "output_tokens": 11,
        "cached_input_tokens": 5,
        "reasoning_tokens": 9,
    }
    assert told.last["usage"] == usage == told.record.usage
    assert kept is not None and kept.usage == usage


@pytest.mark.parametrize("details", [None, [], "x", {"cached_tokens": None}, {"x": "y"}])
def test_details_that_are_none_are_not_told(
    streams_url: str, cache_url: str, details: Any
) -> None:
    usage = {**COUNTS, "prompt_tokens_details": details, "completion_tokens_details": details}
    told, _ = become(
        streams_url, cache_url, said(HELLO, end(), {"choices": [], "usage": usage})
    )
    assert told.last["usage"] == {"input_tokens": 7, "output_tokens": 11}
