"""What a loop says of a connection that was given up is no line of a log; all else is."""

from __future__ import annotations

import subprocess
import sys

# As uvloop says it where a timeout ends `create_connection` in the very turn in which the TLS
# handshake completes: it closes a transport that its SSLProtocol then writes to. That turn
# cannot be hit for certain; the same write to the same transport can be made.
SAYING = """
import asyncio, socket, sys
import uvloop
from plateau_sse.serve.logs import configure

async def said(message):
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    transport.abort()
    while not transport.get_extra_info("socket").fileno() == -1:
        await asyncio.sleep(0)
    try:
        transport.write(b"what is left")
    except RuntimeError as error:
        loop.call_exception_handler({"message": message, "exception": error})
    theirs.close()

configure("text")
uvloop.run(said(sys.argv[1]))
"""


def said(message: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", SAYING, message], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def test_a_connection_that_was_given_up_is_not_told_of() -> None:
    assert said("Fatal error on SSL protocol") == ""


def test_the_same_error_elsewhere_is() -> None:
    """Of a connection in use somebody has to know."""
    told = said("Exception in callback ours()")
    assert "Exception in callback ours()" in told
    assert "the handler is closed" in told
