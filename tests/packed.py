"""Packing at the highest level is most of what a test of a full cache does: here once for each
text."""

from __future__ import annotations

import pytest

from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.packing import pack


def pack_once(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Under these names, `pack` remembers what it made. The text must tell an answer apart."""
    made: dict[bytes, bytes] = {}

    def packed(answer: Answer) -> bytes:
        if answer.text not in made:
            made[answer.text] = pack(answer)
        return made[answer.text]

    for name in names:
        monkeypatch.setattr(name, packed)
