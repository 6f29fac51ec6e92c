"""Answers in English, written for this project: twenty subjects, about 2 KB each.

Invariant: `seen` and `unseen` have no answer in common; what is built from the first is
measured on the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

SEPARATOR = "\n%%\n"


def seen() -> list[str]:
    """Every second answer of each subject: what the dictionary is made of."""
    return [answer for subject in subjects() for answer in subject[::2]]


def unseen() -> list[str]:
    return [answer for subject in subjects() for answer in subject[1::2]]


def answers(count: int, size: int = 2048) -> Iterator[str]:
    """`count` different answers of about `size` bytes, from the unseen half: each begins at
    another sentence of it, or at another word of that sentence."""
    text = "\n\n".join(unseen())
    text += "\n\n" + text[: 2 * size]
    words = [found.start() for found in re.finditer(r"\S+", text[: -2 * size])]
    sentences = [found.end() for found in re.finditer(r"[.!?]\s+(?=\S)", text[: -2 * size])]
    starts = list(dict.fromkeys([*sentences, *words]))
    if count > len(starts):
        raise ValueError(f"the corpus gives {len(starts)} different answers, not {count}")
    for start in starts[:count]:
        end = re.compile(r"\s").search(text, start + size)
        yield text[start : end.start() if end else start + size]


def subjects() -> list[list[str]]:
    files = sorted(Path(__file__).parent.glob("*.txt"))
    return [path.read_text().strip("\n").split(SEPARATOR) for path in files]
