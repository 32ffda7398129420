"""Applications and plugins that were written for pop-evbus 4, 6 and 7 run unchanged; its defects are gone."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest

from evbus.errors import ProfileError, SettingsError
from evbus.types import Event
from tests.evbus.kit import WAIT, bodies, new_hub, package, running, write

#: As evbus-pika and evbus-kafka are written.
OLD_PLUGIN = """
def __init__(hub):
    hub.ingress.old.ACCT = ["old", "older"]


async def publish(hub, ctx, body: bytes):
    '''Ends up in a list.'''
    if isinstance(body, str):
        body = body.encode()
    vars(hub.ingress).setdefault("GOT", []).append((ctx.acct.get("topic"), ctx.acct.connection.url, body))
"""

FAILING = """
from evbus.errors import Rejected


async def publish(hub, ctx, body):
    raise Rejected("never")


def told(hub, data):
    vars(hub.ingress).setdefault("TOLD", []).append(data)


async def told_later(hub, data):
    vars(hub.ingress).setdefault("TOLD", []).append(data)
"""

KEYS = {"exception", "plugin", "profile", "body", "context"}


# The host pattern


async def test_the_host_pattern_of_idem(hub: Any) -> None:

    hub.pop.loop.CURRENT_LOOP = asyncio.get_running_loop()
    await hub.evbus.broker.init()
    hub.evbus.SERIAL_PLUGIN = "json"
    contexts = await hub.evbus.acct.profiles(
        acct_file=None, acct_key=None, acct_data={"internal": [{"idem-*": {"routing_key": "runs"}}]}
    )
    task = asyncio.get_running_loop().create_task(hub.evbus.init.start(contexts))
    await hub.evbus.init.join()
    assert hub.evbus.STARTED
    await hub.evbus.broker.put(
        body={"message": "GATHERING", "tags": {"type": "status"}}, profile="idem-status"
    )
    hub.evbus.broker.put_nowait(profile="idem-chunk", body={"x": {3, 1, 2}})
    await hub.evbus.init.stop()
    await task
    assert await bodies(hub, "runs", 2) == [
        b'{"message":"GATHERING","tags":{"type":"status"}}',
        b'{"x":[1,2,3]}',
    ]


async def test_stop_before_start_delivers_what_is_queued_and_ends(hub: Any) -> None:

    hub.evbus.broker.put_nowait(body=1, routing_key="k")
    await hub.evbus.init.stop()
    await asyncio.wait_for(hub.evbus.init.start({"internal": {"*": {}}}), WAIT)
    assert await bodies(hub, "k", 1) == [b"1"]


async def test_join_waits_until_the_bus_is_started(hub: Any) -> None:

    join = asyncio.ensure_future(hub.evbus.init.join())
    await asyncio.sleep(0)
    assert not join.done()
    async with running(hub, {"internal": {"*": {}}}):
        await asyncio.wait_for(join, WAIT)


async def test_init_returns_the_bus_and_keeps_what_was_put_before_the_loop_ran(hub: Any) -> None:
    hub.evbus.broker.put_nowait(body=1)
    hub.evbus.broker.put_nowait(body=2)

    bus = await hub.evbus.broker.init()
    assert bus is hub.evbus.BUS
    assert bus.qsize() == 2
    assert [(await bus.get()).body, (await hub.evbus.broker.get()).body] == [b"1", b"2"]


# Version 4


async def test_version_4_named_the_serializer_on_hub_serialize_and_the_routing_key_in_put(hub: Any) -> None:
    hub.serialize.PLUGIN = "msgpack"

    async with running(hub, {"internal": {"default": {}}}):
        await hub.evbus.broker.put("orders", {"id": 1})
        await hub.evbus.broker.put(routing_key="orders", body={"id": 2}, profile="default")
        hub.evbus.broker.put_nowait("orders", {"id": 3}, "default")
    assert [msgpack.unpackb(body) for body in await bodies(hub, "orders", 3)] == [
        {"id": 1},
        {"id": 2},
        {"id": 3},
    ]


def test_the_serializer_may_be_changed_at_any_time(hub: Any) -> None:
    found = []
    for name in ("json", "msgpack", "init", "json"):
        hub.serialize.PLUGIN = name
        hub.evbus.broker.put_nowait(body={"a": 1})
        found.append(asyncio.run(hub.evbus.broker.get()).body)
    assert found == [b'{"a":1}', b"\x81\xa1a\x01", b"{'a': 1}", b'{"a":1}']


# Versions 6 and 7


@pytest.mark.parametrize(
    ("name", "body"), [("json", b'["a"]'), ("msgpack", b"\x91\xa1a"), ("str", b"['a']"), ("init", b"['a']")]
)
@pytest.mark.parametrize("way", ["attribute", "serial_plugin", "serialize_plugin"])
def test_versions_6_and_7_named_the_serializer_on_hub_evbus_or_in_an_option(
    way: str, name: str, body: bytes
) -> None:
    hub = new_hub() if way == "attribute" else new_hub(**{way: name})
    if way == "attribute":
        hub.evbus.SERIAL_PLUGIN = name
    hub.evbus.broker.put_nowait(["a"])
    assert asyncio.run(hub.evbus.broker.get()).body == body
    assert name == hub.evbus.SERIAL_PLUGIN


def test_what_the_application_sets_outweighs_the_option() -> None:
    hub = new_hub(serial_plugin="msgpack")
    hub.evbus.SERIAL_PLUGIN = "str"
    hub.evbus.broker.put_nowait([1])
    assert asyncio.run(hub.evbus.broker.get()).body == b"[1]"


@pytest.mark.skipif(importlib.util.find_spec("pop_serial") is None, reason="pop-serial is not installed")
def test_plugins_of_pop_serial_are_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(
        tmp_path / "site",
        "other",
        {"serial": ["serial"]},
        serial__shout=(
            "def dump(hub, data) -> bytes:\n    return str(data).upper().encode()\n\n\n"
            "def load(hub, data: bytes):\n    pass\n"
        ),
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    hub = new_hub(serial_plugin="shout")
    hub.evbus.broker.put_nowait(body="hello")
    event = asyncio.run(hub.evbus.broker.get())
    assert (event.body, event.headers["content-type"]) == (b"HELLO", "application/shout")


def test_a_serializer_that_there_is_none_of_is_told_and_nothing_is_queued(hub: Any) -> None:
    hub.evbus.SERIAL_PLUGIN = "mspack"
    with pytest.raises(SettingsError, match="there is no serialize plugin 'mspack'; did you mean 'msgpack'?"):
        hub.evbus.broker.put_nowait(body=1)
    assert hub.evbus.BUS.qsize() == 0
    hub.evbus.SERIAL_PLUGIN = "json"
    hub.evbus.broker.put_nowait(body=1)
    assert hub.evbus.BUS.qsize() == 1


def test_a_serializer_that_there_is_none_of_is_told_for_every_event(hub: Any) -> None:
    hub.evbus.SERIAL_PLUGIN = "mspack"
    for _ in range(2):
        with pytest.raises(SettingsError, match="there is no serialize plugin 'mspack'"):
            hub.evbus.broker.put_nowait(body=1)
    assert hub.evbus.BUS.qsize() == 0


def test_a_broken_plugin_of_pop_serial_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(
        tmp_path / "site",
        "other",
        {"serial": ["serial"]},
        serial__odd="def dump(hub):\n    pass\n",
        serial__worse="def (\n",
        serial__fine="def dump(hub, data):\n    return b'fine'\n\n\ndef load(hub, data: bytes):\n    pass\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    hub = new_hub(serial_plugin="fine")
    hub.evbus.broker.put_nowait(body="hello")
    assert asyncio.run(hub.evbus.broker.get()).body == b"fine"


async def test_versions_6_and_7_put_body_and_profile(hub: Any) -> None:

    async with running(hub, {"internal": [{"p": {"routing_key": "from-profile"}}]}):
        await hub.evbus.broker.put({"a": 1}, "p")
        await hub.evbus.broker.put(body={"a": 2}, profile="p")
        hub.evbus.broker.put_nowait({"a": 3}, profile="p")
    assert await bodies(hub, "from-profile", 3) == [b'{"a":1}', b'{"a":2}', b'{"a":3}']


async def test_the_internal_queue_without_a_routing_key_is_that_of_none(hub: Any) -> None:

    async with running(hub, {"internal": [{"default": None}]}):
        await hub.evbus.broker.put(body="x")
    queue = await hub.ingress.internal.get()
    assert hub.ingress.internal.QUEUE[None] is queue
    assert bytes(queue.get_nowait()) == b'"x"'


# Plugins


@pytest.mark.parametrize("merged", ["by a folder", "by a package"])
async def test_a_plugin_of_versions_6_and_7_delivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merged: str
) -> None:
    if merged == "by a folder":
        hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__old=OLD_PLUGIN)])
    else:
        package(tmp_path / "site", "old_package", {"ingress": ["ingress"]}, ingress__old=OLD_PLUGIN)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        hub = new_hub()
    data = {"connection": {"url": "old://"}, "topic": "t", "anything": [1]}

    contexts = await hub.evbus.acct.profiles(acct_data={"old": {"a": data}, "older": [{"a": data}]})
    async with running(hub, contexts):
        await hub.evbus.broker.put(body=1, profile="a")
    assert hub.ingress.GOT == [("t", "old://", b"1")] * 2


async def test_profiles_of_one_name_under_several_providers_all_receive(tmp_path: Path) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__old=OLD_PLUGIN)])
    old = {"a": {"connection": {"url": "u"}}}

    contexts = {"old": old, "older": old, "internal": [{"a": {}}, {"*": {}}]}
    async with running(hub, contexts):
        await hub.evbus.broker.put(routing_key="k", body=1, profile="a")
    assert await bodies(hub, "k", 2) == [b"1", b"1"]
    assert hub.ingress.GOT == [(None, "u", b"1")] * 2


@pytest.mark.parametrize("ref", ["ingress.bad.told", "ingress.bad.told_later"])
async def test_the_error_callback_gets_exactly_five_keys(tmp_path: Path, ref: str) -> None:
    root = write(tmp_path / "plugins", ingress__bad=FAILING)
    hub = new_hub(plugin_dirs=[root], error_callback_ref=ref, dead_store=tmp_path / "dead.jsonl")
    contexts = {"bad": {"*": {}}}

    async with running(hub, contexts):
        await hub.evbus.broker.put(body=[1], profile="p")
    (told,) = hub.ingress.TOLD
    assert set(told) == KEYS
    assert (str(told["exception"]), told["plugin"], told["profile"], told["body"]) == (
        "never",
        "bad",
        "p",
        b"[1]",
    )
    assert told["context"] is contexts


@pytest.mark.parametrize("ref", ["ingress.bad.told", "ingress.bad.told_later", None])
async def test_propagate_publishes_now_and_tells_failures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ref: str | None
) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__bad=FAILING)], error_callback_ref=ref)
    contexts = {"bad": {"a": {}}, "internal": [{"a*": {}}, {"b": {}}]}

    await hub.evbus.broker.propagate(
        contexts=contexts, event=Event(profile="a", body=b"raw", routing_key="k")
    )
    assert await bodies(hub, "k", 1) == [b"raw"]
    assert hub.ingress.internal.QUEUE["k"].empty()
    told = vars(hub.ingress).get("TOLD", [])
    assert [(set(one), one["plugin"], one["profile"], one["body"]) for one in told] == (
        [(KEYS, "bad", "a", b"raw")] if ref else []
    )
    assert "plugin bad failed to publish an event of profile a: never" in caplog.text


async def test_wrap_returns_what_the_coroutine_returns_and_swallows_what_it_raises(hub: Any) -> None:
    async def fine() -> int:
        return 5

    assert (await hub.evbus.broker.wrap("x", Event("p", body=b""), {}, coro=fine())) == 5


@pytest.mark.parametrize("where", ["contexts", "hub"])
async def test_the_matcher_may_be_overridden(hub: Any, where: str) -> None:
    contexts: dict[str, Any] = {"internal": {"a|b": {}}}
    if where == "contexts":
        contexts["match_plugin"] = "regex"
    else:
        hub.match.PLUGIN = "regex"

    async with running(hub, contexts):
        for profile in ("a", "b", "c"):
            await hub.evbus.broker.put(routing_key=profile, body=1, profile=profile)
    assert set(hub.ingress.internal.QUEUE) == {"a", "b"}


def test_an_event_is_made_with_the_names_of_pop_evbus() -> None:
    event = Event(profile="p", body=b"b")
    assert (event.profile, event.body, event.routing_key) == ("p", b"b", "")


# The defects of pop-evbus 7


def test_routing_key_in_put_is_no_type_error(hub: Any) -> None:
    hub.evbus.broker.put_nowait(routing_key="k", body=1, profile="p")
    event = asyncio.run(hub.evbus.broker.get())
    assert (event.profile, event.routing_key) == ("p", "k")


async def test_a_failed_publish_does_not_lose_the_event(tmp_path: Path) -> None:
    text = """
        async def publish(hub, ctx, body):
            tried = vars(hub.ingress).setdefault("TRIED", [])
            tried.append(body)
            if len(tried) < 3:
                raise ConnectionError("not yet")
    """
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__flaky=text)])
    retry = {"retry": {"min": 0.001, "max": 0.001}}

    async with running(hub, {"flaky": {"*": {"delivery": retry}}}):
        await hub.evbus.broker.put(body=1)
    assert hub.ingress.TRIED == [b"1"] * 3
    assert hub.evbus.stats.snapshot()["lanes"]["flaky.flaky.*"]["delivered"] == 1


async def test_a_destination_that_hangs_stops_no_other(tmp_path: Path) -> None:
    text = "async def publish(hub, ctx, body):\n    await hub.ingress.GATE.wait()\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__slow=text)])

    hub.ingress.GATE = asyncio.Event()
    async with running(hub, {"slow": {"*": {}}, "internal": {"*": {}}}):
        for number in range(5):
            await hub.evbus.broker.put(routing_key="k", body=number)
        found = await bodies(hub, "k", 5)
        assert hub.evbus.stats.snapshot()["lanes"]["slow.slow.*"]["delivered"] == 0
        hub.ingress.GATE.set()
    assert found == [b"0", b"1", b"2", b"3", b"4"]
    assert hub.evbus.stats.snapshot()["lanes"]["slow.slow.*"]["delivered"] == 5


async def test_a_put_from_another_thread_wakes_the_loop(hub: Any) -> None:
    """Nothing else happens in the loop: without a wake-up it would sleep until the timeout."""

    async with running(hub, {"internal": {"*": {}}}):
        queue = await hub.ingress.internal.get("k")
        getter = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        thread = threading.Thread(target=hub.evbus.broker.put_nowait, kwargs={"routing_key": "k", "body": 1})
        thread.start()
        found = await asyncio.wait_for(getter, WAIT)
        thread.join(WAIT)
        assert bytes(found) == b"1"


async def test_a_bad_regex_is_refused_and_does_not_kill_the_listener(hub: Any) -> None:
    with pytest.raises(ProfileError, match=r"internal\.a\(: the name is no valid pattern: missing \)"):
        await hub.evbus.init.start({"match_plugin": "regex", "internal": {"a(": {}}})
    async with running(hub, {"internal": {"*": {}}}):
        await hub.evbus.broker.put(routing_key="k", body=1)
        assert await bodies(hub, "k", 1) == [b"1"]


async def test_a_matcher_that_fails_at_run_time_does_not_kill_the_listener(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "def find(hub, name, pattern):\n    return {'': True, 'default': True}[name]\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", match__odd=text)])

    caplog.set_level(logging.CRITICAL, "evbus")
    async with running(hub, {"match_plugin": "odd", "internal": {"*": {}}}):
        await hub.evbus.broker.put(routing_key="k", body=1, profile="bad")
        await hub.evbus.broker.put(routing_key="k", body=2)
        assert await bodies(hub, "k", 1) == [b"2"]


def test_the_queue_is_bounded() -> None:
    hub = new_hub()
    assert hub.evbus.init.settings().queue_limit == 100_000
    assert hub.evbus.init.settings().queue_bytes == 256 * 1024 * 1024
    assert hub.evbus.BUS.limit == 100_000
