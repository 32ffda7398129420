"""The settings against ``conf.py``, and what errors have in common."""

from __future__ import annotations

import ast
import typing
from pathlib import Path
from typing import Any

import pytest

import evbus
from evbus import conf
from evbus.engine.core.settings import OPTIONS, Settings, read_settings
from evbus.errors import nearest

#: What the settings are not: where the profiles, their key and the listeners are, and another name of one.
ELSEWHERE = {"acct_file", "acct_key", "config", "listeners", "profiles", "serial_plugin"}
TYPES = typing.get_type_hints(Settings)


def test_every_option_has_a_default_and_a_help_text() -> None:
    for name, option in conf.CONFIG.items():
        assert "default" in option, name
        assert option["help"], name


def test_every_setting_is_an_option_and_every_other_option_is_one_of_the_command_line() -> None:
    assert set(OPTIONS) <= set(conf.CONFIG)
    assert set(conf.CONFIG) - set(OPTIONS) - ELSEWHERE <= set(conf.CLI_CONFIG)


def test_options_of_the_command_line_and_commands_are_known() -> None:
    assert set(conf.CLI_CONFIG) <= set(conf.CONFIG)
    named = {command for option in conf.CLI_CONFIG.values() for command in option["subcommands"]}
    assert named - {"_global_"} <= set(conf.SUBCOMMANDS)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_has_the_default_and_the_type_of_its_setting(name: str) -> None:
    option: dict[str, Any] = conf.CONFIG[name]
    assert read_settings({name: option["default"]}) == Settings()
    kind, default = TYPES[name], option["default"]
    parts = typing.get_args(kind) or (kind,)
    listed = any(typing.get_origin(part) is tuple for part in (kind, *parts))
    if default is not None:
        assert default in parts or type(default) in parts
    for choice in parts if typing.get_origin(kind) is typing.Literal else ():
        assert choice.rpartition("/")[2] in option["help"], f"{choice} is not in its help"
    shown: dict[str, Any] = conf.CLI_CONFIG.get(name, {})
    if shown:
        assert (shown.get("nargs") == "+") is listed
        assert shown.get("type", str) is (kind if kind in (int, float) else str)
    assert option.get("os", f"EVBUS_{name.upper()}") == f"EVBUS_{name.upper()}"


def test_names_of_environment_variables_are_unique() -> None:
    names = [option["os"] for option in conf.CONFIG.values() if "os" in option]
    assert len(names) == len(set(names))


# Sentences that errors have in common.


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
