"""Pointers: from a run to the cached answer it left, for who comes once its record is gone.

Invariant: a pointer leads to the very answer of its run or nowhere, and opens it for nobody who
could not read the run.

    key of the entry  of its token  [digest of one of the run's tokens]…
          18               4                       6 each

An entry that another run's answer has replaced has another token, and another tag. One pointer
beside each answer is a tenth of what the cache holds, so every byte is counted.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.runs import ids

_KEY, _TOKEN, _DIGEST = 18, 4, 6
# So many callers that shared a run may come back late.
TOKENS_MOST = 16


class Pointer(NamedTuple):
    key: str
    token: bytes
    digests: bytes

    def opens(self, token: str) -> bool:
        """Whether this is one of the run's tokens."""
        given = _digest(token)
        starts = range(0, len(self.digests), _DIGEST)
        found = [hmac.compare_digest(self.digests[at : at + _DIGEST], given) for at in starts]
        return any(found)

    def is_to(self, answer: Answer, run_id: str) -> bool:
        """Whether what is there is what this run left."""
        return answer.tag == ids.tag_of(run_id) and _start_of(answer.token) == self.token


def pack(key: str, answer: Answer, tokens: Iterable[str]) -> bytes:
    digests = b"".join(map(_digest, islice(sorted(tokens), TOKENS_MOST)))
    return urlsafe_b64decode(key) + _start_of(answer.token) + digests


def unpack(packed: bytes) -> Pointer:
    key = urlsafe_b64encode(packed[:_KEY]).decode()
    return Pointer(key, packed[_KEY : _KEY + _TOKEN], packed[_KEY + _TOKEN :])


def _start_of(token: str) -> bytes:
    return urlsafe_b64decode(token + "==")[:_TOKEN]


def _digest(token: str) -> bytes:
    return blake2b(token.encode(), digest_size=_DIGEST).digest()
