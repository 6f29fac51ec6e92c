"""`plateau doctor`: what is wrong with a deployment, and the command or setting that mends it.

Invariant: it ends within 10 s whatever does not answer; a check that fails or hangs hides no
other; nothing is changed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

from plateau_sse.cli import acl
from plateau_sse.cli.checks import Finding, error, warning
from plateau_sse.cli.output import gone
from plateau_sse.cli.servers import Server, find, result_of
from plateau_sse.errors import SettingsError
from plateau_sse.serve.child import leave
from plateau_sse.settings import Settings

CHECK_S = 8.0
WRONG_SETTINGS = 2
# serve itself configures the servers that it starts again.
OTHERS = re.compile(r"redis-cli -[hus] .* CONFIG SET")
# Each message names the setting first that it is about.
NAME = re.compile(r"[A-Z][A-Z_]{3,}")
# In the place of a wrong one, where none at all would be wrong, too.
HARMLESS = {"API_KEYS": "harmless"}


def run(options: argparse.Namespace) -> NoReturn:
    """Prints the findings and leaves: 0, 1 for an error (with --strict for a warning, too), 2
    where settings cannot be read."""
    settings, servers, findings = _read()
    if settings is not None and options.acl:
        leave(_print("\n".join(acl.lines(settings)), 0))
    if settings is None:
        code = WRONG_SETTINGS
    else:
        findings = result_of(_examine(settings, servers))
        levels = {finding.level for finding in findings}
        code = int("error" in levels or (options.strict and "warning" in levels))
    leave(_print(_as_json(findings) if options.json else _as_text(findings), code))


def _print(text: str, code: int) -> int:
    """The exit status: `code`, or that of an output that cannot be written."""
    try:
        print(text, flush=True)
    except OSError as wrong:
        return code or gone(wrong, "doctor")
    return code


def _read() -> tuple[Settings | None, tuple[Server, ...], list[Finding]]:
    """The settings, or all that is wrong with them: a `serve` would name the first alone."""
    environ, findings = dict(os.environ), []
    replaced: set[str] = set()
    while True:
        try:
            settings = Settings.from_env(environ)
            servers = find(settings)
            break
        except SettingsError as wrong:
            # One that is blank is not what is wrong, nor is one that was replaced already.
            words = NAME.findall(str(wrong))
            named = [it for it in words if environ.get(it, "").strip() and it not in replaced]
            name = (named or words)[0]
            mend = f"{name}=…  # plateau serve --help"
            findings.append(error(f"settings.{name.lower()}", str(wrong).rstrip("."), mend))
            if not named:
                break
            replaced.add(name)
            environ[name] = HARMLESS.get(name, "")
    return (None, (), findings) if findings else (settings, servers, [])


async def _examine(settings: Settings, servers: tuple[Server, ...]) -> list[Finding]:
    from plateau_sse.cli.checks import (
        address,
        agents,
        configuration,
        directory,
        machine,
        model,
        stores,
        versions,
    )

    found = await asyncio.gather(
        _bounded("settings", _aside(lambda: configuration.check(settings, servers))),
        _bounded("versions", _aside(versions.packages)),
        _bounded("versions", versions.server(settings)),
        _bounded("streams", stores.check(servers, settings)),
        _bounded("machine", _aside(lambda: machine.check(settings))),
        _bounded("data_dir", _aside(lambda: directory.check(settings))),
        _bounded("address", address.check(settings)),
        _bounded("agents", agents.check(settings)),
        _bounded("openai", model.check(settings)),
    )
    return [finding for findings in found for finding in findings]


async def _aside(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """In a thread: a disk may hang, too."""
    return await asyncio.to_thread(lambda: list(check()))


async def _bounded(subject: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_S):
            return await check
    except TimeoutError:
        text = f"this could not be looked at within {CHECK_S:g} s"
        return [warning(subject, text, "plateau doctor  # once more")]
    except Exception as wrong:
        # Its words might quote a secret.
        text = f"this could not be looked at: {type(wrong).__name__}"
        return [error(subject, text, "plateau --version  # and report it, please")]


def _counts(findings: list[Finding]) -> dict[str, int]:
    levels = [finding.level for finding in findings]
    return {level: levels.count(level) for level in ("error", "warning", "ok")}


def _as_json(findings: list[Finding]) -> str:
    counts = _counts(findings)
    worst = next((level for level, count in counts.items() if count), "ok")
    described = [
        {"check": it.check, "level": it.level, "text": it.text, "mend": it.mend or None}
        for it in findings
    ]
    return json.dumps({"status": worst, "findings": described}, indent=2, ensure_ascii=False)


def _as_text(findings: list[Finding]) -> str:
    lines, subject = [], ""
    for finding in findings:
        if finding.subject != subject:
            subject = finding.subject
            lines.append(subject)
        lines.append(f"  {finding.level:<8} {finding.text}")
        if finding.mend:
            # Alone on its line: it is there to be pasted.
            lines.append(f"{'':11}{finding.mend}")
    mends = " ".join(finding.mend for finding in findings)
    if OTHERS.search(mends):
        lines.append("CONFIG SET lasts until that server restarts; CONFIG REWRITE keeps it.")
    if "redis-cli" in mends and not shutil.which("redis-cli"):
        lines.append("redis-cli is not on the PATH: Debian has it in redis-tools.")
    counts = _counts(findings)
    said = [
        f"{counts[it]} {it}{'s' * (counts[it] > 1)}"
        for it in ("error", "warning")
        if counts[it]
    ]
    return "\n".join([*lines, "", f"{' and '.join(said) or 'Nothing is wrong'}."])
