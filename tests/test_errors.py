"""Sentences that errors have in common."""

from __future__ import annotations

import pytest

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
