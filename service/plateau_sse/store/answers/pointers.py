"""Pointers: from a run to the cached answer it left, for who comes once its record is gone.

Invariant: a pointer leads to the very answer of its run or nowhere, and opens it for nobody who
could not read the run.

    key of the entry  of its token  [digest of one of the run's tokens, or of its user]…
          18               4                       6 each

An entry that another run's answer has replaced has another token, and another tag. One pointer
beside each answer is a tenth of what the cache holds, so every byte is counted.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.runs import ids

_KEY, _TOKEN, _DIGEST = 18, 4, 6
# As `ids.new_token` makes them.
_FORM = re.compile(r"[A-Za-z0-9_-]+")
# So many callers that shared a run may come back late.
TOKENS_MOST = 16


class Pointer(NamedTuple):
    key: str
    token: bytes
    digests: bytes

    def opens(self, token: str) -> bool:
        """Whether this is one of the run's tokens."""
        return _FORM.fullmatch(token) is not None and self._has(_digest(token))

    def is_of(self, user: str) -> bool:
        """Whether the run was this user's, by the name of an owner's user."""
        return self._has(_digest(_mark(user)))

    def _has(self, given: bytes) -> bool:
        starts = range(0, len(self.digests), _DIGEST)
        found = [hmac.compare_digest(self.digests[at : at + _DIGEST], given) for at in starts]
        return any(found)

    def is_to(self, answer: Answer, run_id: str) -> bool:
        """Whether what is there is what this run left."""
        return answer.tag == ids.tag_of(run_id) and _start_of(answer.token) == self.token


def pack(key: str, answer: Answer, tokens: Iterable[str], user: str = "") -> bytes:
    """`user` is whose the run was, where the answer is not that user's alone."""
    known = [*islice(sorted(tokens), TOKENS_MOST), *([_mark(user)] if user else [])]
    digests = b"".join(map(_digest, known))
    return urlsafe_b64decode(key) + _start_of(answer.token) + digests


def unpack(packed: bytes) -> Pointer:
    key = urlsafe_b64encode(packed[:_KEY]).decode()
    return Pointer(key, packed[_KEY : _KEY + _TOKEN], packed[_KEY + _TOKEN :])


def _mark(user: str) -> str:
    """What no token looks like."""
    return f"user {user}"


def _start_of(token: str) -> bytes:
    return urlsafe_b64decode(token + "==")[:_TOKEN]


def _digest(token: str) -> bytes:
    return blake2b(token.encode(), digest_size=_DIGEST).digest()
