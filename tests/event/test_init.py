"""hub.event: send, subscribe, unsubscribe, subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import datetime as dt
import decimal
import logging
import os
import threading
import uuid
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.intake import sources as intake_sources
from evbus.engine.handling.events.declare import EventListener, event
from evbus.errors import BusStopped, Rejected
from evbus.types import Subscription
from tests.engine.handling.events.test_reader import VALUED
from tests.evbus.kit import running
from tests.evbus.rig import until
from tests.event.kit import (
    INTERNAL,
    SOON,
    WAIT,
    Book,
    Color,
    Colored,
    Gate,
    Got,
    Leaf,
    Measured,
    Named,
    OrderPlaced,
    Tree,
    dead,
    go,
    listening,
    new_hub,
    send,
    settled,
)

VAR: ContextVar[str] = ContextVar("var", default="")


@event()
@dataclasses.dataclass
class Base:
    id: int = 0


@event()
@dataclasses.dataclass
class Sub(Base):
    more: str = ""


@event(durable=True)
@dataclasses.dataclass
class Kept:
    id: int = 0


@pytest.mark.parametrize("precision", [None, 28, 50])
def test_how_a_listener_sets_decimals_is_for_no_other_nor_for_the_program(precision: int | None) -> None:
    async def main() -> None:
        if precision is not None:
            decimal.setcontext(decimal.Context(prec=precision))
        seen = list[int]()

        def plain(event: Base) -> None:
            seen.append(decimal.getcontext().prec)
            decimal.getcontext().prec = 5

        async def later(event: Base) -> None:
            plain(event)

        async with listening() as hub:
            for function, options in (
                (plain, {}),
                (later, {}),
                (plain, {"key": "id", "concurrency": 2}),
                (plain, {"timeout": WAIT}),
                (later, {"timeout": WAIT}),
            ):
                hub.event.init.subscribe(Base, function, **options)
            await send(hub, *map(Base, range(10)))
            await settled(hub)
        assert seen == [precision or 28] * 50
        assert decimal.getcontext().prec == (precision or 28)

    contextvars.Context().run(go, main)


@pytest.mark.parametrize(
    "sent",
    [
        OrderPlaced("B", 1.5),
        VALUED,
        Tree(Leaf(1), "x", Tree(Leaf(2, "two"), 5), [Leaf(3)], {"four": Leaf(4)}),
        Book(title="t", at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        Measured(2.5),
        Named("n", [1]),
        Colored(Book(title="t"), Color.BLUE),
    ],
    ids=lambda sent: type(sent).__name__,
)
@pytest.mark.parametrize("serializer", ["json", "msgpack"])
async def test_a_listener_gets_an_event_equal_to_the_one_that_was_sent(sent: Any, serializer: str) -> None:
    got = Got()
    async with listening(serialize_plugin=serializer) as hub:
        hub.event.init.subscribe(type(sent), got.on)
        await hub.event.init.send(sent)
    assert got == [sent]
    assert type(got[0]) is type(sent)
    assert got[0] is not sent


async def test_several_listeners_get_each_event_once() -> None:
    lists = [Got() for _ in range(3)]
    async with listening() as hub:
        for got in lists:
            hub.event.init.subscribe(OrderPlaced, got.on)
        names = [found["name"] for found in hub.event.init.subscriptions()]
        assert len(set(names)) == 3
        await send(hub, *(OrderPlaced(str(number)) for number in range(5)))
    assert [[each.id for each in got] for got in lists] == [list("01234")] * 3


@pytest.mark.parametrize("shared", [{"group": "shop"}, {"name": "shop"}], ids=str)
async def test_listeners_of_one_group_or_name_share_the_events(shared: dict[str, str]) -> None:
    lists = [Got() for _ in range(3)]
    other = Got()
    async with listening() as hub:
        for got in lists:
            hub.event.init.subscribe(OrderPlaced, got.on, prefetch=1, **shared)
        hub.event.init.subscribe(OrderPlaced, other.on, group="audit")
        await send(hub, *(OrderPlaced(f"{number:02}") for number in range(12)))
    assert sorted(each.id for got in lists for each in got) == [f"{number:02}" for number in range(12)]
    assert all(lists)
    assert len(other) == 12


async def test_a_listener_on_a_base_gets_its_subclasses_only_when_asked() -> None:
    exact, below = Got(), Got()
    async with listening() as hub:
        hub.event.init.subscribe(Base, exact.on)
        found = hub.event.init.subscribe(Base, below.on, subclasses=True)
        assert hub.event.init.subscriptions()[1]["events"] == ["Base", "Sub"]
        await send(hub, Base(1), Sub(2, "more"))
        await settled(hub)
        assert await hub.event.init.unsubscribe(found)
        await hub.event.init.send(Sub(3))
    assert exact == [Base(1)]
    assert below == [Base(1), Sub(2, "more")]


@pytest.mark.parametrize("listened", ["declared.{}", "declared.*"])
@pytest.mark.parametrize("use", [False, True])
async def test_a_listener_to_a_name_gets_plain_values_until_its_class_is_declared(
    listened: str, use: bool
) -> None:
    name = f"declared.{uuid.uuid4().hex}"

    early, late = Got(), Got()
    async with listening() as hub:
        hub.event.init.subscribe(listened.format(name.split(".")[1]), early.on)
        await hub.evbus.broker.put(routing_key=name, body={"id": "x"})
        await settled(hub)

        @event(name)
        @dataclasses.dataclass
        class Declared:
            id: str = ""

        if use:
            await hub.event.init.send(Declared())
            await settled(hub)
        hub.event.init.subscribe(name, late.on)
        await hub.evbus.broker.put(routing_key=name, body={"id": "x"})
    assert early == [{"id": "x"}, *[Declared()] * use, Declared("x")]
    assert late == [Declared("x")]


async def test_of_two_classes_of_one_name_a_listener_by_name_gets_the_one_that_is_used() -> None:
    name = f"declared.{uuid.uuid4().hex}"
    made = [event(name)(dataclasses.make_dataclass(f"Made{number}", [("id", str)])) for number in range(2)]

    got = Got()
    async with listening() as hub:
        hub.event.init.subscribe(name, got.on)
        await hub.evbus.broker.put(routing_key=name, body={"id": "x"})
        await settled(hub)
        await hub.event.init.send(made[1]("y"))
        await hub.evbus.broker.put(routing_key=name, body={"id": "z"})
    assert got == [{"id": "x"}, made[1]("y"), made[1]("z")]


async def test_a_class_is_known_by_a_listener_to_it_as_well() -> None:
    by_name, by_class = Got(), Got()
    async with listening() as hub:
        hub.event.init.subscribe("OrderPlaced", by_name.on, name="a")
        hub.event.init.subscribe(OrderPlaced, by_class.on, name="b")
        await hub.evbus.broker.put(routing_key="OrderPlaced", body={"id": "x"})
    assert by_name == by_class == [OrderPlaced("x")]


@pytest.mark.parametrize("called", ["event_type_or_name", "event_type", "event"])
async def test_what_is_listened_to_has_the_names_that_others_know(called: str) -> None:
    got = Got()
    async with listening() as hub:
        plain = hub.event.init.subscribe(**{called: OrderPlaced}, callback=got.on, name="plain")
        awaited = await hub.event.init.subscribe(**{called: OrderPlaced}, callback=got.on, name="awaited")
        assert [plain, awaited] == [found["id"] for found in hub.event.init.subscriptions()]
        await hub.event.init.send(OrderPlaced())
    assert got == [OrderPlaced()] * 2


async def test_what_is_put_before_the_start_reaches_the_listeners_there_are() -> None:
    got, hub = Got(), new_hub()
    hub.event.init.subscribe(OrderPlaced, got.on)
    hub.evbus.broker.put_nowait(routing_key="OrderPlaced", body=OrderPlaced("early"))
    await hub.event.init.send(OrderPlaced("typed"))
    async with running(hub, {"internal": {"*": {}}}):
        pass
    assert got == [OrderPlaced("early"), OrderPlaced("typed")]


def test_after_a_stop_the_listeners_of_the_next_start_go_on() -> None:
    hub, got = new_hub(), Got()
    hub.event.init.subscribe(OrderPlaced, got.on, name="counts")
    threads: list[str] = []
    hub.event.init.subscribe(OrderPlaced, lambda event: threads.append(event.id), name="plain")

    async def main() -> None:
        async with running(hub, {"internal": {"*": {}}}):
            await hub.event.init.send(OrderPlaced(str(len(got))))

    for _ in range(3):
        go(main)
    assert [each.id for each in got] == threads == ["0", "1", "2"]
    assert [found["handled"] for found in hub.event.init.subscriptions()] == [3, 3]


async def test_a_stopped_bus_takes_no_events() -> None:
    async with listening() as hub:
        pass
    with pytest.raises(BusStopped):
        await hub.event.init.send(OrderPlaced())


async def test_headers_go_along_with_the_name_of_the_event() -> None:
    async with listening() as hub:
        found: Any = asyncio.ensure_future(first(hub))
        await asyncio.sleep(0)
        await hub.event.init.send(OrderPlaced(), headers={"tenant": "acme"})
        envelope = (await found).envelope
    assert envelope.headers["tenant"] == "acme"
    assert envelope.headers["evbus-message"] == "OrderPlaced"
    assert envelope.headers["content-type"] == "application/json"


async def first(hub: Any) -> Any:
    """Return the first message that comes."""
    wanted = Subscription(name="OrderPlaced")
    async with contextlib.aclosing(hub.evbus.bridge.consume(INTERNAL, "internal.*", wanted)) as deliveries:
        delivery = await anext(deliveries)
        delivery.ack()
        return delivery


async def test_an_event_goes_to_every_profile_that_matches(tmp_path: Path) -> None:
    got = Got()
    profiles = {
        "internal": {"orders": {}},
        "file": {"ord*": {"path": str(tmp_path / "orders.jsonl")}},
    }
    async with listening(profiles) as hub:
        hub.event.init.subscribe(OrderPlaced, got.on, profile="orders")
        await hub.event.init.send(OrderPlaced(), profile="orders")
    assert got == [OrderPlaced()]
    assert '"total":9.5' in (tmp_path / "orders.jsonl").read_text()


async def test_a_listener_hears_what_comes_through_its_profile_alone() -> None:
    one, other = Got(), Got()
    async with listening({"internal": {"a": {}, "b": {}}}) as hub:
        hub.event.init.subscribe(OrderPlaced, one.on, profile="a")
        hub.event.init.subscribe(OrderPlaced, other.on, profile="b")
        await hub.event.init.send(OrderPlaced("x"), profile="a")
        await hub.event.init.send(OrderPlaced("y"), profile="b")
    assert (one, other) == ([OrderPlaced("x")], [OrderPlaced("y")])


@pytest.mark.parametrize(
    "profiles",
    [
        {"*": {}, "default": {}},
        {"*": {"routing_key": "shop.{routing_key}"}},
        {"*": {"routing_key": "all"}},
        {"default": {"limit": 1}},
    ],
    ids=str,
)
async def test_it_gets_each_event_once_however_the_profile_is_written(profiles: dict[str, Any]) -> None:
    got = Got()
    async with listening({"internal": profiles}) as hub:
        hub.event.init.subscribe(OrderPlaced, got.on)
        await send(hub, *(OrderPlaced(str(number)) for number in range(5)))
    assert [each.id for each in got] == list("01234")


async def test_a_listener_says_itself_whether_its_events_are_kept() -> None:
    kept, lost = Got(), Got()
    async with listening() as hub:
        for cls, got, durable in ((OrderPlaced, kept, True), (Kept, lost, False)):
            found = hub.event.init.subscribe(cls, got.on, name="audit", durable=durable)
            await hub.event.init.unsubscribe(found)
            await hub.event.init.send(cls())
            await settled(hub)
            hub.event.init.subscribe(cls, got.on, name="audit", durable=durable)
    assert (kept, lost) == ([OrderPlaced()], [])


async def test_a_listener_that_was_made_by_the_hub_has_the_hub() -> None:
    class Billing(EventListener[OrderPlaced]):
        def __init__(self, hub: Any) -> None:
            self.hub = hub

        async def on(self, event: OrderPlaced) -> None:
            await self.hub.event.init.send(Book(title=event.id))

    got = Got()
    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, Billing)
        hub.event.init.subscribe(Book, got.on)
        assert hub.event.init.subscriptions()[0]["name"] == "Billing"
        await hub.event.init.send(OrderPlaced("x"))
    assert got == [Book(title="x")]


async def test_a_plain_function_does_not_block_the_loop() -> None:
    inside, loop_was_here, results = threading.Event(), threading.Event(), list[bool]()

    def on(event: Any) -> None:
        inside.set()
        results.append(loop_was_here.wait(WAIT))

    got = Got()
    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, on)
        hub.event.init.subscribe(Book, got.on)
        await hub.event.init.send(OrderPlaced())
        await until(inside.is_set)
        await hub.event.init.send(Book(title="another listener goes on"))
        await got.wait(1)
        loop_was_here.set()
    assert results == [True]


async def test_one_listener_does_not_wait_for_another() -> None:
    gate, got = Gate(), Got()
    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, gate.on)
        hub.event.init.subscribe(OrderPlaced, got.on)
        await send(hub, *(OrderPlaced(str(number)) for number in range(3)))
        await got.wait(3)
        assert await gate.entered(1) == [OrderPlaced("0")]
        gate.release(*got)


async def test_what_a_handler_has_set_in_its_context_is_not_for_others() -> None:
    seen = list[str]()

    async def on(event: Any) -> None:
        seen.append(VAR.get())
        VAR.set(event.id)

    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, on)
        VAR.set("of the sender")
        await send(hub, *(OrderPlaced(each) for each in "ab"))
    assert seen == ["", ""]


# Failures


async def test_a_dead_event_stands_in_the_dead_store_with_its_reason(tmp_path: Path) -> None:
    async def on(event: Any) -> None:
        raise KeyError(event.id)

    async with listening(dead_store=str(tmp_path / "dead.jsonl")) as hub:
        hub.event.init.subscribe(OrderPlaced, on, name="billing", retry=SOON)
        await hub.event.init.send(OrderPlaced("x"), headers={"tenant": "acme"})
        await settled(hub)
        (line,) = dead(tmp_path / "dead.jsonl")
    assert (line["routing_key"], line["body"]) == ("OrderPlaced", {"id": "x", "total": 9.5})
    assert (line["headers"]["tenant"], line["headers"]["evbus-message"]) == ("acme", "OrderPlaced")
    about = line["dead"]
    assert (about["lane"], about["reason"], about["attempts"]) == ("listener billing", "KeyError: 'x'", 3)
    assert about["type"] == "KeyError"
    assert about["place"].startswith(f"{__file__}:")


def test_a_listener_that_fails_is_told_with_its_place_and_the_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def on(event: OrderPlaced) -> Any:
        return {}["missing"]

    async def main() -> None:
        async with listening(dead_store=str(tmp_path / "dead.jsonl"), pipeline=["stamp"]) as hub:
            hub.event.init.subscribe(OrderPlaced, on, name="billing", retry={**SOON, "attempts": 2})
            await hub.event.init.send(OrderPlaced("x"), headers={"ce-id": "id-7"})
            await settled(hub)

    line = on.__code__.co_firstlineno + 1
    with caplog.at_level(logging.WARNING, "evbus"):
        go(main)
    where = f"(at {__file__}:{line}, event 'OrderPlaced', id id-7)"
    assert caplog.messages[:2] == [
        f"listener billing: OrderPlaced fails and is tried again: KeyError: 'missing' {where}",
        f"listener billing: an event is dead after 2 attempts: KeyError: 'missing' {where}",
    ]
    assert "Traceback" not in caplog.text
    with caplog.at_level(logging.DEBUG, "evbus"):
        go(main)
    assert 'return {}["missing"]' in caplog.text


async def test_the_error_callback_and_on_error_are_told(tmp_path: Path) -> None:
    problem, told = Rejected("no"), list[Any]()

    async def on(event: Any) -> None:
        raise problem

    hub = new_hub(error_callback_ref="evbus.ON_ERROR", dead_store=str(tmp_path / "dead.jsonl"))
    hub.evbus.ON_ERROR = told.append
    async with running(hub, {"internal": {"*": {}}}):
        hub.event.init.subscribe(
            OrderPlaced, on, name="billing", on_error=lambda event, exc: told.append((event, exc))
        )
        await hub.event.init.send(OrderPlaced("x"))
    by_event = [one for one in told if isinstance(one, tuple)]
    (data,) = [one for one in told if isinstance(one, dict)]
    assert by_event == [(OrderPlaced("x"), problem)]
    assert data["exception"] is problem
    assert (data["plugin"], data["profile"]) == ("listener billing", "default")
    assert data["body"] == b'{"id":"x","total":9.5}'


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (
            {"body": {"total": "x"}},
            "InvalidPayload: this is no OrderPlaced: Expected `float`, got `str` - at `$.total`",
        ),
        (
            {"body": {}, "headers": {"evbus-message": "Unheard"}},
            "InvalidPayload: it is a Unheard, and there is no event of that name here",
        ),
    ],
    ids=["unfit", "unknown"],
)
async def test_a_message_that_does_not_fit_is_dead_and_counted(
    put: dict[str, Any], said: str, tmp_path: Path
) -> None:
    got = Got()
    async with listening(dead_store=str(tmp_path / "dead.jsonl")) as hub:
        hub.event.init.subscribe(OrderPlaced, got.on)
        await hub.evbus.broker.put(routing_key="OrderPlaced", **put)
        await settled(hub)
        (found,) = hub.event.init.subscriptions()
        assert (found["unreadable"], found["dead"], found["handled"]) == (1, 1, 0)
        assert hub.evbus.stats.snapshot()["listeners"][found["id"]]["unreadable"] == 1
    assert got == []
    (line,) = dead(tmp_path / "dead.jsonl")
    assert line["dead"]["reason"] == said


# Subscriptions


async def test_subscriptions_tell_what_is_known_of_each() -> None:
    got, hub = Got(), new_hub()
    first = hub.event.init.subscribe(
        OrderPlaced, got.on, "billing", "shop", True, {"owner": "joe"}, profile="orders"
    )
    second = hub.event.init.subscribe(Book, got.on)
    found = {one["id"]: one for one in hub.event.init.subscriptions()}
    assert found[first] == {
        "id": first,
        "events": ["OrderPlaced"],
        "name": "billing",
        "group": "shop",
        "per_process": True,
        "profile": "orders",
        "metadata": {"owner": "joe"},
        "listening": False,
        "accepted": 0,
        "delivered": 0,
        "handled": 0,
        "retried": 0,
        "dead": 0,
        "dropped": 0,
        "unreadable": 0,
        "cancelled": 0,
        "in_flight": 0,
        "running": 0,
        "queued": 0,
        "hanging": 0,
        "keys": 0,
    }
    assert [one["id"] for one in hub.event.init.subscriptions("Book")] == [second]
    assert hub.event.init.subscriptions("Unheard") == []
    async with running(hub, {"internal": {"*": {}}}):
        assert [one["listening"] for one in hub.event.init.subscriptions()] == [True, True]
    assert [one["listening"] for one in hub.event.init.subscriptions()] == [False, False]


async def test_unsubscribe_waits_for_what_is_being_handled() -> None:
    gate = Gate(lambda event: event.id)
    async with listening() as hub:
        found = hub.event.init.subscribe(OrderPlaced, gate.on)
        await hub.event.init.send(OrderPlaced("x"))
        await gate.entered(1)
        ending = asyncio.ensure_future(hub.event.init.unsubscribe(found))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not ending.done()
        await hub.event.init.send(OrderPlaced("nobody listens to it"))
        gate.release("x")
        assert await ending is True
        assert gate.done == ["x"]
        assert hub.event.init.subscriptions() == []
        assert await hub.event.init.unsubscribe(found) is False
        assert await hub.event.init.unsubscribe("no such") is False


async def test_a_listener_may_end_itself() -> None:
    got = list[Any]()

    async with listening() as hub:

        async def once(event: Any) -> None:
            got.append(await hub.event.init.unsubscribe(found))
            await asyncio.sleep(0)
            got.append(event)

        found = hub.event.init.subscribe(OrderPlaced, once)
        await hub.event.init.send(OrderPlaced("x"))
        await until(lambda: len(got) == 2)
        await hub.event.init.send(OrderPlaced("y"))
    assert got == [True, OrderPlaced("x")]


async def test_a_listener_can_be_added_and_ended_at_any_time() -> None:
    got = Got()
    async with listening() as hub:
        for number in range(5):
            found = hub.event.init.subscribe(OrderPlaced, got.on, name="again")
            await hub.event.init.send(OrderPlaced(str(number)))
            await hub.event.init.ready()
            assert await hub.event.init.settle(WAIT)
            assert await hub.event.init.unsubscribe(found)
        assert not any(subscribers.groups for subscribers in hub.ingress.SUBSCRIBERS.values())
        assert not any(hub.ingress.SUBSCRIBERS.values())
    assert [each.id for each in got] == list("01234")


async def test_settle_says_whether_everything_was_handled_in_time() -> None:
    gate = Gate(lambda event: event.id)
    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, gate.on)
        await hub.event.init.send(OrderPlaced("x"))
        await gate.entered(1)
        assert await hub.event.init.settle(0) is False
        gate.release("x")
        assert await hub.event.init.settle(WAIT) is True
        assert gate.done == ["x"]


@pytest.mark.parametrize("options", [{}, {"key": "id"}, {"timeout": 60}])
async def test_a_listener_that_wants_it_gets_the_envelope(options: dict[str, Any]) -> None:
    got: list[Any] = []

    async def asked(hub: Any, event: OrderPlaced, envelope: Any) -> None:
        got.append((event, envelope.headers["tenant"], envelope.routing_key))

    def plain(event: OrderPlaced, *, envelope: Any) -> None:
        got.append((event, envelope.headers["tenant"], envelope.routing_key))

    class Asking(EventListener[OrderPlaced]):
        async def on(self, event: OrderPlaced, envelope: Any) -> None:
            got.append((event, envelope.headers["tenant"], envelope.routing_key))

    async with listening() as hub:
        for listener in (asked, plain, Asking):
            hub.event.init.subscribe(OrderPlaced, listener, **options)
        await hub.event.init.send(OrderPlaced("A-1", 1.0), headers={"tenant": "acme"})
        await settled(hub)
    assert got == [(OrderPlaced("A-1", 1.0), "acme", "OrderPlaced")] * 3


async def test_the_profile_of_many_listeners_is_looked_for_once_in_a_run() -> None:
    hub, looked, got = new_hub(), list[str](), Got()
    sources = intake_sources.matching

    def matching(contexts: Any, wanted: str, *more: Any) -> Any:
        looked.append(wanted)
        return sources(contexts, wanted, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake_sources, "matching", matching)
        for number in range(20):
            hub.event.init.subscribe(Base, got.on, name=str(number))
        async with running(hub, INTERNAL):
            hub.event.init.subscribe(Base, got.on, name="later")
            hub.event.init.subscribe(Base, got.on, name="of another", profile="other")
            await hub.event.init.send(Base(1))
            await settled(hub)
    assert (looked, len(got)) == (["default", "other"], 21 + 1)


async def test_a_thousand_dead_events_of_a_listener_cost_few_syncs(monkeypatch: Any, tmp_path: Path) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append(fd)

    monkeypatch.setattr("evbus.engine.kit.append.os.fsync", fsync)
    order: list[int] = []

    async def on(event: Base) -> None:
        order.append(event.id)
        raise Rejected("no")

    async with listening(dead_store=str(tmp_path / "dead.jsonl")) as hub:
        hub.event.init.subscribe(Base, on)
        await send(hub, *(Base(number) for number in range(1_000)))
        await settled(hub)
        assert len(dead(tmp_path / "dead.jsonl")) == 1_000
    assert order == list(range(1_000))
    assert len(synced) <= 200
