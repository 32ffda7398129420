"""What typed events do, whatever carries them, and what some transports cannot or do by themselves."""

from __future__ import annotations

import asyncio
import itertools
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from evbus.api import EventListener, event, session
from evbus.engine.handling.events import consumer
from evbus.engine.kit.topics import matches
from evbus.engine.wire.stomp import consume
from evbus.errors import ConnectFailed, EvbusError, ProfileError, Rejected
from tests.evbus.kit import new_hub, running, write
from tests.transports.kit import WAIT, eventually
from tests.transports.listening import Bus, Colour, Inbox, Line, order, send
from tests.transports.table import Place

PROTECTED = {
    # In the order of who sends. Who receives begins at the end: a second delivery is dropped, and no replay.
    "pipeline": ("session", "stamp", "compress", "sign", "dedupe"),
    "sign_keys": ("2026:0123456789abcdef",),
}
#: Messages that are no event, and why: headers, body, part of the reason.
UNREADABLE: list[tuple[dict[str, str] | None, Any, str]] = [
    (None, {"number": "seven"}, "number"),
    (None, [1], "Order"),
    (None, {"text": "x"}, "number"),
    ({"evbus-message": "Nobody"}, {"number": 1}, "there is no event of that name here"),
    ({"evbus-version": "new"}, {"number": 1}, "is no number"),
]
SEEN = """
def __init__(hub):
    vars(hub).setdefault("SEEN_HEADERS", [])


async def handle(hub, envelope, call_next):
    hub.SEEN_HEADERS.append(dict(envelope.headers))
    return await call_next(envelope)
"""


# What listeners get


async def test_an_event_comes_as_it_was_sent_with_its_headers(bus: Bus) -> None:
    write(bus.folder, pipeline__seen=SEEN)
    options = {"plugin_dirs": [bus.folder], "pipeline": ["seen"]}
    inbox = Inbox(bus.kind)
    sent = bus.kind(
        1,
        "ü\n€",
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        bytes(range(256)),
        [Line(UUID(int=7), Decimal("9.50"), Colour.RED), Line(UUID(int=8), Decimal(0))],
    )
    async with bus.process(**options) as sender, bus.process(inbox, **options) as hub:
        await sender.event.init.send(sent, {"tenant": "acme", "ü:b": "c d"})
        assert await inbox.next() == sent
        (headers,) = hub.SEEN_HEADERS
        assert (headers["tenant"], headers["ü:b"]) == ("acme", "c d")
        assert headers["evbus-message"] == bus.name


async def test_what_is_sent_right_after_the_start_arrives_in_order(bus: Bus) -> None:
    inbox = Inbox(bus.kind)
    async with bus.process(inbox) as hub:
        await send(hub, bus.kind, *range(50))
        assert await inbox.numbers(50) == list(range(50))


async def test_who_subscribes_later_gets_what_is_sent_once_it_is_ready(bus: Bus) -> None:
    inbox = Inbox(bus.kind)
    async with bus.process() as hub:
        bus.listen(hub, inbox)
        await hub.event.init.ready()
        await send(hub, bus.kind, 1)
        assert await inbox.numbers(1) == [1]
        assert bus.counted(hub)["listening"] is True


async def test_each_listener_of_an_event_gets_it_once(bus: Bus) -> None:
    inbox, got = Inbox(bus.kind), asyncio.Queue[tuple[str, int]]()
    loop = asyncio.get_running_loop()

    def plain(event: Any) -> None:
        loop.call_soon_threadsafe(got.put_nowait, ("plain", event.number))

    class Object(EventListener[Any]):
        def __init__(self, hub: Any) -> None:
            self.hub = hub

        async def on(self, event: Any) -> None:
            got.put_nowait(("object", event.number))

    for group in ("plain", "Object"):
        bus.prepare(bus.name, group)
    async with bus.process(inbox) as hub:
        hub.event.init.subscribe(bus.kind, plain)
        hub.event.init.subscribe(bus.kind, Object)
        await hub.event.init.ready()
        await send(hub, bus.kind, *range(3))
        assert await inbox.numbers(3) == [0, 1, 2]
        found = sorted([await asyncio.wait_for(got.get(), WAIT) for _ in range(6)])
        assert found == [(who, number) for who in ("object", "plain") for number in range(3)]
    assert got.empty()
    assert len(inbox.got) == 3


