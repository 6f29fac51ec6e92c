"""The version of a hosted agent: what it is made of, of the project's own and of packages.

Invariant: it changes whenever a module of the project changes that the agent's module imports,
or a package that it needs; an unchanged project has the same version on every machine. It
changes too often rather than too seldom. What is not code (prompts from elsewhere, models
behind an alias) it does not see: `release` stands in for that.
"""

from __future__ import annotations

import ast
import hashlib
import re
import site
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from plateau_sse.agents.hosting import DISTRIBUTIONS

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def version_of(module_name: str, brought: Collection[str], kind: str, release: str) -> str:
    """Of what is in this module; `brought` are the names of the modules that came with it."""
    own, packages = _reached(module_name, brought)
    needed = {it for name in packages for it in _packages().get(name, ())}
    if kind in DISTRIBUTIONS:
        needed.add(DISTRIBUTIONS[kind])
    digest = hashlib.blake2b(digest_size=6)
    parts = [release.encode(), *(_part(name, own[name]) for name in sorted(own))]
    parts += [f"{name}=={version}".encode() for name, version in sorted(_closure(needed))]
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _part(name: str, source: bytes) -> bytes:
    return name.encode() + b"\0" + source


def _reached(module_name: str, brought: Iterable[str]) -> tuple[dict[str, bytes], set[str]]:
    """The sources of the project's modules that are reached from this one, and the packages
    that they import, whether or not they are loaded yet: some are when they are needed. Those
    whose names are made up are found among what came with this one."""
    sources: dict[str, bytes] = {}
    packages, roots = set[str](), set[Path]()
    # What a package imports is its own affair, and stands in its requirements.
    waiting = [module_name, *sorted(name for name in brought if _is_own(_file(name, ())))]
    while waiting:
        name = waiting.pop(0)
        if name in sources:
            continue
        path = _file(name, roots)
        if path is None or not _is_own(path):
            packages.add(name.partition(".")[0])
            continue
        above = path.parent if path.stem == "__init__" else path
        roots.add(above.parents[name.count(".")])
        sources[name] = path.read_bytes()
        # A module's package is imported with it.
        waiting += [parent] if (parent := name.rpartition(".")[0]) else []
        package = name if path.stem == "__init__" else parent
        waiting += _imports(sources[name], package)
    return sources, packages


def _file(name: str, roots: Iterable[Path]) -> Path | None:
    """The source of a module that is loaded, or that would be from one of these folders."""
    if name in sys.modules:
        path = getattr(sys.modules[name], "__file__", None)
        is_source = path and str(path).endswith(".py") and Path(path).is_file()
        return Path(path).resolve() if path and is_source else None
    for root in sorted(roots):
        file = root.joinpath(*name.split("."))
        for path in (file.with_name(f"{file.name}.py"), file / "__init__.py"):
            if name and path.is_file():
                return path.resolve()
    return None


def _is_own(path: Path | None) -> bool:
    return path is not None and not any(path.is_relative_to(folder) for folder in _foreign())


@cache
def _foreign() -> tuple[Path, ...]:
    """Where Python's own modules and installed packages are, and this package."""
    paths = sysconfig.get_paths()
    folders = [paths[it] for it in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    ours = Path(__file__).resolve().parents[2]
    return (ours, *{Path(folder).resolve() for folder in folders})


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Every name that may be a module's, within functions, too."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0]
                base = f"{above}.{base}".rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _packages() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _closure(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """These distributions with their versions, and all that they require and is there."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield name, found.version
        for requirement in found.requires or ():
            if "extra ==" not in requirement and (match := _NAME.match(requirement)):
                waiting.append(match[0])
