"""TLS for servers of a test: an authority, a server called localhost, and a client."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def authority(folder: Path) -> None:
    """Files of that authority, server and client in an empty folder, by openssl."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ours")
    for name in ("localhost", "client"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("req", *new, *files, "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name}\n")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        given = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", f"{name}.ext")
        openssl("x509", "-req", *signing, *given)


def secured(folder: Path, port: int) -> dict[str, str]:
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": str(folder / "localhost.pem"),
        "tls-key-file": str(folder / "localhost.key"),
        "tls-ca-cert-file": str(folder / "ca.pem"),
        "tls-replication": "yes",
    }


def client_of(folder: Path) -> dict[str, Any]:
    return {
        "host": "localhost",
        "ssl": True,
        "ssl_ca_certs": str(folder / "ca.pem"),
        "ssl_certfile": str(folder / "client.pem"),
        "ssl_keyfile": str(folder / "client.key"),
    }


def query(folder: Path) -> str:
    files = {"ca_certs": "ca.pem", "certfile": "client.pem", "keyfile": "client.key"}
    return "&".join(f"ssl_{name}={folder / file}" for name, file in files.items())
