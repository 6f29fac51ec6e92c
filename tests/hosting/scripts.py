"""What the model of the tests says, by the first word of the question."""

from __future__ import annotations

from tests.hosting.endpoint import Asked, Script
from tests.hosting.wires import Break, Call, End, Hang, Piece, Refuse, Say, Status, Think

CITE = "https://x.test/snow"


def both(asked: Asked) -> list[Piece]:
    """Two tools at once, after a thought and a word; then the answer, with a source."""
    if asked.outputs:
        return [Think("Both are there."), Say("Cold, and 雪 🌊.", CITE)]
    calls = [Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome"})]
    return [Think("Two cities."), Say("Let me see. "), *calls]


def twice(asked: Asked) -> list[Piece]:
    """A model that calls its calls alike in each of its answers."""
    city = ("Oslo", "Rome")[min(len(asked.outputs), 1)]
    if len(asked.outputs) == 2:
        return [Say("Both.")]
    return [Call("weather", {"city": city}, "call_0")]


def breaks(asked: Asked) -> list[Piece]:
    if asked.outputs:
        return [Say(f"It said: {asked.outputs[-1]}")]
    return [Say("I try. "), Call("breaks", {"city": "Rome"})]


def city(asked: Asked) -> list[Piece]:
    """As its output tool, where there is one."""
    value = {"name": "Oslo", "population": 7}
    if "final_result" in asked.tools:
        return [Say("Here it is: "), Call("final_result", value)]
    return [Say('{"name": "Oslo", "population": 7}')]


def loop(asked: Asked) -> list[Piece]:
    return [Call("whose", {"name": "me"})]


def slow_loop(asked: Asked) -> list[Piece]:
    """Still at it when it is cancelled."""
    return [Say("again and again ", pause_s=0.1), *loop(asked)]


def _ask_expert(asked: Asked, question: str) -> Call:
    tool = next(it for it in asked.body["tools"] if "ask_expert" in str(it))
    (parameter,) = tool.get("function", tool)["parameters"]["properties"]
    return Call("ask_expert", {parameter: question})


def expert(asked: Asked) -> list[Piece]:
    if asked.outputs:
        return [Say(f"They say: {asked.outputs[-1]}")]
    return [_ask_expert(asked, "plain please")]


def ask_silent(asked: Asked) -> list[Piece]:
    return [_ask_expert(asked, "silent")]


def plain(asked: Asked) -> list[Piece]:
    return [Say("Plain words.")]


def long(asked: Asked) -> list[Piece]:
    return [Say("As much as "), End("length")]


def filtered(asked: Asked) -> list[Piece]:
    return [Refuse("I will not.")]


def hang(asked: Asked) -> list[Piece]:
    return [Say("Wait "), Hang()]


def silent(asked: Asked) -> list[Piece]:
    return [Hang()]


def slow(asked: Asked) -> list[Piece]:
    return [Call("wait", {"seconds": 60})]


def block(asked: Asked) -> list[Piece]:
    if asked.outputs:
        return [Say(asked.outputs[-1])]
    return [Call("block", {"seconds": float(asked.user.split()[1])})]


def delete(asked: Asked) -> list[Piece]:
    """A thing to be approved, beside one that is not."""
    if asked.outputs:
        return [Say(f"Done: {sorted(asked.outputs)}")]
    return [
        Say("May I? "),
        Call("weather", {"city": "Oslo"}),
        Call("delete", {"path": "/a"}, "call_a"),
    ]


def only(asked: Asked) -> list[Piece]:
    return [Call("delete", {"path": "/a"}, "call_a")]


def question(asked: Asked) -> list[Piece]:
    if asked.outputs:
        return [Say(f"So {asked.outputs[-1]}.")]
    return [Call("ask_user", {"question": "Red or blue?"})]


def locate(asked: Asked) -> list[Piece]:
    if asked.outputs:
        return [Say(f"You are in {asked.outputs[-1]}.")]
    return [Call("locate", {}, "call_l")]


def recall(asked: Asked) -> list[Piece]:
    given = asked.body.get("messages") or asked.body["input"]
    said = [it.get("role") or it.get("type") for it in given]
    return [Say(" ".join(said))]


def whose(asked: Asked) -> list[Piece]:
    name = asked.user.split()[1]
    if asked.outputs:
        return [Say(f"{name} is {asked.outputs[-1]}")]
    return [Call("whose", {"name": name})]


def handoff(asked: Asked) -> list[Piece]:
    if "Spanish" in asked.system:
        return [Say("Hola.")]
    return [Say("I pass you on. "), Call("transfer_to_spaniard", {})]


def limited(asked: Asked) -> list[Piece]:
    return [Status(429, "slow down, sk-very-secret")]


def failing(asked: Asked) -> list[Piece]:
    return [Status(500, "sk-very-secret")]


def rejected(asked: Asked) -> list[Piece]:
    return [Status(401, "bad key: sk-very-secret")]


def broken(asked: Asked) -> list[Piece]:
    return [Say("Half an "), Break()]


SCRIPTS: dict[str, Script] = {
    it.__name__: it
    for it in (
        *(
            both,
            twice,
            breaks,
            city,
            loop,
            slow_loop,
            expert,
            ask_silent,
            plain,
            long,
            filtered,
            hang,
            silent,
            slow,
        ),
        *(
            block,
            delete,
            only,
            question,
            locate,
            recall,
            whose,
            handoff,
            limited,
            failing,
            rejected,
            broken,
        ),
    )
}
