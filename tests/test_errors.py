"""The codes of errors: the code, its tables and docs/errors.md say the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import plateau_sse
from plateau_sse.errors import PROBLEMS, RUN_FAILURES, Problem
from tests.processes import REPOSITORY

SOURCES = Path(plateau_sse.__file__).parent
DOCUMENT = REPOSITORY / "docs" / "errors.md"
# Nobody watches yet over what waits in the queue; whoever adds that takes it from here.
NOT_YET_RAISED: set[str] = set()


@cache
def trees() -> tuple[ast.Module, ...]:
    """Every module of the service but the one that lists the codes."""
    paths = sorted(SOURCES.rglob("*.py"))
    return tuple(ast.parse(path.read_text()) for path in paths if path.name != "errors.py")


def calls(*names: str) -> Iterator[ast.Call]:
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names and node.args:
                yield node


def literal(node: ast.expr) -> str | None:
    return (
        node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
    )


def codes_in(*names: str) -> set[str]:
    """The codes that calls of these functions give as literals."""
    return {code for call in calls(*names) if (code := literal(call.args[0])) is not None}


@cache
def strings() -> frozenset[str]:
    return frozenset(
        node.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the one table under a heading: code to its other cells."""
    section = DOCUMENT.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    found = {code: rest.split(" | ") for code, rest in rows}
    assert len(found) == len(rows), "a code stands there twice"
    assert len(rows) == section.count("\n| ") - 1, "a row that is not understood"
    return found


def test_every_problem_has_a_code_of_the_table() -> None:
    assert codes_in("Problem") <= set(PROBLEMS)


def test_every_code_of_the_table_can_reach_a_client() -> None:
    assert set(PROBLEMS) <= strings()


def test_every_failure_has_a_code_of_the_table() -> None:
    raised = codes_in("AgentError", "events.failed", "failed")
    assert raised
    assert raised <= set(RUN_FAILURES)


def test_every_failure_of_the_table_can_happen() -> None:
    assert set(RUN_FAILURES) - strings() == NOT_YET_RAISED


def test_the_document_lists_the_problems() -> None:
    rows = table("Problem codes")
    assert list(rows) == list(PROBLEMS)
    for code, (status, when, remedy) in rows.items():
        assert int(status) == PROBLEMS[code][0], code
        assert when.endswith(".") and remedy.endswith("."), code


def test_the_document_lists_the_failures() -> None:
    rows = table("Failure codes of a run")
    assert list(rows) == list(RUN_FAILURES)
    for code, (when, retryable) in rows.items():
        assert when.startswith(RUN_FAILURES[code]), code
        assert retryable.split(",")[0] in ("yes", "no"), code


def test_the_document_says_what_may_be_tried_again() -> None:
    rows = table("Failure codes of a run")
    for call in calls("AgentError", "events.failed"):
        code = literal(call.args[0])
        given = [word.value for word in call.keywords if word.arg == "retryable"]
        if code is None or (given and not isinstance(given[0], ast.Constant)):
            continue
        retryable = bool(given) and isinstance(given[0], ast.Constant) and given[0].value
        assert rows[code][1].startswith("yes" if retryable else "no"), code


@pytest.mark.parametrize("code", PROBLEMS)
def test_the_document_of_a_problem(code: str) -> None:
    problem = Problem(code, "What to do.", extra={"field": "input"})
    status, title = PROBLEMS[code]
    assert problem.document() == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "detail": "What to do.",
        "field": "input",
    }
    assert 400 <= status < 600
    assert re.fullmatch(r"[a-z_]+", code)


def test_a_code_that_is_in_no_table_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Problem("no_such_code", "")
