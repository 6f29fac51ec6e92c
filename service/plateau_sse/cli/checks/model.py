"""The OpenAI-compatible endpoint, where one is configured.

Invariant: the key goes to the endpoint and nowhere else; what libraries say of a failed request
is told only where it cannot quote it.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from urllib.parse import urlsplit

import httpx

from plateau_sse.addresses import key_header, url_of
from plateau_sse.cli.checks import Finding, error, ok, warning
from plateau_sse.settings import Settings, is_loopback
from plateau_sse.store.redis.connections import masked

OPENAI = "https://api.openai.com/v1"
ANSWER_S = 6.0
# OpenAI's own list has some tens of KiB, that of a broker half a MiB.
MOST_BYTES = 4 * 1024**2


async def check(settings: Settings) -> list[Finding]:
    if not settings.openai_base_url:
        if settings.openai_api_key or settings.openai_model:
            text = "OPENAI_API_KEY or OPENAI_MODEL is set, and OPENAI_BASE_URL is not"
            return [warning("openai", text, f"OPENAI_BASE_URL={OPENAI}")]
        return [ok("openai", "OPENAI_BASE_URL is not set: the agent openai is not in use")]
    if not settings.openai_api_key.isascii():
        text = "OPENAI_API_KEY must be plain ASCII"
        return [error("openai.key", text, "OPENAI_API_KEY=sk-…")]
    findings = [await _list(settings)]
    if _is_in_the_clear(settings):
        secure = _shown(settings.openai_base_url).replace("http:", "https:", 1)
        text = "OPENAI_BASE_URL is not encrypted, and the key goes there"
        findings.append(warning("openai.encryption", text, f"OPENAI_BASE_URL={secure}"))
    return findings


def _is_in_the_clear(settings: Settings) -> bool:
    parts = urlsplit(settings.openai_base_url)
    return (
        parts.scheme == "http"
        and bool(settings.openai_api_key)
        and not is_loopback(parts.hostname or "")
    )


async def _list(settings: Settings) -> Finding:
    base = settings.openai_base_url
    shown = _shown(base)
    try:
        async with (
            asyncio.timeout(ANSWER_S),
            # By the ways of the agent: the machine's proxies, and whom it trusts.
            httpx.AsyncClient(timeout=ANSWER_S) as http,
            http.stream(
                "GET",
                url_of(base, "/models"),
                headers=key_header(settings.openai_auth_header, settings.openai_api_key),
            ) as answer,
        ):
            status, body = answer.status_code, b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    break
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        text = f"OPENAI_BASE_URL={shown} is no address"
        return error("openai", text, f"OPENAI_BASE_URL={OPENAI}")
    except httpx.LocalProtocolError:
        text = "OPENAI_API_KEY does not fit in a header"
        return error("openai.key", text, "OPENAI_API_KEY=sk-…")
    except httpx.ConnectError as wrong:
        return error("openai", f"{shown} cannot be reached: {wrong}", _form(base))
    except (httpx.HTTPError, TimeoutError) as wrong:
        text = f"{shown} gave no answer within {ANSWER_S:g} s ({type(wrong).__name__})"
        return error("openai", text, _form(base))
    except (OSError, ValueError, ImportError):
        # Of the client itself, before it has asked anything.
        text = "HTTPS_PROXY or SSL_CERT_FILE cannot be used"
        return error("openai.way", text, "HTTPS_PROXY=http://host:port SSL_CERT_FILE=ca.pem")
    return _judge(settings, shown, status, body)


def _shown(base: str) -> str:
    """Without what may hold a key."""
    return masked(base.partition("?")[0].rstrip("/"))


def _form(base: str) -> str:
    shown = _shown(base)
    return (
        f"curl -sS {shown}/models" if shown.endswith("/v1") else f"OPENAI_BASE_URL={shown}/v1"
    )


def _judge(settings: Settings, shown: str, status: int, body: bytes) -> Finding:
    model = settings.openai_model
    if status in (401, 403):
        return error("openai.key", f"{shown} refuses the key ({status})", "OPENAI_API_KEY=sk-…")
    if status in (404, 405) and (shown.endswith("/v1") or "?" in settings.openai_base_url):
        return ok("openai", f"{shown} answers, and does not say which models it has")
    if status != 200:
        return error("openai", f"{shown}/models answers {status}", _form(shown))
    try:
        models = [str(it["id"]) for it in json.loads(body)["data"]]
    except (ValueError, TypeError, KeyError):
        return error("openai", f"{shown}/models is no list of models", _form(shown))
    if not model:
        text = f"{shown} has {len(models)} models, and none is named"
        first = models[0] if models else "…"
        return warning("openai.model", text, f"OPENAI_MODEL={first}")
    # Some servers complete a name with a tag.
    if any(it == model or it.startswith(f"{model}:") for it in models):
        return ok("openai", f"{shown} answers and has OPENAI_MODEL={model}")
    nearest = difflib.get_close_matches(model, models, n=1, cutoff=0) or ["…"]
    text = f"{shown} has no model {model}, but {', '.join(sorted(models)[:5]) or 'none'}"
    return error("openai.model", text, f"OPENAI_MODEL={nearest[0]}")