async def test_the_processes_of_a_group_share_what_comes(bus: Bus) -> None:
    both = asyncio.Event()

    async def handle(_event: Any) -> None:
        # The first of either waits for the other, so that none can take all.
        if one.got and other.got:
            both.set()
        await both.wait()

    one = Inbox(bus.kind, handle, group="g", prefetch=1)
    other = Inbox(bus.kind, handle, group="g", prefetch=1)
    async with bus.process() as sender, bus.process(one), bus.process(other):
        await send(sender, bus.kind, *range(20))
        while len(one.got) + len(other.got) < 20:
            waiting = {asyncio.ensure_future(inbox.next()) for inbox in (one, other)}
            _, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
    assert sorted(event.number for event in one.got + other.got) == list(range(20))
    assert one.got
    assert other.got


@pytest.mark.can("copies")
async def test_each_process_gets_a_copy_when_the_listener_or_the_event_says_so(bus: Bus) -> None:
    kind, to_all = order(bus.name), order(f"{bus.name}-all", broadcast=True)
    mine = [Inbox(kind, group="g", per_process=True) for _ in range(2)]
    ours = [Inbox(to_all, group="g") for _ in range(2)]
    async with (
        bus.process() as sender,
        bus.process(mine[0], ours[0]),
        bus.process(mine[1], ours[1]),
    ):
        await send(sender, kind, *range(3))
        await send(sender, to_all, *range(3))
        for inbox in (*mine, *ours):
            assert await inbox.numbers(3) == [0, 1, 2]
    assert [len(inbox.got) for inbox in (*mine, *ours)] == [3, 3, 3, 3]


async def test_what_is_durable_waits_for_its_listener(bus: Bus) -> None:
    before, after = Inbox(bus.lasting), Inbox(bus.lasting)
    async with bus.process() as sender:
        async with bus.process(before):
            await send(sender, bus.lasting, 0)
            assert await before.numbers(1) == [0]
        await send(sender, bus.lasting, 1, 2)
        async with bus.process(after):
            assert await after.numbers(2) == [1, 2]
    assert len(before.got) == 1


async def test_the_names_of_events_and_groups_may_hold_strange_characters(bus: Bus) -> None:
    names = [bus.name + bus.strange_name, bus.name]
    groups = [bus.strange_group, "c"]
    kinds = [order(name) for name in names]
    inboxes = [Inbox(kind, group=group) for kind in kinds for group in groups]
    async with bus.process(*inboxes) as hub:
        for number, kind in enumerate(kinds):
            await send(hub, kind, number)
        assert [await inbox.numbers(1) for inbox in inboxes] == [[0], [0], [1], [1]]
    assert [len(inbox.got) for inbox in inboxes] == [1, 1, 1, 1]


async def test_a_listener_gets_the_events_that_derive_from_its_own(bus: Bus) -> None:
    base = order(bus.name)

    @event(name=f"{bus.name}-more")
    @dataclass
    class More(base):  # type: ignore[misc,valid-type]
        extra: str = "x"

    all_of_them, only = Inbox(base, subclasses=True), Inbox(base, name="only")
    bus.prepare(f"{bus.name}-more", "inbox")
    async with bus.process(all_of_them, only) as hub:
        await hub.event.init.send(More(1, extra="y"))
        assert await all_of_them.next() == More(1, extra="y")
        await send(hub, base, 2)
        assert await all_of_them.next() == base(2)
        assert await only.numbers(1) == [2]


# Listeners where the profile changes routing keys


@pytest.mark.parametrize("end", ["placed", "#"])
async def test_listeners_find_events_whose_routing_keys_the_profile_changes(bus: Bus, end: str) -> None:
    bus.data["routing_key"] = "shop.{routing_key}"
    inbox = Inbox(f"{bus.name}.{end}")
    async with bus.process(inbox) as hub:
        await hub.evbus.broker.put(routing_key=f"{bus.name}.placed", body={"number": 1})
        assert await inbox.numbers(1) == [1]


@pytest.mark.can("copies")
async def test_copies_for_each_process_find_events_whose_routing_keys_the_profile_changes(bus: Bus) -> None:
    bus.data["routing_key"] = "shop.{routing_key}"
    inbox = Inbox(bus.name, per_process=True)
    async with bus.process(inbox) as hub:
        await hub.evbus.broker.put(routing_key=bus.name, body={"number": 1})
        assert await inbox.numbers(1) == [1]


