"""Docstrings in the two forms that are read."""

from __future__ import annotations

import pytest

from evbus.engine.describe.docstring import Docstring, read_docstring

SPHINX = """Find the items of a shop,
    by their names.

    The order is that of the names.
    There may be none.

    :param text: part of the name,
        in any case
    :param int limit: the most
    :type text: str
    :returns: the items,
        by name
    :rtype: list
    :raises KeyError: there is no shop
    """

GOOGLE = """Find the items of a shop, by their names.

    The order is that of the names.
    There may be none.

    Args:
        text (str): part of the name,
            in any case
        limit: the most

    Returns:
        the items,
        by name

    Raises:
        KeyError: there is no shop
    """

READ = Docstring(
    "Find the items of a shop, by their names.",
    "The order is that of the names.\nThere may be none.",
    {"text": "part of the name, in any case", "limit": "the most"},
    "the items, by name",
    {"KeyError": "there is no shop"},
)


@pytest.mark.parametrize("text", [SPHINX, GOOGLE], ids=["sphinx", "google"])
def test_both_forms_say_the_same(text: str) -> None:
    assert read_docstring(text) == READ


@pytest.mark.parametrize("text", ["", "   \n  "])
def test_nothing_says_nothing(text: str) -> None:
    assert read_docstring(text) == Docstring("", "", {}, "", {})


def test_what_is_in_neither_form_stays() -> None:
    read = read_docstring("One.\n\nNote:\n    Two: three.\n\n:see: four\n\nFive\n")
    assert read.summary == "One."
    assert read.description == "Note:\n    Two: three.\n\n:see: four\n\nFive"


def test_text_behind_a_section_is_none_of_it() -> None:
    read = read_docstring("One.\n\nArgs:\n    a: A.\n\nMore.\n")
    assert (read.description, read.parameters) == ("More.", {"a": "A."})
