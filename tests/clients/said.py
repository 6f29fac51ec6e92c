"""What the agent of these tests says: whatever a client may trip over.

Its options: `gate` is a path; what comes after the first pieces is said when that file exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from plateau_sse.agents import Progress, Run, ToolCall, ToolResult, Usage, Yielded

BEFORE = "Größe, Ångström, naïve 雪 🌊👩‍👩‍👧; "
AFTER = (
    # What some take for the end of a line.
    "NEL\u0085 LS\u2028 PS\u2029 VT\u000b FF\u000c FS\u001c RS\u001e CR\r LF\n CRLF\r\n\r\n",
    "\n\ndata: {}\n\nid: 9-9\nevent: end\nretry: 1\n: ping\n\n",
    'a BOM \ufeff, \t a tab, "quotes", \\ and \\n; ',
    "[DONE]\n",
)
TEXT = BEFORE + "".join(AFTER)


async def said(run: Run) -> AsyncIterator[Yielded]:
    yield Progress(1, 2, "Größe\u2028\n", "said")
    yield BEFORE
    yield ToolCall("c1", "search", {"query": "Ångström\u0085\n\u2029"})
    gate = run.options.get("gate")
    # A file is what a test in another process can make.
    while gate and not Path(gate).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.01)
    yield ToolResult("c1", ["gefunden\u2028", "\r\n"])
    yield Progress(2, 2, "🌊")
    for piece in AFTER:
        yield piece
    yield Usage(7, 3)
