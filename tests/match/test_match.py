from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pop.hub
import pytest


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
