"""Tokens that name a user (JWT, RFC 7519), signed with JWT_SECRET or a key of JWT_JWKS_URL.

Invariant: the algorithm is ours to choose, by the key and never by the token: HMAC for a
secret, a signature for a key of the set. What has no end, no user, or no owner where one is to
be named is no token. PyJWT is imported by whoever makes a `Jwts`, and by nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple

from plateau_sse import owners
from plateau_sse.api.jwks import Keys
from plateau_sse.errors import Problem
from plateau_sse.settings import Settings

# Of the clocks of those who sign and of this machine.
LEEWAY_S = 5
# Beyond it are milliseconds, the usual slip: a token that would be good for ever.
END_MOST_S = 1e11
TOKEN_CHARS = 8192
NAME_CHARS = 500
# Tokens whose signature has been looked at, so that a page that asks often costs that once.
KNOWN_MOST = 1000


class Verified(NamedTuple):
    """What a token says: `owner` is that of its user; `until_s` since the epoch."""

    owner: str
    user: str
    scopes: frozenset[str]
    until_s: float


class Jwts:
    """One a worker. `keys` are those of JWT_JWKS_URL, None where there is a secret."""

    def __init__(self, settings: Settings) -> None:
        import jwt

        self._jwt: Any = jwt
        self._secret = settings.jwt_secret
        self._audience = settings.jwt_audience or None
        self._issuer = settings.jwt_issuer or None
        self._owner_claim = settings.jwt_owner_claim
        self._user_claim = settings.jwt_user_claim
        self._keys = Keys(settings.jwt_jwks_url) if settings.jwt_jwks_url else None
        self._known: dict[bytes, Verified] = {}
        self._known_of = 0

    async def close(self) -> None:
        if self._keys is not None:
            await self._keys.close()

    async def verified(self, token: str) -> Verified:
        """Raises Problem: `unauthorized` for what is no token of ours, `token_expired`,
        `keys_unavailable`."""
        if len(token) > TOKEN_CHARS or token.count(".") != 2 or not token.isascii():
            raise _refused("It is neither one of the service's keys nor a token (JWT).")
        keys, generation = self._keys, 0
        if keys is not None:
            await keys.fresh()
            generation = keys.generation
        if generation != self._known_of or len(self._known) >= KNOWN_MOST:
            # Another set of keys: what was signed with one that is gone is worth nothing.
            self._known, self._known_of = {}, generation
        name = blake2b(token.encode(), digest_size=16).digest()
        found = self._known.get(name)
        if found is None:
            found = self._named(await self._claims(token))
            self._known[name] = found
        elif found.until_s <= time.time():
            raise _expired()
        return found

    async def _claims(self, token: str) -> Mapping[str, Any]:
        jwt = self._jwt
        try:
            if self._keys is None:
                key, algorithms = self._secret, ["HS256"]
            else:
                head = jwt.get_unverified_header(token)
                key, algorithm = await self._keys.of(head.get("kid"))
                algorithms = [algorithm]
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={
                    "require": ["exp"],
                    "verify_aud": self._audience is not None,
                    # Users have numbers for names in many a database, which `_name` takes; the
                    # number of the token itself is nothing to us.
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.ExpiredSignatureError:
            raise _expired() from None
        except jwt.PyJWTError as error:
            raise _refused(_why(jwt, error)) from None
        except (ValueError, TypeError, ArithmeticError, RecursionError):
            # Of claims whose kind nobody has looked at.
            raise _refused("It cannot be read.") from None
        return claims

    def _named(self, claims: Mapping[str, Any]) -> Verified:
        user = _name(claims, self._user_claim, "JWT_USER_CLAIM")
        owner = owners.ANONYMOUS
        if self._owner_claim:
            owner = owners.of_name(_name(claims, self._owner_claim, "JWT_OWNER_CLAIM"))
        scopes = claims.get("scope", claims.get("scp", ""))
        if isinstance(scopes, str):
            scopes = scopes.split()
        if not isinstance(scopes, list):
            raise _refused("Its `scope` is neither words nor a list of them.")
        granted = frozenset(scope for scope in scopes if isinstance(scope, str))
        return Verified(owners.of_user(owner, user), user, granted, _end_s(claims) + LEEWAY_S)


def _end_s(claims: Mapping[str, Any]) -> float:
    with suppress(OverflowError):
        end_s = float(claims["exp"])
        if end_s < END_MOST_S:
            return end_s
    raise _refused("Its `exp` is no time in seconds since 1970: milliseconds?")


def _name(claims: Mapping[str, Any], claim: str, setting: str) -> str:
    found = claims.get(claim)
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not 0 < len(found) <= NAME_CHARS:
        raise _refused(f"Its claim `{claim}` names nobody ({setting}).")
    try:
        found.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON may hold and nothing else.
        raise _refused(f"Its claim `{claim}` is no text ({setting}).") from None
    return found


def _why(jwt: Any, error: Exception) -> str:
    """What whoever signs tokens can do something about."""
    for kind, words in (
        (jwt.InvalidAudienceError, "Its `aud` is not JWT_AUDIENCE."),
        (jwt.InvalidIssuerError, "Its `iss` is not JWT_ISSUER."),
        (jwt.ImmatureSignatureError, "It is not valid yet: look at both clocks."),
        (jwt.MissingRequiredClaimError, "It lacks a claim: `exp`, and what is set here."),
        (jwt.InvalidAlgorithmError, "Its `alg` is not that of the service's secret or key."),
        (jwt.InvalidSignatureError, "Its signature is not of the service's secret or key."),
    ):
        if isinstance(error, kind):
            return words
    return "It cannot be read."


def _refused(why: str) -> Problem:
    return Problem(
        "unauthorized",
        f"The token is not valid here. {why}",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )


def _expired() -> Problem:
    return Problem(
        "token_expired",
        "The token has expired: fetch another from where this one came from.",
        headers={
            "WWW-Authenticate": 'Bearer error="invalid_token", '
            'error_description="The token has expired"'
        },
    )
