"""Is this container's part well: `python -m plateau_sse.serve.healthcheck PATH`, or `runner`.

Invariant: it needs nothing that an image of the service has not got, says why not in one line,
and exits with 1 then, within `WITHIN_S` or little more.
"""

from __future__ import annotations

import http.client
import socket
import sys

from plateau_sse.serve.banner import local_host
from plateau_sse.settings import Settings

WITHIN_S = 3.0


def fault_of_web(settings: Settings, path: str) -> str:
    """What is wrong with the web workers of this machine; '' where nothing is."""
    connection = http.client.HTTPConnection(
        local_host(settings), settings.port, timeout=WITHIN_S
    )
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{path}: {error!r}"
    finally:
        connection.close()
    return "" if status == 200 else f"{path}: status {status}"


def fault_of_runner(settings: Settings) -> str:
    """The same of a `plateau runner` of this machine: no port answers for it, but Redis knows
    when it last looked for work."""
    from redis.exceptions import RedisError

    from plateau_sse.store.queue.queue import RUNNER_DEAD_S
    from plateau_sse.store.redis import keys
    from plateau_sse.store.redis.connections import connect_blocking

    keys.begin_with(settings.key_prefix)
    ours = f"{socket.gethostname()}:".encode()
    try:
        with connect_blocking(settings.redis_url, "plateau-healthcheck") as client:
            seconds, micros = client.time()
            since_ms = seconds * 1000 + micros // 1000 - int(RUNNER_DEAD_S * 1000)
            alive: list[bytes] = client.zrange(
                keys.QUEUE.runners, since_ms, "+inf", byscore=True
            )
    except (RedisError, OSError, ValueError, TypeError) as error:
        return f"the streams instance: {error}"
    if any(name.startswith(ours) for name in alive):
        return ""
    return f"no runner of this machine has looked for work for {RUNNER_DEAD_S:g} s"


def main(part: str) -> int:
    settings = Settings.from_env()
    fault = fault_of_runner(settings) if part == "runner" else fault_of_web(settings, part)
    if fault:
        sys.stdout.write(fault + "\n")
    return int(bool(fault))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
