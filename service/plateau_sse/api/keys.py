"""The keys that open the service: those of API_KEYS, and those of API_KEYS_FILE as it is now.

Invariant: a key is looked up by its digest, so the time taken says nothing about it, and is
kept nowhere. An owner of the file is a name: its keys come and go, its runs stay. A file that
is not right changes nothing; what is in force is what was read last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from plateau_sse import keysfile, owners
from plateau_sse.errors import SettingsError

log = logging.getLogger("plateau.api")

LOOK_S = 1.0


class ApiKeys:
    """One a worker."""

    def __init__(self, keys: Sequence[str], path: Path | None) -> None:
        self._owners = {owners.digest(key) for key in keys}
        self._path = path
        self._looked_at = time.monotonic()
        self._stamp = self._stamp_now()
        self._listed = {} if path is None else keysfile.read(path)
        # Whether there is more than one owner.
        self.is_of_many = self._has_many()

    def owner_of(self, key: str) -> str | None:
        """The owner whose key this is; None for nobody's."""
        digest = owners.digest(key)
        if digest in self._owners:
            return digest
        if self._path is None:
            return None
        self._look_again(self._path)
        found = self._listed.get(keysfile.digest(key))
        return None if found is None else owners.of_name(found.owner)

    def _has_many(self) -> bool:
        return len(self._owners | {key.owner for key in self._listed.values()}) > 1

    def _look_again(self, path: Path) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            listed = keysfile.read(path)
        except SettingsError as error:
            log.error("%s The keys of before stay in force.", error)
            return
        before, self._listed = self._listed, listed
        self.is_of_many = self._has_many()
        for words, some in (
            ("has", listed.items() - before.items()),
            ("lacks", before.items() - listed.items()),
        ):
            if some:
                names = sorted(f"{key.owner}/{key.name}" for _, key in some)
                log.info("API_KEYS_FILE now %s: %s", words, ", ".join(names)[:500])

    def _stamp_now(self) -> tuple[int, ...]:
        """What changes when the file does, also where another is put in its place."""
        if self._path is None:
            return ()
        try:
            found = self._path.stat()
        except OSError:
            return ()
        # That of its rights, too: one that could not be read may be readable since.
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
