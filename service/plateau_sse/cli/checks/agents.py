"""AGENTS: can they be imported from here. They are, in a process of their own."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE

from plateau_sse.cli.checks import Finding, error, ok, warning
from plateau_sse.settings import Settings

IMPORT_S = 6.0


async def check(settings: Settings) -> list[Finding]:
    yours = [(name, target) for name, target in settings.agents if target]
    if not yours:
        off = {name for name, target in settings.agents if not target}
        there = " and ".join(name for name in ("study", "openai") if name not in off)
        return [ok("agents", f"AGENTS names none of yours: there is {there or 'none'}")]
    pairs = [f"{name}={target}" for name, target in yours]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plateau_sse.cli.checks.importing", *pairs),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
    )
    findings, patient = [], True
    try:
        async with asyncio.timeout(IMPORT_S):
            assert process.stdout
            async for line in process.stdout:
                findings.append(_finding(*json.loads(line)))
            await process.wait()
    except TimeoutError:
        patient = False
        process.kill()
        await process.wait()
    if len(findings) < len(yours):
        findings.append(_silence(*yours[len(findings)], ended=patient))
    return findings


def _finding(name: str, version: str, wrong: str, note: str) -> Finding:
    if note:
        mend = f"AGENTS={name}=another_name:callable  # when it is renamed"
        return warning(f"agents.{name}", note.rstrip("."), mend)
    if not wrong:
        return ok(f"agents.{name}", f"{name} is there, version {version}")
    mend = f"AGENTS={name}=module:callable  # from the directory that has the module"
    return error(f"agents.{name}", wrong.rstrip("."), mend)


def _silence(name: str, target: str, *, ended: bool) -> Finding:
    module = target.partition(":")[0]
    mend = f"{sys.executable} -X importtime -c 'import {module}'"
    if ended:
        return error(f"agents.{name}", f"importing {module} ends the process", mend)
    text = f"importing {module} takes more than {IMPORT_S:g} s, at each start of a runner"
    return warning(f"agents.{name}", text, mend)
