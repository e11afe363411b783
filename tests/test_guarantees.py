"""docs/guarantees.md: every promise has a test that is there, and every such test is named."""

import ast
import re
from pathlib import Path

PROMISES = [f"G{number}" for number in range(1, 21)]


def proofs_in(file: Path) -> dict[str, set[str]]:
    """The tests of a file, each with the guarantees that it is marked with."""
    found: dict[str, set[str]] = {}
    for item in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(item, ast.FunctionDef) and item.name.startswith("test_"):
            marks = " ".join(ast.unparse(decorator) for decorator in item.decorator_list)
            found[item.name] = set(re.findall(r"guarantee\('(G\d+)'\)", marks))
    return found


def test_every_promise_has_its_line_and_every_test_in_it_exists(repository: Path) -> None:
    page = (repository / "docs/guarantees.md").read_text("utf-8")
    assert re.findall(r"^\| (G\d+) \|", page, re.MULTILINE) == PROMISES
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page)
    assert named
    for file, test in named:
        assert test in proofs_in(repository / file), f"{file}::{test}"


def test_every_test_that_proves_a_promise_is_in_the_line_of_that_promise(repository: Path) -> None:
    page = (repository / "docs/guarantees.md").read_text("utf-8")
    lines = dict(re.findall(r"^\| (G\d+) \|(.*)$", page, re.MULTILINE))
    for file in (repository / "tests").rglob("test_*.py"):
        for test, promises in proofs_in(file).items():
            for promise in promises:
                named = f"`{file.relative_to(repository)}::{test}`"
                assert named in lines[promise], f"{promise} must name {named}"
