"""What a user sends is told or refused by its place, and never left out: a question without its
picture has another answer, and would have that of any other picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from plateau_sse.api import agui_request, responses_request, ui_request
from plateau_sse.errors import Problem

Part = Any
Messages = list[dict[str, Any]]


def of_responses(part: Part, role: str = "user") -> Messages:
    content = [{"type": "input_text", "text": "x"}, part]
    return responses_request.messages_of([{"role": role, "content": content}])


def of_agui(part: Part, role: str = "user") -> Messages:
    content = [{"type": "text", "text": "x"}, part]
    return agui_request.messages_of([{"role": role, "content": content}], ())


def of_ui(part: Part, role: str = "user") -> Messages:
    parts = [{"type": "text", "text": "x"}, part]
    return ui_request.messages_of([{"role": role, "parts": parts}])


Way = tuple[Callable[[Part, str], Messages], str]
RESPONSES: Way = (of_responses, "input[0].content[1]")
AGUI: Way = (of_agui, "messages[0].content[1]")
UI: Way = (of_ui, "messages[0].parts[1]")


@pytest.mark.parametrize(
    ("way", "part"),
    [
        (RESPONSES, {"type": "input_image", "file_id": "file-1", "detail": "auto"}),
        (RESPONSES, {"type": "input_file", "filename": "x.pdf"}),
        (RESPONSES, {"type": "input_audio"}),
        (RESPONSES, {"type": "input_video", "video_url": "data:,"}),
        (RESPONSES, "x"),
        (AGUI, {"type": "image"}),
        (AGUI, {"type": "image", "source": {"type": "url"}}),
        (AGUI, {"type": "hologram", "source": {"type": "url", "value": "x"}}),
        (AGUI, {"type": "binary", "mimeType": "image/png"}),
        (AGUI, None),
        (UI, {"type": "file", "mediaType": "image/png"}),
        (UI, {"type": "image", "image": "data:,"}),
        (UI, {}),
    ],
)
def test_what_has_no_form_here_is_refused_by_its_place(way: Way, part: Part) -> None:
    ask, at = way
    with pytest.raises(Problem) as refused:
        ask(part, "user")
    assert refused.value.code == "invalid_request" and refused.value.extra["field"] == at
    assert "What can be sent" in refused.value.detail
    # What was said here came from here, whatever else has been put to it.
    if ask is not of_ui:
        assert ask(part, "assistant")[0]["content"] == "x"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "data-x", "data": 1},
        {"type": "source-url", "sourceId": "s", "url": "https://x.test"},
        {"type": "step-start"},
        {"type": "reasoning", "text": "x"},
    ],
)
def test_what_is_the_pages_stays_there(part: Part) -> None:
    assert of_ui(part) == [{"role": "user", "content": "x"}]


DATA = {"mimeType": "image/png", "data": "iVBO"}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (DATA, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}),
        (
            {"mimeType": "image/png", "url": "https://x.test/a.png"},
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        ),
        (
            {"mimeType": "audio/mpeg", "data": "AAAA"},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        ),
        (
            {"mimeType": "application/pdf", "data": "AAAA", "filename": "a.pdf"},
            {
                "type": "file",
                "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"},
            },
        ),
        (
            {"mimeType": "image/png", "id": "file-1"},
            {"type": "file", "file": {"file_id": "file-1"}},
        ),
    ],
)
def test_the_one_type_for_all_of_older_agui_clients_is_told(
    part: dict[str, Any], expected: Any
) -> None:
    (message,) = of_agui({"type": "binary", **part})
    assert message["content"] == [{"type": "text", "text": "x"}, expected]


def test_an_id_is_no_address() -> None:
    source = {"type": "file", "value": "file-1"}
    (message,) = of_agui({"type": "image", "source": source})
    assert message["content"][1] == {"type": "file", "file": {"file_id": "file-1"}}


def test_of_a_tools_result_nothing_is_left_out() -> None:
    image = {"type": "input_image", "file_id": "file-1"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = [{"type": "input_text", "text": "x"}, image]
    item = {"type": "function_call_output", "call_id": "c", "output": output}
    _, result = responses_request.messages_of([call, item])
    assert "file-1" in result["content"] and '"x"' in result["content"]
    item["output"] = output[:1]
    assert responses_request.messages_of([call, item])[1]["content"] == "x"
