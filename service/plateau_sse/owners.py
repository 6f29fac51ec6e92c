"""Names of owners, and what one may see of another's.

Invariant: an owner is who has a share of the queue, of the cache and of conversations. Of one
whose users come with tokens of their own each has a name below it, `<owner>/<user>`: a user
sees what is that user's, an owner all of it. Both are digests, so that a name of any length or
letters is as good as a key of ours, and no name of a person is kept.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

ANONYMOUS = "anonymous"

CacheScope = Literal["user", "owner"]


def digest(text: str) -> str:
    """24 hexadecimal characters, in which an answer keeps an owner in 12 bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def of_name(name: str) -> str:
    """The owner that is called so; apart from those that are digests of keys."""
    return digest(f"name\n{name}")


def of_user(owner: str, user: str) -> str:
    """That of a user of an owner."""
    return f"{owner}/{digest(user)}"


def account_of(name: str) -> str:
    """The owner that a user's name is below; itself where it is nobody's user."""
    return name.partition("/")[0]


def sees(whose: str, who: str) -> bool:
    """Whether `who` may see a run of this name: its own, and an owner that of its users."""
    return whose == who or whose.startswith(f"{who}/")


def sees_answer(whose: str, who: str) -> bool:
    """The same of a cached answer: what is kept for all users of an owner is each one's."""
    return sees(whose, who) or whose == account_of(who)


# The end of the version of an agent whose answers are the same whichever user asks: it goes
# wherever the version goes, from the runner that has the agent to whoever looks an answer up. A
# line of the queue is called by the version with it, and as it is.
FOR_ALL_USERS = "+owner"


def scope_of(version: str) -> CacheScope:
    """For whom an answer of this version is kept: each user alone, or all of an owner."""
    return "owner" if version.endswith(FOR_ALL_USERS) else "user"


def kept_for(whose: str, version: str) -> str:
    """Whose the answer is that a run of this name leaves in the cache."""
    return account_of(whose) if scope_of(version) == "owner" else whose
