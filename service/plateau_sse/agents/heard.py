"""What a delta or a message of a model holds: text, thoughts, images, a refusal, sources.

Invariant: content that is not understood is an error, for to leave it out would be silence.
Thoughts and sources that are not understood are left out: the answer is there without them.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from typing import Any, NamedTuple

from plateau_sse.agents import File, Reasoning
from plateau_sse.agents.chunks import as_text
from plateau_sse.agents.complaints import broken

# Where endpoints put what was thought. Some put the same in two of them.
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
# Parts of a content that were thought, and where a thought has its words; parts that hold
# nothing that could be shown.
THOUGHT_PARTS = ("thinking", "reasoning")
WORDS = ("thinking", "reasoning", "text", "summary", "content")
LEFT_OUT = ("redacted_thinking", "reference")
IMAGES = ("image_url", "image", "output_image")
# Levels of a thought; nobody nests one deeper.
DEPTH = 10
# Content that is not written, and not understood.
UNREAD = ("audio", "image", "video")
# What a message has beside its content: as a rule none of it.
BESIDE = frozenset((*UNREAD, *THOUGHTS, "refusal", "images"))
SOURCES = ("annotations", "search_results", "citations")
# A title or an address beyond this is none that anybody would read.
MAX_URL = 2000
# Two pieces that are shorter may be alike by chance.
SURELY_AGAIN = 6


class Heard(NamedTuple):
    """`said` in its order; `refuses` where it says, in a field or a part for that, that it will
    not answer."""

    said: list[str | Reasoning | File]
    refuses: bool = False

    def all_of(self, kind: type) -> str:
        """What was said of a kind: text (`str`), or thoughts."""
        if kind is str:
            return "".join(it for it in self.said if isinstance(it, str))
        return "".join(it.text for it in self.said if isinstance(it, Reasoning))


class Once:
    """Text, or thoughts: each is told once, however often it is sent."""

    def __init__(self) -> None:
        self.said: list[str] = []
        # Whether it came in deltas: then what stands beside them repeats it.
        self.in_deltas = False
        self._size = 0
        self._half = ""

    def new_in(self, whole: str, text: str, *, is_last: bool) -> str:
        """What is new in a choice whose delta has nothing: a message that is `whole`, or the
        `text` of legacy completions. Either is a piece, as some servers send them, or all of it
        once more."""
        if not (whole or text):
            return ""
        if whole and self.said and not self.in_deltas:
            said = "".join(self.said)
            # A message is a whole one, of which more is there each time; or the whole at last.
            if whole.startswith(said) and (whole != said or len(said) >= SURELY_AGAIN):
                return whole[len(said) :]
        if self.in_deltas or (is_last and whole):
            said = "".join(self.said)
            for again in (whole, text):
                if again.startswith(said):
                    return again[len(said) :]
            if self.in_deltas:
                return ""
        return whole or text

    def is_all(self, text: str) -> bool:
        """Whether it is all that was said, and no piece that is like it by chance."""
        return len(text) == self._size >= SURELY_AGAIN and text == "".join(self.said)

    def mended(self, text: str) -> str:
        """Noted as said. JSON escapes allow one half of a character here and the other in the
        next chunk."""
        self.said.append(text)
        self._size += len(text)
        text = self._half + text
        self._half = ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def rest(self) -> str:
        half, self._half = self._half, ""
        return "\ufffd" if half else ""


def heard_in(message: dict[str, Any]) -> Heard:
    """A refusal is the model's answer, too, in a field of its own."""
    if BESIDE.isdisjoint(message):
        return Heard(*_content(message.get("content")))
    for name in UNREAD:
        if message.get(name):
            raise broken(f"it holds {name}, which is not understood")
    said: list[str | Reasoning | File] = []
    thoughts = (_words(as_text(message.get(name))) for name in THOUGHTS)
    if thought := next(filter(None, thoughts), ""):
        said.append(Reasoning(thought))
    content, refuses = _content(message.get("content"))
    refusal, _ = _content(message.get("refusal"))
    said += [*content, *refusal, *_images(message.get("images"))]
    return Heard(said, refuses or bool(refusal))


def sources_in(of: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Addresses of what the answer stands on, with their titles: of annotations in a delta or a
    message, or as lists beside the choices."""
    for name in SOURCES:
        given = of.get(name)
        for one in given if isinstance(given, list) else ():
            inner = one.get("url_citation") if isinstance(one, dict) else None
            found = inner if isinstance(inner, dict) else one
            url, title = found, None
            if isinstance(found, dict):
                url, title = found.get("url"), found.get("title")
            # A model's word for an address: no script may come of it.
            if isinstance(url, str) and url.startswith(("http://", "https://")):
                if len(url) <= MAX_URL:
                    yield url, title if isinstance(title, str) and title else None


def _words(given: Any, depth: int = DEPTH) -> str:
    if isinstance(given, str):
        return given
    if depth and isinstance(given, list):
        return "".join(_words(it, depth - 1) for it in given)
    if depth and isinstance(given, dict):
        return next(filter(None, (_words(given.get(name), depth - 1) for name in WORDS)), "")
    return ""


def _content(given: Any) -> tuple[list[str | Reasoning | File], bool]:
    content = as_text(given)
    if isinstance(content, str):
        return [content] if content else [], False
    if isinstance(content, list):
        refuses = any(isinstance(it, dict) and bool(it.get("refusal")) for it in content)
        return [it for part in content if (it := _part(part))], refuses
    if content in (None, {}) or content is False:
        return [], False
    raise broken(f"its content is a {type(content).__name__}, which is not understood")


def _part(part: Any) -> str | Reasoning | File | None:
    if isinstance(part, str) or not part:
        return part or None
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind in LEFT_OUT:
        return None
    if kind in THOUGHT_PARTS:
        thought = _words(part)
        return Reasoning(thought) if thought else None
    if kind in IMAGES and (image := _image(part)):
        return image
    text = None
    if kind in ("text", "output_text", None):
        text = part.get("text")
    elif kind == "refusal":
        text = part.get("refusal")
    if isinstance(text, str):
        return text
    # What has no more than a type, and a text of nothing, has nothing to be lost.
    if isinstance(part, dict) and not any(part[name] for name in part if name != "type"):
        return None
    raise broken(f"its content holds {kind}, which is not understood")


def _images(given: Any) -> Iterator[File]:
    if not given:
        return
    for one in given if isinstance(given, list) else [given]:
        image = _image(one)
        if image is None:
            raise broken("it holds images, which are not understood")
        yield image


def _image(given: Any) -> File | None:
    """By its address, which may be the image itself; None where it has none."""
    url = given
    for _ in range(2):
        if isinstance(url, dict):
            url = next(
                (url[name] for name in ("image_url", "url", "image") if url.get(name)), ""
            )
    if not isinstance(url, str):
        return None
    scheme, _, rest = url.partition(":")
    if scheme == "data" and "," in rest:
        kind = rest.partition(",")[0].partition(";")[0]
        return File(kind or "application/octet-stream", url)
    if scheme in ("http", "https"):
        guessed, _ = mimetypes.guess_type(rest.partition("?")[0])
        return File(guessed or "image/*", url)
    return None
