"""What endpoints say of errors: no form of a key in it, and no address within a network."""

from __future__ import annotations

import base64
import time
from urllib.parse import quote

import pytest

from plateau_sse.agents.redacting import redacted

OURS = "sk-proj-Ab/Cd+Ef0123456789=="


@pytest.mark.parametrize(
    "form",
    [
        *(OURS, OURS.upper(), OURS.lower(), quote(OURS), quote(OURS, safe="")),
        *(
            base64.b64encode(before + OURS.encode() + behind).decode()
            for before in (b"", b"u", b"u:", b"user:")
            for behind in (b"", b"\n", b":x")
        ),
        base64.urlsafe_b64encode(b"Bearer " + OURS.encode()).decode(),
    ],
)
def test_no_form_of_the_key_is_left(form: str) -> None:
    said = redacted(f"Incorrect API key provided: {form}. Try another.", OURS)
    assert "[key]" in said and said.startswith("Incorrect API key provided: ")
    # What stands before and behind it in base64 is no piece of it.
    pieces = {form[at : at + 12] for at in range(len(form) - 11)}
    left = {piece for piece in pieces if piece in said}
    assert not left, (said, left)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Incorrect API key: sk-proj-AbCd***SECRET9.", "Incorrect API key: [key]"),
        ("key sk-1234567890abcdef is gone", "key [key] is gone"),
        ("org-AbC123dEf456 has no model", "[key] has no model"),
        ("Authorization: Bearer abcdef123456 refused", "Authorization: Bearer [key] refused"),
        ("<b>password=hunter2</b>", "<b>password=[hidden]</b>"),
        ('{"api_key": "abc123"}', '{"api_key": "[hidden]"}'),
        ("http://10.0.0.7:8080/v1 said no", "[address] said no"),
        ("redis://user:pw@store.internal:6379 is down", "[address] is down"),
        ("cannot reach vllm-0.models.svc:8000", "cannot reach [address]"),
        ("connect to 192.168.1.7:8000 failed", "connect to [address] failed"),
        # What people need stays.
        (
            "See https://platform.openai.com/account/api-keys.",
            "See https://platform.openai.com/account/api-keys.",
        ),
        ("model gpt-4o-2024-08-06 does not exist", "model gpt-4o-2024-08-06 does not exist"),
        ("max_tokens is 4096, at most 1.5 s", "max_tokens is 4096, at most 1.5 s"),
        ("the sk-learn task-force", "the sk-learn task-force"),
    ],
)
def test_what_only_looks_like_it(said: str, shown: str) -> None:
    assert redacted(said, "") == shown


@pytest.mark.parametrize("key", ["k", "x", "EMPTY", "none", "ollama", "-", "a.b", "hunter2"])
def test_a_short_key_leaves_words_alone(key: str) -> None:
    """Where an endpoint wants none it is given something, and what it says has to be read."""
    said = "The input must not be empty: max_tokens broke off a nonesuch; see ollamas, aXb."
    assert redacted(said, key) == said
    told = redacted(f"{said} No such key: {key}, '{key}' or {quote(key, safe='')}.", key)
    assert told == f"{said} No such key: [key], '[key]' or [key]."


@pytest.mark.parametrize("before", [b"", b"u", b"u:"])
def test_no_form_of_a_short_key_is_left_that_says_it(before: bytes) -> None:
    encoded = base64.b64encode(before + b"hunter2").decode()
    assert "[key]" in redacted(f"Basic {encoded}", "hunter2")


def test_it_takes_no_time_over_hostile_words() -> None:
    for said in (
        "a" * 70_000,
        "sk-" * 20_000,
        "1." * 30_000,
        "password" * 8_000,
        "a." * 30_000,
    ):
        began = time.process_time()
        redacted(said, OURS)
        assert time.process_time() - began < 1, said[:20]
