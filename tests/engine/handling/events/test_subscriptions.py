"""Subscriptions, and where their events come from."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from evbus.engine.core.intake.sources import EventSource
from evbus.engine.handling.events.declare import EventSpec, event_listener, listener_spec
from evbus.engine.handling.events.listener import made
from evbus.engine.handling.events.listening import Listening
from evbus.engine.handling.events.subscriptions import Subscriptions
from evbus.errors import ConnectFailed, HandlerExists, ProfileError
from tests.counting import steps
from tests.engine.handling.events.test_consumer import Local, Remote
from tests.engine.handling.events.test_listening import READER, Letters
from tests.event.kit import WAIT, Book, Gate, Got, OrderPlaced, known, new_hub


def subscriptions() -> Subscriptions:
    return Subscriptions(lambda: WAIT)


def add(
    to: Subscriptions, on: Any, name: str = "billing", events: Any = (OrderPlaced,), **options: Any
) -> Any:
    spec = listener_spec(events[0], name, **options)
    listening = Listening(spec, made(on, name, None, spec.concurrency), READER, Letters().dead_letter)
    return to.add(spec, listening, [known(event) for event in events], {"of": name})


def local(taken: list[Local]) -> Any:
    """Return a function that makes a local source for each profile, and keeps them."""

    def sources(profile: str) -> list[EventSource]:
        taken.append(Local())
        return [EventSource(f"internal.{profile}", None, taken[-1].attach, False)]  # type: ignore[arg-type]

    return sources


async def test_they_listen_from_the_start_to_the_stop() -> None:
    made_of, found = list[Local](), subscriptions()
    entry = add(found, Got().on)
    assert (found.running, entry.describe()["listening"], made_of) == (False, False, [])
    found.start(local(made_of), None)
    assert (found.running, entry.describe()["listening"], len(made_of)) == (True, True, 1)
    later = add(found, Got().on, "later", profile="other")
    assert later.describe()["listening"]
    await found.stop()
    assert (found.running, entry.describe()["listening"]) == (False, False)
    assert all(one.calls[-1] == "end" for one in made_of)


@pytest.mark.parametrize(
    ("place", "name", "leads"),
    [
        ("", "shop/all", True),
        ("/queues/shop%2Fall", "shop/all", True),
        ("/queue/shop/all", "shop/all", True),
        ("/topic/50%25", "50%25", True),
        ("/queue/shop-all", "all", False),
        ("shop.all", "shop", False),
    ],
)
async def test_a_listener_to_a_name_has_it_where_all_events_go(place: str, name: str, leads: bool) -> None:
    found, remote = subscriptions(), Remote()
    found.start(lambda _: [remote.source()._replace(fixed=place)], None)
    spec = listener_spec(name, "billing")
    listening = Listening(spec, made(Got().on, "billing", None, 1), READER, Letters().dead_letter)
    event = EventSpec(None, name, False, False, 1, None)
    if leads:
        assert found.add(spec, listening, [event], None).consumers
    else:
        with pytest.raises(ProfileError, match="leads events of every name to"):
            found.add(spec, listening, [event], None)
    await found.stop()


async def test_each_event_and_each_profile_has_a_consumer() -> None:
    found, one, other = subscriptions(), Remote(), Remote()
    entry = add(found, Got().on, events=(OrderPlaced, Book), prefetch=7, group="shop", per_process=True)
    found.start(lambda profile: [one.source(), other.source()], None)
    await found.ready()
    assert len(entry.consumers) == 4
    for remote in (one, other):
        wanted = {each.name: each for each in remote.wanted}
        assert set(wanted) == {"OrderPlaced", "Book"}
        book = wanted["Book"]
        assert (book.group, book.per_process, book.durable, book.prefetch) == ("shop", True, False, 7)
    await found.stop()


def test_ids_are_made_of_the_name_and_a_number() -> None:
    found = subscriptions()
    assert [add(found, Got().on, name).id for name in ("a", "b", "a")] == ["a-1", "b-2", "a-3"]
    assert repr(found) == "<Subscriptions a-1, b-2, a-3>"
    assert repr(next(iter(found))) == "<SubscribedListener a-1 of OrderPlaced>"
    assert found.free_name("a") == "a-2"
    assert found.free_name("c") == "c"


def test_a_second_listener_of_one_name_is_refused_unless_it_has_a_group() -> None:
    found = subscriptions()
    add(found, Got().on)
    with pytest.raises(HandlerExists, match="two listeners of one event are called 'billing'"):
        found.refuse_second(listener_spec(OrderPlaced), "billing")
    found.refuse_second(listener_spec(OrderPlaced, group="shop"), "billing")
    found.refuse_second(listener_spec(OrderPlaced), "shipping")
    found.refuse_second(listener_spec(Book), "billing")


async def test_one_that_cannot_listen_is_not_added() -> None:
    def sources(profile: str) -> list[EventSource]:
        raise ProfileError(f"there is no profile {profile}")

    found = subscriptions()
    found.start(sources, None)
    with pytest.raises(ProfileError, match="there is no profile default"):
        add(found, Got().on)
    assert list(found) == []


async def test_a_start_that_fails_leaves_nothing_behind() -> None:
    remote = Remote()

    def sources(profile: str) -> list[EventSource]:
        if profile == "bad":
            raise ProfileError("no")
        return [remote.source()]

    found = subscriptions()
    add(found, Got().on)
    add(found, Got().on, "bad", profile="bad")
    with pytest.raises(ProfileError):
        found.start(sources, None)
    assert not found.running
    assert not any(entry.consumers for entry in found)
    for _ in range(10):
        await asyncio.sleep(0)
    assert remote.wanted == []


async def test_ready_raises_what_a_source_refuses_with() -> None:
    found = subscriptions()
    add(found, Got().on)
    found.start(lambda profile: [Remote(ConnectFailed("nobody answers")).source()], None)
    with pytest.raises(ConnectFailed, match="nobody answers"):
        await found.ready()
    await found.stop()


async def test_the_end_of_one_waits_for_what_it_handles() -> None:
    found, remote, gate = subscriptions(), Remote(), Gate(lambda event: event.id)
    entry = add(found, gate.on)
    found.start(lambda profile: [remote.source()], None)
    remote.queue.put_nowait(remote.delivery({"id": "a"}, "a"))
    await gate.entered(1)
    ending = asyncio.ensure_future(found.remove(entry.id))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not ending.done()
    assert list(found) == []
    gate.release("a")
    assert await ending is True
    assert remote.told == [("a", True, False)]
    assert await found.remove(entry.id) is False
    await found.stop()


async def test_settle_waits_for_what_is_passing_and_can_be_hurried() -> None:
    found, passing = subscriptions(), [True, True, False]
    assert await found.settle(WAIT, lambda: passing.pop(0), lambda: False)
    assert passing == []
    assert not await found.settle(WAIT, lambda: True, lambda: True)
    assert not await found.settle(0, lambda: True, lambda: False)


# Growth


async def test_a_free_name_is_the_lowest_one_whoever_comes_and_goes() -> None:
    found = subscriptions()

    def more() -> Any:
        return add(found, Got().on, found.free_name("billing"))

    entries = [more() for _ in range(4)]
    assert [one.listening.listener.name for one in entries] == [
        *("billing", "billing-2", "billing-3", "billing-4"),
    ]
    assert await found.remove(entries[2].id)
    assert await found.remove(entries[1].id)
    assert [more().listening.listener.name for _ in range(3)] == ["billing-2", "billing-3", "billing-5"]
    assert await found.remove(entries[0].id)
    assert found.free_name("billing") == "billing"
    add(found, Got().on, "billing-6")
    more()
    assert found.free_name("billing") == "billing-7"
    for entry in found:
        assert await found.remove(entry.id)
    assert (found.free_name("billing"), found._names, found._alike, found._free) == (
        "billing",
        {},
        {},
        {},
    )


def test_the_three_thousandth_subscription_costs_what_the_hundredth_does() -> None:
    hub = new_hub()

    def on(event: Any) -> None: ...

    def more() -> None:
        hub.event.init.subscribe(OrderPlaced, on)

    def cost(before: int) -> int:
        while len(hub.event.init.subscriptions()) < before:
            for _ in range(100):
                more()
        return steps(lambda: [more() for _ in range(5)])

    few = cost(100)
    assert cost(3_000) <= 1.3 * few
    assert hub.event.init.subscriptions()[-1]["name"].endswith("-3010")


def test_the_thousandth_listener_of_a_list_costs_what_the_tenth_does() -> None:
    hub = new_hub()

    def declared() -> Any:
        @event_listener(OrderPlaced, name=f"listener {next(numbers)}")
        def on(event: Any) -> None: ...

        return on

    numbers = itertools.count()

    def cost(before: int) -> int:
        while next(numbers) < before:
            hub.event.init.listen(declared())
        new = [declared() for _ in range(5)]
        return steps(lambda: [hub.event.init.listen(one) for one in new])

    few = cost(20)
    assert cost(2_000) <= 1.3 * few
