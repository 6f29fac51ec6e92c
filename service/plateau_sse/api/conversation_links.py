"""Where a conversation's events are, for a page that has no key.

Invariant: the URL opens the events of one conversation, for as long as that lives and the
token is good of whoever asked for it.
"""

from __future__ import annotations

import logging

from starlette.types import Scope

from plateau_sse.api.access import Caller
from plateau_sse.api.prefix import url_of
from plateau_sse.api.state import State
from plateau_sse.errors import StoreError
from plateau_sse.owners import account_of

log = logging.getLogger("plateau.api")

PREFIX, SUFFIX = "/v1/conversations/", "/events"


async def events_url(
    state: State, scope: Scope, caller: Caller, place: str, conversation_id: str
) -> str | None:
    """None where the store does not answer: what was asked is on its way all the same."""
    try:
        token = await state["openers"].token(
            place, conversation_id, account_of(caller.owner), caller.until_s
        )
    except StoreError as error:
        log.warning("the events of a conversation have no URL for now: %s", error)
        return None
    return f"{url_of(scope, f'{PREFIX}{conversation_id}{SUFFIX}')}?token={token}"
