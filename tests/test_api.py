"""evbus.api: a bus in a program that is no POP project."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from evbus import api
from evbus.errors import BusStopped, ConfigError, EvbusError, ProfileError, SettingsError
from tests.evbus.kit import KEEPER, write


def test_everything_that_is_promised_is_there() -> None:
    for name in api.__all__:
        assert getattr(api, name) is not None
    assert api.Event is api.Envelope


async def test_what_was_put_is_delivered_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    async with api.bus({"file": {"default": {"path": str(path)}}}) as events:
        await events.put("orders", {"id": 1})
        await events.put(routing_key="orders", body={"id": 2}, profile="default", headers={"a": "b"})
        events.put_nowait("orders", {"id": 3})
        await asyncio.to_thread(events.put_nowait, body="from a thread")
        assert events.snapshot()["bus"]["accepted"] == 4
    with pytest.raises(BusStopped):
        await events.put(body=1)
    report = events.report
    assert report.undelivered == {}
    assert [json.loads(line)["body"] for line in path.read_text().splitlines()] == [
        {"id": 1},
        {"id": 2},
        {"id": 3},
        "from a thread",
    ]


@pytest.mark.parametrize("kind", [str, Path])
async def test_profiles_may_be_a_file(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "profiles.yml"
    path.write_text("internal: {default: {routing_key: k}}\n")

    async with api.bus(kind(path)) as events:
        await events.put(body=1)
        assert bytes(await asyncio.wait_for((await events.hub.ingress.internal.get("k")).get(), 20)) == b"1"


def refused(profiles: Any, **options: Any) -> str:
    async def main() -> None:
        async with api.bus(profiles, **options):
            raise AssertionError("the bus was started")

    with pytest.raises(ConfigError) as caught:
        asyncio.run(main())
    return str(caught.value)


def test_a_mistake_is_raised_on_entering(tmp_path: Path) -> None:
    assert refused({"fil": {"a": {}}}).startswith(
        "contexts: fil: no ingress plugin accepts the provider 'fil'; did"
    )
    assert (
        refused({}, queue_limt=1) == "evbus.queue_limt: there is no such option; did you mean 'queue_limit'?"
    )
    assert refused({}, drain=3) == "evbus.drain: there is no such option; did you mean 'drain_timeout'?"
    assert refused({}, timeoutt=3) == "evbus.timeoutt: there is no such option; did you mean 'drain_timeout'?"
    assert refused({}, listner=[]) == "evbus.listner: there is no such option; did you mean 'listeners'?"
    assert refused({}, colour="red").endswith("; a plugin declares options of its own in OPTIONS")
    assert refused(None) == "profiles are a mapping, or the path of a YAML file of them, not NoneType"
    assert (
        refused({}, plugin_dirs=[tmp_path / "x"]) == f"evbus.plugin_dirs[0]: {tmp_path / 'x'} is not a folder"
    )
    assert refused(tmp_path / "none.yml").endswith(
        "none.yml: the file cannot be read: No such file or directory"
    )
    assert isinstance(ProfileError("x"), ConfigError)
    assert isinstance(SettingsError("x"), ConfigError)


async def test_a_bus_that_is_not_entered_says_how_it_is() -> None:
    how = "a bus starts with `async with bus\\(...\\) as events:`; without an event loop there is sync_bus"
    made: Any = api.bus({})

    with pytest.raises(EvbusError, match=how), made:
        pass
    with pytest.raises(EvbusError, match=how):
        await made
    with pytest.raises(AttributeError, match=f"there is no 'put' here: {how}"):
        made.put("a", 1)


async def test_options_are_those_of_the_section_evbus(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__good=KEEPER.format(name="good"))

    async with api.bus({"good": {"*": {}}}, plugin_dirs=root, serialize_plugin="msgpack") as events:
        await events.put(body="x")
    assert events.hub.ingress.GOT == {"good": [b"\xa1x"]}


async def test_contracts_of_a_plugin_folder_take_effect_on_the_handle(tmp_path: Path) -> None:
    contract = (
        "def pre_put(hub, ctx):\n    ctx.kwargs['body'] = 'pre'\n\n\n"
        "def pre_put_nowait(hub, ctx):\n    ctx.kwargs['body'] = 'pre'\n"
    )
    root = write(
        tmp_path / "plugins", evbus__contracts__broker=contract, ingress__good=KEEPER.format(name="good")
    )

    async with api.bus({"good": {"*": {}}}, plugin_dirs=[root]) as events:
        await events.put(body="x")
        events.put_nowait(body="y")
    assert events.hub.ingress.GOT == {"good": [b'"pre"', b'"pre"']}


def test_an_exception_in_the_block_still_delivers_and_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    async def main() -> None:
        async with api.bus({"file": {"*": {"path": str(path)}}}) as events:
            await events.put(body=1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())
    assert len(path.read_text().splitlines()) == 1


async def test_a_cancelled_block_still_delivers(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    async def work(entered: asyncio.Event) -> None:
        async with api.bus({"file": {"*": {"path": str(path)}}}) as events:
            await events.put(body=1)
            entered.set()
            await asyncio.Event().wait()

    entered = asyncio.Event()
    task = asyncio.ensure_future(work(entered))
    await asyncio.wait_for(entered.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(path.read_text().splitlines()) == 1


async def test_two_buses_in_one_program_are_apart(tmp_path: Path) -> None:
    async with api.bus({"internal": {"*": {}}}) as one, api.bus({"internal": {"*": {}}}) as two:
        await one.put(body=1)
        assert [bus.snapshot()["bus"]["accepted"] for bus in (one, two)] == [1, 0]


async def test_the_report_says_what_was_not_delivered(tmp_path: Path) -> None:
    root = write(
        tmp_path / "plugins", ingress__down="async def publish(hub, ctx, body):\n    raise OSError('no')\n"
    )
    dead = tmp_path / "dead.jsonl"

    options: dict[str, Any] = {"plugin_dirs": [root], "drain_timeout": 0, "dead_store": dead}
    async with api.bus({"down": {"*": {}}}, **options) as events:
        await events.put(body=1)
    report = events.report
    assert (report.undelivered, report.dead_store) == ({"down.down.*": 1}, str(dead))
    assert str(report) == f"not delivered: down.down.*: 1; written to {dead}"
    assert json.loads(dead.read_text())["dead"]["lane"] == "down.down.*"


OWN = """
OPTIONS = {"pii_pattern": "x+", "pii_limit": 3, "pii_words": ["a"]}


