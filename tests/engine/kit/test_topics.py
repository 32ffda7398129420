"""Patterns of names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.kit.topics import check_template, is_pattern, matches
from evbus.errors import ProfileError

WORDS = st.lists(st.sampled_from(["", "a", "b"]), max_size=5)


@pytest.mark.parametrize(
    ("name", "answer"), [("a.*", True), ("#", True), ("a*.b", False), ("a.b", False), ("", False)]
)
def test_a_pattern_has_a_wildcard_for_a_word(name: str, answer: bool) -> None:
    assert is_pattern(name) is answer


@given(WORDS, st.lists(st.sampled_from(["", "a", "b", "*", "#"]), min_size=1, max_size=5))
def test_a_pattern_matches_as_its_regular_expression_does(words: list[str], wanted: list[str]) -> None:
    kinds = {"*": r"\.[^.]*", "#": r"(\.[^.]*)*"}
    expression = "".join(kinds.get(word, rf"\.{re.escape(word)}") for word in wanted)
    name, pattern = ".".join(words), ".".join(wanted)
    found = re.fullmatch(expression, f".{name}" if name else "")
    if pattern:
        assert matches(name, pattern) is (found is not None)


def test_many_wildcards_take_no_time() -> None:
    assert not matches(".".join("a" * 100), ".".join("#a" * 50) + ".b")


def test_a_template_keeps_the_words_of_a_pattern_apart() -> None:
    for template in ("{routing_key}", "shop.{routing_key}", "/exchange/e/{routing_key}.x"):
        check_template(template, "order.*", "address")
    check_template("events", "order", "address")
    for template in ("events", "shop-{routing_key}", "{routing_key}s"):
        with pytest.raises(ProfileError, match="address: nobody can listen to the pattern 'order.*'"):
            check_template(template, "order.*", "address")
