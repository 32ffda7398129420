from __future__ import annotations

from evbus import conf
from evbus.engine.core.settings import OPTIONS, Settings, read_settings


def test_every_option_has_a_default_and_a_help_text() -> None:
    for name, option in conf.CONFIG.items():
        assert "default" in option, name
        assert option["help"], name


def test_options_of_the_command_line_and_commands_are_known() -> None:
    assert set(conf.CLI_CONFIG) <= set(conf.CONFIG)
    named = {command for option in conf.CLI_CONFIG.values() for command in option["subcommands"]}
    assert named - {"_global_"} <= set(conf.SUBCOMMANDS)


def test_the_defaults_are_those_of_the_settings() -> None:
    assert read_settings({name: option["default"] for name, option in conf.CONFIG.items()}) == Settings()


def test_every_setting_is_an_option() -> None:
    assert set(OPTIONS) <= set(conf.CONFIG)


def test_names_of_environment_variables_are_unique() -> None:
    names = [option["os"] for option in conf.CONFIG.values() if "os" in option]
    assert len(names) == len(set(names))