def configure(hub, settings):
    vars(hub.pipeline)["GOT"] = (settings.pii_pattern, settings.pii_limit, settings.pii_words)


def send(hub, envelope):
    pass
"""


def test_options_that_a_plugin_declares_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "plugins", pipeline__redact=OWN)

    async def got(**options: Any) -> Any:
        async with api.bus({}, plugin_dirs=[root], **options) as events:
            return events.hub.pipeline.GOT

    assert asyncio.run(got()) == ("x+", 3, ["a"])
    assert asyncio.run(got(pii_pattern="y", pii_limit="5")) == ("y", 5, ["a"])
    monkeypatch.setenv("EVBUS_PII_WORDS", "b, c")
    assert asyncio.run(got()) == ("x+", 3, ["b", "c"])
    assert refused({}, plugin_dirs=[root], pii_limit="many") == "evbus.pii_limit: expected int, found str"
    assert (
        refused({}, plugin_dirs=[root], pii_patern="y")
        == "evbus.pii_patern: there is no such option; did you mean 'pii_pattern'?"
    )


async def test_events_that_no_profile_matches_stand_in_the_report() -> None:

    async with api.bus({"internal": {"default": {}}}) as events:
        await events.put(body=1, profile="defalt")
        await events.put(body=2, profile="defalt")
        await events.put(body=3)
    report = events.report
    assert report.unmatched == {"defalt": 2}
    assert str(report).startswith(
        "everything was delivered but 2 events that matched no profile ('defalt': 2; did you mean 'default'?)"
    )
