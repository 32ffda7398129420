"""All of it together: through the bus, through the dispatcher, and through a broker."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import pytest

from evbus.api import session
from evbus.engine.stages import compress
from evbus.errors import MissingExtra, Rejected, SettingsError
from evbus.types import Envelope
from tests.dispatch.hub_kit import started
from tests.evbus.kit import WAIT, new_hub, running

ALL = ("session", "trace", "stamp", "dedupe", "compress", "sign")
KEYS = ("2026:0123456789abcdef",)
BODY = {"words": ["again"] * 1000}


@dataclass
class Order:
    id: int


def bus(*pipeline: str, **options: Any) -> Any:
    return new_hub(pipeline=pipeline or ALL, sign_keys=KEYS, **options)


def queued(hub: Any, **put: Any) -> Envelope:
    """Return an event as it leaves the bus."""
    hub.evbus.broker.put_nowait(**{"routing_key": "orders", "body": BODY, "profile": "p", **put})
    return asyncio.run(hub.evbus.broker.get())  # type: ignore[no-any-return]


async def seen(envelope: Envelope) -> tuple[Any, dict[str, str]]:
    return envelope, dict(session.current())


def handled(hub: Any, envelope: Envelope, receiver: str = "") -> Any:
    async def main() -> Any:
        _, around = hub.evbus.init.interceptors()
        return await around(envelope, seen, receiver)

    return asyncio.run(main())


def test_what_is_put_with_all_of_them_is_handled_as_it_was() -> None:
    hub, other = bus(), bus()
    with session.use(user="joe"):
        envelope = queued(hub)
    assert len(envelope.body) < 200
    plain, found = handled(other, envelope)
    assert other.serialize.json.load(plain.body) == BODY
    assert found == {"user": "joe"}
    assert "content-encoding" not in plain.headers
    assert plain.headers["traceparent"] == envelope.headers["traceparent"]


def test_in_another_order_than_that_of_the_sender_it_is_rejected() -> None:
    envelope = queued(bus("compress", "sign"))
    with pytest.raises(Rejected, match="altered"):
        handled(bus("sign", "compress"), envelope)


def test_a_second_delivery_of_a_signed_event_is_a_replay_unless_dedupe_comes_before_it() -> None:
    envelope = queued(bus("stamp", "sign"))
    with_dedupe, without = bus("sign", "dedupe"), bus("sign")
    for hub in (with_dedupe, without):
        assert handled(hub, envelope) is not None
    assert handled(with_dedupe, envelope) is None
    with pytest.raises(Rejected, match="replay"):
        handled(without, envelope)


def test_each_receiver_handles_an_event_that_all_of_them_protect_once() -> None:
    envelope, hub = queued(bus()), bus()
    assert all(handled(hub, envelope, name) for name in ("billing", "shipping"))
    with pytest.raises(Rejected, match="replay"):
        handled(hub, envelope, "billing")


def test_a_forged_event_does_not_use_up_the_id_of_the_real_one() -> None:
    envelope = queued(bus("stamp", "sign"))
    forged = envelope.replace(headers={**envelope.headers, "evbus-signature": "v1,2026,AAAA"})
    hub = bus("sign", "dedupe")
    with pytest.raises(Rejected):
        handled(hub, forged)
    assert handled(hub, envelope) is not None


def test_an_event_that_is_too_large_for_the_receiver_is_rejected() -> None:
    with pytest.raises(Rejected, match="larger than the 1000 bytes of the option max_body"):
        handled(bus("compress", max_body=1000), queued(bus("compress")))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pipeline": ["sign"]}, "evbus.sign_keys: the pipeline plugin sign needs a key"),
        ({"pipeline": ["sign"], "sign_keys": "a:short"}, "the secret of the key 'a' has 5 bytes"),
        ({"pipeline": "sign", "sign_keys": "a:0123456789abcdef,a:0123456789abcdef"}, "two keys with the id"),
    ],
)
def test_a_mistake_in_the_keys_is_said_before_the_first_event(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        new_hub(**options).evbus.init.settings()


def test_keys_are_read_only_when_sign_takes_part_and_it_is_told_when_it_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = "the option sign_keys does nothing, as the option pipeline does not name the plugin sign"
    assert new_hub(sign_keys="a:short").evbus.init.settings().sign_keys == ("a:short",)
    assert said in caplog.text
    caplog.clear()
    new_hub(sign_keys="a:0123456789abcdef", pipeline=["sign"], event_mode="binary").evbus.init.settings()
    assert caplog.text == ""
    new_hub(event_mode="structured", event_source="/shop").evbus.init.settings()
    assert [record.getMessage().split()[2] for record in caplog.records] == ["event_mode", "event_source"]


def test_zstd_that_is_not_installed_is_said_before_the_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "_zstd", None)
    with pytest.raises(MissingExtra, match=r"evbus-hub\[zstd\]"):
        new_hub(pipeline=["compress"], compress_with="zstd").evbus.init.settings()


@pytest.mark.parametrize("waits", [True, False])
async def test_all_handlers_of_a_message_in_process_are_reached_in_its_session(waits: bool) -> None:

    hub, found = bus(), []
    done = asyncio.Event()

    def handler(name: str) -> Any:
        async def handle(order: Order) -> None:
            found.append((name, session.current()["user"]))
            if len(found) == 4:
                done.set()

        return handle

    for name in ("billing", "shipping"):
        hub.dispatch.events.bind(Order, handler(name))
    async with started(hub) as dispatch:
        with session.use(user="joe"):
            for _ in range(2):
                await dispatch.handle(Order(1), wait_for_response=waits, headers={"ce-id": "the same"})
        await asyncio.wait_for(done.wait(), WAIT)
    assert sorted(found) == [("billing", "joe")] * 2 + [("shipping", "joe")] * 2


async def test_a_message_in_process_with_headers_of_another_one_is_signed_anew() -> None:
    hub = bus("sign")

    async def handle(order: Order) -> int:
        return order.id

    hub.dispatch.commands.bind(Order, handle)
    headers = {"evbus-signature": "v1,x,AAAA", "evbus-signed-at": "1"}
    async with started(hub) as dispatch:
        assert await dispatch.handle(Order(7), wait_for_response=True, headers=headers) == 7


@pytest.mark.parametrize("waits", [True, False])
def test_an_event_that_goes_to_the_bus_as_well_is_signed_and_compressed_for_it(waits: bool) -> None:
    async def main() -> Envelope:
        hub = bus(compress_over=0)

        async def handle(order: Order) -> None:
            pass

        hub.dispatch.events.bind(Order, handle, publish_to="p")
        async with started(hub) as dispatch:
            with session.use(user="joe"):
                await dispatch.handle(Order(10**200), wait_for_response=waits)
            return await asyncio.wait_for(hub.evbus.broker.get(), WAIT)  # type: ignore[no-any-return]

    envelope, other = asyncio.run(main()), bus()
    assert "content-encoding" in envelope.headers
    plain, found = handled(other, envelope)
    assert (plain.profile, plain.routing_key, found) == ("p", "Order", {"user": "joe"})
    assert other.serialize.json.load(plain.body) == {"id": 10**200}


@pytest.mark.parametrize("chosen", ["zlib", "auto"])
async def test_through_a_broker_and_a_profile_that_has_a_routing_key_of_its_own(
    rabbitmq: Any, unique: str, chosen: str
) -> None:
    url = f"amqp://guest:guest@{rabbitmq.host}:{rabbitmq.port}/"
    contexts = {"amqp": {"p": {"url": url, "queue": unique, "routing_key": unique}}}

    sender, receiver = bus(compress_with=chosen), bus()
    _, around = receiver.evbus.init.interceptors()
    async with running(sender, contexts):
        with session.use(user="joe", tenant="acmé"):
            for number in range(3):
                await sender.evbus.broker.put(
                    routing_key="orders", body={**BODY, "number": number}, profile="p"
                )
    numbers = []
    async with contextlib.aclosing(receiver.evbus.bridge.consume(contexts, "p")) as deliveries:
        while len(numbers) < 3:
            delivery = await asyncio.wait_for(deliveries.__anext__(), WAIT)
            envelope = delivery.envelope
            assert envelope.routing_key == unique
            assert len(envelope.body) < 300
            plain, found = await around(envelope, seen)
            assert found == {"user": "joe", "tenant": "acmé"}
            assert plain.routing_key == "orders"
            numbers.append(receiver.serialize.json.load(plain.body)["number"])
            altered = envelope.replace(headers={**envelope.headers, "evbus-session": "{}"})
            with pytest.raises(Rejected, match="altered"):
                await around(altered, seen)
            delivery.ack()
    assert numbers == [0, 1, 2]
