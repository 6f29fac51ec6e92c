"""Any JSON document is answered with a run or with a problem that names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plateau_sse.errors import PROBLEMS
from tests.integration.api_client import api_serving, finish, unique
from tests.processes import Serving

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(st.characters(), max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
MEMBERS = st.sampled_from(
    ["agent", "input", "messages", "user", "options", "cache", "mode", "ttl_s", "role", ""]
)
VALID: dict[str, Any] = {
    "agent": "echo",
    "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}],
    "user": "ann",
    "options": {"a": [1, {"b": None}]},
    "cache": {"mode": "use", "ttl_s": 60},
}


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    """A valid request with some members, at any depth, replaced, added or taken away."""
    body: dict[str, Any] = json.loads(json.dumps(VALID))
    places: list[Any] = [body, body["messages"][0], body["options"], body["cache"]]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places))
        name = draw(st.sampled_from(sorted(place)) | MEMBERS if place else MEMBERS)
        if draw(st.booleans()):
            place.pop(name, None)
        else:
            place[name] = draw(VALUES)
    return body


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("fuzz"), {"QUEUE_LIMIT": "100000"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


def check(plateau: Serving, client: httpx.Client, content: bytes) -> None:
    response = client.post("/v1/runs", content=content)
    if response.status_code in (200, 202):
        assert client.get(response.json()["events_url"]).status_code == 200
    else:
        assert response.status_code in (400, 422), response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert PROBLEMS[problem["code"]][0] == response.status_code
        assert (response.status_code == 422) == ("field" in problem)
    assert "Traceback" not in plateau.stderr, plateau.stderr


PACE = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@PACE
@given(VALUES | mutations())
def test_any_document(plateau: Serving, client: httpx.Client, document: Any) -> None:
    # NaN and infinities come out as Python writes them, lone surrogates as escapes.
    check(plateau, client, json.dumps(document).encode())


@PACE
@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 5))
def test_any_damage(
    plateau: Serving, client: httpx.Client, inserted: bytes, at: int, removed: int
) -> None:
    whole = json.dumps(VALID).encode()
    check(plateau, client, whole[:at] + inserted + whole[at + removed :])


# Odd, and right all the same


@pytest.mark.parametrize(
    "text",
    [
        "a\0b",
        "\0",
        "\u202eright to left",
        "\U0001f469\u200d\U0001f680 \U0010ffff \ufffe",
        "line\r\nend\u2028and\u2029more\x85",
        "data: x\n\nid: 9-9\n\nevent: y\n\n",
        "</script><!--",
        "e\u0301 vs \u00e9",
        "{cafe}",
    ],
)
def test_any_text_comes_back_as_it_went(client: httpx.Client, text: str) -> None:
    asked = unique() + text
    run = finish(client, "echo", asked)
    assert run["output"] == f"You said: {asked}"
    assert finish(client, "echo", asked)["cached"] is True


@pytest.mark.parametrize(
    "options",
    [
        {"": {"\0": [None, True, -0.0, 1e308, 2**64, -(2**80)]}},
        {"x" * 1000: "y" * 1000},
        json.loads('{"a":' * 100 + "1" + "}" * 100),
        {str(n): n for n in range(1000)},
    ],
    ids=["odd values", "long", "100 levels", "1,000 members"],
)
def test_any_options_are_carried(client: httpx.Client, options: dict[str, Any]) -> None:
    text = unique()
    run = finish(client, "echo", text, options=options)
    assert run["status"] == "completed"
    assert finish(client, "echo", text, options=options)["cached"] is True


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/json; charset=latin-1", "nonsense", "a/b/c;;="],
)
def test_the_body_is_json_whatever_its_type_says(
    client: httpx.Client, content_type: str
) -> None:
    body = json.dumps({"agent": "echo", "input": unique()})
    headers = {"Content-Type": content_type}
    assert client.post("/v1/runs", content=body, headers=headers).status_code == 202
