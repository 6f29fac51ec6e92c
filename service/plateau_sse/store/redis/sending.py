"""Sending to Redis such that whoever is cancelled meanwhile is cancelled.

Invariant: a deadline around a command holds, on every Python that is supported. redis-py sends
with `asyncio.wait_for`, which before 3.12 forgets a cancellation where what it waits for is
done already; and sending nearly always is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError
from redis.exceptions import TimeoutError as SendTimeoutError


async def _send_packed_command(
    self: Any, command: bytes | str | Iterable[bytes], check_health: bool = True
) -> None:
    """As redis-py's own, but for how the time is bounded."""
    if not self.is_connected:
        await self.connect_check_health(check_health=False)
    if check_health:
        await self.check_health()
    if isinstance(command, str):
        command = command.encode()
    try:
        async with asyncio.timeout(self.socket_timeout or None):
            await self._send_packed_command(
                [command] if isinstance(command, bytes) else command
            )
    except TimeoutError:
        await self.disconnect(nowait=True)
        raise SendTimeoutError("Timeout writing to socket") from None
    except OSError as error:
        await self.disconnect(nowait=True)
        raise ConnectionError(f"Error while writing to socket: {error}.") from error
    except BaseException:
        # Half a command may have gone out.
        await self.disconnect(nowait=True)
        raise


def prompt(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """That kind of connection (TCP, TLS, a Unix socket), sending in this way."""
    members = {"send_packed_command": _send_packed_command}
    return type(connection_class.__name__, (connection_class,), members)
