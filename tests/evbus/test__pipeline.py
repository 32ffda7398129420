"""Which interceptors run, and in which order."""

from __future__ import annotations

import pytest

from evbus.errors import SettingsError
from evbus.evbus._pipeline import Interceptor, arrange

PLUGINS = {
    name: Interceptor(name, order, optional)
    for name, order, optional in [
        ("b", 0, False),
        ("a", 0, False),
        ("z", -1, False),
        ("y", 5, False),
        ("o", 0, True),
    ]
}


def test_without_the_option_all_that_are_not_optional_run_by_order_and_name() -> None:
    assert arrange(PLUGINS, None) == ["z", "a", "b", "y"]


def test_the_option_names_exactly_those_that_run_in_their_order() -> None:
    assert arrange(PLUGINS, ("y", "o", "a")) == ["y", "o", "a"]
    assert arrange(PLUGINS, ()) == []


def test_a_name_that_there_is_none_of_is_told_with_the_nearest() -> None:
    with pytest.raises(SettingsError) as caught:
        arrange({"stamp": Interceptor("stamp")}, ("stamp", "stmp"))
    assert str(caught.value) == (
        "evbus.pipeline[1]: there is no pipeline plugin 'stmp'; did you mean 'stamp'?"
    )


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        arrange(PLUGINS, ("a", "b", "a"))
    assert str(caught.value) == "evbus.pipeline[2]: 'a' is named twice"
