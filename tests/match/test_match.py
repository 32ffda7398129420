from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pop.hub
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evbus.engine.kit import topics


@pytest.fixture
def room() -> Any:
    """Return a hub with this room alone."""
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="match", pypath="evbus.match")
    return hub


@pytest.mark.parametrize(
    ("plugin", "name", "pattern", "matches"),
    [
        ("glob", "orders.eu.paid", "orders.*", True),
        ("glob", "orders", "orders", True),
        ("glob", "orders", "Orders", False),
        ("glob", "orders2", "orders?", True),
        ("glob", "orders2", "orders[!0-9]", False),
        ("glob", "my orders", "orders", False),
        ("glob", "a\nb", "a*", True),
        ("regex", "orders.eu", r"orders\.(eu|us)", True),
        ("regex", "orders.eu.paid", r"orders\.(eu|us)", False),
        ("regex", "orders\n", "orders", False),
        ("topic", "orders.eu", "orders.*", True),
        ("topic", "orders.eu.paid", "orders.*", False),
        ("topic", "orders", "orders.#", True),
        ("topic", "", "#", True),
        ("topic", "", "*", False),
        ("topic", "orders*", "orders*", True),
        ("exact", "a*", "a*", True),
        ("exact", "ab", "a*", False),
        ("exact", "A", "a", False),
    ],
)
def test_matching(room: Any, plugin: str, name: str, pattern: str, matches: bool) -> None:
    assert room.match[plugin].find(name, pattern) is matches
    assert room.match[plugin].find(name=name, pattern=pattern) is matches
    room.match.PLUGIN = plugin
    assert room.match.init.find(name, pattern) is matches
    assert room.match.init.find(pattern=pattern, name=name) is matches


def test_glob_is_the_default(room: Any) -> None:
    assert room.match.PLUGIN == "glob"


def test_an_application_s_choice_outlives_a_second_init(room: Any) -> None:
    init: Any = importlib.import_module("evbus.match.init")
    room.match.PLUGIN = "exact"
    init.__init__(room)
    assert room.match.PLUGIN == "exact"


def test_a_broken_regular_expression_raises(room: Any) -> None:
    with pytest.raises(re.error):
        room.match.regex.find("a", "(")


def test_a_dropped_in_matcher_takes_part(room: Any, tmp_path: Path) -> None:
    (tmp_path / "prefix.py").write_text(
        "def find(hub, name, pattern):\n    return name.startswith(pattern)\n"
    )
    room.pop.sub.extend("match", static=[str(tmp_path)])
    room.match.PLUGIN = "prefix"
    assert room.match.init.find("orders.eu", "orders")


@pytest.mark.parametrize(
    ("plugin", "pattern", "ends"),
    [
        ("exact", "a*", ("a*", "")),
        ("glob", "orders", ("orders", "")),
        ("glob", "orders.*", ("orders.", "")),
        ("glob", "*.eu?x", ("", "x")),
        ("glob", "a[!b]c", ("a", "c")),
        ("topic", "a.b", ("a.b", "")),
        ("topic", "a.*", ("a.", "")),
        ("topic", "a.#", ("a", "")),
        ("topic", "#.a.b", ("", "a.b")),
        ("topic", "*.a", ("", ".a")),
        ("topic", "a*", ("a*", "")),
        ("regex", "orders", ("orders", "")),
        ("regex", r"orders\.(eu|us)", ("", "")),
        ("regex", r"orders\.eu.*x", ("orders.eu", "x")),
        ("regex", "ab*c", ("a", "c")),
        ("regex", "ab{2}", ("a", "")),
        ("regex", "(?i)ab", ("", "")),
        ("regex", r"a\x41", ("a", "")),
        ("regex", r"[ab]\.c", ("", ".c")),
    ],
)
def test_a_pattern_tells_how_what_matches_it_begins_and_ends(
    room: Any, plugin: str, pattern: str, ends: tuple[str, str]
) -> None:
    assert room.match[plugin].ends(pattern) == ends


#: Nearly every pattern of these matches some name of these.
NAMES = st.text(".ab[]-!1", max_size=8)


@pytest.mark.filterwarnings("ignore:Possible (nested set|set difference):FutureWarning")
@given(name=NAMES, pattern=st.text(".ab*?#[]-!\\{},1+()|", max_size=8), data=st.data())
@example(name="a", pattern="a.#.a", data=None)
@example(name="a\n", pattern=r"a\W", data=None)
@example(name="A", pattern=r"\x41", data=None)
def test_what_matches_begins_and_ends_as_its_pattern_says(name: str, pattern: str, data: Any) -> None:
    if data is not None:
        # Names that are near the pattern, or nothing would match.
        signs = {sign: data.draw(NAMES, label=sign) for sign in "*?#"}
        name = data.draw(st.sampled_from([name, "".join(signs.get(sign, sign) for sign in pattern)]))
    for plugin, ends_of in (
        ("exact", lambda pattern: (pattern, "")),
        ("glob", topics.ends_of_glob),
        ("topic", topics.ends),
        ("regex", topics.ends_of_expression),
    ):
        find = importlib.import_module(f"evbus.match.{plugin}").find
        try:
            found = find(None, name, pattern)
        except re.error:
            continue
        first, last = ends_of(pattern)
        if found:
            assert name.startswith(first), plugin
            assert name[len(first) :].endswith(last), plugin


ATOMS = [
    "a",
    "b",
    "1",
    r"\.",
    r"\-",
    "[ab]",
    ".*",
    "a+",
    "b?",
    "1{2}",
    r"\d",
    r"\x61",
    r"\141",
    "(a)",
    "(?:b)*",
    "$",
]


@given(st.lists(st.sampled_from(ATOMS), max_size=6).map("".join), st.data())
def test_what_matches_an_expression_begins_and_ends_as_that_says(pattern: str, data: Any) -> None:
    name = data.draw(st.from_regex(pattern, fullmatch=True))
    first, last = topics.ends_of_expression(pattern)
    assert name.startswith(first)
    assert name[len(first) :].endswith(last)
