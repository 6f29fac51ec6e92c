"""A model for the agents of frameworks: a real HTTP server on a free port, which speaks
chat.completions and Responses, streamed and whole.

    def weather(asked):
        return [Call("weather", {"city": "Oslo"})] if not asked.outputs else [Say("Cold.")]

    with scripted_model(weather=weather) as model:
        OpenAIProvider(base_url=model.base_url, api_key="-")

The name of the model says which script answers, or else the first word of the latest user's
text. Each request is recorded.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.hosting.wires import Break, Chat, Hang, Piece, Responses, Status

WAIT_S = 20.0


@dataclass(slots=True)
class Asked:
    """A request: `user` is the latest user's text, `outputs` those of the tools since, `system`
    what the model is told about itself."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    user: str = ""
    outputs: list[str] = field(default_factory=list)
    system: str = ""

    @property
    def tools(self) -> list[str]:
        tools = self.body.get("tools") or []
        return [it.get("function", it).get("name", it.get("type")) for it in tools]


Script = Callable[[Asked], Sequence[Piece]]


@dataclass(slots=True)
class Model:
    base_url: str
    scripts: dict[str, Script]
    requests: list[Asked] = field(default_factory=list)
    open: int = 0


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(it.get("text") or "" for it in content)
    return content or ""


def _read(asked: Asked) -> None:
    """What of it a script may look at."""
    given = asked.body.get("messages") or asked.body.get("input") or []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    system = [asked.body.get("instructions") or ""]
    for item in given:
        if item.get("role") == "user":
            asked.user, asked.outputs = _text(item["content"]), []
        elif item.get("role") in ("system", "developer"):
            system.append(_text(item["content"]))
        elif item.get("role") == "tool":
            asked.outputs.append(_text(item["content"]))
        elif item.get("type") == "function_call_output":
            asked.outputs.append(_text(item["output"]))
    asked.system = "\n".join(it for it in system if it)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


async def _answer(writer: asyncio.StreamWriter, asked: Asked, script: Script) -> None:
    pieces = script(asked)
    if pieces and isinstance(pieces[0], Status):
        said = {"error": {"message": pieces[0].message}}
        return await _document(writer, said, f"{pieces[0].code} Said")
    speaks = Responses if asked.path.endswith("/responses") else Chat
    # Endpoints name the very model that has answered.
    speaker = speaks(f"{asked.body['model']}-2026")
    if not asked.body.get("stream"):
        for piece in pieces:
            if isinstance(piece, Hang):
                await asyncio.Event().wait()
            list(speaker.piece(piece))
        return await _document(writer, speaker.whole())
    if pieces and isinstance(pieces[0], Hang):
        await asyncio.Event().wait()
    kind = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked"
    writer.write(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{kind}\r\n\r\n".encode())
    await _tell(writer, speaker.begin())
    for piece in pieces:
        if isinstance(piece, Hang):
            await asyncio.Event().wait()
        if isinstance(piece, Break):
            writer.transport.abort()
            return
        await _tell(writer, speaker.piece(piece), getattr(piece, "pause_s", 0))
    await _tell(writer, speaker.end())
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _tell(
    writer: asyncio.StreamWriter, events: Iterator[Any], pause_s: float = 0
) -> None:
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        name = f"event: {event['type']}\n" if "type" in event else ""
        await _send(writer, f"{name}data: {data}\n\n".encode())
        # One piece a read, as where a model takes its time.
        await asyncio.sleep(pause_s)


async def _document(writer: asyncio.StreamWriter, said: Any, status: str = "200 OK") -> None:
    body = json.dumps(said).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\n{head}\r\n\r\n".encode() + body)
    await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    asked = Asked(first.split()[1], headers, json.loads(body or b"{}"))
    _read(asked)
    return asked


async def _serve(
    model: Model, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        asked = await _read_request(reader)
        model.requests.append(asked)
        model.open += 1
        name = str(asked.body["model"])
        script = model.scripts[name if name in model.scripts else asked.user.split()[0]]
        answer = asyncio.ensure_future(_answer(writer, asked, script))
        # A client sends nothing more: the next thing to be read is its end.
        end = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
        for task in (answer, end):
            task.cancel()
        await asyncio.gather(answer, end, return_exceptions=True)
        model.open -= 1
    writer.close()
    with suppress(ConnectionError, asyncio.CancelledError):
        await writer.wait_closed()


async def _listen(model: Model) -> AsyncIterator[None]:
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(_serve(model, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    model.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield
    server.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await server.wait_closed()


@contextmanager
def scripted_model(**scripts: Script) -> Iterator[Model]:
    """Runs the server in a thread with a loop of its own; stops it on leaving."""
    model = Model("", dict(scripts))
    listening = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        async for _ in _listen(model):
            listening.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert listening.wait(WAIT_S), "the model did not start"
    try:
        yield model
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
        loop.close()
