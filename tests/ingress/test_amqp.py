"""Publishing by AMQP to a real broker: what arrives, what comes back, and what the broker does meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from evbus.engine.wire.amqp import frames
from evbus.engine.wire.base import supervisor
from evbus.errors import (
    ConnectFailed,
    ConnectionLost,
    DeliveryError,
    Rejected,
    Unavailable,
)
from evbus.ingress import amqp as plugin
from evbus.types import Subscription
from tests.evbus.kit import KEEPER, write
from tests.evbus.kit import new_hub as new_bus
from tests.ingress.amqp_kit import (
    WAIT,
    bus,
    consuming,
    context,
    event,
    eventually,
    got,
    kill,
    lane,
    library,
    new_hub,
    numbered,
    opened,
    publish,
    publish_as_a_lane,
    put,
    set_largest,
    url,
)
from tests.ingress.still_kit import Withheld
from tests.servers import _rabbitmq4

PLUGIN: Any = plugin  # its functions take the hub, which no type checker knows


def payloads(node: Any, queue: str) -> list[str]:
    return [message["payload"] for message in node.take(queue, 3000)]


def rejected(outcomes: list[Any]) -> list[bool | None]:
    """Return for each outcome whether it is a rejection, None for what was delivered."""
    return [outcome if outcome is None else isinstance(outcome, Rejected) for outcome in outcomes]


# Where it arrives


async def test_an_exchange_and_its_queue_are_declared_and_bound(hub: Any, rabbitmq: Any, unique: str) -> None:
    exchange = {"name": unique, "type": "topic", "auto_delete": True}
    queue = {"name": unique, "bind": ["orders.#", "bills.*"]}

    async with opened(hub, url=url(rabbitmq), exchange=exchange, queue=queue) as ctx:
        keys = ("orders.a.b", "bills.x", "other", "orders")
        outcomes = await publish_as_a_lane(hub, ctx, *(event(key, key.encode()) for key in keys))
        assert rejected(outcomes) == [None, None, True, None]
    assert payloads(rabbitmq, unique) == ["orders.a.b", "bills.x", "orders"]


@pytest.mark.parametrize("kind", ["quorum", "stream"])
async def test_quorum_queues_and_streams_take_events(hub: Any, rabbitmq: Any, unique: str, kind: str) -> None:
    async with opened(hub, url=url(rabbitmq), queue={"name": unique, "type": kind}) as ctx:
        assert await publish(hub, ctx, *numbered(unique, 50)) == [None] * 50
    rabbitmq.delete_queue(unique)


async def test_an_exchange_that_is_not_there_is_a_sentence_with_the_way_out(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await hub.ingress.amqp.open(context(url=url(rabbitmq), exchange=unique))
    assert str(caught.value) == (
        f"amqp profile 'orders': there is no exchange '{unique}' on the broker; create it, or have it "
        f"declared with 'exchange: {{name: {unique}, type: topic}}'"
    )
    async with opened(hub, url=url(rabbitmq), exchange=unique, first_connect="wait") as ctx:
        with pytest.raises(Unavailable, match="there is no exchange"):
            await publish(hub, ctx, event("k"))
        rabbitmq.declare_exchange(unique)
        rabbitmq.declare_queue(unique)
        rabbitmq.bind(unique, unique, "k")
        assert await publish(hub, ctx, event("k", b"late")) == [None]
    rabbitmq.delete_exchange(unique)
    assert payloads(rabbitmq, unique) == ["late"]


async def test_the_routing_key_of_the_profile_may_hold_the_events_own(
    rabbitmq: Any, tmp_path: Any, unique: str
) -> None:
    async with bus(
        tmp_path,
        fixed={"url": url(rabbitmq), "queue": unique, "routing_key": unique},
        filled={"url": url(rabbitmq), "routing_key": f"{unique}{{routing_key}}"},
    ) as hub:
        await put(hub, "fixed", "whatever", 1)
        await eventually(lambda: lane(hub, "fixed")["delivered"] == 1, "the first is delivered")
        await put(hub, "filled", "", 2)
    assert payloads(rabbitmq, unique) == ["1", "2"]


# What it says


async def test_headers_become_properties_and_the_profile_fills_in_what_is_missing(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    headers = {
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "ce-id": "event-7",
        "correlation-id": "c",
        "reply-to": "r",
        "timestamp": "1700000000",
        "type": "made",
        "app-id": "shop",
        "x-own": "ü",
    }
    data = {"expiry": 600, "priority": 4, "headers": {"x-own": "less", "x-fixed": "f"}, "persistent": True}

    async with opened(hub, url=url(rabbitmq), queue=unique, **data) as ctx:
        own = event(unique, b"2", {"priority": "9", "expiration": "70000", "message-id": "m"})
        assert await publish(hub, ctx, event(unique, b"1", headers), own) == [None, None]
    first, second = (message["properties"] for message in rabbitmq.take(unique))
    table = first.pop("headers")
    assert table == {"ce-id": "event-7", "x-own": "ü", "x-fixed": "f"}
    assert first == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "message_id": "event-7",
        "correlation_id": "c",
        "reply_to": "r",
        "timestamp": 1700000000,
        "type": "made",
        "app_id": "shop",
        "expiration": "600000",
        "priority": 4,
        "delivery_mode": 2,
    }
    assert (second["priority"], second["expiration"], second["message_id"]) == (9, "70000", "m")


async def test_events_are_transient_when_the_profile_says_so(hub: Any, rabbitmq: Any, unique: str) -> None:
    async with opened(hub, url=url(rabbitmq), queue=unique, persistent=False) as ctx:
        assert await publish(hub, ctx, event(unique, b"1", {"delivery-mode": "2"})) == [None]
    (message,) = rabbitmq.take(unique)
    assert message["properties"]["delivery_mode"] == 1


async def test_events_that_share_their_headers_and_others_are_told_apart(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    from evbus.types import Envelope, SharedHeaders

    shared = [SharedHeaders({"n": str(number)}) for number in range(3)]

    async with opened(hub, url=url(rabbitmq), queue=unique) as ctx:
        events = [Envelope("orders", unique, b"%d" % (n % 3), shared[n % 3], 1.0 + n) for n in range(600)]
        assert set(await publish(hub, ctx, *events)) == {None}
    async with library(rabbitmq) as channel:
        for n in range(600):
            message = await got(channel, unique)
            assert message.header.properties.headers == {"n": message.body.decode()} == {"n": str(n % 3)}


def test_a_round_trip_under_uvloop(rabbitmq: Any, unique: str, uvloop_runner: Any) -> None:
    async def main() -> None:
        hub = new_hub()
        data = {"url": url(rabbitmq), "queue": unique, "prefetch": 101}
        async with opened(hub, **data) as ctx, consuming(hub, **data) as following:
            events = [*numbered(unique, 100), event(unique, b"x" * 300_000)]
            assert await publish(hub, ctx, *events) == [None] * 101
            deliveries = [await following() for _ in range(101)]
            assert [len(delivery.envelope.body) for delivery in deliveries[98:]] == [2, 2, 300_000]
            for delivery in deliveries:
                delivery.ack()

    with uvloop_runner() as runner:
        runner.run(main())
    assert rabbitmq.queue_depth(unique) == 0


# What is refused


async def test_unroutable_events_come_back_with_the_reason_and_the_others_are_delivered(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    async with opened(hub, url=url(rabbitmq), queue=unique) as ctx:
        events = [event(unique if number % 3 else f"{unique}-no", b"same") for number in range(300)]
        outcomes = await publish_as_a_lane(hub, ctx, *events)
        assert rejected(outcomes) == [True, None, None] * 100
        assert str(outcomes[0]) == (
            f"amqp profile 'orders': unroutable: there is no queue of the name of the routing key "
            f"'{unique}-no' (NO_ROUTE, 312); the default exchange leads to the profile's queue "
            f"'{unique}' by its name alone, and all events go there with 'routing_key: {unique}'"
        )
        with pytest.raises(Rejected, match="unroutable"):
            await hub.ingress.amqp.publish(ctx, f"{unique}-no", b"")
    async with opened(hub, url=url(rabbitmq), exchange="amq.topic") as ctx:
        (outcome,) = await publish(hub, ctx, event(f"{unique}-no", b"x" * 300_000))
        assert f"the exchange 'amq.topic' leads to no queue for the routing key '{unique}-no'" in str(outcome)
    async with opened(hub, url=url(rabbitmq), exchange="amq.topic", queue=unique) as ctx:
        (outcome,) = await publish_as_a_lane(hub, ctx, event(f"{unique}-no", b""))
        assert str(outcome).endswith(
            f"is bound by its name alone: say more: 'queue: {{name: {unique}, bind: [\"#\"]}}'"
        )
    assert rabbitmq.queue_depth(unique) == 200


def dead_letters(folder: Any) -> list[dict[str, Any]]:
    """Return why each event of a bus is dead."""
    return [json.loads(line)["dead"] for line in (folder / "dead.jsonl").read_text().splitlines()]


#: In no alphabetical order, and one that is a property.
HEADERS = {"tenant": "acme", "region": "eu", "b": "1", "a": "2", "correlation-id": "c"}


async def one_lost_among_good_ones(node: Any, folder: Any, queue: str) -> None:
    async with bus(folder, orders={"url": url(node), "queue": queue}) as hub:
        for number in range(10):
            hub.evbus.broker.put_nowait(body=number, profile="orders", routing_key=queue, headers=HEADERS)
        lost = f"{queue}-nowhere"
        hub.evbus.broker.put_nowait(body=0, profile="orders", routing_key=lost, headers=HEADERS)
        for number in range(10, 20):
            hub.evbus.broker.put_nowait(body=number, profile="orders", routing_key=queue, headers=HEADERS)
        await eventually(lambda: lane(hub, "orders")["delivered"] == 20, "the others are delivered")
        await eventually(lambda: lane(hub, "orders")["dead"] == 1, "the lost one is given up")
        assert f"the routing key '{lost}' (NO_ROUTE, 312)" in str(lane(hub, "orders")["last_error"])


def test_one_unroutable_event_with_headers_among_good_ones_is_dead_and_they_arrive_once(
    each_rabbitmq: Any, tmp_path: Any, unique: str
) -> None:
    asyncio.run(one_lost_among_good_ones(each_rabbitmq, tmp_path, unique))
    assert payloads(each_rabbitmq, unique) == [str(number) for number in range(20)]


@pytest.mark.parametrize("version", ["4.0", "4.3"])
def test_a_broker_that_adds_headers_to_what_comes_in_changes_nothing_of_it(
    version: str, tmp_path: Any, unique: str
) -> None:
    if missing := _rabbitmq4.missing(version):
        pytest.skip(missing)
    settings = {"message_interceptors.incoming.set_header_timestamp.overwrite": "false"}
    with _rabbitmq4.RabbitMQ4(version, settings=settings) as node:
        node.start(tmp_path / "node")
        asyncio.run(one_lost_among_good_ones(node, tmp_path, unique))
        assert payloads(node, unique) == [str(number) for number in range(20)]


async def test_of_events_with_one_key_and_body_those_come_back_whose_headers_lead_nowhere(
    hub: Any, each_rabbitmq: Any, unique: str
) -> None:
    async with library(each_rabbitmq) as channel:
        await channel.exchange_declare(unique, exchange_type="headers", durable=True)
        await channel.queue_declare(unique, durable=True)
        await channel.queue_bind(unique, unique, arguments={"x-match": "all", "to": "here"})
    async with opened(hub, url=url(each_rabbitmq), exchange=unique) as ctx:
        kinds = [
            {"to": "here"},
            {"to": "nowhere"},
            {"z": "1", "to": "here", "a": "2"},
            {"z": "1", "a": "2"},
        ]
        events = [event("k", b"same", kinds[number % 4]) for number in range(200)]
        outcomes = await publish(hub, ctx, *events)
        assert rejected(outcomes) == [None, True] * 100
    assert each_rabbitmq.queue_depth(unique) == 100


async def test_unroutable_events_are_dropped_when_the_profile_says_so(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    async with opened(hub, url=url(rabbitmq), mandatory=False) as ctx:
        assert await publish(hub, ctx, event(f"{unique}-no")) == [None]


@pytest.mark.parametrize(("refused", "kind"), [("retry", DeliveryError), ("reject", Rejected)])
async def test_what_a_full_queue_refuses_is_tried_again_or_given_up(
    hub: Any, rabbitmq: Any, unique: str, refused: str, kind: type
) -> None:
    queue = {"name": unique, "arguments": {"x-max-length": 2, "x-overflow": "reject-publish"}}

    async with opened(hub, url=url(rabbitmq), queue=queue, refused=refused) as ctx:
        for _ in range(2):
            assert await publish(hub, ctx, event(unique)) == [None]
        (outcome,) = await publish(hub, ctx, event(unique))
        assert type(outcome) is kind
        assert str(outcome).startswith("amqp profile 'orders': refused by the broker (basic.nack)")
    assert rabbitmq.queue_depth(unique) == 2


async def test_the_longest_life_that_the_broker_allows_is_allowed(
    hub: Any, each_rabbitmq: Any, unique: str
) -> None:
    async with opened(hub, url=url(each_rabbitmq), queue=unique, expiry=315_360_000) as ctx:
        longest = event(unique, b"2", {"expiration": "315360000000"})
        assert await publish(hub, ctx, event(unique, b"1"), longest) == [None, None]
    assert payloads(each_rabbitmq, unique) == ["1", "2"]


async def test_a_body_that_the_server_does_not_take_is_one_dead_letter_with_its_reason(
    each_broken_rabbitmq: Any, tmp_path: Any, unique: str
) -> None:
    node = each_broken_rabbitmq
    set_largest(node, 10000)

    try:
        async with bus(tmp_path, orders={"url": url(node), "queue": unique}) as hub:
            await put(hub, "orders", unique, 1, "x" * 10000, 2, 3)
            await eventually(lambda: lane(hub, "orders")["delivered"] == 3, "the others are delivered")
            await eventually(lambda: lane(hub, "orders")["dead"] == 1, "the large one is given up")
            assert "message size 10002 is larger than configured max size 10000" in str(
                lane(hub, "orders")["last_error"]
            )
            # The broker has said it once, and is not asked again.
            await put(hub, "orders", unique, "x" * 9999)
            await eventually(lambda: lane(hub, "orders")["dead"] == 2, "the next one is given up")
            assert "the body has 10001 bytes, and the broker takes 10000 at most" in str(
                lane(hub, "orders")["last_error"]
            )
    finally:
        set_largest(node, 134217728)
    assert [letter["attempts"] for letter in dead_letters(tmp_path)] == [1, 1]
    assert set(payloads(node, unique)) == {"1", "2", "3"}


# What the broker does meanwhile


async def test_an_exchange_deleted_under_the_lane_is_declared_again(
    rabbitmq: Any, tmp_path: Any, unique: str, caplog: Any
) -> None:
    exchange = {"name": unique, "type": "fanout"}

    profile = {"url": url(rabbitmq), "exchange": exchange, "queue": unique}
    async with bus(tmp_path, orders=profile) as hub:
        await put(hub, "orders", "k", 1)
        await eventually(lambda: lane(hub, "orders")["delivered"] == 1, "the first is delivered")
        await asyncio.to_thread(rabbitmq.delete_exchange, unique)
        await put(hub, "orders", "k", 2)
        await eventually(lambda: lane(hub, "orders")["delivered"] == 2, "the second is delivered")
        assert lane(hub, "orders")["dead"] == 0
    rabbitmq.delete_exchange(unique)
    # The client library has nothing to add to what evbus says of it.
    assert [record.name for record in caplog.records if record.name.startswith("aiormq")] == []
    assert payloads(rabbitmq, unique) == ["1", "2"]


async def test_a_queue_deleted_under_the_lane_is_declared_again_and_other_keys_stay_unroutable(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    async with opened(hub, url=url(rabbitmq), queue=unique) as ctx:
        for number in range(3):
            assert await publish(hub, ctx, event(unique, b"before")) == [None]
            await asyncio.to_thread(rabbitmq.delete_queue, unique)
            events = [event(unique, b"1"), event(f"{unique}-no"), event(unique, b"%d" % number)]
            assert rejected(await publish_as_a_lane(hub, ctx, *events)) == [None, True, None]
        assert ctx.state.connection.connects == 1
    assert payloads(rabbitmq, unique) == ["1", "2"]


async def test_a_lane_whose_exchange_is_gone_waits_for_it_and_its_neighbour_on_the_connection_goes_on(
    rabbitmq: Any, tmp_path: Any, unique: str
) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.declare_exchange(f"{unique}-other", "fanout")
    rabbitmq.bind(f"{unique}-other", unique)
    # It leads to the queue from its first moment: a binding of its own would come a step later.
    made = unique, "fanout", {"alternate-exchange": f"{unique}-other"}
    rabbitmq.declare_exchange(*made)

    async with bus(
        tmp_path,
        orders={"url": url(rabbitmq), "exchange": unique},
        beside={"url": url(rabbitmq), "queue": f"{unique}-beside"},
    ) as hub:
        await put(hub, "orders", "k", 0)
        await eventually(lambda: lane(hub, "orders")["delivered"] == 1, "the first is delivered")
        await asyncio.to_thread(rabbitmq.delete_exchange, unique)
        await put(hub, "orders", "k", 1, 2)
        await eventually(
            lambda: f"there is no exchange '{unique}'" in str(lane(hub, "orders")["last_error"]),
            "the lane says what is missing",
        )
        await put(hub, "beside", f"{unique}-beside", 0)
        await eventually(lambda: lane(hub, "beside")["delivered"] == 1, "the neighbour delivers")
        await asyncio.to_thread(rabbitmq.declare_exchange, *made)
        await eventually(lambda: lane(hub, "orders")["delivered"] == 3, "all are delivered")
        assert lane(hub, "orders")["dead"] == lane(hub, "beside")["retried"] == 0
    rabbitmq.delete_exchange(unique)
    rabbitmq.delete_exchange(f"{unique}-other")
    assert payloads(rabbitmq, unique) == ["0", "1", "2"]


# Profiles of evbus-pika, secrets


async def test_a_profile_of_evbus_pika_works_as_it_is(hub: Any, rabbitmq: Any, unique: str) -> None:
    rabbitmq.declare_queue(unique)
    connection = {
        "host": rabbitmq.host,
        "port": rabbitmq.port,
        "login": "guest",
        "password": "guest",
        "virtualhost": "/",
    }

    async with opened(
        hub,
        provider="pika",
        connection=connection,
        routing_key=unique,
        exchange="default",
        timeout=10,
    ) as ctx:
        assert await publish(hub, ctx, event(unique, b"old")) == [None]
    assert payloads(rabbitmq, unique) == ["old"]


@pytest.mark.parametrize("where", ["refused", "login"])
async def test_no_error_log_or_snapshot_shows_a_secret(
    hub: Any, rabbitmq: Any, caplog: pytest.LogCaptureFixture, unique: str, where: str
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hunter22-hunter22"

    port = 1 if where == "refused" else rabbitmq.port
    data = {"url": f"amqp://{unique}:{secret}@127.0.0.1:{port}/"}
    with pytest.raises(ConnectFailed) as caught:
        await hub.ingress.amqp.open(context(**data))
    seen = f"{caught.value!r} {caught.value.__cause__!r}"
    async with opened(hub, first_connect="wait", **data) as ctx:
        with pytest.raises(Unavailable) as missing:
            await publish(hub, ctx, event("k"))
        found = hub.ingress.amqp.ready(ctx)
        found[1].close()
        seen += f"{missing.value!r} {found[0]} {hub.connection.init.states()} {ctx.state!r}"
    assert secret not in seen
    assert secret not in caplog.text


@pytest.mark.parametrize(
    ("plugin_name", "provider", "taker"),
    [
        ("pika", "pika", "pika"),
        ("pika", "amqp", "amqp"),
        ("other", "pika", "amqp"),
        ("other", "other", "other"),
    ],
)
def test_a_profile_goes_one_way_to_the_broker_although_another_plugin_accepts_it(
    tmp_path: Any, plugin_name: str, provider: str, taker: str
) -> None:
    text = KEEPER.format(name=plugin_name) + "\n"
    text = text.replace(f'ACCT = ["{plugin_name}"]', f'ACCT = ["{plugin_name}", "pika", "amqp"]')
    root = write(tmp_path / "plugins", **{f"ingress__{plugin_name}": text})
    hub = new_bus(plugin_dirs=[root])
    links = hub.evbus.init.connect({provider: {"orders": {}}})
    assert [link.key.plugin for link in links] == [taker]


# Consumers of the same bus


# On 3.10 the tests of chaos restart it.
@pytest.mark.parametrize("each_spare_rabbitmq_of_the_run", ["4.0", "4.3"], indirect=True)
async def test_a_broker_that_restarts_under_a_sender_and_its_transient_listener_makes_no_event_dead(
    each_broken_rabbitmq: Any, tmp_path: Any, unique: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 5.0)
    node = each_broken_rabbitmq
    data = {"url": url(node), "exchange": {"name": unique, "type": "topic"}}
    wanted = Subscription(name=unique, durable=False)

    async def send(hub: Any) -> None:
        while True:
            await put(hub, "orders", unique, 1)
            await asyncio.sleep(0.01)

    async with bus(tmp_path, orders=data) as hub, consuming(hub, wanted, **data) as following:
        sending = asyncio.ensure_future(send(hub))
        for _ in range(20):
            (await following()).ack()
        await kill(node)
        await asyncio.to_thread(node.start)
        await put(hub, "orders", unique, "last")
        while (delivery := await following()).envelope.body != b'"last"':
            delivery.ack()
        delivery.ack()
        sending.cancel()
        await asyncio.wait({sending})
        assert lane(hub, "orders")["dead"] == 0


async def test_a_key_that_leads_nowhere_is_dead_soon_although_queues_may_be_coming_back(
    rabbitmq: Any, tmp_path: Any, unique: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 0.2)

    data = {"url": url(rabbitmq), "exchange": "amq.topic"}
    async with bus(tmp_path, orders=data) as hub:
        await put(hub, "orders", f"{unique}-nowhere", 1)
        await eventually(lambda: lane(hub, "orders")["dead"] == 1, "it is given up")
        assert lane(hub, "orders")["retried"] > 0
    (letter,) = dead_letters(tmp_path)
    assert letter["attempts"] == 1
    assert "leads to no queue" in letter["reason"]


# A connection that stands still


async def test_a_connection_that_answers_is_kept_although_the_broker_cannot_confirm(
    hub: Any, rabbitmq: Any, proxy: Any, unique: str
) -> None:
    """As when the queue has no quorum: over another connection the events would only be there twice."""
    way, withheld = proxy(rabbitmq.port), Withheld(lambda _, method: method == frames.ACK)
    way.filter("down", withheld)

    data = {"url": url(rabbitmq, way.port), "queue": unique, "confirm_timeout": 0.2}
    async with opened(hub, **data) as ctx:
        assert await publish(hub, ctx, event(unique, b"0")) == [None]
        withheld.begin()
        waits = event(unique, b"1")
        for _ in range(4):
            with pytest.raises(Unavailable, match=r"confirmed nothing for 0\.2 s"):
                await publish(hub, ctx, waits)
        assert ctx.state.connection.connects == 1
    assert payloads(rabbitmq, unique) == ["0", "1"]


async def test_a_publish_while_the_transport_is_being_closed_costs_no_attempt(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    """aiormq says the end of the stream before it closes, and asyncio refuses what is written after that."""
    rabbitmq.declare_queue(unique)

    async with opened(hub, url=url(rabbitmq), reconnect={"min": 0.01, "max": 0.05}) as ctx:
        for number in range(20):
            while ctx.state.connection.session is None:
                await ctx.state.connection.changed()
            ctx.state.connection.up().wire.transport.write_eof()
            sent = event(unique, b"%d" % number)
            (outcome,) = await publish(hub, ctx, sent)
            assert isinstance(outcome, Unavailable)
            assert not isinstance(outcome, ConnectionLost)
            while outcome is not None:
                found = hub.ingress.amqp.ready(ctx)
                if found is not None:
                    await asyncio.wait_for(found[1], WAIT)
                (outcome,) = await publish(hub, ctx, sent)
    arrived = [message["payload"] for message in rabbitmq.take(unique)]
    assert [int(body) for body in arrived] == list(range(20))
    rabbitmq.delete_queue(unique)
