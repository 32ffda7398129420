"""The connection of a profile that plugins of one's own get: aio-pika's, and healed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from evbus.engine.core.plugins import installed
from evbus.errors import ConfigError, ConnectFailed, ProfileError, Unavailable
from tests.connection.amqp_kit import SOON, WAIT, closed_port, url
from tests.evbus.kit import new_hub as evbus_hub
from tests.evbus.kit import running, write
from tests.ingress.amqp_kit import bus, eventually, put


def new_hub() -> Any:
    return installed.new_hub()


async def publish(client: Any, queue: str, body: bytes) -> None:
    """Publish as aio-pika's documentation does, on a channel of its own."""
    async with client.channel() as channel:
        await channel.default_exchange.publish(aio_pika.Message(body), routing_key=queue)


async def test_it_is_a_connection_of_aio_pika_and_that_of_the_lanes(
    rabbitmq: Any, tmp_path: Path, unique: str
) -> None:
    async with bus(tmp_path, orders={"url": url(rabbitmq), "queue": unique}) as hub:
        client = await hub.connection.amqp.client("orders")
        assert isinstance(client, aio_pika.Connection)
        assert isinstance(client, aio_pika.abc.AbstractConnection)
        assert repr(client) == "<HealedConnection: \"amqp profile 'orders'\">"
        assert list(hub.connection.init.states()) == ["amqp.orders"]
        async with client.channel() as channel:
            queue = await channel.declare_queue(f"{unique}-own", auto_delete=True)
            await queue.bind("amq.topic", "shop.#")
            arrived: asyncio.Queue[Any] = asyncio.Queue()
            await queue.consume(arrived.put)
            topic = await channel.get_exchange("amq.topic")
            await topic.publish(aio_pika.Message(b"by hand"), "shop.shoes")
            message = await asyncio.wait_for(arrived.get(), WAIT)
            assert message.body == b"by hand"
            await message.ack()
        await client.close()
        await client.close()
        assert client.is_closed
        # The lane goes on, over the same connection.
        await put(hub, "orders", unique, "by evbus")
        await eventually(lambda: rabbitmq.queue_depth(unique) == 1, "it is delivered")
        assert hub.connection.init.states()["amqp.orders"]["connects"] == 1
    rabbitmq.delete_queue(unique)


async def test_it_is_used_again_when_its_connection_was_killed(
    rabbitmq: Any, proxy: Any, tmp_path: Path, unique: str
) -> None:
    way = proxy(rabbitmq.port)

    rabbitmq.declare_queue(unique)
    async with bus(tmp_path, orders={"url": url(rabbitmq, way.port)}) as hub:
        client = await hub.connection.amqp.client("orders")
        told: list[Any] = []
        client.close_callbacks.add(lambda sender, problem: told.append((sender, problem)))
        kept = await client.channel()
        for number in range(3):
            await publish(client, unique, b"%d" % number)
            way.cut()
            await eventually(lambda count=number + 1: len(told) == count, "the loss is told")
            await asyncio.wait_for(publish(client, unique, b"again"), WAIT)
        assert told[0][0] is client
        assert isinstance(told[0][1], aio_pika.exceptions.ConnectionClosed)
        assert kept.is_closed
        assert not client.is_closed
        assert client.connected.is_set()
    assert [message["payload"] for message in rabbitmq.take(unique)] == [
        "0",
        "again",
        "1",
        "again",
        "2",
        "again",
    ]
    rabbitmq.delete_queue(unique)


async def test_a_channel_waits_until_the_connection_is_restored(
    rabbitmq: Any, proxy: Any, tmp_path: Path, unique: str
) -> None:
    way = proxy(rabbitmq.port)

    async with bus(tmp_path, orders={"url": url(rabbitmq, way.port)}) as hub:
        client = await hub.connection.amqp.client("orders")
        way.refuse()
        way.cut()
        await eventually(lambda: not client.connected.is_set(), "it is lost")
        with pytest.raises(Unavailable, match="amqp profile 'orders': not connected: "):
            await hub.connection.amqp.client("orders", timeout=0.05)
        waiting = asyncio.ensure_future(client.channel().initialize())
        ready = asyncio.ensure_future(client.ready())
        await asyncio.sleep(0)
        way.accept()
        await asyncio.wait_for(asyncio.gather(waiting, ready), WAIT)


async def test_the_end_of_the_bus_closes_it_and_what_waits_is_told(
    rabbitmq: Any, proxy: Any, tmp_path: Path
) -> None:
    way = proxy(rabbitmq.port)

    async with bus(tmp_path, orders={"url": url(rabbitmq, way.port)}) as hub:
        first, second = [await hub.connection.amqp.client("orders") for _ in range(2)]
        channel = await first.channel()
        assert not channel.is_closed
        way.refuse()
        way.cut()
        await eventually(lambda: not second.connected.is_set(), "it is lost")
        waiting = asyncio.ensure_future(second.ready())
        await asyncio.sleep(0)
    assert first.is_closed
    assert second.is_closed
    assert channel.is_closed
    with pytest.raises(Unavailable, match="amqp profile 'orders': the connection is closed"):
        await asyncio.wait_for(waiting, WAIT)
    assert hub.connection.init.states() == {}


