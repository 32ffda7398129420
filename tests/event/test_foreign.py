"""Messages that others sent: without a content type, with a charset as their encoding, in documents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evbus.engine.handling.events.declare import event
from tests.evbus.kit import write
from tests.event.kit import Got, dead, listening, settled

DATA = {"order_id": "A-1", "total": 1.5}
CLOUDEVENT = {"specversion": "1.0", "id": "1", "type": "shop.order", "source": "/x", "data": DATA}
MASSTRANSIT = {"messageId": "m-1", "messageType": ["urn:message:Shop:Order"], "message": DATA}

#: Keeps the headers that it sees.
SEES = """
async def handle(hub, envelope, call_next):
    vars(hub.pipeline).setdefault("SEEN", []).append(dict(envelope.headers))
    return await call_next(envelope)
"""


@event("order")
@dataclass
class Order:
    order_id: str = ""
    total: float = 0.0


async def put(hub: Any, body: Any, **headers: str) -> None:
    """Put a message of others, ``content_type`` and ``content_encoding`` among its headers."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("content_", "content-"): value for name, value in headers.items()}
    await hub.evbus.broker.put(routing_key="order", body=raw, headers={"content-type": "", **named})


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (DATA, {}),
        (DATA, {"content_encoding": "utf-8"}),
        (DATA, {"content_type": "application/json", "content_encoding": "binary"}),
        (CLOUDEVENT, {"content_type": "application/cloudevents+json"}),
        (CLOUDEVENT, {"content_type": "application/CloudEvents+JSON; charset=UTF-8"}),
        (CLOUDEVENT, {"content_type": "application/cloudevents+json", "content_encoding": "utf-8"}),
        (MASSTRANSIT, {"content_type": "application/vnd.masstransit+json"}),
    ],
)
@pytest.mark.parametrize("pipeline", [None, ("compress", "dedupe")])
async def test_what_others_send_is_the_event(
    body: Any, headers: dict[str, str], pipeline: tuple[str, ...] | None
) -> None:
    got = Got()
    async with listening(pipeline=pipeline) as hub:
        hub.event.init.subscribe(Order, got.on)
        await put(hub, body, **headers)
        assert await got.wait(1) == [Order("A-1", 1.5)]


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (DATA, "application/cloudevents+json", "this is no CloudEvent: its specversion is missing"),
        ([CLOUDEVENT], "application/cloudevents-batch+json", "a batch of CloudEvents is several events"),
        ({**CLOUDEVENT, "data": None}, "application/cloudevents+json", "Expected `object`, got `null`"),
        ({**CLOUDEVENT, "datacontenttype": "image/png"}, "application/cloudevents+json", "'image/png'"),
        (DATA, "application/vnd.masstransit+json", "no envelope of MassTransit"),
        (DATA, "application/vnd.shop+json", "name it in the option json_types"),
        (DATA, "application/problem+json", "name it in the option json_types"),
    ],
)
@pytest.mark.parametrize("pipeline", [None, ("trace",)])
async def test_what_is_no_event_is_dead_with_the_reason_and_as_it_came(
    tmp_path: Path, body: Any, kind: str, said: str, pipeline: tuple[str, ...] | None
) -> None:
    got = Got()
    async with listening(dead_store=str(tmp_path / "dead"), pipeline=pipeline) as hub:
        hub.event.init.subscribe(Order, got.on)
        await put(hub, body, content_type=kind)
        await settled(hub)
    assert got == []
    (line,) = dead(tmp_path / "dead")
    assert said in line["dead"]["reason"]
    assert (line["headers"]["content-type"], line["body"]) == (kind, body)


async def test_types_that_the_option_json_types_names_are_events() -> None:
    got = Got()
    async with listening(json_types=["application/vnd.shop+json"]) as hub:
        hub.event.init.subscribe(Order, got.on)
        await put(hub, DATA, content_type="application/vnd.Shop+json; v=1")
        assert await got.wait(1) == [Order("A-1", 1.5)]


async def test_interceptors_and_listeners_see_the_attributes_as_headers(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", pipeline__sees=SEES)
    seen = []

    async def on(event: Order, envelope: Any) -> None:
        seen.append(envelope.headers)

    kind = "application/cloudevents+json"
    async with listening(plugin_dirs=[str(root)], pipeline=["sees"]) as hub:
        hub.event.init.subscribe(Order, on)
        await put(hub, CLOUDEVENT, content_type=kind)
        await put(hub, DATA, **{"cloudEvents:id": "2", "cloudEvents:type": "a"})
        await put(hub, DATA, cloudEvents_id="2", cloudEvents_type="a")
        await put(hub, DATA, ce_id="2", ce_type="a")
        await settled(hub)
        seen.extend(hub.pipeline.SEEN)
    async with listening() as hub:
        hub.event.init.subscribe(Order, on)
        await put(hub, CLOUDEVENT, content_type=kind)
        await settled(hub)
    attributes = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "shop.order", "ce-source": "/x"}
    assert [each for each in seen if each.get("ce-id") == "1"] == [
        {"content-type": "application/json", **attributes}
    ] * 3
    assert [each for each in seen if each.get("ce-id") == "2"] == [
        {"content-type": "", "ce-id": "2", "ce-type": "a"}
    ] * 6


async def test_one_of_two_deliveries_of_a_cloudevent_is_handled() -> None:
    got = Got()
    async with listening(pipeline=["dedupe"]) as hub:
        hub.event.init.subscribe(Order, got.on)
        for _ in range(2):
            await put(hub, CLOUDEVENT, content_type="application/cloudevents+json")
        await settled(hub)
        assert got == [Order("A-1", 1.5)]
        assert hub.pipeline.DEDUPE.dropped == 1


async def test_a_document_that_was_compressed_and_signed_is_read_after_both_are_undone() -> None:
    got = Got()
    keys = ["2026:0123456789abcdef"]
    async with listening(pipeline=["compress", "sign"], sign_keys=keys, compress_over=10) as hub:
        hub.event.init.subscribe(Order, got.on)
        await put(hub, CLOUDEVENT, content_type="application/cloudevents+json")
        assert await got.wait(1) == [Order("A-1", 1.5)]


@pytest.mark.parametrize("more", [(), ("compress", "sign", "dedupe")])
async def test_events_in_structured_mode_reach_their_listeners(more: tuple[str, ...]) -> None:
    got = Got()
    options: dict[str, Any] = {"sign_keys": ["2026:0123456789abcdef"], "compress_over": 10}
    async with listening(pipeline=["stamp", *more], event_mode="structured", **options) as hub:
        hub.event.init.subscribe(Order, got.on)
        await hub.event.init.send(Order("A-2", 2.5))
        assert await got.wait(1) == [Order("A-2", 2.5)]


async def test_a_bus_that_writes_messagepack_reads_it_where_no_content_type_says_so() -> None:
    got = Got()
    async with listening(serialize_plugin="msgpack") as hub:
        hub.event.init.subscribe(Order, got.on)
        await put(hub, msgspec.msgpack.encode(DATA))
        assert await got.wait(1) == [Order("A-1", 1.5)]