async def test_where_all_events_have_one_routing_key_a_listener_gets_those_of_its_name(bus: Bus) -> None:
    bus.data["routing_key"] = bus.name
    typed, plain = Inbox(bus.kind), Inbox(bus.name, name="plain")
    async with bus.process() as sender, bus.process(typed, plain):
        for number, kind in enumerate((bus.kind, order(f"{bus.name}-other"), bus.kind)):
            await send(sender, kind, number)
        for inbox in (typed, plain):
            assert await inbox.numbers(2) == [0, 2]
            assert f"it is a {bus.name}-other, and " in str(await inbox.problem())
    assert [record.body["number"] for record in bus.dead()] == [1, 1]


async def test_a_name_that_nothing_can_be_told_by_is_refused_at_the_start(bus: Bus) -> None:
    template = "{routing_key}"
    places = {"routing_key": "all"} | {
        key: value.replace(template, "all")
        for key, value in bus.data.items()
        if isinstance(value, str) and template in value
    }
    for key, place in places.items():
        hub, profiles = new_hub(), bus.profiles(0, "fail")
        next(iter(profiles.values()))["default"][key] = place
        Inbox(bus.name).listen(hub)
        last = place.rpartition("/")[2]
        said = f"every name to '{place}', where one listens to '{last}' and never to '{bus.name}' alone"
        with pytest.raises(ProfileError, match=re.escape(said)):
            async with running(hub, profiles):
                pass


# Listeners to patterns


async def test_a_listener_to_a_pattern_gets_the_events_whose_names_match_it(bus: Bus) -> None:
    own, placed, abroad = bus.several()
    by_name, word, words = (
        Inbox(placed, name="name"),
        Inbox(f"{bus.name}.*", name="word"),
        Inbox(f"{bus.name}.#", name="words"),
    )
    async with bus.process() as sender, bus.process(by_name, word, words) as hub:
        for kind in (own, placed, abroad):  # so that this process knows them, too
            hub.event.REGISTRY.of(kind)
        for sent in (own(1), placed(2), abroad(3)):
            await sender.event.init.send(sent)
        await sender.evbus.broker.put(routing_key=f"{bus.name}.else", body={"number": 4})
        for inbox, wanted in (
            (words, [own(1), placed(2), abroad(3), {"number": 4}]),
            (word, [placed(2), {"number": 4}]),
        ):
            assert [await inbox.next() for _ in wanted] == wanted
        assert await by_name.numbers(1) == [2]
        names = [found["name"] for found in hub.event.init.subscriptions(f"{bus.name}.placed")]
        assert sorted(names) == ["name", "word", "words"]
    assert [len(inbox.got) for inbox in (by_name, word, words)] == [1, 2, 4]


async def test_a_group_shares_what_matches_its_pattern_and_keeps_it_while_it_is_away(bus: Bus) -> None:
    _, placed, abroad = bus.several()
    pattern, options = f"{bus.name}.#", {"group": "g", "durable": True}
    before, after = Inbox(pattern, **options), [Inbox(pattern, **options) for _ in range(2)]
    async with bus.process() as sender:
        async with bus.process(before):
            await send(sender, placed, 0)
            await before.next()
        for number in range(1, 21):
            await send(sender, (placed, abroad)[number % 2], number)
        await bus.delivered(sender, 21)
        async with bus.process(after[0]), bus.process(after[1]):
            await eventually(lambda: sum(len(inbox.got) for inbox in after) == 20, "all events")
    got = [getattr(one, "number", None) or one["number"] for inbox in after for one in inbox.got]
    assert sorted(got) == list(range(1, 21))
    assert len(before.got) == 1


async def test_two_patterns_and_a_name_are_three_listeners_even_of_one_name(bus: Bus) -> None:
    _, placed, _ = bus.several()
    names = [f"{bus.name}.placed", f"{bus.name}.*", f"{bus.name}.#"]
    inboxes = [Inbox(name) for name in names]
    async with bus.process(*inboxes) as hub:
        await send(hub, placed, *range(10))
        assert [await inbox.numbers(10) for inbox in inboxes] == [list(range(10))] * 3
    assert [len(inbox.got) for inbox in inboxes] == [10, 10, 10]


