"""What an endpoint says of an error, without what is nobody's business who asked.

Invariant: of the key no form is left that can be turned back into it (a short one may be a part
of a word), nor what looks like one; nor an address within somebody's network. What is left is
for the person who asks.
"""

from __future__ import annotations

import re
from base64 import b64encode, urlsafe_b64encode
from functools import lru_cache
from urllib.parse import quote

KEY, ADDRESS, SECRET = "[key]", "[address]", "[hidden]"
# Shorter pieces of a key stand in words by chance.
PIECE_CHARS = 6
# A shorter key is what local endpoints are given where they want none (EMPTY, x, ollama), and
# may be a part of any word.
WORD_CHARS = 8

_KEYS = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|key|org|proj)[-_](?=[A-Za-z0-9_*.-]{0,200}[0-9*])[A-Za-z0-9_*.-]{8,}"
    r"|(?<=Bearer )[A-Za-z0-9._~+/*=-]{6,}|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,2}",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"\b(password|passwd|pwd|secret|api[-_ ]?key|access[-_ ]?token)(\"?\s{0,9}[=:]\s{0,9}\"?)"
    r"(?!\[)[^\s\"',;&<>]+",
    re.IGNORECASE,
)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>)\]]+", re.IGNORECASE)
_HOST = re.compile(
    r"(?<![\w.-])(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[\w-]+(?:\.[\w-]+)*"
    r"\.(?:internal|local|localdomain|lan|corp|intranet|svc|cluster))(?::[0-9]{1,5})?(?![\w-])",
    re.IGNORECASE,
)
# Where their errors lead people to.
_PUBLIC = re.compile(
    r"https://(?:[\w-]+\.)+(?:com|org|net|io|ai|dev|co|eu|de|fr|cn|app)(?:[/?#]|\Z)",
    re.IGNORECASE,
)


def redacted(text: str, key: str) -> str:
    """`key` is '' where there is none."""
    if key:
        text = _forms_of(key).sub(KEY, text)
    text = _KEYS.sub(KEY, text)
    text = _NAMED.sub(lambda found: f"{found[1]}{found[2]}{SECRET}", text)
    text = _URL.sub(lambda found: found[0] if _is_public(found[0]) else ADDRESS, text)
    return _HOST.sub(ADDRESS, text)


def _is_public(url: str) -> bool:
    return "@" not in url and _PUBLIC.match(url) is not None and not _HOST.search(url)


@lru_cache(4)
def _forms_of(key: str) -> re.Pattern[str]:
    """However it is written: in whatever case, escaped, and as a part of what is in base64; a
    short one as a word, as it stands."""
    written, encoded = {key, quote(key), quote(key, safe="")}, set[str]()
    for before in range(3):
        # Behind as many other bytes, of which and of the last ones nothing is told.
        for encode in (b64encode, urlsafe_b64encode):
            form = encode(b"\0" * before + key.encode()).decode().rstrip("=")
            encoded.add(form[before + 1 if before else 0 : -1])
    known = written | {form for form in encoded if len(form) >= PIECE_CHARS}
    is_short = len(key) < WORD_CHARS
    return re.compile(
        "|".join(
            rf"(?-i:(?<!\w){re.escape(form)}(?!\w))"
            if is_short and form in written
            else re.escape(form)
            for form in sorted(known, key=len, reverse=True)
        ),
        re.IGNORECASE,
    )
