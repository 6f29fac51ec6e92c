"""nginx before Plateau, with the configuration that is shipped.

Invariant: of deploy/nginx.conf nothing is changed but addresses and paths, each of which must
be in it; what was started is ended, by id, when the `with` block ends.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.processes import REPOSITORY, free_ports, is_listening, wait_until

# Debian has it where only root's PATH leads.
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

# What docs/deploy.md says to change for the path `/ai/`: where nginx takes it off, and where it
# leaves it on (with ROOT_PATH=/ai).
LOCATION = "location / {\n      proxy_pass http://plateau;"
EVENTS = "location ~ ^/v1/runs/[^/]+/events$ {\n      proxy_pass http://plateau_streams;"
METRICS = "location = /metrics "
STRIPPED = {
    'X-Forwarded-Prefix "";': "X-Forwarded-Prefix /ai;",
    LOCATION: "location /ai/ {\n      proxy_pass http://plateau/;",
    EVENTS: "location ~ ^/ai(/v1/runs/[^/]+/events)$ {\n"
    "      proxy_pass http://plateau_streams$1$is_args$args;",
    METRICS: "location = /ai/metrics ",
}
UNSTRIPPED = {
    LOCATION: "location /ai/ {\n      proxy_pass http://plateau;",
    EVENTS: "location ~ ^/ai/v1/runs/[^/]+/events$ {\n      proxy_pass http://plateau_streams;",
    METRICS: "location = /ai/metrics ",
}
# For clients that know no certificate of ours.
PLAIN = {" ssl http2;": ";"}


@dataclass
class Proxy:
    """`tls` trusts its certificate."""

    port: int
    plain_port: int
    folder: Path
    tls: ssl.SSLContext
    scheme: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    @property
    def logs(self) -> str:
        return "".join((self.folder / name).read_text() for name in ("access.log", "error.log"))

    def connections(self) -> int:
        """How many TCP connections lead to its TLS port, by the kernel's own account."""
        return sum(
            one.status == "ESTABLISHED" and tuple(one.raddr)[1:] == (self.port,)
            for one in psutil.net_connections("tcp")
        )


@contextmanager
def nginx(
    folder: Path, plateau_port: int, changes: Mapping[str, str] | None = None
) -> Iterator[Proxy]:
    """`changes` are made to the configuration besides: those above."""
    assert NGINX is not None
    folder.mkdir(parents=True, exist_ok=True)
    certificate = _certificate(folder)
    port, plain_port = free_ports(1), free_ports(1)
    file = folder / "nginx.conf"
    changes = changes or {}
    text = _configuration(folder, port, plain_port, plateau_port)
    file.write_text(_changed(text, changes))
    with (folder / "stderr").open("wb") as log:
        process = subprocess.Popen(
            [NGINX, "-p", folder, "-e", folder / "error.log", "-c", file, "-g", "daemon off;"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: is_listening(port), "nginx listens")
        assert (folder / "stderr").read_text() == ""
        tls = ssl.create_default_context(cafile=certificate)
        scheme = "http" if PLAIN.keys() <= changes.keys() else "https"
        yield Proxy(port, plain_port, folder, tls, scheme)
    finally:
        process.terminate()
        process.wait(10)


def _configuration(folder: Path, port: int, plain_port: int, plateau_port: int) -> str:
    text = (REPOSITORY / "deploy" / "nginx.conf").read_text()
    temporary = "".join(f"\n  {name}_temp_path {folder}/{name};" for name in TEMPORARY)
    changes = {
        "pid /run/nginx.pid;": f"pid {folder}/pid;",
        "/var/log/nginx/": f"{folder}/",
        "/etc/ssl/plateau/": f"{folder}/",
        "http {\n": f"http {{{temporary}\n",
        "listen 80;": f"listen 127.0.0.1:{plain_port};",
        "listen [::]:80;": "",
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "listen [::]:443 ssl http2;": "",
        "server 127.0.0.1:8000 ": f"server 127.0.0.1:{plateau_port} ",
    }
    # Its workers must get into a directory that is this user's alone.
    return ("user root;\n" if os.geteuid() == 0 else "") + _changed(text, changes)


def _changed(text: str, changes: Mapping[str, str]) -> str:
    for shipped, ours in changes.items():
        assert shipped in text, f"deploy/nginx.conf has no {shipped!r}"
        text = text.replace(shipped, ours)
    return text


def _certificate(folder: Path) -> Path:
    """One for `localhost`, good for a day."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate with")
    certificate = folder / "fullchain.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", str(folder / "privkey.pem"), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return certificate
