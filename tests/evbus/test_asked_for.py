"""Plugins that were asked for and cannot be loaded: nothing passes without them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import ConfigError, PluginError
from evbus.types import Envelope
from tests.evbus.kit import KEEPER, new_hub, package, running, write

#: A pipeline plugin that takes out what nobody is to see.
REDACT = "def send(hub, envelope):\n    envelope.body = b'***'\n"
BROKEN = "import there_is_no_such_module\n\n\n" + REDACT
OFF = "def __virtual__(hub):\n    return False, 'spacy is missing'\n\n\n" + REDACT
LATE = "async def send(hub, envelope):\n    pass\n"
OPTIONS = "OPTIONS = ['pattern']\n\n\n" + REDACT

WHY = {
    "broken": (BROKEN, "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
    "off": (OFF, "spacy is missing"),
    "late": (LATE, "send runs wherever an event is put and must be plain 'def', not 'async def'"),
    "options": (OPTIONS, "OPTIONS is a mapping of names to defaults, and not ['pattern']"),
}


def refused(hub: Any, contexts: Any = None) -> str:
    async def main() -> None:
        async with running(hub, contexts or {"good": {"*": {}}}):
            raise AssertionError("the bus was started")

    with pytest.raises(ConfigError) as caught:
        asyncio.run(main())
    return str(caught.value)


@pytest.mark.parametrize("name", WHY)
def test_a_pipeline_plugin_of_plugin_dirs_that_is_not_loaded_ends_the_start(
    tmp_path: Path, name: str
) -> None:
    text, why = WHY[name]
    root = write(tmp_path / "plugins", pipeline__redact=text, ingress__good=KEEPER.format(name="good"))
    hub = new_hub(plugin_dirs=[str(root)])
    said = refused(hub)
    assert f"{root}/pipeline/redact.py" in said
    assert (
        f"{why}; no event passes without this plugin: mend it, or name those that are to take part in the "
        "option pipeline" in said
    )
    # What is put stays on the bus, whichever way it might leave it, and what is wrong is told again.
    hub.evbus.broker.put_nowait(body="secret")
    event = Envelope("default", "", b"secret")
    for leave in (hub.evbus.broker.init, lambda: hub.evbus.broker.propagate({"good": {"*": {}}}, event)):
        with pytest.raises(PluginError, match="no event passes without this plugin"):
            asyncio.run(leave())
    with pytest.raises(PluginError, match="no event passes without this plugin"):
        hub.evbus.init.interceptors()
    assert hub.evbus.BUS.qsize() == 1
    assert "GOT" not in vars(hub.ingress)
    # All are listed all the same.
    assert [one.name for one in hub.evbus.init.plugins()["pipeline"] if one.state != "loaded"] == ["redact"]


async def test_one_that_the_option_pipeline_leaves_out_is_not_needed(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", pipeline__redact=BROKEN, ingress__good=KEEPER.format(name="good"))

    hub = new_hub(plugin_dirs=[str(root)], pipeline=["stamp"])
    async with running(hub, {"good": {"*": {}}}):
        await hub.evbus.broker.put(body="x")
    assert hub.ingress.GOT == {"good": [b'"x"']}


def test_one_that_the_option_names_ends_the_start_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "asked_for", {"pipeline": ["pipeline"]}, pipeline__redact=BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = refused(new_hub(pipeline=["redact"]), {"internal": {"*": {}}})
    assert said.endswith(
        "no event passes without this plugin: mend it, or leave it out of the option pipeline"
    )

    async def main() -> None:
        async with running(new_hub(), {"internal": {"*": {}}}):
            pass

    asyncio.run(main())


def test_options_that_are_mended_are_read_again(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", pipeline__redact=BROKEN)
    hub = new_hub(plugin_dirs=[str(root)])
    with pytest.raises(PluginError):
        hub.evbus.init.interceptors()
    hub.OPT = hub.pop.data.imap({"evbus": {}})
    assert hub.evbus.init.interceptors() == (None, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def apply(hub, data):\n    return b''\n", "it has no function load(hub, data)"),
        (
            "async def apply(hub, data):\n    return b''\n\n\ndef load(hub, data):\n    pass\n",
            "must be plain 'def'",
        ),
        ("import there_is_no_such_module\n", "ModuleNotFoundError"),
    ],
)
@pytest.mark.parametrize("name", ["mine", "yaml"])  # pop-serial has a yaml, which is not meant
def test_a_serialize_plugin_that_is_named_ends_the_start(
    tmp_path: Path, text: str, why: str, name: str
) -> None:
    root = write(tmp_path / "plugins", **{f"serialize__{name}": text})
    said = refused(new_hub(plugin_dirs=[str(root)], serialize_plugin=name), {"internal": {"*": {}}})
    assert said.startswith(
        f"there is no serialize plugin {name!r}: serialize.{name} ({root}/serialize/{name}.py"
    )
    assert why in said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "async def find(hub, name, pattern):\n    return name == pattern\n",
            "find answers at once and must be plain 'def'",
        ),
        ("def find(hub, name):\n    return True\n", "is called with (hub, name, pattern)"),
    ],
)
def test_a_match_plugin_that_is_named_ends_the_start(tmp_path: Path, text: str, why: str) -> None:
    root = write(tmp_path / "plugins", match__later=text)
    hub = new_hub(plugin_dirs=[str(root)])
    said = refused(hub, {"match_plugin": "later", "internal": {"*": {}}})
    assert said.startswith(
        f"contexts: match_plugin: there is no matcher 'later': match.later ({root}/match/later.py:1)"
    )
    assert why in said


def test_the_function_of_error_callback_ref_that_is_broken_is_told_with_its_file(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", evbus__alarm="import there_is_no_such_module\n")
    hub = new_hub(plugin_dirs=[str(root)], error_callback_ref="evbus.alarm.ring")
    assert f"{root}/evbus/alarm.py:1): ModuleNotFoundError" in refused(hub, {"internal": {"*": {}}})


async def test_one_more_parameter_with_a_default_is_fine(tmp_path: Path) -> None:
    root = write(
        tmp_path / "plugins",
        serialize__mine="""
        def apply(hub, data, indent=None):
            return repr(data).encode()


        def load(hub, data):
            return data
        """,
        match__any="def find(hub, name, pattern, case=True):\n    return True\n",
        ingress__good=KEEPER.format(name="good"),
    )

    hub = new_hub(plugin_dirs=[str(root)], serialize_plugin="mine")
    async with running(hub, {"match_plugin": "any", "good": {"x": {}}}):
        await hub.evbus.broker.put(body=(1,))
    assert hub.ingress.GOT == {"good": [b"(1,)"]}
