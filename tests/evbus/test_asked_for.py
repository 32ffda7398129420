"""Plugins that were asked for, and sources that are closed in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from evbus.api import bus
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


# Busses that begin at once, event loops that are left alone, and sources that are closed in time.


THREADS = """
import asyncio, threading
from evbus.api import bus

begin = threading.Barrier(6)
delivered = []

def run():
    async def main():
        async with bus({"internal": {"default": {}}}) as events:
            await events.put(routing_key="k", body=1)
            queue = await events.hub.ingress.internal.get("k")
            delivered.append(await queue.get())
    begin.wait()
    asyncio.run(main())

threads = [threading.Thread(target=run) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(delivered)
"""


def test_busses_that_start_in_several_threads_at_once_all_deliver(tmp_path: Path) -> None:
    # In a process of its own: what POP has loaded once it finds at once.
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{[b'1'] * 6}\n", "")


async def test_event_loops_that_are_installed_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = tmp_path / "imported"
    text = f"open({str(imported)!r}, 'w').close()\n\ndef get(hub):\n    raise OSError\n"
    package(tmp_path / "site", "odd_loops", {"loop": ["loops"]}, loops__odd=text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    with warnings.catch_warnings(
        action="ignore", category=DeprecationWarning
    ):  # Python 3.14 begins to drop policies
        policy = asyncio.get_event_loop_policy()
        async with bus({"internal": {"default": {}}}) as events:
            assert events.hub.pop.loop.CURRENT_LOOP is asyncio.get_running_loop()
            assert await events.hub.pop.loop.wrap(lambda: "ran") == "ran"
        assert asyncio.get_event_loop_policy() is policy
    assert not imported.exists()


WORDS = """
async def consume(hub, ctx, subscription):
    try:
        for number in range(9):
            yield number
    finally:
        hub.egress.SAID.append("source closed")
"""
#: What watches it, and what it says besides.
CONTRACTS = {
    "nothing": ("", []),
    "pre": ("def pre_consume(hub, ctx):\n    hub.egress.SAID.append('pre')\n", ["pre"]),
    "async pre": ("async def pre_consume(hub, ctx):\n    hub.egress.SAID.append('pre')\n", ["pre"]),
    "post": ("def post_consume(hub, ctx):\n    hub.egress.SAID.append('post')\n", []),
    "call": (
        (
            "async def call_consume(hub, ctx):\n    try:\n"
            "        async for one in ctx.func(*ctx.args, **ctx.kwargs):\n            yield one + 1\n"
            "    finally:\n        hub.egress.SAID.append('call closed')\n"
        ),
        [],
    ),
}


@pytest.mark.parametrize("watched", CONTRACTS)
def test_a_source_is_closed_with_the_block_whatever_watches_it(tmp_path: Path, watched: str) -> None:
    contract, before = CONTRACTS[watched]
    root = write(tmp_path / "p", egress__words=WORDS, egress__contracts__words=contract)

    async def main() -> list[Any]:
        async with bus({"words": {"words": {}}}, plugin_dirs=[root]) as events:
            said = events.hub.egress.SAID = []
            source = events.hub.evbus.bridge.sources(events._contexts, "words")[0].consume()
            async with contextlib.aclosing(source) as deliveries:
                async for one in deliveries:
                    said.append(one)
                    if len(said) > len(before):
                        break
            said.append("after")
            return list(said)

    said = asyncio.run(main())
    first = 1 if watched == "call" else 0
    closings = ["call closed", "source closed"] if watched == "call" else ["source closed"]
    assert said[: len(before) + 1] == [*before, first]
    assert (said[len(before) + 1 : -1], said[-1]) == (closings, "after")


async def test_a_contract_sees_the_last_of_a_source_that_ends(tmp_path: Path) -> None:
    contract = "async def post_consume(hub, ctx):\n    hub.egress.SAID.append(ctx.ret)\n"
    root = write(tmp_path / "p", egress__words=WORDS, egress__contracts__words=contract)

    async with bus({"words": {"words": {}}}, plugin_dirs=[root]) as events:
        events.hub.egress.SAID = []
        source = events.hub.evbus.bridge.sources(events._contexts, "words")[0].consume()
        got = [one async for one in source]
        assert [*got, *events.hub.egress.SAID] == [*range(9), "source closed", 8]
