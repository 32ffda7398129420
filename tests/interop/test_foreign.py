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
def test_what_others_send_by_default_reaches_a_listener(
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

    async def main() -> None:
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

    def publish() -> None:
        with foreign.channel(rabbitmq) as amqp:
            amqp.confirm_delivery()
            amqp.basic_publish(unique, f"{unique}.order", body, properties, mandatory=True)

    asyncio.run(main())
    with foreign.channel(rabbitmq) as amqp:
        amqp.exchange_delete(unique)