@pytest.mark.can("copies")
async def test_each_process_gets_a_copy_of_what_matches_a_pattern(bus: Bus) -> None:
    _, placed, abroad = bus.several()
    inboxes = [Inbox(f"{bus.name}.#", per_process=True) for _ in range(2)]
    async with bus.process() as sender, bus.process(inboxes[0]), bus.process(inboxes[1]):
        await send(sender, placed, 1)
        await send(sender, abroad, 2)
        assert [await inbox.numbers(2) for inbox in inboxes] == [[1, 2]] * 2
    assert [len(inbox.got) for inbox in inboxes] == [2, 2]


async def test_what_fails_at_a_listener_to_a_pattern_is_tried_again_and_dies(bus: Bus) -> None:
    async def handle(event: Any) -> None:
        if event["number"] == 1:
            raise ValueError("never")

    inbox = Inbox(f"{bus.name}.#", handle, durable=True, prefetch=1)
    async with bus.process() as sender, bus.process(inbox):
        await sender.evbus.broker.put(routing_key=f"{bus.name}.placed", body={"number": 1})
        assert str(await inbox.problem()) == "never"
        await sender.evbus.broker.put(routing_key=f"{bus.name}.eu.placed", body={"number": 2})
        assert await inbox.numbers(4) == [1, 1, 1, 2]
    (record,) = bus.dead()
    assert record.routing_key == f"{bus.name}.placed"
    assert record.dead is not None
    assert (record.dead["reason"], record.dead["attempts"]) == ("ValueError: never", 3)


# Listeners that take batches


async def test_a_listener_takes_events_in_batches_which_are_settled_together(bus: Bus) -> None:
    # The time that others are waited for is over only where fewer than a batch are left.
    inbox, after = Inbox(bus.lasting, batch=10, batch_wait=0.2), Inbox(bus.lasting)
    async with bus.process() as sender:
        async with bus.process(inbox) as hub:
            await send(sender, bus.lasting, *range(25))
            got: list[int] = []
            while len(got) < 25:
                got += [event.number for event in await inbox.next()]
            assert got == list(range(25))
            assert max(len(batch) for batch in inbox.got) == 10
            await eventually(lambda: bus.counted(hub)["handled"] == 25, "the end")
        async with bus.process(after):
            await send(sender, bus.lasting, 99)
            assert await after.numbers(1) == [99]


async def test_a_bad_event_of_a_batch_dies_alone(bus: Bus) -> None:
    handled: list[int] = []

    async def handle(events: Any) -> None:
        numbers = [one.number for one in events]
        if 3 in numbers:
            raise ValueError("never")
        if 4 in numbers:
            raise Rejected("not this one")
        handled.extend(numbers)

    inbox, after = Inbox(bus.lasting, handle, batch=10, batch_wait=0.2), Inbox(bus.lasting)
    async with bus.process() as sender:
        async with bus.process(inbox) as hub:
            await send(sender, bus.lasting, *range(10))
            problems = {str(await inbox.problem()) for _ in range(2)}
            assert problems == {"never", "not this one"}
            await eventually(lambda: bus.counted(hub)["handled"] == 8, "the good ones")
            assert bus.counted(hub)["dead"] == 2
        async with bus.process(after):
            await send(sender, bus.lasting, 99)
            assert await after.numbers(1) == [99]
    assert sorted(handled) == [0, 1, 2, 5, 6, 7, 8, 9]
    died = {record.body["number"]: record.dead for record in bus.dead()}
    assert {number: dead and (dead["reason"], dead["attempts"]) for number, dead in died.items()} == {
        3: ("ValueError: never", 3),
        4: ("Rejected: not this one", 1),
    }


async def test_a_stop_does_not_wait_for_a_batch_to_be_full(bus: Bus) -> None:
    inbox = Inbox(bus.lasting, batch=10, batch_wait=3600)
    async with bus.process() as sender:
        async with bus.process(inbox) as hub:
            await send(sender, bus.lasting, 1)
            await eventually(lambda: bus.counted(hub)["running"] == 1, "the event")
        assert [[event.number for event in batch] for batch in inbox.got] == [[1]]


# What goes wrong


