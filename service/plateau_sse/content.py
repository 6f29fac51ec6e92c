"""What a message says: a text, or parts in the shapes of chat.completions.

Invariant: parts are passed on as they came. Of those that are known by name only the text is
ever looked into, so that an agent may be sent what only it understands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

Part = dict[str, Any]
Content = str | list[Part] | None

_REMARKS = {
    "image_url": "image",
    "input_image": "image",
    "input_audio": "audio",
    "input_file": "file",
}
_REMARK_CHARS = 40
# Between a text and an answer that it does not end with.
APART = "\n\n"


def text_of(content: Content) -> str:
    """Its text parts, joined; '' where there are none."""
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    return content or ""


def words_of(content: Content) -> str:
    """As `text_of`, for whoever gets no parts: each of the others is a remark such as
    `[image]`."""
    if isinstance(content, list):
        pieces = [_text(part) or _remark(part) for part in content]
        return " ".join(piece for piece in pieces if piece)
    return content or ""


def parts_of(content: Content) -> list[Part]:
    """As parts, also where it is a text."""
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def is_blank(content: Content) -> bool:
    """Whether nothing is in it but white space."""
    if isinstance(content, list):
        return all(part.get("type") == "text" and not _text(part).strip() for part in content)
    return not (content or "").strip()


def latest_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the user said last."""
    for message in reversed(messages):
        if message["role"] == "user":
            return text_of(message["content"])
    return ""


def said_in(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text of an answer's parts, as records show them."""
    return "".join(part["text"] for part in parts if part["type"] == "text")


def untold(parts: Sequence[Mapping[str, Any]], output: str | None) -> str:
    """The answer, where these parts say something else: what came before, or a draft. '' where
    their text ends with it, or one of them (with what goes on with it) is it, whatever the
    white space: of those who speak side by side the last to end need not be the last that is
    told. As JSON the answer may have more members, which were left to their defaults."""
    text = said_in(parts)
    if not output or text.endswith(output) or _bare(text).endswith(_bare(output)):
        return ""
    return "" if any(_is_said(it, output) for it in _texts(parts)) else output


def with_answer(parts: Sequence[Mapping[str, Any]], output: str | None) -> str:
    """All that is said: whatever came before, it has the answer."""
    text, rest = said_in(parts), untold(parts, output)
    return f"{text}{APART}{rest}" if text and rest else text or rest


def _texts(parts: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Each with what goes on with it."""
    texts: dict[Any, str] = {}
    begun: dict[Any, Any] = {}
    for index, part in enumerate(parts):
        if part["type"] == "text":
            number = part.get("part", f"at {index}")
            first = begun[number] = begun.get(part.get("continues"), number)
            texts[first] = texts.get(first, "") + part["text"]
    return texts.values()


def _is_said(text: str, output: str) -> bool:
    if _bare(text) == _bare(output):
        return True
    said, meant = _value(text), _value(output)
    if isinstance(said, dict) and isinstance(meant, dict) and said:
        return all(said[name] == meant.get(name) for name in said)
    return said is not None and said == meant


def _bare(text: str) -> str:
    return "".join(text.split())


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None


def too_long(agent: str, text: str, most: int) -> str:
    """What is said of an input of more than `most` bytes; '' where it fits."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size <= most:
        return ""
    return (
        f"{agent} reads {most / 1024:g} KiB at a time, and this text has {size / 1024:.0f}: "
        "send a part of it."
    )


def _text(part: Part) -> str:
    text = part.get("text") if part.get("type") == "text" else None
    return text if isinstance(text, str) else ""


def _remark(part: Part) -> str:
    kind = str(part.get("type", ""))
    return "" if kind == "text" else f"[{_REMARKS.get(kind, kind)[:_REMARK_CHARS]}]"