async def test_without_a_bus_the_profiles_are_given(rabbitmq: Any, unique: str) -> None:
    hub = new_hub()
    rabbitmq.declare_queue(unique)
    contexts = {"rabbitmq": {"orders": {"url": url(rabbitmq)}}}
    async with await hub.connection.amqp.client("rabbitmq.orders", contexts) as client:
        await publish(client, unique, b"alone")
    assert hub.connection.init.states() == {}
    assert [message["payload"] for message in rabbitmq.take(unique)] == ["alone"]
    rabbitmq.delete_queue(unique)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("order", "there is no profile 'order'; did you mean 'orders'?"),
        ("log", "the profile 'log' is one of the plugin 'file', not of 'amqp'"),
        ("twice", "several profiles are called 'twice'; say amqp.twice or rabbitmq.twice"),
    ],
)
async def test_another_profile_is_refused_with_what_would_be_right(
    wanted: str, why: str, tmp_path: Path
) -> None:
    contexts = {
        "amqp": {"orders": {}, "twice": {}},
        "rabbitmq": {"twice": {}},
        "file": {"log": {"path": str(tmp_path / "log")}},
    }

    hub = new_hub()
    with pytest.raises(ProfileError) as caught:
        await hub.connection.amqp.client(wanted, contexts)
    assert why in str(caught.value)
    with pytest.raises(ConfigError, match="start it first"):
        await hub.connection.amqp.client(wanted)


async def test_a_broker_that_is_not_there_is_told_at_once_or_after_the_time(tmp_path: Path) -> None:
    hosts = f"127.0.0.1:{closed_port()}"

    hub = new_hub()
    for first_connect, kind in (("fail", ConnectFailed), ("wait", Unavailable)):
        profile = {"hosts": hosts, "first_connect": first_connect, "reconnect": SOON}
        with pytest.raises(kind, match="amqp profile 'orders': .*nothing listens there"):
            await hub.connection.amqp.client("orders", {"amqp": {"orders": profile}}, timeout=0.2)
    assert hub.connection.init.states() == {}


@pytest.mark.parametrize("timeout", ["1", -1, float("nan"), True])
async def test_a_timeout_that_is_no_number_of_seconds_is_told(timeout: Any, tmp_path: Path) -> None:
    profile = {"url": f"amqp://127.0.0.1:{closed_port()}/", "first_connect": "wait"}
    async with bus(tmp_path, orders=profile) as hub:
        with pytest.raises(
            ValueError, match=f"^timeout is a number of seconds from 0 on, or .* not {timeout!r}$"
        ):
            await hub.connection.amqp.client("orders", timeout=timeout)


VIA = """
import aio_pika


async def open_(hub, ctx):
    return []


async def publish(hub, ctx, routing_key, body):
    hub.CALLS.append(body)
    if ctx.acct["keeps"] and ctx.state:
        client = ctx.state[0]
    else:
        client = await hub.connection.amqp.client("orders")
        ctx.state.append(client)
    async with client.channel() as channel:
        await channel.default_exchange.publish(aio_pika.Message(body), routing_key=routing_key)


__func_alias__ = {"open_": "open"}
"""


@pytest.mark.parametrize("keeps", [False, True])
async def test_a_broker_that_is_down_costs_a_plugin_that_waits_for_it_no_attempt(
    rabbitmq: Any, proxy: Any, tmp_path: Path, unique: str, *, keeps: bool
) -> None:
    way = proxy(rabbitmq.port)
    rabbitmq.declare_queue(unique)
    write(tmp_path / "plugins", ingress__via=VIA)
    hub = evbus_hub(plugin_dirs=[tmp_path / "plugins"], dead_store=tmp_path / "dead.jsonl")
    hub.CALLS = []
    # Long enough for a channel and a publish of a busy broker, which count as attempts.
    delivery = {"timeout": 3.0, "retry": {"attempts": 1, "min": 0.01, "max": 0.02}}
    orders = {"url": url(rabbitmq, way.port), "reconnect": SOON, "first_connect": "wait"}
    contexts = {"amqp": {"orders": orders}, "via": {"default": {"keeps": keeps, "delivery": delivery}}}
    if not keeps:
        way.refuse()
    async with running(hub, contexts):
        if keeps:
            await hub.evbus.broker.put(body=0, routing_key=unique)
            await eventually(lambda: rabbitmq.queue_depth(unique) == 1, "the first")
            way.refuse()
            way.cut()
            states = hub.connection.init.states
            await eventually(lambda: states()["amqp.orders"]["state"] != "up", "it is lost")
        await hub.evbus.broker.put(body=1, routing_key=unique)
        await eventually(lambda: hub.CALLS.count(b"1") >= 2, "it is tried again")
        (lane,) = [
            one for name, one in hub.evbus.stats.snapshot()["lanes"].items() if name.startswith("via.")
        ]
        assert lane["dead"] == 0
        assert lane["last_error"].startswith("amqp profile 'orders': not connected: ")
        way.accept()
        await eventually(lambda: rabbitmq.queue_depth(unique) == 1 + keeps, "it is delivered")
    assert not (tmp_path / "dead.jsonl").exists()
    rabbitmq.delete_queue(unique)