async def test_a_listener_that_fails_gets_the_event_again(bus: Bus) -> None:
    async def handle(_event: Any) -> None:
        if len(inbox.got) < 3:
            raise ValueError("not yet")

    inbox = Inbox(bus.kind, handle)
    async with bus.process(inbox) as hub:
        await send(hub, bus.kind, 1, 2)
        assert await inbox.numbers(4) == [1, 1, 1, 2]
        assert bus.counted(hub)["retried"] == 2


async def test_an_event_that_always_fails_is_a_dead_letter_and_not_delivered_again(bus: Bus) -> None:
    async def handle(event: Any) -> None:
        if event.number == 1:
            raise ValueError("never")

    inbox, after = Inbox(bus.lasting, handle), Inbox(bus.lasting)
    async with bus.process() as sender:
        async with bus.process(inbox) as hub:
            await send(sender, bus.lasting, 1)
            assert str(await inbox.problem()) == "never"
            assert len(inbox.got) == 3
            assert bus.counted(hub)["dead"] == 1
        (record,) = bus.dead()
        assert record.body["number"] == 1
        assert record.dead is not None
        assert (record.dead["reason"], record.dead["attempts"]) == ("ValueError: never", 3)
        async with bus.process(after):
            await send(sender, bus.lasting, 2)
            assert await after.numbers(1) == [2]


async def test_a_message_that_is_no_such_event_is_a_dead_letter(bus: Bus) -> None:
    inbox = Inbox(bus.kind)
    async with bus.process(inbox) as hub:
        for headers, body, _ in UNREADABLE:
            await hub.evbus.broker.put(routing_key=bus.name, body=body, headers=headers)
        await send(hub, bus.kind, 2)
        for _, _, reason in UNREADABLE:
            problem = await inbox.problem()
            assert isinstance(problem, EvbusError)
            assert reason in str(problem)
        assert await inbox.numbers(1) == [2]
        found = bus.counted(hub)
        assert (found["unreadable"], found["dead"]) == (len(UNREADABLE), len(UNREADABLE))
    for record, (_, body, reason) in zip(bus.dead(), UNREADABLE, strict=True):
        assert record.body == body
        assert record.dead is not None
        assert reason in record.dead["reason"]
    assert len(inbox.got) == 1


async def test_an_event_whose_handling_is_cancelled_comes_again(bus: Bus) -> None:
    async def handle(_event: Any) -> None:
        task = asyncio.current_task()
        if len(inbox.got) == 1 and task is not None:
            task.cancel()
            await asyncio.sleep(0)

    inbox = Inbox(bus.lasting, handle)
    async with bus.process(inbox) as hub:
        await send(hub, bus.lasting, 1)
        assert await inbox.numbers(2) == [1, 1]
        assert bus.counted(hub)["cancelled"] == 1


