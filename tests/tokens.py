"""Tokens as a back end, an identity provider or an attacker makes them."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt

# Long enough for the algorithms that are refused, too.
SECRET = "a-secret-of-the-tests-that-is-long-enough-for-every-algorithm-there-is"
AUDIENCE, ISSUER = "plateau", "https://id.example"
SCOPES = "runs:create runs:read conversations"
ENV = {
    "JWT_SECRET": SECRET,
    "JWT_AUDIENCE": AUDIENCE,
    "JWT_ISSUER": ISSUER,
    "JWT_OWNER_CLAIM": "org",
}


def claims(user: str = "ulla", org: str | None = "acme", **more: Any) -> dict[str, Any]:
    """Those of a good one; a member of None is left out."""
    now = int(time.time())
    found = {
        "sub": user,
        "org": org,
        "aud": AUDIENCE,
        "iss": ISSUER,
        "scope": SCOPES,
        "iat": now,
        # Tables of them are made when a file is read, long before the suite comes to it.
        "exp": now + 6 * 3600,
    }
    return {name: value for name, value in (found | more).items() if value is not None}


def token(
    user: str = "ulla",
    org: str | None = "acme",
    *,
    secret: str = SECRET,
    alg: str = "HS256",
    **more: Any,
) -> str:
    return jwt.encode(claims(user, org, **more), secret, algorithm=alg)


def _part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _said(head: dict[str, Any], **more: Any) -> str:
    return f"{_part(json.dumps(head).encode())}.{_part(json.dumps(claims(**more)).encode())}"


def unsigned(**more: Any) -> str:
    """The algorithm `none`, which libraries once took."""
    return _said({"alg": "none", "typ": "JWT"}, **more) + "."


def by_hand(secret: bytes, **head: Any) -> str:
    """By HMAC, with a secret that no library would sign with."""
    said = _said({"alg": "HS256", "typ": "JWT", **head})
    return f"{said}.{_part(hmac.digest(secret, said.encode(), 'sha256'))}"


def tampered() -> str:
    """Another user, under the signature of this one."""
    head, _, signature = token().split(".")
    _, body, _ = token("root").split(".")
    return f"{head}.{body}.{signature}"
