"""What the models of the tests' graphs say, by their names."""

from __future__ import annotations

from tests.hosting.endpoint import Asked, Script
from tests.hosting.scripts import CITE, block
from tests.hosting.wires import Break, Call, End, Hang, Piece, Say, Status, Think

ANSWER = "Plateaus are flat, wide and high. 高原 🏔"
PAUSE_S = 0.02
NUMBERS = " ".join(str(number) for number in range(300))


def words(letter: str) -> str:
    return " ".join(f"{letter}{number}" for number in range(20))


def tools(asked: Asked) -> list[Piece]:
    if asked.outputs:
        return [Say("It is cold in Rome at noon.")]
    return [
        Say("Let me look that up."),
        Call("weather", {"city": "Rome"}, "call_weather"),
        Call("clock", {"zone": "UTC"}, "call_clock"),
    ]


def approve(asked: Asked) -> list[Piece]:
    if not asked.outputs:
        return [Say("I will delete it."), Call("delete", {"path": "/a"}, "call_del")]
    return [Say("Done." if "deleted /a" in asked.outputs else "Then not.")]


def careful(asked: Asked) -> list[Piece]:
    """Two calls, one of which waits for a person; else who has spoken, and what calls gave."""
    if asked.user == "delete":
        return [
            Call("weather", {"city": "Rome"}, "call_w"),
            Call("delete", {"path": "/a"}, "call_d"),
        ]
    said = [it.get("role") or it.get("type") for it in asked.body["messages"]]
    results = [it["content"] for it in asked.body["messages"] if it["role"] == "tool"]
    return [Say(f"{' '.join(said)}: {' | '.join(results)}")]


def always(*pieces: Piece) -> Script:
    return lambda asked: pieces


SCRIPTS: dict[str, Script] = {
    "plain": always(Say(ANSWER)),
    "thoughts": always(Think("Three times three."), Say("Nine.")),
    "cites": always(Say("It is so.", CITE)),
    "tools": tools,
    "fails": always(Call("fail", {"why": "no reason"})),
    # Under the same id each time, as some number theirs.
    "loop": always(Call("weather", {"city": "Rome"}, "call_0")),
    # So that it is still at it when it is cancelled.
    "slow_loop": always(Say(words("l"), pause_s=PAUSE_S), Call("weather", {"city": "Rome"})),
    "approve": approve,
    "careful": careful,
    "block": block,
    "structured": always(Say('{"city": "Rome", "degrees": 7}')),
    "structured_by_tool": always(
        Say("Here it is: "), Call("Weather", {"city": "Rome", "degrees": 7})
    ),
    "slow": always(Say(NUMBERS, pause_s=PAUSE_S)),
    "slow-a": always(Say(words("a"), pause_s=PAUSE_S)),
    "slow-b": always(Say(words("b"), pause_s=PAUSE_S)),
    "silent": always(Hang()),
    "waits": always(Call("wait", {"seconds": 60})),
    "asks": always(Call("ask_expert", {"question": "Who?"})),
    "length": always(Say("It ends in the"), End("length")),
    "cut": always(Say("It breaks off he"), Break()),
    "429": always(Status(429, "no: sk-secret")),
    "500": always(Status(500, "no: sk-secret")),
}
