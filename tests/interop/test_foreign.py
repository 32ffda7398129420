"""What clients of others send over RabbitMQ by default, and what a listener makes of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest
from cloudevents.core.bindings import rabbitmq as binding
from cloudevents.core.v1.event import CloudEvent

from evbus.api import bus, event
from tests.interop import foreign
from tests.interop.foreign import WAIT
from tests.servers._rabbitmq import RabbitMQ

DATA = {"order_id": "A-1", "total": 1.5}
EVENT = CloudEvent(
    {"id": "1", "source": "/shop", "type": "a", "datacontenttype": "application/json"}, dict(DATA)
)
BINARY, STRUCTURED = binding.to_binary_event(EVENT), binding.to_structured_event(EVENT)
RAW = json.dumps(DATA).encode()


@pytest.mark.parametrize(
    ("body", "properties"),
    [
        (RAW, None),
        (RAW, pika.BasicProperties(content_encoding="utf-8")),
        (RAW, pika.BasicProperties(content_type="application/json", content_encoding="binary")),
        (BINARY.body, pika.BasicProperties(content_type=BINARY.content_type, headers=BINARY.headers)),
        (STRUCTURED.body, pika.BasicProperties(content_type=STRUCTURED.content_type)),
        (
            RAW,
            pika.BasicProperties(
                content_type="application/json", headers={"cloudEvents:id": "1", "cloudEvents:type": "a"}
            ),
        ),
    ],
    ids=["nothing", "charset", "kombu", "binary", "structured", "amqp"],
)
async def test_what_others_send_by_default_reaches_a_listener(
    rabbitmq: RabbitMQ, unique: str, tmp_path: Path, body: bytes, properties: Any
) -> None:
    @event(f"{unique}.order")
    @dataclass
    class Order:
        order_id: str = ""
        total: float = 0.0

    profile = {
        "url": f"amqp://guest:guest@{rabbitmq.host}:{rabbitmq.port}/",
        "exchange": {"name": unique, "type": "topic"},
    }

    def publish() -> None:
        with foreign.channel(rabbitmq) as amqp:
            amqp.confirm_delivery()
            amqp.basic_publish(unique, f"{unique}.order", body, properties, mandatory=True)

    got: asyncio.Queue[Any] = asyncio.Queue()

    async def on(order: Order) -> None:
        got.put_nowait(order)

    dead = tmp_path / "dead"
    async with bus({"amqp": {"default": profile}}, pipeline=["compress"], dead_store=str(dead)) as events:
        events.subscribe(Order, on, per_process=True)
        await events.hub.event.init.ready()
        await asyncio.to_thread(publish)
        assert await asyncio.wait_for(got.get(), WAIT) == Order("A-1", 1.5)
    assert not dead.exists()
    with foreign.channel(rabbitmq) as amqp:
        amqp.exchange_delete(unique)


@pytest.mark.parametrize("protocol", ["amqp", "amqp1"])
@pytest.mark.parametrize("prefix", ["cloudEvents_", "cloudEvents:"])
def test_attributes_go_out_as_the_binding_of_amqp_names_them_and_come_back(
    rabbitmq4: RabbitMQ, unique: str, protocol: str, prefix: str
) -> None:
    url = f"amqp://guest:guest@{rabbitmq4.host}:{rabbitmq4.port}/"
    foreign.declare(rabbitmq4, unique, unique, f"{unique}.order")
    place = (
        {"exchange": unique} if protocol == "amqp" else {"address": f"/exchanges/{unique}/{{routing_key}}"}
    )
    out = {"url": url, "cloudevents_prefix": prefix, **place}

    @event(f"{unique}.order")
    @dataclass
    class Order:
        order_id: str = ""

    got: list[Any] = []

    async def on(order: Order, envelope: Any) -> None:
        got.append((order, envelope.headers))
        done.set()

    async def main() -> None:
        # The signature is one of headers that begin with ce-.
        options: dict[str, Any] = {"pipeline": ["stamp", "sign"], "sign_keys": ["k:0123456789abcdef"]}
        async with bus({protocol: {"default": out}}, **options) as events:
            await events.send(Order("A-1"))
            await events.send(Order("A-2"))
        sent = await asyncio.to_thread(foreign.receive_amqp, rabbitmq4, unique)
        attributes = {name for name in sent.headers if name.startswith(prefix)}
        assert attributes == {prefix + name for name in ("id", "type", "source", "time", "specversion")}
        assert not any(name.startswith("ce-") for name in sent.headers)
        profile = {"amqp": {"default": {"url": url, "exchange": {"name": unique, "type": "topic"}}}}
        async with bus(profile, **options) as events:
            events.subscribe(Order, on, per_process=True)
            await events.hub.event.init.ready()
            async with bus({protocol: {"default": out}}, **options) as sender:
                await sender.send(Order("A-3"))
            await asyncio.wait_for(done.wait(), WAIT)

    done = asyncio.Event()
    try:
        asyncio.run(main())
    finally:
        foreign.delete(rabbitmq4, unique, unique)
    ((order, headers),) = got
    assert order == Order("A-3")
    assert headers["ce-type"] == f"{unique}.order"
    assert not any(name.startswith("cloudEvents") for name in headers)
