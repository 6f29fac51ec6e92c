"""API_KEYS_FILE: the digests of keys, each with its owner and a name of its own.

    # owner   name       SHA-256 of the key
    acme      web        sha256:6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090

Invariant: what is read is whole and right, or SettingsError says which line is not, without
what stands in it: a key may have been put there by mistake.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from plateau_sse.errors import SettingsError

FILE_BYTES = 1024 * 1024
_NAME = r"[A-Za-z0-9_.:@-]{1,100}"
_LINE = re.compile(rf"({_NAME})\s+({_NAME})\s+sha256:([0-9A-Fa-f]{{64}})", re.ASCII)


class FileKey(NamedTuple):
    owner: str
    name: str


def digest(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read(path: Path) -> dict[str, FileKey]:
    """Keys by their digests. Raises SettingsError."""
    try:
        # To open a pipe is to wait for whoever writes into it.
        if path.is_fifo():
            raise SettingsError(f"API_KEYS_FILE={path} is a pipe, which is read only once.")
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"API_KEYS_FILE={path} cannot be read: {error.strerror or type(error).__name__}."
        ) from None
    if len(content) > FILE_BYTES:
        raise SettingsError(f"API_KEYS_FILE={path} has more than {FILE_BYTES} bytes.")
    found: dict[str, FileKey] = {}
    names: dict[FileKey, int] = {}
    # Some editors begin a file with a mark of its encoding, which nobody sees.
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise SettingsError(
                f"API_KEYS_FILE={path}, line {number}: an owner, a name and the digest of a "
                "key, as: acme web sha256:<64 hexadecimal digits>. docs/tokens.md says how to "
                "make one."
            )
        key = FileKey(match[1], match[2])
        if names.setdefault(key, number) != number or match[3].lower() in found:
            raise SettingsError(
                f"API_KEYS_FILE={path}, line {number}: this name, or this digest, stands in a "
                "line above."
            )
        found[match[3].lower()] = key
    return found
