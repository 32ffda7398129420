"""Sentences that errors have in common."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import evbus
from evbus.errors import nearest


@pytest.mark.parametrize(
    ("written", "known", "said"),
    [
        ("host", ["url", "vhost", "hosts"], "; did you mean 'hosts'?"),
        ("vhosts", ["url", "vhost", "hosts"], "; did you mean 'vhost'?"),
        ("usr", ["url", "user"], "; did you mean 'user'?"),
        ("colour", ["url", "user"], "; known: url, user"),
        ("colour", [], ""),
        ("default", ["default"], ""),
        ("default", ["default", "defaults"], "; did you mean 'defaults'?"),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(written: str, known: list[str], said: str) -> None:
    assert nearest(written, known) == said


def test_not_more_than_ten_names_are_listed() -> None:
    assert nearest("x", [f"name-{n:02}" for n in range(11)]).endswith("name-08, name-09, ...")


def test_the_name_of_an_error_that_users_see_is_no_private_one() -> None:
    """The type of an error stands in log lines and in the records of dead letters."""
    trees = [ast.parse(file.read_text()) for file in Path(evbus.__file__).parent.rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    errors = {"EvbusError"}
    for _ in range(5):
        errors |= {one.name for one in classes if errors & {ast.unparse(base) for base in one.bases}}
    assert len(errors) > 30
    assert [name for name in errors if name.startswith("_")] == []
