"""Redis servers that are several: a primary with a replica that Sentinels watch, and clusters.

    with sentinel_trio(tmp_path) as trio:
        connect(trio.url, "test")
        trio.primary().kill()

With `certificates`, a folder that `authority` has filled, all of them speak TLS only: with
their clients, with one another, and under the name that their certificate has.

Invariant: real processes on free ports, each ended by its own id when the block ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from plateau_sse.serve.redis_server import Role, options, server_binary
from plateau_sse.settings import Settings
from plateau_sse.store.redis.topology import SLOTS
from tests.authority import client_of, query, secured
from tests.netns import Host
from tests.processes import free_ports, wait_until

SERVICE = "plateau"
# Short, so that a test sees a failover within seconds.
DOWN_AFTER_MS = 1000
# Replication as quick as may be.
REPLICATION = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}


@dataclass
class Node:
    """One server. It keeps its port and its data where it is ended and started again."""

    folder: Path
    port: int
    configuration: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    tls: Mapping[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    # In the place of the one that the suite is run against.
    binary: str = ""
    # Where it runs; else beside the test.
    on: Host | None = None

    @property
    def address(self) -> str:
        return self.on.address if self.on else "127.0.0.1"

    def client(self, **options: Any) -> Redis:
        # What a certificate names, where it is beside the test.
        host = self.on.address if self.on else "localhost"
        usual = {"host": host, "port": self.port, "protocol": 2, "socket_timeout": 5}
        return Redis(**{**usual, **self.tls, **options})

    def start(self) -> None:
        wanted = self.binary or os.environ.get("REDIS_SERVER_BIN", "")
        words = [server_binary(Settings(redis_server_bin=wanted)), *self.arguments]
        configuration = {**self.configuration}
        if self.on:
            words[:0] = self.on.within
            configuration |= {"bind": "*", "protected-mode": "no"} if configuration else {}
        for name, value in configuration.items():
            # The one of two words that may not be said as one.
            said = value.split(" ") if name == "replicaof" else [value]
            words += [f"--{name}", *said]
        self.folder.mkdir(parents=True, exist_ok=True)
        null = subprocess.DEVNULL
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdin=null, stdout=log, stderr=log)
        wait_until(self.answers, f"the server on {self.port} answers")

    def answers(self) -> bool:
        with suppress(RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def role(self) -> str:
        """`master`, `slave`, or '' where it does not say."""
        with suppress(RedisError), self.client() as client:
            info: dict[str, Any] = client.info("replication")
            return str(info["role"])
        return ""

    def follows(self) -> bool:
        """Whether it is a replica that has what its primary has. Its primary counts it as there
        while it still loads that; one that is promoted then has nothing."""
        with suppress(RedisError), self.client() as client:
            info: dict[str, Any] = client.info("replication")
            return bool(info["role"] == "slave" and info["master_link_status"] == "up")
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        if self.process is not None:
            self.resume()
            self.kill()


@dataclass
class Trio:
    """Three Sentinels, and two servers that they watch."""

    servers: list[Node]
    sentinels: list[Node]
    secret: str = ""
    tls_options: str = ""

    @property
    def url(self) -> str:
        scheme = "rediss" if self.tls_options else "redis"
        hosts = ",".join(
            f"{one.address if one.on else 'localhost'}:{one.port}" for one in self.sentinels
        )
        return f"{scheme}+sentinel://{self.secret}{hosts}/{SERVICE}{self.tls_options}"

    def place(self) -> int:
        """The port of the primary, by what the first Sentinel says that answers."""
        for sentinel in self.sentinels:
            with suppress(RedisError), sentinel.client() as client:
                found: Any = client.execute_command(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE
                )
                return int(found[1])
        raise AssertionError("no Sentinel answers")

    def primary(self) -> Node:
        port = self.place()
        return next(one for one in self.servers if one.port == port)

    def clients(self) -> list[Redis]:
        return [self.primary().client()]

    def replica(self) -> Node:
        port = self.place()
        return next(one for one in self.servers if one.port != port)

    def fail_over(self) -> None:
        """As an operator asks for it; returns once another is the primary."""
        before = self.place()

        def is_begun() -> bool:
            # The Sentinel looks at the replica each second or so; until then it knows of none.
            with suppress(ResponseError), self.sentinels[0].client() as client:
                client.execute_command("SENTINEL", "FAILOVER", SERVICE)
                return True
            return False

        wait_until(is_begun, "a failover is begun", timeout_s=30)
        self.wait_for_another(before)

    def as_replica(self, start: Callable[[], None]) -> None:
        """What starts the other server, as a replica from the start on. Else it is a primary
        until a Sentinel corrects it, ten seconds later; and one that has not looked since takes
        it for that still when a failover that is asked for then has promoted it. It corrects it
        once more, and nobody is the primary until Sentinels find out, half a minute later."""
        now, other = self.primary(), self.replica()
        usual = other.configuration
        address = "localhost" if now.tls else now.address
        other.configuration = {**usual, "replicaof": f"{address} {now.port}"}
        start()
        other.configuration = usual

    def wait_for_another(self, before: int) -> None:
        def is_other() -> bool:
            return self.place() != before and self.primary().role() == "master"

        wait_until(is_other, "another server is the primary", timeout_s=30)

    def wait_until_whole(self) -> None:
        """The replica has all that the primary has, and every Sentinel knows of it."""

        wait_until(lambda: self.replica().follows(), "the replica follows", timeout_s=30)
        wait_until(self._is_known, "every Sentinel knows the others", timeout_s=30)

    def _is_known(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                (seen,) = _rows(client.execute_command("SENTINEL", "MASTERS"))
            if seen["num-slaves"] != "1" or seen["num-other-sentinels"] != "2":
                return False
            if seen["flags"] != "master":
                return False
        return True


def _rows(reply: Any) -> list[dict[str, str]]:
    if isinstance(reply, dict):
        reply = [reply] if "name" in reply else list(reply.values())
    rows = []
    for row in reply:
        pairs = row.items() if isinstance(row, dict) else zip(row[::2], row[1::2], strict=True)
        rows.append({_word(name): _word(value) for name, value in pairs})
    return rows


def _word(it: Any) -> str:
    return it.decode() if isinstance(it, bytes) else str(it)


@contextmanager
def sentinel_trio(
    folder: Path,
    role: Role = "streams",
    places: Sequence[Host] = (),
    certificates: Path | None = None,
    binary: str = "",
    **overrides: str,
) -> Iterator[Trio]:
    """`places`: where the primary, the replica and each Sentinel run."""
    base = free_ports(5)
    on: list[Host | None] = [*places] or [None] * 5
    first = places[0].address if places else "127.0.0.1"
    tls = client_of(certificates) if certificates else {}
    if certificates:
        first = "localhost"
        overrides["replica-announce-ip"] = first
    with ExitStack() as stack:
        servers = []
        for n in range(2):
            place = folder / f"server-{n}"
            configuration = options(role, Settings(), place, base + n) | REPLICATION
            if certificates:
                configuration |= secured(certificates, base + n)
            configuration |= overrides
            if n:
                configuration["replicaof"] = f"{first} {base}"
            node = Node(place, base + n, configuration, tls=tls, binary=binary, on=on[n])
            stack.callback(node.end)
            node.start()
            servers.append(node)
        sentinels = []
        for n in range(2, 5):
            place = folder / f"sentinel-{n}"
            place.mkdir(parents=True, exist_ok=True)
            file = place / "sentinel.conf"
            lines = [f"port {base + n}"]
            if certificates:
                secrets = secured(certificates, base + n)
                lines = [f"{name} {value}" for name, value in secrets.items()]
                lines += ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"]
                lines += [f"sentinel announce-ip {first}"]
            lines += [
                f"dir {place}",
                f"sentinel monitor {SERVICE} {first} {base} 2",
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {SERVICE} 3000",
                "protected-mode no",
            ]
            file.write_text("\n".join([*lines, ""]))
            words = (str(file), "--sentinel")
            sentinel = Node(place, base + n, {}, words, tls=tls, binary=binary, on=on[n])
            stack.callback(sentinel.end)
            sentinel.start()
            sentinels.append(sentinel)
        found = f"?{query(certificates)}" if certificates else ""
        trio = Trio(servers, sentinels, tls_options=found)
        trio.wait_until_whole()
        yield trio


@dataclass
class Cluster:
    """Three primaries, each with a replica; in what order changes with every failover."""

    nodes: list[Node]
    tls_options: str = ""

    @property
    def url(self) -> str:
        if self.tls_options:
            hosts = ",".join(f"localhost:{one.port}" for one in self.nodes)
            return f"rediss+cluster://{hosts}{self.tls_options}"
        hosts = ",".join(f"{one.address}:{one.port}" for one in self.nodes)
        return f"redis+cluster://{hosts}"

    def primary_of(self, slot: int) -> Node:
        """By what a majority of them says."""
        said = [self._said_by(node, slot) for node in self.nodes if node.process is not None]
        port = max(set(said), key=said.count)
        return next(one for one in self.nodes if one.port == port)

    def _said_by(self, node: Node, slot: int) -> int:
        with suppress(RedisError), node.client(socket_timeout=1) as client:
            for first, last, primary, *_ in slots_of(client):
                if first <= slot <= last:
                    return int(primary[1])
        return 0

    def replica_of(self, primary: Node) -> Node:
        with primary.client() as client:
            for _, _, (_, port, *_), *replicas in slots_of(client):
                if port == primary.port and replicas:
                    return next(one for one in self.nodes if one.port == replicas[0][1])
        raise AssertionError(f"the primary on {primary.port} has no replica")

    def primaries(self) -> list[Node]:
        found = {node.port: node for node in self.nodes}
        with self.nodes[0].client() as client:
            ports = {row[2][1] for row in slots_of(client)}
        return [found[port] for port in sorted(ports)]

    def clients(self) -> list[Redis]:
        return [node.client() for node in self.primaries()]

    def wait_until_whole(self) -> None:
        def is_whole() -> bool:
            for node in self.nodes:
                with suppress(RedisError), node.client() as client:
                    info = _lines(client.execute_command("CLUSTER INFO"))
                    if info["cluster_state"] == "ok" and len(_primaries(client)) == 3:
                        if node.follows() or node.role() == "master":
                            continue
                return False
            return True

        wait_until(is_whole, "the cluster is whole", timeout_s=30)

    def wait_for_another(self, slot: int, before: Node) -> None:
        def is_other() -> bool:
            now = self.primary_of(slot)
            return now.port != before.port and now.role() == "master"

        wait_until(is_other, "another node serves the slot", timeout_s=30)

    def fail_over(self, slot: int, *how: str) -> None:
        """As an operator asks the replica for it: '', FORCE or TAKEOVER."""
        before = self.primary_of(slot)
        with self.replica_of(before).client() as client:
            client.execute_command("CLUSTER", "FAILOVER", *how)
        self.wait_for_another(slot, before)

    def migrate(self, slot: int, *, half_way: Any = lambda: None) -> Node:
        """Move a slot to another primary, key by key, as `redis-cli --cluster reshard` does;
        `half_way` is called while it belongs to both. Gives who has it then."""
        source = self.primary_of(slot)
        target = next(one for one in self.primaries() if one.port != source.port)
        with source.client() as giving, target.client() as taking:
            ids = [_word(it.execute_command("CLUSTER MYID")) for it in (giving, taking)]
            taking.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
            giving.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
            half_way()
            while names := giving.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
                giving.execute_command(
                    "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names
                )
            for node in (target, source, *self.primaries()):
                with node.client() as client:
                    client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
        return target


def slots_of(client: Any) -> list[Any]:
    # redis-py would make names of it.
    client.set_response_callback("CLUSTER SLOTS", lambda reply, **_: reply)
    found: list[Any] = client.execute_command("CLUSTER SLOTS")
    return found


def _primaries(client: Any) -> set[int]:
    """Those with a replica, by their ports."""
    return {row[2][1] for row in slots_of(client) if len(row) > 3}


def _lines(reply: Any) -> dict[str, str]:
    if isinstance(reply, dict):
        return reply
    pairs = (line.partition(":")[::2] for line in _word(reply).splitlines())
    return dict(pairs)


@contextmanager
def six_nodes(
    folder: Path,
    role: Role = "streams",
    places: Sequence[Host] = (),
    certificates: Path | None = None,
    **overrides: str,
) -> Iterator[Cluster]:
    """`places`: where each of them runs, the replicas after the primaries."""
    base = free_ports(12)
    tls = client_of(certificates) if certificates else {}
    if certificates:
        overrides |= {
            "tls-cluster": "yes",
            "cluster-announce-hostname": "localhost",
            "cluster-preferred-endpoint-type": "hostname",
        }
    on: list[Host | None] = [*places] or [None] * 6
    with ExitStack() as stack:
        nodes = []
        for n in range(6):
            place = folder / f"node-{n}"
            configuration = options(role, Settings(), place, base + n) | REPLICATION
            if certificates:
                configuration |= secured(certificates, base + n)
            configuration |= {
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-port": str(base + 6 + n),
                "cluster-node-timeout": "1500",
                "cluster-replica-validity-factor": "0",
                # A replica stays where it is put.
                "cluster-allow-replica-migration": "no",
                **overrides,
            }
            node = Node(place, base + n, configuration, tls=tls, on=on[n])
            stack.callback(node.end)
            node.start()
            nodes.append(node)
        _join(nodes)
        cluster = Cluster(nodes, f"?{query(certificates)}" if certificates else "")
        cluster.wait_until_whole()
        yield cluster


def _join(nodes: list[Node]) -> None:
    third = SLOTS // 3
    with ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in nodes]
        for n, client in enumerate(clients[:3]):
            last = SLOTS - 1 if n == 2 else (n + 1) * third - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * third, last)
        for n, client in enumerate(clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            if n:
                port, bus = nodes[0].port, nodes[0].configuration["cluster-port"]
                client.execute_command("CLUSTER", "MEET", nodes[0].address, port, bus)
        ids = [_word(client.execute_command("CLUSTER MYID")) for client in clients]

        def knows(client: Any, node_id: str) -> bool:
            return node_id in str(client.execute_command("CLUSTER NODES"))

        for n, client in enumerate(clients):
            wait_until(
                lambda client=client: all(knows(client, it) for it in ids),  # type: ignore[misc]
                "the nodes have met",
                timeout_s=30,
            )
            if n >= 3:
                client.execute_command("CLUSTER", "REPLICATE", ids[n - 3])
