"""What a process does with the memory of a large document once that has been sent.

Invariant: what nothing uses any more is the kernel's again: a block of `LARGE_BYTES` or more as
soon as it is free, and the pages between smaller ones whenever that is asked for. glibc would
begin to cut large blocks from its heap once it has seen one freed, and what lies behind them
keeps them there: 40 readers of large documents cost a worker megabytes that nothing used.
"""

from __future__ import annotations

import ctypes

LARGE_BYTES = 128 * 1024
# Of malloc.h.
_M_MMAP_THRESHOLD = -3


def give_back_large_blocks() -> None:
    """Of this process. Other C libraries than glibc have ways of their own."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back_free_pages() -> None:
    """Half a millisecond for a worker's heap."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
