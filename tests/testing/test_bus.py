"""evbus.testing.bus: a real bus on memory, what it tells, and what it lets fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pop.hub
import pytest

from evbus import testing
from evbus.api import Rejected, Unavailable
from evbus.errors import EvbusError, HandlerSignatureError, PluginError
from tests.evbus.kit import write
from tests.testing.events import ExpressPlaced, NoEvent, OrderBilled, OrderPlaced

TWO = {"internal": {"default": {}, "mail": {}}}


def run(test: Callable[[testing.Bus], Awaitable[Any]], *args: Any, **options: Any) -> Any:
    async def main() -> Any:
        async with testing.bus(*args, **options) as bus:
            return await test(bus)

    return asyncio.run(main())


def failure(test: Callable[[testing.Bus], Awaitable[Any]], *args: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        run(test, *args, **options)
    return str(caught.value)


def bill(bus: testing.Bus, **options: Any) -> None:
    async def billing(hub: Any, event: OrderPlaced) -> None:
        if event.total < 0:
            raise ValueError("no such total")
        await hub.event.init.send(OrderBilled(event.order_id), profile="mail")

    bus.subscribe(OrderPlaced, billing, name="billing", **options)


# What was sent


async def test_everything_sent_is_recorded_in_order_with_headers_and_profile() -> None:
    async with testing.bus() as bus:
        await bus.send(OrderPlaced("A-1", 9.5), headers={"tenant": "t1"}, profile="shop")
        await bus.put("plain", {"n": 1})
        await asyncio.to_thread(bus.put_nowait, "plain", [2], "other")
        first, second, third = bus.recorded
        assert (first.name, first.profile, first.event) == ("OrderPlaced", "shop", OrderPlaced("A-1", 9.5))
        assert first.headers["tenant"] == "t1"
        assert (second.event, third.event, third.profile) == ({"n": 1}, [2], "other")
        assert bus.sent() == [OrderPlaced("A-1", 9.5), {"n": 1}, [2]]
        assert bus.sent(OrderPlaced) == [OrderPlaced("A-1", 9.5)]
        assert bus.sent("plain", lambda body: body == [2]) == [[2]]


async def test_what_interceptors_do_shows_in_the_headers_and_not_in_the_event() -> None:
    async with testing.bus(pipeline=["stamp", "compress"], compress_over=10) as bus:
        await bus.send(OrderPlaced("A" * 2000, 1))
        sent = bus.recorded[0]
        assert (sent.event, sent.headers["ce-type"]) == (OrderPlaced("A" * 2000, 1), "OrderPlaced")
        assert "content-encoding" in sent.headers


async def test_an_event_that_was_refused_was_not_sent() -> None:
    async with testing.bus(max_body=50) as bus:
        with pytest.raises(EvbusError):
            await bus.put("large", "x" * 100)
        assert bus.recorded == []


async def test_a_record_is_a_copy_that_nobody_changes() -> None:
    async with testing.bus() as bus:
        event = OrderPlaced("A-1", 1)
        await bus.send(event)
        event.total = 2
        assert bus.sent(OrderPlaced)[0].total == 1


# Waiting for it


async def test_what_was_sent_before_is_expected_too_and_what_comes_later_is_waited_for() -> None:
    async with testing.bus() as bus:
        await bus.send(OrderPlaced("A-1", 1))
        later = asyncio.ensure_future(bus.expect(OrderPlaced, lambda event: event.order_id == "A-2"))
        assert await bus.expect(OrderPlaced) == OrderPlaced("A-1", 1)
        assert not later.done()
        await bus.send(OrderPlaced("A-2", 2))
        assert await later == OrderPlaced("A-2", 2)
        assert await bus.expect(OrderPlaced, count=2) == [OrderPlaced("A-1", 1), OrderPlaced("A-2", 2)]
        assert await bus.expect("OrderPlaced", timeout=0) == OrderPlaced("A-1", 1)


async def test_an_event_from_another_thread_ends_the_waiting() -> None:
    async with testing.bus() as bus:
        waiting = asyncio.ensure_future(bus.expect("late", timeout=20))
        await asyncio.sleep(0)
        thread = threading.Thread(target=bus.put_nowait, args=("late", 1))
        thread.start()
        assert await waiting == 1
        thread.join()


async def test_a_class_stands_for_its_subclasses() -> None:
    async with testing.bus() as bus:
        bus.subscribe(OrderPlaced, lambda event: None, name="all", subclasses=True)
        await bus.send(ExpressPlaced("A-1", 1))
        assert await bus.expect(OrderPlaced) == ExpressPlaced("A-1", 1)
        assert await bus.handled(OrderPlaced) == ExpressPlaced("A-1", 1)


def test_an_event_that_does_not_come_is_told_with_what_came() -> None:
    async def test(bus: testing.Bus) -> None:
        await bus.send(OrderPlaced("A-1", 1))
        await bus.put("plain", {"n": 1}, profile="shop")
        await bus.expect(OrderPlaced, lambda event: event.total > 1, timeout=0.01)

    assert failure(test) == (
        "no OrderPlaced that meets the condition was sent within 0.01 s; what was sent:\n"
        "  OrderPlaced(order_id='A-1', total=1.0)\n"
        "  plain {'n': 1} to 'shop'"
    )


def test_what_went_nowhere_and_what_is_long_shows() -> None:
    async def test(bus: testing.Bus) -> None:
        await bus.put("n", "x" * 1000, profile="post")
        await bus.expect("m", timeout=0)

    assert failure(test, TWO) == (
        f"no m was sent within 0 s; what was sent:\n  n '{'x' * 297}... to 'post', which no profile matches"
    )


def test_that_nothing_was_sent_is_said_and_how_many_are_missing() -> None:
    async def nothing(bus: testing.Bus) -> None:
        await bus.expect(OrderPlaced, timeout=0)

    async def some(bus: testing.Bus) -> None:
        await bus.send(OrderPlaced("A-1", 1))
        await bus.expect(OrderPlaced, timeout=0, count=3)

    assert failure(nothing) == "no OrderPlaced was sent within 0 s; nothing was sent"
    assert failure(some).startswith("1 of 3 OrderPlaced was sent within 0 s; what was sent:\n  OrderPlaced(")


def test_an_event_that_cannot_be_read_is_shown_with_the_reason() -> None:
    async def test(bus: testing.Bus) -> None:
        await bus.put("OrderPlaced", {"order_id": 1})
        await bus.put("nothing", None)
        assert (bus.sent(OrderPlaced), bus.sent()) == ([], [None])
        assert await bus.expect("nothing") is None
        await bus.expect(OrderPlaced, timeout=0)

    assert "OrderPlaced that cannot be read (this is no OrderPlaced: Expected `str`, got `int`" in failure(
        test
    )


async def test_what_cannot_be_waited_for_is_refused() -> None:
    async with testing.bus() as bus:
        with pytest.raises(HandlerSignatureError, match="NoEvent is no event; put @event"):
            await bus.expect(NoEvent)
        with pytest.raises(TypeError, match="name the class of an event, or its name, and not OrderPlaced"):
            await bus.expect(OrderPlaced("A-1", 1))  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="expect waits for 1 or more; to see that there is none"):
            await bus.expect(OrderPlaced, count=0)


# Listeners


async def test_it_is_told_when_a_listener_has_handled_an_event() -> None:
    async with testing.bus() as bus:
        bill(bus)
        bus.subscribe(OrderPlaced, lambda event: None, name="stock")
        bus.subscribe("plain", lambda body: None, name="audit")
        await bus.send(OrderPlaced("A-1", 1))
        await bus.put("plain", {"n": 1})
        assert await bus.handled(OrderPlaced, listener="stock") == OrderPlaced("A-1", 1)
        assert await bus.handled(OrderPlaced, count=2) == [OrderPlaced("A-1", 1)] * 2
        assert await bus.handled("plain") == {"n": 1}
        assert await bus.handled("OrderPlaced", listener="billing") == OrderPlaced("A-1", 1)
        assert await bus.expect(OrderBilled) == OrderBilled("A-1")


async def test_each_event_of_a_batch_is_handled() -> None:
    sizes = []

    async with testing.bus() as bus:

        async def insert(events: list[OrderPlaced]) -> None:
            sizes.append(len(events))

        bus.subscribe(OrderPlaced, insert, name="insert", batch=3, batch_wait=60)
        for number in range(3):
            await bus.send(OrderPlaced(str(number), 1))
        found = await bus.handled(OrderPlaced, listener="insert", count=3)
        assert sorted(event.order_id for event in found) == ["0", "1", "2"]
        assert await bus.handled(OrderPlaced, lambda event: event.order_id == "2") == OrderPlaced("2", 1)
    assert sizes == [3]


async def test_of_a_batch_that_fails_only_the_bad_event_is_dead_and_the_others_are_handled() -> None:
    async with testing.bus() as bus:

        async def insert(events: list[OrderPlaced]) -> None:
            if any(event.total < 0 for event in events):
                raise ValueError("no such total")

        bus.subscribe(OrderPlaced, insert, name="insert", batch=3, batch_wait=60, retry={"attempts": 1})
        for number, total in enumerate((1, -1, 2)):
            await bus.send(OrderPlaced(str(number), total))
        handled = await bus.handled(OrderPlaced, listener="insert", count=2)
        assert sorted(event.order_id for event in handled) == ["0", "2"]
        await bus.settle()
        (dead,) = bus.dead
        assert (dead.event, str(dead.exception)) == (OrderPlaced("1", -1), "no such total")


async def test_a_listener_of_batches_can_be_made_to_fail() -> None:
    async with testing.bus() as bus:
        calls = []

        async def insert(events: list[OrderPlaced]) -> None:
            calls.append(len(events))

        bus.subscribe(OrderPlaced, insert, name="insert", batch=2, batch_wait=0)
        bus.fail(listener="insert", times=1)
        await bus.send(OrderPlaced("A-1", 1))
        assert await bus.handled(OrderPlaced, listener="insert") == OrderPlaced("A-1", 1)
        assert calls == [1]


def test_an_event_that_is_not_handled_is_told_with_what_was() -> None:
    async def test(bus: testing.Bus) -> None:
        bill(bus)
        await bus.send(OrderPlaced("A-1", 1))
        await bus.settle()
        await bus.handled(OrderPlaced, listener="biling", timeout=0)

    assert failure(test) == (
        "no OrderPlaced was handled by the listener biling within 0 s; there is no listener 'biling'; did "
        "you mean 'billing'?\n"
        "what listeners handled:\n"
        "  billing: OrderPlaced(order_id='A-1', total=1.0)\n"
        "what was sent:\n"
        "  OrderPlaced(order_id='A-1', total=1.0)\n"
        "  OrderBilled(order_id='A-1') to 'mail'"
    )


def test_waiting_for_a_listener_ends_when_it_gives_up() -> None:
    async def test(bus: testing.Bus) -> None:
        bill(bus)
        await bus.send(OrderPlaced("A-1", -1))
        await bus.handled(OrderPlaced, timeout=60)

    said = failure(test)
    assert said.startswith(
        "the listener billing gave up OrderPlaced(order_id='A-1', total=-1.0) after 3 attempts: ValueError: "
    )
    assert said.endswith('raise ValueError("no such total")\nValueError: no such total')
    assert __file__ in said
    assert said.count("Traceback") == 1
    assert "_listening.py" not in said


def test_a_listener_that_fails_fails_the_test_at_its_end() -> None:
    async def test(bus: testing.Bus) -> None:
        bill(bus)
        bus.subscribe(OrderPlaced, _wraps, name="wraps", retry={"attempts": 1})
        await bus.send(OrderPlaced("A-1", -1))

    said = failure(test)
    assert said.startswith(
        "the test left 2 dead letters that it neither looked at (dead) nor wanted (fail):\n"
    )
    assert "ValueError: no such total\nTraceback" in said
    assert (
        "the listener wraps gave up OrderPlaced(order_id='A-1', total=-1.0): RuntimeError: wrapped\n" in said
    )
    assert "KeyError: 'A-1'\n\nThe above exception was the direct cause of the following exception" in said


def _wraps(event: OrderPlaced) -> None:
    try:
        {}[event.order_id]  # type: ignore[index]
    except KeyError as exc:
        raise RuntimeError("wrapped") from exc


def test_a_dead_letter_that_was_looked_at_is_in_order() -> None:
    async def test(bus: testing.Bus) -> testing.Dead:
        bill(bus)
        await bus.send(OrderPlaced("A-1", -1))
        await bus.settle()
        return bus.dead[0]

    dead = run(test)
    assert (dead.event, dead.where, dead.attempts) == (OrderPlaced("A-1", -1), "listener billing", 3)
    assert isinstance(dead.exception, ValueError)
    assert not dead.injected


def test_the_failure_of_the_test_itself_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    async def test(bus: testing.Bus) -> None:
        bill(bus)
        await bus.send(OrderPlaced("A-1", -1))
        await bus.settle()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(test)
    assert "the listener billing gave up OrderPlaced" in caplog.text


async def test_nothing_waits_between_attempts() -> None:
    async with testing.bus(
        {"internal": [{"default": {"delivery": {"retry": {"min": 3600, "max": 3600}}}}, {"mail": None}]}
    ) as bus:
        bill(bus, retry={"attempts": 2, "min": 3600, "max": 3600})
        bus.fail("default", times=3)
        await bus.send(OrderPlaced("A-1", -1))
        await bus.settle()
        assert bus.dead[0].attempts == 2


def test_a_handler_of_the_dispatcher_that_fails_is_a_dead_letter_too() -> None:
    async def handle(message: NoEvent) -> None:
        raise ValueError("handled badly")

    async def test(bus: testing.Bus) -> None:
        bus.hub.dispatch.events.bind(NoEvent, handle)
        bus.hub.dispatch.start()
        await bus.hub.dispatch.handle(NoEvent())

    assert "handle gave up <tests.testing.events.NoEvent object at" in failure(test)


# Settling


async def test_settled_means_that_listeners_of_events_of_listeners_are_done() -> None:
    async with testing.bus() as bus:
        seen = []

        async def slow(event: OrderBilled) -> None:
            for _ in range(50):
                await asyncio.sleep(0)
            seen.append(event)

        bill(bus)
        bus.subscribe(OrderBilled, slow, name="slow")
        for number in range(20):
            await bus.send(OrderPlaced(f"A-{number}", 1))
        await bus.settle()
        assert seen == [OrderBilled(f"A-{number}") for number in range(20)]


def test_what_does_not_end_is_named() -> None:
    async def test(bus: testing.Bus) -> None:
        async def hangs(event: OrderPlaced) -> None:
            await asyncio.get_running_loop().create_future()

        bus.subscribe(OrderPlaced, hangs, name="hangs")
        bus.fail("mail", times=10**9)
        await bus.send(OrderPlaced("A-1", 1))
        await bus.send(OrderPlaced("A-2", 1), profile="mail")
        with pytest.raises(
            AssertionError, match="the lane internal.internal.mail has 1 event left"
        ) as caught:
            await bus.settle(timeout=0.05)
        assert "(mail is down)" in str(caught.value)

    assert "settle within 0.1 s: " in failure(test, TWO, settle_timeout=0.1)
    assert "the listener hangs is not done with 1 event" in failure(test, TWO, settle_timeout=0.1)


# Failures


async def test_a_destination_that_fails_for_a_while_gets_everything_in_order() -> None:
    async with testing.bus(TWO) as bus:
        seen: list[int] = []
        bus.subscribe("n", seen.append, name="seen", profile="mail")
        down = bus.fail("mail", times=2)
        for number in range(5):
            await bus.put("n", number, profile="mail")
        await bus.settle()
        assert seen == [0, 1, 2, 3, 4]
        assert down.failed == 2
        assert bus.dead == []


async def test_a_destination_that_rejects_makes_a_dead_letter_that_was_wanted() -> None:
    async with testing.bus(TWO) as bus:
        bus.fail("mail", error=Rejected("never"))
        await bus.put("n", 1, profile="mail")
        await bus.put("n", 2, profile="mail")
        await bus.settle()


def test_a_dead_letter_of_a_destination_says_all() -> None:
    async def test(bus: testing.Bus) -> testing.Dead:
        bus.fail("mail", error=KeyError("broken"), times=None)
        await bus.put("n", 1, profile="mail", headers={"a": "b"})
        await bus.settle()
        return bus.dead[0]

    two = {"internal": {"default": {}, "mail": {"delivery": {"retry": {"attempts": 3}}}}}
    dead = run(test, two)
    assert (dead.event, dead.name, dead.profile, dead.headers["a"]) == (1, "n", "mail", "b")
    assert (dead.where, dead.attempts, dead.injected) == ("internal.internal.mail", 3, True)
    assert str(dead) == "the lane internal.internal.mail gave up 1 after 3 attempts: KeyError: 'broken'"


async def test_a_destination_fails_for_good_until_it_is_mended() -> None:
    async with testing.bus(TWO) as bus:
        seen: list[int] = []
        for profile in ("default", "mail"):
            bus.subscribe("n", seen.append, profile=profile)
        down = bus.fail("mail", error=Unavailable("no power"), times=None)
        await bus.put("n", 1, profile="mail")
        await bus.put("n", 2)
        await bus.settle()
        assert seen == [2]
        down.mend()
        await bus.settle()
        assert seen == [2, 1]


async def test_a_listener_that_is_tried_for_ever_does_not_hold_up_the_test() -> None:
    async with testing.bus() as bus:
        bill(bus, retry={"attempts": 0})
        down = bus.fail(listener="billing", times=None)
        await bus.send(OrderPlaced("A-1", 1))
        await bus.settle()
        assert bus.sent(OrderBilled) == []
        down.mend()
        await bus.expect(OrderBilled)


async def test_the_test_ends_while_a_destination_fails_for_good() -> None:
    async with testing.bus(TWO) as bus:
        bus.fail("mail", times=None)
        await bus.put("n", 1, profile="mail")


async def test_a_plugin_of_the_application_can_be_let_fail(tmp_path: Path) -> None:
    write(tmp_path, ingress__pigeon="async def publish(hub, ctx, body):\n    hub.ingress.GOT.append(body)\n")

    async with testing.bus({"pigeon": {"loft": {}}}, plugin_dirs=tmp_path) as bus:
        bus.hub.ingress.GOT = []
        down = bus.fail("loft", times=2)
        await bus.put("n", 1, profile="loft")
        await bus.settle()
        assert (bus.hub.ingress.GOT, down.failed) == ([b"1"], 2)


async def test_a_listener_can_be_let_fail() -> None:
    async with testing.bus() as bus:
        bill(bus)
        once = bus.fail(listener="billing")
        await bus.send(OrderPlaced("A-1", 1))
        await bus.handled(OrderPlaced)
        assert once.failed == 1
        error = ConnectionError("gone")
        bus.fail(listener="billing", error=error, times=None)
        await bus.send(OrderPlaced("A-2", 1))
        await bus.settle()
        assert bus.sent(OrderBilled) == [OrderBilled("A-1")]


def test_a_failure_that_nothing_comes_to_fails_the_test() -> None:
    async def test(bus: testing.Bus) -> None:
        bus.fail("mail")
        await bus.put("n", 1)

    assert failure(test, TWO) == (
        "the destination 'mail' was to fail with Unavailable('mail is down'), but nothing came to it: what "
        "was sent:\n  n 1"
    )


async def test_what_cannot_fail_is_refused() -> None:
    async with testing.bus(TWO) as bus:
        with pytest.raises(ValueError, match="no profile 'mial' on this bus; did you mean 'mail'"):
            bus.fail("mial")
        with pytest.raises(ValueError, match="say what is to fail"):
            bus.fail()
        with pytest.raises(ValueError, match="times is how often it fails, 1 or more"):
            bus.fail("mail", times=0)


# The hub


async def test_the_listeners_of_an_application_are_loaded(tmp_path: Path) -> None:
    text = """
        from evbus.api import event_listener
        from tests.testing.events import OrderBilled, OrderPlaced

        @event_listener(OrderPlaced)
        async def on(hub, event):
            await hub.event.init.send(OrderBilled(event.order_id))
        """
    write(tmp_path, listener__bills=text)

    async with testing.bus(plugin_dirs=[tmp_path]) as bus:
        await bus.hub.event.init.send(OrderPlaced("A-1", 1))
        assert await bus.expect(OrderBilled) == OrderBilled("A-1")
        assert await bus.handled(OrderPlaced, listener="bills")


def test_a_plugin_that_is_broken_ends_the_test(tmp_path: Path) -> None:
    write(tmp_path, listener__bills="import nothing_of_this_name\n")

    async def test(bus: testing.Bus) -> None:
        raise AssertionError("it was started")

    with pytest.raises(PluginError, match=r"listener.bills \(.*bills.py:1\): .*nothing_of_this_name"):
        run(test, plugin_dirs=[tmp_path])


def test_a_hub_of_the_application_is_as_it_was_afterwards(tmp_path: Path) -> None:
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus")
    options = hub.OPT = hub.pop.data.imap({"evbus": {"max_body": 50}, "shop": {"name": "s"}})
    hub.event.init.subscribe(OrderPlaced, lambda event: None, name="before")

    async def test(bus: testing.Bus) -> None:
        assert bus.hub is hub
        assert hub.OPT.shop.name == "s"
        with pytest.raises(EvbusError, match="50"):
            await bus.put("large", "x" * 100)
        await bus.send(OrderPlaced("A-1", 1))
        await bus.handled(OrderPlaced, listener="before")
        async with testing.bus(hub=hub):
            raise AssertionError("it was started twice")

    for _ in range(2):
        with pytest.raises(EvbusError, match="the bus of this hub is started already"):
            run(test, hub=hub)
        assert hub.OPT is options
        assert "dead_letter" not in vars(hub.evbus.ENGINE)
        assert "configure" not in vars(hub.evbus.BROKER)


def test_what_dies_is_written_to_a_folder_that_is_gone_afterwards() -> None:
    async def test(bus: testing.Bus) -> Path:
        bus.fail("mail", error=Rejected("never"))
        await bus.put("n", 1, profile="mail")
        await bus.settle()
        path = Path(bus.hub.evbus.init.settings().dead_store)
        assert path.parent.is_dir()
        return path

    assert not run(test, TWO).parent.exists()


def test_profiles_are_made_to_deliver_in_memory(tmp_path: Path) -> None:
    real = {
        "amqp": {"default": {"url": "amqp://h", "delivery": {"batch": 7}}, "mail": {"url": "amqp://h"}},
        "webhook": [{"mail": {"url": "https://h"}}],
        "match_plugin": "exact",
    }
    made = testing.in_memory(real)
    assert made == {
        "match_plugin": "exact",
        "internal": {"default": {"delivery": {"batch": 7}}, "mail": {}},
    }
    (tmp_path / "profiles.yml").write_text("internal: {default: {}, mail: {}}\n")

    async def test(bus: testing.Bus) -> None:
        bus.fail("mail")
        await bus.put("n", 1, profile="mail")

    run(test, made)
    run(test, tmp_path / "profiles.yml")


def test_a_bus_that_cannot_be_started_says_why() -> None:
    async def test(bus: testing.Bus) -> None:
        raise AssertionError("it was started")

    with pytest.raises(EvbusError, match="nowhere"):
        run(test, {"nowhere": {"default": {}}})
