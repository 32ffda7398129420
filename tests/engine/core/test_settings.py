"""The options: converted, checked, and typing errors told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.settings import Settings, read_settings
from evbus.errors import SettingsError
from tests.evbus.rig import failure


def test_strings_of_the_environment_are_converted() -> None:
    settings = read_settings(
        {"queue_limit": "12", "drain_timeout": "1.5", "plugin_dirs": "a, b,", "pipeline": "stamp,trace"}
    )
    assert (settings.queue_limit, settings.drain_timeout, settings.plugin_dirs) == (12, 1.5, ("a", "b"))
    assert settings.pipeline == ("stamp", "trace")


def test_sizes_and_durations_may_have_units() -> None:
    settings = read_settings(
        {"queue_bytes": "64MiB", "max_body": "10 MB", "drain_timeout": "1.5m", "dedupe_window": "1h"}
    )
    assert settings.queue_bytes == 64 * 1024**2
    assert (settings.max_body, settings.drain_timeout, settings.dedupe_window) == (10_000_000, 90.0, 3_600.0)
    with pytest.raises(
        SettingsError, match=r"evbus\.max_body: '10MX' has an unknown unit; a number of bytes is right"
    ):
        read_settings({"max_body": "10MX"})
    with pytest.raises(SettingsError, match=r"evbus\.queue_limit: expected int, found str"):
        read_settings({"queue_limit": "10k"})


def test_an_empty_pipeline_is_a_pipeline_without_plugins() -> None:
    assert read_settings({"pipeline": []}).pipeline == ()
    assert read_settings({"pipeline": None}).pipeline is None


def test_paths_may_be_path_objects(tmp_path: Path) -> None:
    settings = read_settings({"plugin_dirs": [tmp_path, "x"], "dead_store": tmp_path / "dead"})
    assert (settings.plugin_dirs, settings.dead_store_path()) == ((str(tmp_path), "x"), tmp_path / "dead")
    assert read_settings({"plugin_dirs": tmp_path}).plugin_dirs == (str(tmp_path),)


def test_the_later_name_of_the_serializer_gives_way_when_both_are_set() -> None:
    assert read_settings({"serial_plugin": "msgpack"}).serialize_plugin == "msgpack"
    assert read_settings({"serial_plugin": "msgpack", "serialize_plugin": "init"}).serialize_plugin == "init"
    assert (
        read_settings({"serial_plugin": "json", "serialize_plugin": "msgpack"}).serialize_plugin == "msgpack"
    )


def test_options_of_other_packages_are_let_be() -> None:
    assert read_settings({"slack_channel": "x", "kafka": {}}) == Settings()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"queue_limt": 1}, "evbus.queue_limt: there is no such option; did you mean 'queue_limit'?"),
        ({"plugin_dir": "x"}, "evbus.plugin_dir: there is no such option; did you mean 'plugin_dirs'?"),
        ({"queue_limit": "many"}, "evbus.queue_limit: expected int, found str"),
        ({"queue_limit": -1}, "evbus.queue_limit: it must be a number from 0 on"),
        ({"drain_timeout": float("nan")}, "evbus.drain_timeout: it must be a number from 0 on"),
        ({"full_policy": "no"}, "evbus.full_policy: 'no' is none of raise, drop_oldest, drop_newest"),
        ({"pipeline": 7}, "evbus.pipeline: expected a list | null, found int"),
        ({"pipeline": ["a", 7]}, "evbus.pipeline[1]: expected str, found int"),
        ({"sign_keys": 7}, "evbus.sign_keys: expected a list | null, found int"),
        ({"sign_tolerance": 0}, "evbus.sign_tolerance: it must be a number above 0"),
        ({"dedupe_limit": 0}, "evbus.dedupe_limit: it must be a number above 0"),
        ({"compress_over": -1}, "evbus.compress_over: it must be a number from 0 on"),
        ({"compress_with": "gzip"}, "evbus.compress_with: 'gzip' is none of auto, zstd, zlib"),
        ({"dead_store": 3}, "evbus.dead_store: expected str | null, found int"),
    ],
)
def test_a_mistake_names_the_option_and_what_would_be_right(options: dict[str, Any], sentence: str) -> None:
    assert failure(SettingsError, read_settings, options) == sentence


def test_the_dead_store_lies_in_the_state_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert Settings().dead_store_path().parent == Path("/state/evbus")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/joe")
    assert Settings().dead_store_path().parent == Path("/home/joe/.local/state/evbus")
    assert Settings(dead_store="~/dead").dead_store_path() == Path("/home/joe/dead")


def test_without_a_home_directory_the_path_of_the_dead_store_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any) -> Any:
        raise KeyError

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert Settings().dead_store_path().parent == Path("~/.local/state/evbus")
    assert Settings(dead_store="~/dead").dead_store_path() == Path("~/dead")


def test_the_keys_of_signatures_are_never_shown() -> None:
    settings = read_settings({"sign_keys": "2026:a-secret-of-16-bytes, @keys"})
    assert settings.sign_keys == ("2026:a-secret-of-16-bytes", "@keys")
    assert "a-secret" not in repr(settings) + str(settings)
    assert "queue_limit=100000" in repr(settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().queue_limit = 1  # type: ignore[misc]