async def test_what_a_stopped_process_was_handling_comes_to_the_next(bus: Bus) -> None:
    ended: list[str] = []

    async def handle(_event: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    stuck, after = Inbox(bus.lasting, handle), Inbox(bus.lasting)
    # The stopped one waits so long for its handler.
    async with bus.process(drain_timeout=0.1) as sender:
        async with bus.process(stuck, drain_timeout=0.1):
            await send(sender, bus.lasting, *range(3))
            assert await stuck.numbers(1) == [0]
        assert ended == ["cancelled"]
        async with bus.process(after, drain_timeout=0.1):
            assert await after.numbers(3) == [0, 1, 2]
    assert len(stuck.got) == 1


async def test_what_is_being_handled_when_a_process_stops_is_handled_first(bus: Bus) -> None:
    go_on, handled = asyncio.Event(), []

    async def handle(event: Any) -> None:
        await go_on.wait()
        handled.append(event.number)

    slow, after = Inbox(bus.lasting, handle), Inbox(bus.lasting)
    async with bus.process() as sender:
        stack = AsyncExitStack()
        await stack.enter_async_context(bus.process(slow))
        await send(sender, bus.lasting, 1)
        assert await slow.numbers(1) == [1]
        stopping = asyncio.ensure_future(stack.aclose())
        assert not (await asyncio.wait({stopping}, timeout=0.1))[0]
        go_on.set()
        await stopping
        assert handled == [1]
        async with bus.process(after):
            await send(sender, bus.lasting, 2)
            assert await after.numbers(1) == [2]


# Coming and going


async def test_unsubscribing_reaches_the_broker(bus: Bus) -> None:
    first, second = Inbox(bus.lasting), Inbox(bus.lasting)
    async with bus.process(first) as hub:
        await send(hub, bus.lasting, 1)
        assert await first.numbers(1) == [1]
        assert bus.consumers(bus.name, "inbox") in (1, None)
        assert await hub.event.init.unsubscribe(first.id) is True
        assert bus.consumers(bus.name, "inbox") in (0, None)
        assert hub.event.init.subscriptions(bus.name) == []
        assert await hub.event.init.unsubscribe(first.id) is False
        await send(hub, bus.lasting, *range(2, 12))
        # A consumer that the broker still had would get them before the next is there.
        await bus.delivered(hub, 11)
        bus.listen(hub, second)
        assert await second.numbers(10) == list(range(2, 12))
    assert len(first.got) == 1


async def test_no_more_than_prefetch_is_with_a_listener(bus: Bus) -> None:
    release = asyncio.Event()

    async def handle(_event: Any) -> None:
        await release.wait()

    # It could handle more at once, and gets one.
    slow = Inbox(bus.kind, handle, group="g", prefetch=1, concurrency=10)
    quick = Inbox(bus.kind, group="g", prefetch=1)
    async with bus.process() as sender, bus.process(slow):
        await send(sender, bus.kind, 0)
        assert await slow.numbers(1) == [0]
        async with bus.process(quick):
            await send(sender, bus.kind, *range(1, 6))
            assert await quick.numbers(5) == [1, 2, 3, 4, 5]
            assert len(slow.got) == 1
            release.set()


# Protected on both sides


async def test_what_is_signed_and_compressed_is_handled_as_it_was_in_its_session(bus: Bus) -> None:
    users = []

    async def handle(_event: Any) -> None:
        users.append(session.current().get("user"))

    inboxes = [Inbox(bus.kind, handle, name=name) for name in ("one", "other")]
    sent = bus.kind(1, "again " * 5000)
    async with bus.process(**PROTECTED) as sender, bus.process(*inboxes, **PROTECTED):
        with session.use(user="joe"):
            await sender.event.init.send(sent)
        await send(sender, bus.kind, 2)
        for inbox in inboxes:
            assert await inbox.next() == sent
            assert await inbox.numbers(1) == [2]
    assert sorted(users, key=str) == [None, None, "joe", "joe"]


async def test_what_is_signed_may_fail_and_come_again(bus: Bus) -> None:
    async def handle(_event: Any) -> None:
        if len(inbox.got) == 1:
            raise ValueError("not yet")
        if len(inbox.got) == 2:
            raise asyncio.CancelledError

    inbox = Inbox(bus.lasting, handle)
    async with bus.process(**PROTECTED) as sender, bus.process(inbox, **PROTECTED):
        await sender.event.init.send(bus.lasting(1, "again " * 5000))
        assert await inbox.numbers(3) == [1, 1, 1]


async def test_what_is_not_signed_is_a_dead_letter_of_who_wants_it_signed(bus: Bus) -> None:
    inbox = Inbox(bus.kind)
    async with bus.process(inbox, **PROTECTED) as hub:
        await bus.send_unsigned(hub)
        assert "not signed" in str(await inbox.problem())
    assert not inbox.got
    assert len(bus.dead()) == 1


# When the connection is lost


@pytest.mark.can("broker")
async def test_a_connection_that_is_cut_is_restored_and_everything_arrives(bus: Bus) -> None:
    way, cut = bus.proxy(bus.place.port), asyncio.Event()

    async def handle(event: Any) -> None:
        if event.number == 10 and not cut.is_set():
            cut.set()
            await asyncio.to_thread(way.cut)

    inbox = Inbox(bus.lasting, handle, prefetch=5)
    async with bus.process() as sender, bus.process(inbox, port=way.port):
        await send(sender, bus.lasting, *range(30))
        await inbox.all_of(range(30))
        await send(sender, bus.lasting, 30)
        while (await inbox.next()).number != 30:
            pass
    assert cut.is_set()
    assert way.accepted >= 2


@pytest.mark.can("broker")
async def test_what_was_not_begun_is_handled_only_when_it_comes_again(bus: Bus) -> None:
    """What was prefetched waits in the process, and each cut brings all of it again."""
    way, cuts, count = bus.proxy(bus.place.port), list[int](), 30

    async def handle(event: Any) -> None:
        if event.number in (3, 12, 21) and event.number not in cuts:
            cuts.append(event.number)
            before = connects()
            await asyncio.to_thread(way.cut)
            await eventually(lambda: connects() > before, "the next connection")

    def connects() -> int:
        # Of consumers: that of lanes, cut as well, may be there again before theirs is known to be lost.
        states = receiver.evbus.stats.snapshot()["connections"]
        return sum(state["connects"] for name, state in states.items() if name.endswith(".consumers"))

    inbox = Inbox(bus.lasting, handle, prefetch=20)
    async with bus.process() as sender, bus.process(inbox, port=way.port) as receiver:
        await send(sender, bus.lasting, *range(count))
        await inbox.all_of(range(count))
    assert cuts == [3, 12, 21]
    # Some acknowledgements are lost with it, and so it begins again no later than with what was handled.
    numbers = [event.number for event in inbox.got]
    assert all(numbers[numbers.index(cut) + 1] <= cut for cut in cuts), numbers


@pytest.mark.can("broker")
async def test_with_dedupe_a_cut_connection_brings_nothing_twice(bus: Bus) -> None:
    way = bus.proxy(bus.place.port)

    async def handle(event: Any) -> None:
        if event.number in (5, 15):
            await asyncio.to_thread(way.cut)

    inbox = Inbox(bus.lasting, handle, prefetch=5)
    async with (
        bus.process(**PROTECTED) as sender,
        bus.process(inbox, port=way.port, **PROTECTED),
    ):
        await send(sender, bus.lasting, *range(30))
        assert sorted(await inbox.numbers(30)) == list(range(30))
        await send(sender, bus.lasting, 30)
        assert await inbox.numbers(1) == [30]
    assert len(inbox.got) == 31
    assert way.accepted >= 3


@pytest.mark.can("broker")
async def test_a_broker_that_comes_later_is_waited_for(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    # How long a start waits for consumers; the seconds of that are nothing to look at.
    monkeypatch.setattr(consumer, "PATIENCE", 0.01)
    way = bus.proxy(bus.place.port)
    way.refuse()
    inbox = Inbox(bus.kind)
    async with bus.process(inbox, port=way.port, first_connect="wait") as hub:
        assert bus.counted(hub)["listening"] is False
        await asyncio.to_thread(way.accept)
        await eventually(lambda: bus.counted(hub)["listening"], "the subscription")
        await send(hub, bus.kind, 1)
        assert await inbox.numbers(1) == [1]


@pytest.mark.can("broker")
async def test_a_sender_whose_connection_is_cut_sends_everything(bus: Bus) -> None:
    way = bus.proxy(bus.place.port)
    inbox = Inbox(bus.lasting)
    async with bus.process(inbox), bus.process(port=way.port) as sender:
        for number in range(30):
            if number == 10:
                await asyncio.to_thread(way.cut)
            await send(sender, bus.lasting, number)
        await inbox.all_of(range(30))


# What one of them cannot, and what it does by itself


@pytest.mark.can("amqp")
async def test_a_pattern_needs_an_exchange_of_type_topic_and_may_have_one_that_is_there(bus: Bus) -> None:
    for kind in ("direct", "topic"):
        bus.place.node.declare_exchange(f"{bus.name}-{kind}", kind)
    bus.data["exchange"] = f"{bus.name}-direct"
    said = f"needs an exchange of type topic, and '{bus.name}-direct' is of type direct: name one, such as"
    with pytest.raises(ConnectFailed, match=said):
        async with bus.process(Inbox(f"{bus.name}.*")):
            pass
    for exchange in (f"{bus.name}-topic", "amq.topic"):
        bus.data["exchange"] = exchange
        inbox = Inbox(f"{bus.name}.*")
        async with bus.process(inbox) as hub:
            await hub.evbus.broker.put(routing_key=f"{bus.name}.x", body={"number": 1})
            assert await inbox.numbers(1) == [1]


@pytest.mark.can("amqp")
async def test_what_is_not_durable_is_a_dead_letter_when_nobody_has_come_back(bus: Bus) -> None:
    inbox = Inbox(bus.kind)
    bus.data = {
        "exchange": {"name": f"{bus.name}-events", "type": "topic"},
        # Long enough for a busy machine to consume from what it has declared.
        "queue": {"arguments": {"x-expires": 2000}},
    }
    async with bus.process() as sender:
        async with bus.process(inbox):
            await send(sender, bus.kind, 1)
            assert await inbox.numbers(1) == [1]
        # Asked over AMQP, the queue would be in use.
        path = f"queues/%2F/{bus.name}::inbox"
        await eventually(lambda: not bus.place.node.api("GET", path, missing_ok=True), "the queue is gone")
        await send(sender, bus.kind, 2)
    (record,) = bus.dead()
    assert record.body["number"] == 2
    assert record.dead is not None
    assert "leads to no queue" in record.dead["reason"]


@pytest.mark.can("amqp")
async def test_a_pattern_matches_the_same_names_as_in_this_process(bus: Bus) -> None:
    words = ["", "a", "b"]
    names = [".".join(some) for n in (1, 2, 3) for some in itertools.product(words, repeat=n)]
    patterns = ["#", "*", "a.#", "#.a", "a.*", "*.a", "a.#.b", "*.#", "#.#", "a.*.b", "#.a.#", "*.*", "b..#"]
    bus.data["mandatory"] = False
    inboxes = [Inbox(pattern, name=f"i{number}") for number, pattern in enumerate(patterns)]
    last = Inbox("#", name="last")
    async with bus.process(*inboxes, last) as hub:
        for name in names:
            await hub.evbus.broker.put(routing_key=name, body={"name": name})
        while len(last.got) < len(names):
            await last.next()
        expected = [[name for name in names if matches(name, pattern)] for pattern in patterns]
        for inbox, wanted in zip(inboxes, expected, strict=True):
            assert [(await inbox.next())["name"] for _ in wanted] == wanted
    assert [len(inbox.got) for inbox in inboxes] == [len(wanted) for wanted in expected]


@pytest.mark.can("amqp")
async def test_a_broker_that_dies_is_waited_out(bus: Bus, broken_rabbitmq: Any) -> None:
    bus.place = Place(bus.place.at, broken_rabbitmq, bus.name)
    inbox = Inbox(bus.lasting)
    async with bus.process() as sender, bus.process(inbox):
        await send(sender, bus.lasting, 0)
        assert await inbox.numbers(1) == [0]
        await asyncio.to_thread(broken_rabbitmq.sync)
        await asyncio.to_thread(broken_rabbitmq.kill)
        await send(sender, bus.lasting, *range(1, 10))
        await asyncio.to_thread(broken_rabbitmq.start)
        # The first may come twice: its acknowledgement may have died with the broker.
        await inbox.all_of(range(1, 10))


@pytest.mark.can("stomp", "rabbitmq")
async def test_the_queue_of_what_is_not_durable_goes_when_no_listener_comes_back(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, queue = bus.place.node, f"{bus.name}::inbox"
    monkeypatch.setattr(consume, "PASSING", 1)
    async with bus.process(Inbox(bus.kind)):
        assert node.has_queue(queue)
    assert node.has_queue(queue)
    # Who declares it, if only passively, uses it, which puts its end off.
    await eventually(
        lambda: queue not in [found["name"] for found in node.api("GET", "queues/%2F")],
        "the end of the queue",
    )


@pytest.mark.can("stomp", "rabbitmq")
async def test_an_exchange_of_its_own_does_as_well(bus: Bus) -> None:
    bus.place.node.declare_exchange(f"{bus.name}-events", "topic")
    bus.data["destination"] = f"/exchange/{bus.name}-events/{{routing_key}}"
    inboxes = [Inbox(bus.kind, name=name) for name in ("one", "other")]
    async with bus.process(*inboxes) as hub:
        await send(hub, bus.kind, 1)
        assert [await inbox.numbers(1) for inbox in inboxes] == [[1], [1]]
    matching = Inbox(f"{bus.name}.*")
    async with bus.process(matching) as hub:
        await hub.evbus.broker.put(routing_key=f"{bus.name}.x", body={"number": 1})
        assert await matching.numbers(1) == [1]


@pytest.mark.can("stomp", "activemq")
async def test_a_group_is_kept_even_if_its_event_is_not_durable(bus: Bus) -> None:
    after = Inbox(bus.kind)
    async with bus.process() as sender:
        async with bus.process(Inbox(bus.kind)):
            pass
        await send(sender, bus.kind, 1)
        async with bus.process(after):
            assert await after.numbers(1) == [1]
