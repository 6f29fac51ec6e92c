"""What children inherit of the master that forks them, and how it stays shared.

Invariant: what is there before the first worker or runner is nobody's to collect, and no child
writes into it to count its references: the pages that hold imported code stay the master's.
CPython counts inside its objects, so whatever a child only reads would otherwise be copied for
it, 3 to 5 MiB of each process. From 3.12 on it leaves alone what is marked as immortal (PEP
683), which is how None and True are kept; here the same mark is put on everything else that
will not go before the process does. Nothing of that is freed again, so it is done once: what is
made later, for each request or each child, lives and dies as ever.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from types import CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

from plateau_sse.heap import give_back_free_pages

# How 3.12 and 3.13 mark it, in a count that comes first in each object. 3.11 has no such mark,
# and 3.14 another one: whoever adds a version here has run tests/test_inheritance.py under it.
_IMMORTAL = 0xFFFF_FFFF
_HAVE_IT = ((3, 12), (3, 13))
# What runs now holds what it works on: that goes when it returns.
_RUNNING = frozenset((FrameType, GeneratorType, CoroutineType))


def settle() -> None:
    """Before a fork: what is there stays; what is free is not inherited, or a child would write
    into it and have pages of its own."""
    gc.collect()
    keep_for_good()
    gc.freeze()
    give_back_free_pages()


@cache
def keep_for_good() -> int:
    """Mark what is there now, once in a process (0.2 s for 180,000 objects); gives how many
    objects. Where it is not known how, none: all that is lost is memory."""
    if not _is_known():
        return 0
    references, count_of = sys.getrefcount, ctypes.c_size_t.from_address
    kept = 0
    found = gc.get_objects()
    while found:
        thing = found.pop()
        kind = type(thing)
        if kind in _RUNNING or references(thing) == _IMMORTAL:
            continue
        count_of(id(thing)).value = _IMMORTAL
        kept += 1
        found += _of_code(thing) if kind is CodeType else gc.get_referents(thing)
    return kept


def _is_known() -> bool:
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in _HAVE_IT:
        return False
    if sys.getrefcount(...) != _IMMORTAL:
        return False
    # Builds for debugging and those without a lock around the interpreter lay objects out
    # otherwise. `probe` is counted once here, and once more as an argument.
    probe = object()
    return ctypes.c_size_t.from_address(id(probe)).value == sys.getrefcount(probe) - 1


def _of_code(code: CodeType) -> tuple[Any, ...]:
    """What it refers to, which it does not tell the collector. Its other attributes are made
    when they are asked for."""
    return (
        code.co_consts,
        code.co_names,
        code.co_filename,
        code.co_name,
        code.co_qualname,
        code.co_linetable,
        code.co_exceptiontable,
    )
