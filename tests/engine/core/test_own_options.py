"""Options that plugins declare."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from evbus.engine.core.settings import check_options, declared_options, read_own, read_settings
from evbus.errors import PluginError, SettingsError


def module(name: str, options: Any) -> ModuleType:
    made = ModuleType(name)
    made.__file__ = f"/{name}.py"
    made.OPTIONS = options  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["x"], "OPTIONS is a mapping of names to defaults, and not ['x']"),
        ({"a-b": 1}, "OPTIONS: the name of an option is a name of Python, and not 'a-b'"),
        ({1: 1}, "OPTIONS: the name of an option is a name of Python, and not 1"),
        ({"queue_limit": 1}, "OPTIONS: 'queue_limit' is an option of evbus itself; give it another name"),
    ],
)
def test_what_is_no_option_is_refused(options: Any, sentence: str) -> None:
    with pytest.raises(PluginError) as caught:
        check_options(module("a", options))
    assert caught.value.reason == sentence


def test_two_plugins_may_share_an_option_but_not_with_two_defaults() -> None:
    assert declared_options([module("a", {"x": 1}), ModuleType("n"), module("b", {"x": 1, "y": 2})]) == {
        "x": 1,
        "y": 2,
    }
    with pytest.raises(
        PluginError, match=r"'x' has another default in /a\.py; give one of them another name"
    ):
        declared_options([module("a", {"x": 1}), module("b", {"x": 2})])


def test_values_have_the_type_of_their_default() -> None:
    known = {"a": 1, "b": False, "c": 1.5, "d": (), "e": None, "f": {}, "g": "t"}
    given = {"a": "2", "b": "true", "c": "3", "d": "x, y", "e": [1], "f": {"k": (1,)}}
    found = read_own(given, known, {"EVBUS_G": "env", "EVBUS_A": "9"})
    assert found == {"a": 2, "b": True, "c": 3.0, "d": ("x", "y"), "e": [1], "f": {"k": [1]}, "g": "env"}
    with pytest.raises(SettingsError, match=r"evbus\.f: expected a mapping, found str"):
        read_own({"f": "x"}, known, {})


def test_they_are_attributes_of_the_settings() -> None:
    settings = read_settings({"pii_pattern": "x"}, {"pii_pattern": "x"})
    assert settings.pii_pattern == "x"  # type: ignore[attr-defined]
    assert "pii_pattern" not in repr(settings)
    with pytest.raises(AttributeError, match="there is no option 'pii_patern'; did you mean 'pii_pattern'"):
        settings.pii_patern  # type: ignore[attr-defined]  # noqa: B018
    assert read_settings({}).plugin_options == {}


def test_an_option_of_a_plugin_may_look_like_one_of_evbus() -> None:
    read_settings({"queue_limits": 1}, {"queue_limits": 1})
    with pytest.raises(SettingsError, match="did you mean 'queue_limit'"):
        read_settings({"queue_limits": 1})
