"""What an answer of a model holds: understood and told once, or an error; never silence."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model_answers import become, choice, delta, document, end, message, said

TEXT = "Hello you"


def parts(*given: Any) -> dict[str, Any]:
    return delta(content=list(given))


def text(piece: str) -> dict[str, str]:
    return {"type": "text", "text": piece}


HELLO, YOU = delta(content="Hello "), delta(content="you")
THOUGHT = {"type": "thinking", "thinking": [text("Hm.")]}

SAID: dict[str, bytes] = {
    "deltas": said(HELLO, YOU, end()),
    "a role first": said(delta(role="assistant"), HELLO, YOU, end()),
    "content that is null": said(delta(role="assistant", content=None), HELLO, YOU, end()),
    "CR LF": said(HELLO, YOU, end()).replace(b"\n", b"\r\n"),
    "CR": said(HELLO, YOU, end()).replace(b"\n", b"\r"),
    "no space": said(HELLO, YOU, end()).replace(b"data: ", b"data:"),
    "ids and names of events": said(HELLO, YOU, end()).replace(
        b"data: ", b"id: 1\nevent: x\ndata: "
    ),
    "a byte order mark": b"\xef\xbb\xbf" + said(HELLO, YOU, end()),
    "no last line end": said(HELLO, YOU, end()).rstrip(b"\n"),
    "comments": said(b": ping\n\n:\n", HELLO, b": ping\n\n", YOU, b": ping\n", end()),
    # Parts.
    "parts": said(parts(text("Hello ")), parts(text("yo"), text("u")), end()),
    "parts and deltas": said(parts(text("Hello ")), YOU, end()),
    "parts without a type": said(parts({"text": "Hello "}, "you"), end()),
    "a thought among them": said(parts(THOUGHT), parts(THOUGHT, text(TEXT)), end()),
    "a reference among them": said(
        parts(text(TEXT), {"type": "reference", "reference_ids": [1]}), end()
    ),
    "parts that hold nothing": said(
        parts(None, {}, {"type": "x"}, text("")), HELLO, YOU, end()
    ),
    "parts of a document": document(message=message([text("Hello "), text("you")])),
    # Choices.
    **{
        f"a choice of index {index!r}": said(
            *[
                {"choices": [{"index": index, **it["choices"][0], **{"index": index}}]}
                for it in (HELLO, YOU, end())
            ]
        )
        for index in (None, "0", 0.0, "x")
    },
    "choices without an index": said(
        *[
            {"choices": [{"delta": it["choices"][0]["delta"], "finish_reason": reason}]}
            for it, reason in ((HELLO, None), (YOU, ""), (end(), "stop"))
        ]
    ),
    "two choices of one": said({"choices": [HELLO["choices"][0], YOU["choices"][0]]}, end()),
    "another candidate": said(
        HELLO, {"choices": [{"index": 1, "delta": {"content": "no"}}]}, YOU, end()
    ),
    "deltas that are null": said(HELLO, YOU, choice(delta=None, finish_reason="stop")),
    "choices that are null": said({"choices": None}, HELLO, YOU, end()),
    # In place of a delta, or beside one.
    "legacy completions": said(
        choice(text="Hello "), choice(text="you"), choice(text="", finish_reason="stop")
    ),
    "a choice of index -1": said(
        {"choices": [{"index": -1, "delta": {"content": "Hello "}}]}, YOU, end()
    ),
    "messages in pieces, and the whole before the end": said(
        choice(message=message("Hello ")),
        choice(message=message("you")),
        choice(message=message(TEXT)),
        end(),
    ),
    "messages that grow": said(
        choice(message=message("He")),
        choice(message=message("Hello")),
        choice(message=message(TEXT)),
        end(),
    ),
    "legacy completions that say it at last": said(
        choice(text="Hello "), choice(text="you", finish_reason="stop")
    ),
    "text beside deltas": said(
        choice(delta={"content": "Hello "}, text="Hello "),
        choice(delta={"content": "you"}, text="you"),
        choice(delta={}, text=TEXT, finish_reason="stop"),
    ),
    "messages": said(choice(message=message("Hello ")), choice(message=message("you")), end()),
    "messages beside empty deltas": said(
        choice(delta={}, message=message("Hello ")),
        choice(delta={}, message=message("you")),
        end(),
    ),
    "the message once more": said(HELLO, YOU, end(message=message(TEXT))),
    "the message once more, beside a null": said(
        HELLO, YOU, choice(delta=None, message=message(TEXT), finish_reason="stop")
    ),
    "the message once more, before the end": said(
        HELLO, YOU, choice(delta={}, message=message(TEXT)), end()
    ),
    "the message once more, behind the end": said(
        HELLO, YOU, end(), choice(delta={}, message=message(TEXT))
    ),
    "the message once more, in parts": said(HELLO, YOU, end(message=message([text(TEXT)]))),
    "the message once more, trimmed": said(HELLO, YOU, end(message=message("Hello"))),
    "the message once more, after messages": said(
        choice(message=message("Hello ")),
        choice(message=message("you")),
        end(message=message(TEXT)),
    ),
    "the message beside its last delta": said(
        HELLO, choice(delta={"content": "you"}, message=message(TEXT), finish_reason="stop")
    ),
    "the message, and no delta before": said(end(message=message(TEXT))),
    "more of the message than of deltas": said(HELLO, end(message=message(TEXT))),
}


@pytest.mark.parametrize("body", SAID.values(), ids=SAID)
def test_text_is_told_once(streams_url: str, cache_url: str, body: bytes) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert (told.last["type"], told.text, told.record.output) == ("run.completed", TEXT, TEXT)
    assert kept is not None and kept.final == TEXT and kept.parts == told.record.parts


NOT_UNDERSTOOD: dict[str, bytes] = {
    **{
        f"{name} in a delta": said(HELLO, delta(**{name: "you"}), end())
        for name in ("text", "output_text", "response", "generated_text", "answer")
    },
    "a message in a delta": said(HELLO, delta(message={"content": "you"}), end()),
    **{
        f"{name} in a choice": said(HELLO, choice(delta={}, **{name: "you"}), end())
        for name in ("content", "output", "output_text", "response")
    },
    "messages in a choice": said(HELLO, choice(messages=[{"delta": {"content": "x"}}]), end()),
    "a choice of its own": said(HELLO, {"choice": {"delta": {"content": "you"}}}, end()),
    "content beside an empty delta": said(HELLO, {**delta(), "content": "you"}, end()),
    **{
        f"content {content!r}": said(HELLO, delta(content=content), end())
        for content in (True, {"text": "you"}, {"type": "text", "text": "you"})
    },
    **{
        f"part {part!r}": said(HELLO, parts(part), end())
        for part in (
            *(5, ["you"], {"type": "x", "y": "you"}, {"type": "text", "text": 5}),
            *({"type": "text", "text": {"value": "you"}}, {"image_url": {"url": "you"}}),
            {"type": "image_url", "image_url": {"url": "you"}},
        )
    },
    "a delta that is text": said(HELLO, choice(delta="you"), end()),
    "a message that is text": said(HELLO, choice(message="you"), end()),
    "a text that is none": said(HELLO, choice(text={"x": "you"}), end()),
    "choices that are no list": said({"choices": {"0": {"delta": {"content": "you"}}}}, end()),
    "choices that are no objects": said({"choices": ["you"]}, end()),
    "audio": said(HELLO, delta(audio={"data": "you"}), end()),
    "images that are none": said(HELLO, delta(images=[{"image_url": {"url": "you"}}]), end()),
    "images without an address": said(HELLO, delta(images=[{"image_url": {}}]), end()),
    "images that are text": said(HELLO, delta(images="you"), end()),
}


@pytest.mark.parametrize("body", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_what_is_not_understood_is_an_error(
    streams_url: str, cache_url: str, body: bytes
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert (told.last["type"], told.last["code"]) == ("run.failed", "upstream_broken_stream")
    assert kept is None


COUNTS = {"prompt_tokens": 7, "completion_tokens": 11}
USED: dict[str, bytes] = {
    "behind the end": said(HELLO, end(), {"choices": [], "usage": COUNTS}),
    "with the end": said(HELLO, {**end(), "usage": COUNTS}),
    "in each chunk": said(
        *(
            {**it, "usage": {**COUNTS, "completion_tokens": n}}
            for n, it in ((1, HELLO), (5, YOU))
        ),
        {**end(), "usage": COUNTS},
    ),
    "null until the last": said(
        {**HELLO, "usage": None}, {**end(), "usage": None}, {"choices": [], "usage": COUNTS}
    ),
    "and choices that are null": said(HELLO, end(), {"choices": None, "usage": COUNTS}),
    "in the choice": said(HELLO, end(usage=COUNTS)),
    "floats": said(
        HELLO, {**end(), "usage": {"prompt_tokens": 7.0, "completion_tokens": 11.0}}
    ),
}


@pytest.mark.parametrize("body", USED.values(), ids=USED)
def test_the_last_usage_counts(streams_url: str, cache_url: str, body: bytes) -> None:
    told, _ = become(streams_url, cache_url, body)
    assert told.last["usage"] == {"input_tokens": 7, "output_tokens": 11}
