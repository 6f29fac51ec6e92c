"""What is told to whoever asked, where there is no answer.

Invariant: whatever goes wrong on the way to the service and back is one of these two, what
cannot be sent at all among it; neither has a token in its words.
"""

from __future__ import annotations

import json
import re
from typing import Any

import httpx

from plateau_sse.errors import PlateauError

PORT_MOST = 65_535


class Unreachable(PlateauError):
    """The service could not be reached, or not any more."""


class Refused(PlateauError):
    """The service said no: `code` (docs/errors.md) and `detail` are what it said; `status` is
    that of the response. Beside its own codes: `client`, what cannot be sent, and
    `not_plateau`, something else answers there."""

    def __init__(self, code: str, detail: str, status: int = 200) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.detail = detail
        self.status = status


def not_plateau(url: str, why: object = "") -> Refused:
    told = f"{shown(url)} does not answer as Plateau does"
    return Refused("not_plateau", f"{told}: {why}" if why else f"{told}.")


def shown(url: str) -> str:
    """A URL without what opens it."""
    bare = re.sub(r"//[^/@?#]*@", "//…@", url)
    return re.sub(r"([?&]token=)[^&#]*", r"\1…", bare)


def check_port(url: str | httpx.URL) -> None:
    """Whoever connects to a port that is none is told by an OverflowError, within a group of
    errors where it is awaited. Raises InvalidURL."""
    if (httpx.URL(url).port or 0) > PORT_MOST:
        raise httpx.InvalidURL(f"a port is at most {PORT_MOST}")


def problem_of(response: httpx.Response) -> Refused:
    """What a response that is none of the expected says; its body has been read."""
    problem = object_of(response.content)
    code = problem.get("code") or f"status {response.status_code}"
    detail = problem.get("detail") or problem.get("title") or response.text.strip()[:200]
    return Refused(str(code), str(detail or response.reason_phrase), response.status_code)


def object_of(body: str | bytes) -> dict[str, Any]:
    """The JSON object that it is, or an empty one."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
