"""Items that are sent by their ids alone, as AI SDK's own provider of Responses sends what was
said and called before: the model is asked as if they had been sent themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.dialects.stage import ENV, KEY, anew
from tests.hosting.endpoint import Asked, Model, scripted_model
from tests.hosting.wires import Call, Piece, Say, Think
from tests.processes import Serving, serving


def answers(asked: Asked) -> list[Piece]:
    if "long" in asked.user:
        return [Say("word " * 200)]
    if asked.outputs or "call" not in asked.user:
        return [Say(f"So: {asked.user[-8:]}.")]
    return [Think("Hm. "), Say("Let me see. "), Call("weather", {"city": "Oslo"}, "call_a")]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with scripted_model(**{"small-1": answers}) as found:
        yield found


@pytest.fixture(scope="module")
def plateau(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = ENV | {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "-"}
    with serving(tmp_path_factory.mktemp("references") / "data", env=env) as found:
        yield found


def asked(plateau: Serving, *items: Any, key: dict[str, str] = KEY) -> httpx.Response:
    body = {"model": "small-1", "input": list(items)}
    return httpx.post(f"{plateau.url}/v1/responses", json=body, headers=key, timeout=30)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def named(item: dict[str, Any]) -> dict[str, str]:
    return {"type": "item_reference", "id": item["id"]}


@pytest.mark.parametrize("how", ["miss", "hit"])
def test_a_reference_is_what_it_refers_to(plateau: Serving, model: Model, how: str) -> None:
    first = user(f"call {anew()}")
    told = asked(plateau, first)
    if how == "hit":
        told = asked(plateau, first)
    assert told.headers["X-Cache"] == how
    items = told.json()["output"]
    assert [it["type"] for it in items] == ["reasoning", "message", "function_call"]
    output = {"type": "function_call_output", "call_id": "call_a", "output": anew()}

    by_name = asked(plateau, first, *map(named, items), output)
    assert by_name.status_code == 200, by_name.text
    question, called, result = model.requests[-1].body["messages"]
    assert question == first and result["content"] == output["output"]
    assert called["content"] == "Let me see. " and called["reasoning_content"] == "Hm. "
    assert [it["id"] for it in called["tool_calls"]] == ["call_a"]
    # It is the same question, and has the same answer.
    whole = asked(plateau, first, *items, output)
    assert whole.headers["X-Cache"] == "hit" and whole.json()["usage"]


def test_two_chats_that_differ_in_what_was_said_are_two_questions(plateau: Serving) -> None:
    rest = [user("and?")]
    for _ in range(2):
        (item,) = asked(plateau, user(anew())).json()["output"]
        # The type may be left out, as in OpenAI's own schema.
        told = asked(plateau, user("x"), {"id": item["id"]}, *rest)
        assert told.headers["X-Cache"] == "miss"


def test_what_is_not_kept_is_said_and_what_is_another_servers_is_left_out(
    plateau: Serving, model: Model
) -> None:
    (item,) = asked(plateau, user(anew())).json()["output"]
    bob = {"Authorization": "Bearer the-key-of-bob"}
    gone = {"type": "item_reference", "id": f"msg_{'0' * 32}_0"}
    never = {"type": "item_reference", "id": item["id"][:-1] + "7"}
    lost = {"type": "item_reference", "id": f"msg_hit-{'a' * 24}_0"}
    for reference, key in ((gone, KEY), (never, KEY), (lost, KEY), (named(item), bob)):
        refused = asked(plateau, user("x"), reference, user("y"), key=key)
        error = refused.json()["error"]
        assert refused.status_code == 400 and error["param"] == "input[1]"
        assert "send the items themselves" in error["message"]
    last = user(anew())
    alien = {"type": "item_reference", "id": "msg_68af4030baa48193b0b43b4c2a176a1a"}
    assert asked(plateau, user("x"), alien, last).status_code == 200
    assert model.requests[-1].body["messages"] == [user("x"), last]


def test_so_many_as_are_named_are_read_and_no_more(plateau: Serving) -> None:
    (item,) = asked(plateau, user(f"long {anew()}")).json()["output"]
    large = asked(plateau, user("x"), *[named(item)] * 5000, user("y"))
    assert large.status_code == 400 and "bytes" in large.json()["error"]["message"]
    others = [{"type": "item_reference", "id": f"msg_{n:032x}_0"} for n in range(257)]
    many = asked(plateau, *others, user("y"))
    assert many.status_code == 400 and "256" in many.json()["error"]["message"]
