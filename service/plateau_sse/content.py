"""What a message says: a text, or parts in the shapes of chat.completions.

Invariant: parts are passed on as they came. Of those that are known by name only the text is
ever looked into, so that an agent may be sent what only it understands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    if not output or _ends_with(said_in(parts), output):
        return ""
    texts, bare, meant = _texts(parts), _bare(output), _value(output)
    for number, text in enumerate(texts, 1):
        if _bare(text) == bare:
            return ""
        if meant is not None and _is_meant(_value(text), meant, is_last=number == len(texts)):
            return ""
    return output


def with_answer(parts: Sequence[Mapping[str, Any]], output: str | None) -> str:
    """All that is said: whatever came before, it has the answer."""
    text, rest = said_in(parts), untold(parts, output)
    return f"{text}{APART}{rest}" if text and rest else text or rest


def _texts(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each with what goes on with it."""
    texts: dict[Any, list[str]] = {}
    begun: dict[Any, Any] = {}
    for index, part in enumerate(parts):
        if part["type"] == "text":
            number = part.get("part", f"at {index}")
            first = begun[number] = begun.get(part.get("continues"), number)
            texts.setdefault(first, []).append(part["text"])
    return ["".join(pieces) for pieces in texts.values()]


def _ends_with(text: str, output: str) -> bool:
    """Whatever the white space, and not in the midst of a word or a number: a text that ends
    with 17 does not say 7."""
    bare = _bare(output)
    if not bare or not _bare(text).endswith(bare):
        return False
    left, at = len(bare), len(text)
    if text.endswith(output):
        left, at = 0, at - len(output)
    while left:
        at -= 1
        left -= not text[at].isspace()
    return not (at and _is_of_word(text[at - 1]) and _is_of_word(bare[0]))


def _is_of_word(char: str) -> bool:
    """In writing that has spaces between its words."""
    return char.isdigit() or char == "_" or char.lower() != char.upper()


def _is_meant(said: Any, meant: Any, *, is_last: bool) -> bool:
    """Whether one is the other, but for what has not been said: nothing, as a rule."""
    if not isinstance(said, dict) or not isinstance(meant, dict) or not said:
        return said is not None and bool(said == meant)
    if any(name not in meant or meant[name] != value for name, value in said.items()):
        return False
    return is_last or not any(value for name, value in meant.items() if name not in said)


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
