"""``hub.evbus.broker``: put, put_nowait, get, init, propagate."""

from __future__ import annotations

import asyncio
import inspect
import os
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import BusForked, BusStopped, Rejected
from tests.evbus.kit import WAIT, bodies, new_hub, running, write


def plugin_hub(tmp_path: Path, **files: str) -> Any:
    write(tmp_path / "plugins", **files)
    return new_hub(plugin_dirs=(str(tmp_path / "plugins"),), dead_store=str(tmp_path / "dead.jsonl"))


#: A plugin with a state, that notes what happens to it.
STATEFUL = """
from evbus.errors import Rejected

__func_alias__ = {"open_": "open", "close_": "close"}


def __init__(hub):
    vars(hub.ingress).setdefault("SEEN", [])
    hub.ingress.noting.ACCT = ["noting"]


async def open_(hub, ctx):
    hub.ingress.SEEN.append("open")
    return "state"


async def publish(hub, ctx, routing_key, body):
    if routing_key == "bad":
        raise Rejected("never")
    hub.ingress.SEEN.append((ctx.state, routing_key, body))


async def close_(hub, ctx):
    hub.ingress.SEEN.append("close")
"""


async def take(hub: Any) -> Any:
    return await asyncio.wait_for(hub.evbus.broker.get(), WAIT)


@pytest.mark.parametrize("name", ["put", "put_nowait"])
async def test_every_published_order_of_arguments_is_understood(hub: Any, name: str) -> None:

    put = getattr(hub.evbus.broker, name)
    for args, named in (
        (("key", {"a": 1}, "p"), {}),  # pop-evbus 4
        (({"a": 1}, "p"), {}),  # pop-evbus 6 and 7
        ((), {"routing_key": "key", "body": {"a": 1}, "profile": "p"}),
        (("key",), {"body": {"a": 1}, "profile": "p"}),
    ):
        done = put(*args, **named)
        if name == "put":
            await done
        event = await take(hub)
        assert (event.body, event.profile) == (b'{"a":1}', "p")
        assert event.routing_key in ("key", "")


@pytest.mark.parametrize("name", ["put", "put_nowait"])
def test_inspect_shows_the_parameters_of_put(hub: Any, name: str) -> None:
    function = getattr(hub.evbus.broker, name)
    assert list(inspect.signature(function).parameters)[-4:] == ["routing_key", "body", "profile", "headers"]


async def test_get_takes_events_in_order_and_counts_them(hub: Any) -> None:

    for number in range(3):
        await hub.evbus.broker.put(body=number)
    assert [(await take(hub)).body for _ in range(3)] == [b"0", b"1", b"2"]
    getter = asyncio.ensure_future(take(hub))
    await asyncio.sleep(0)
    hub.evbus.broker.put_nowait(body=3)
    assert (await getter).body == b"3"
    assert hub.evbus.stats.snapshot()["bus"]["got"] == 4


def test_the_child_of_a_fork_takes_nothing_that_the_parent_has(hub: Any) -> None:
    hub.evbus.broker.put_nowait(body=1)
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(take(hub))
        except BusForked:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert hub.evbus.BUS.qsize() == 1


def test_init_makes_the_queue_belong_to_each_loop_in_turn_and_keeps_what_was_put(hub: Any) -> None:
    hub.evbus.broker.put_nowait(body=0)

    async def main(number: int) -> bytes:
        queue = await hub.evbus.broker.init()
        assert queue is hub.evbus.BUS
        body = (await take(hub)).body
        hub.evbus.broker.put_nowait(body=number)
        return body

    assert [asyncio.run(main(number)) for number in (1, 2, 3)] == [b"0", b"1", b"2"]
    assert hub.evbus.BUS.qsize() == 1


async def test_a_started_bus_may_be_given_to_its_loop_again(hub: Any) -> None:
    async with running(hub, {"internal": {"*": {}}}):
        await hub.evbus.broker.init()
        await hub.evbus.broker.put(routing_key="k", body=1)
        assert await bodies(hub, "k", 1) == [b"1"]


async def test_put_is_refused_after_stop_and_put_nowait_too(hub: Any) -> None:

    async with running(hub, {"internal": {"*": {}}}):
        pass
    with pytest.raises(BusStopped):
        await hub.evbus.broker.put(body=1)
    with pytest.raises(BusStopped):
        hub.evbus.broker.put_nowait(body=1)


