"""LiteLLM's proxy with its Redis cache, before the same fake model."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from tests.conftest import Server, end_server, start_server
from tests.processes import environment, free_ports, wait_until

from benchmarks.peers import Absent, environment_of

START_S = 120
# No look-ups elsewhere; and it is for this machine alone, as ours is without keys.
ENV = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}
# By whether the answer is to be streamed: what the fake model calls the way it answers.
MODELS = {False: "plain", True: "normal"}
CONFIG = """
model_list:
  - model_name: plain
    litellm_params: {{model: openai/plain, api_base: "{base_url}", api_key: none}}
  - model_name: normal
    litellm_params: {{model: openai/normal, api_base: "{base_url}", api_key: none}}
litellm_settings:
  cache: true
  cache_params:
    type: redis
    host: 127.0.0.1
    port: {redis}
"""


class Proxy:
    def __init__(self, port: int, process: psutil.Process, server: Server) -> None:
        self.port = port
        self._process = process
        self._server = server

    def pids(self) -> list[int]:
        """The proxy's processes and its Redis."""
        tree = [self._process, *self._process.children(recursive=True)]
        return [*(process.pid for process in tree), self._server.process.pid]


@contextmanager
def litellm(base_url: str) -> Iterator[Proxy]:
    """Before the model at `base_url`; installed on first use. Raises Absent."""
    program = environment_of("litellm", "litellm[proxy]") / "litellm"
    with tempfile.TemporaryDirectory() as name:
        server = start_server("cache", Path(name) / "redis")
        port = free_ports(1)
        config = Path(name) / "config.yaml"
        config.write_text(CONFIG.format(base_url=base_url, redis=server.port))
        with (Path(name) / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "--config", config, "--host", "127.0.0.1", "--port", str(port)],
                env=environment(ENV),
                cwd=name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: _answers(port), "LiteLLM's proxy answers", timeout_s=START_S)
            yield Proxy(port, psutil.Process(process.pid), server)
        except AssertionError as error:
            said = (Path(name) / "log").read_text(errors="replace")[-300:]
            raise Absent(f"{error}: {said}") from None
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
            end_server(server)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/liveliness", timeout=5).is_success
    except httpx.HTTPError:
        return False