async def test_propagate_publishes_now_to_all_that_match_and_opens_once(tmp_path: Path) -> None:
    hub = plugin_hub(tmp_path, ingress__noting=STATEFUL)
    contexts = {"noting": {"orders": {}, "o*": {}, "other": {}}}

    for number in range(2):
        hub.evbus.broker.put_nowait(routing_key="k", body=number, profile="orders")
        await hub.evbus.broker.propagate(contexts, await take(hub))
    assert (hub.ingress.SEEN.count("open"), hub.ingress.SEEN.count(("state", "k", b"0"))) == (2, 2)
    assert hub.ingress.SEEN.count(("state", "k", b"1")) == 2


COUNTING = """
def __init__(hub):
    hub.match.ASKED = []


def find(hub, name, pattern):
    hub.match.ASKED.append(pattern)
    return name == pattern


def ends(hub, pattern):
    return pattern, ""
"""


async def test_propagate_asks_the_matcher_about_few_of_many_profiles(tmp_path: Path) -> None:
    hub = plugin_hub(tmp_path, match__counting=COUNTING)
    profiles = {f"tenant-{number}": {"routing_key": f"to-{number}"} for number in range(200)}
    contexts = {"match_plugin": "counting", "internal": profiles}

    hub.evbus.broker.put_nowait(body=1, profile="tenant-77")
    event = await take(hub)
    for _ in range(2):
        hub.match.ASKED.clear()
        await hub.evbus.broker.propagate(contexts, event)
    queue = await hub.ingress.internal.get(routing_key="to-77")
    assert [queue.get_nowait(), queue.get_nowait()] == [b"1", b"1"]
    assert 1 <= len(hub.match.ASKED) <= 3


async def test_propagate_closes_what_it_opened_for_other_contexts(tmp_path: Path) -> None:
    hub = plugin_hub(tmp_path, ingress__noting=STATEFUL)

    hub.evbus.broker.put_nowait(routing_key="k", body=1, profile="a")
    event = await take(hub)
    first, second = {"noting": {"a": {}}}, {"noting": {"*": {}}}
    await hub.evbus.broker.propagate(first, event)
    await asyncio.gather(*(hub.evbus.broker.propagate(second, event) for _ in range(3)))
    assert (hub.ingress.SEEN.count("open"), hub.ingress.SEEN.count("close")) == (2, 1)
    assert hub.ingress.SEEN.count(("state", "k", b"1")) == 4


def test_propagate_does_not_use_what_was_opened_in_a_loop_that_ended(tmp_path: Path) -> None:
    hub = plugin_hub(tmp_path, ingress__noting=STATEFUL)
    contexts = {"noting": {"*": {}}}

    async def main() -> None:
        hub.evbus.broker.put_nowait(body=1)
        await hub.evbus.broker.propagate(contexts, await take(hub))

    asyncio.run(main())
    asyncio.run(main())
    assert hub.ingress.SEEN.count("open") == 2


CALLBACK = """
async def told(hub, data):
    hub.ingress.SEEN.append((data["plugin"], data["profile"], data["body"], str(data["exception"])))
"""


async def test_propagate_tells_a_failure_to_the_callback_and_goes_on(tmp_path: Path, caplog: Any) -> None:
    write(tmp_path / "plugins", ingress__noting=STATEFUL, evbus__callback=CALLBACK)
    hub = new_hub(plugin_dirs=(str(tmp_path / "plugins"),), error_callback_ref="evbus.callback.told")

    hub.evbus.broker.put_nowait(routing_key="bad", body=1, profile="a")
    await hub.evbus.broker.propagate({"noting": {"a": {}}}, await take(hub))
    assert ("noting", "a", b"1", "never") in hub.ingress.SEEN
    assert "plugin noting failed to publish an event of profile a: never" in caplog.text


async def test_wrap_returns_what_it_awaits_and_logs_what_fails(hub: Any, caplog: Any) -> None:
    async def good() -> int:
        return 5

    async def bad() -> None:
        raise Rejected("never")

    hub.evbus.broker.put_nowait(body=1, profile="p")
    event = await take(hub)
    assert await hub.evbus.broker.wrap("x", event, {}, good()) == 5
    assert await hub.evbus.broker.wrap("x", event, {}, bad()) is None
    assert "plugin x failed to publish an event of profile p: never" in caplog.text
