"""What typed events do, whatever carries them: each transport inherits these tests.

A process is a bus on a hub of its own. Where queues have to be there before their listeners, a transport
makes them in `prepare`; what it cannot do at all stands in its class as well, with the reason.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from evbus.api import EventListener, event, session
from evbus.engine.codec.jsonl import Record
from evbus.engine.core.dead import store
from evbus.engine.handling.events import consumer
from evbus.errors import EvbusError, Rejected
from tests.evbus.kit import new_hub, running, write
from tests.ingress.amqp_kit import eventually

__all__ = ["WAIT", "Behaviour", "BrokerBehaviour", "Inbox", "looped", "order"]

WAIT = 30.0  # seconds; nothing is waited for that long unless something is wrong
SOON = {"attempts": 3, "min": 0.001, "max": 0.01}
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


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    article: UUID
    price: Decimal
    colour: Colour | None = None


def order(name: str, *, durable: bool = False, broadcast: bool = False) -> Any:
    """Return an event class."""

    @event(name=name, durable=durable, broadcast=broadcast)
    @dataclass
    class Order:
        number: int
        text: str = ""
        at: datetime | None = None
        raw: bytes = b""
        lines: list[Line] = field(default_factory=list)

    return Order


def looped(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            await asyncio.wait_for(test(*args, **kwargs), 2 * WAIT)

        asyncio.run(main())

    return run


class Inbox:
    """A listener that keeps what it gets, and then does ``handle``.

    :ivar got: all of it.
    :ivar gave_up: what it was told that it failed with for good.
    """

    def __init__(
        self,
        wanted: Any,
        handle: Callable[[Any], Awaitable[None]] | None = None,
        *,
        name: str = "inbox",
        **options: Any,
    ) -> None:
        self.got: list[Any] = []
        self.gave_up: asyncio.Queue[Exception] = asyncio.Queue()
        self.id = ""
        self._wanted = wanted
        self._handle = handle
        self._options = {"name": name, "retry": SOON, **options}
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def listen(self, hub: Any) -> str:
        self.id = hub.event.init.subscribe(
            self._wanted,
            self._on,
            on_error=lambda _event, problem: self.gave_up.put_nowait(problem),
            **self._options,
        )
        return self.id

    async def _on(self, event: Any) -> None:
        self.got.append(event)
        self._queue.put_nowait(event)
        if self._handle is not None:
            await self._handle(event)

    async def next(self) -> Any:
        return await asyncio.wait_for(self._queue.get(), WAIT)

    async def numbers(self, count: int) -> list[int]:
        return [(await self.next()).number for _ in range(count)]

    async def problem(self) -> Exception:
        return await asyncio.wait_for(self.gave_up.get(), WAIT)


class Behaviour:
    """The suite."""

    folder: Path
    #: Made up for each test: the name of its event.
    name: str
    #: What an event's name may end in, and what a group may be called.
    strange_name, strange_group = ".ü/注 :%2C,?'=$&;<{x}*", "ä.b/c :%2C{y}"

    @pytest.fixture(autouse=True)
    def _own(self, tmp_path: Path, unique: str) -> None:
        self.folder, self.name = tmp_path, unique

    def profiles(self, port: int = 0) -> dict[str, Any]:
        """Return profiles with one called ``default``.

        :param port: that of a proxy to the broker.
        """
        raise NotImplementedError

    def prepare(self, name: str, *groups: str) -> None:
        """Be told of the groups that are going to listen to an event."""

    def consumers(self, name: str, group: str) -> int | None:
        """Return how many consumers the queue of a group has, None where the broker does not tell."""
        raise NotImplementedError

    @asynccontextmanager
    async def process(
        self, *listeners: Inbox, port: int = 0, first_connect: str = "fail", **options: Any
    ) -> AsyncIterator[Any]:
        """Yield the hub of a bus, on which ``listeners`` listen from the start on."""
        hub = new_hub(**{"dead_store": self.folder / "dead.jsonl", "drain_timeout": WAIT, **options})
        for inbox in listeners:
            inbox.listen(hub)
        profiles = self.profiles(port)
        if first_connect != "fail":
            (named,) = profiles.values()
            named["default"]["first_connect"] = first_connect
        async with running(hub, profiles):
            yield hub

    async def delivered(self, hub: Any, count: int) -> None:
        """Return once the transport has taken so many events."""
        await eventually(
            lambda: sum(lane["delivered"] for lane in hub.evbus.stats.snapshot()["lanes"].values()) == count,
            "the delivery",
        )

    def dead(self) -> list[Record]:
        """Return what all processes gave up."""
        try:
            return list(store.read(self.folder / "dead.jsonl"))
        except FileNotFoundError:
            return []

    def counted(self, hub: Any) -> dict[str, int]:
        """Return the counters of the only listener."""
        (found,) = hub.event.init.subscriptions(self.name)
        return dict(found)

    # -- what listeners get ------------------------------------------------------------------------

    async def test_an_event_comes_as_it_was_sent_with_its_headers(self) -> None:
        write(self.folder, pipeline__seen=SEEN)
        options = {"plugin_dirs": [self.folder], "pipeline": ["seen"]}
        kind = order(self.name)
        inbox = Inbox(kind)
        self.prepare(self.name, "inbox")
        sent = kind(
            1,
            "ü\n€",
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            bytes(range(256)),
            [Line(UUID(int=7), Decimal("9.50"), Colour.RED), Line(UUID(int=8), Decimal(0))],
        )
        async with self.process(**options) as sender, self.process(inbox, **options) as hub:
            await sender.event.init.send(sent, {"tenant": "acme", "ü:b": "c d"})
            assert await inbox.next() == sent
            (headers,) = hub.SEEN_HEADERS
            assert (headers["tenant"], headers["ü:b"]) == ("acme", "c d")
            assert headers["evbus-message"] == self.name

    async def test_what_is_sent_right_after_the_start_arrives_in_order(self) -> None:
        kind = order(self.name)
        inbox = Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process(inbox) as hub:
            for number in range(50):
                await hub.event.init.send(kind(number))
            assert await inbox.numbers(50) == list(range(50))

    async def test_who_subscribes_later_gets_what_is_sent_once_it_is_ready(self) -> None:
        kind = order(self.name)
        inbox = Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process() as hub:
            inbox.listen(hub)
            await hub.event.init.ready()
            await hub.event.init.send(kind(1))
            assert await inbox.numbers(1) == [1]
            assert self.counted(hub)["listening"] is True

    async def test_each_listener_of_an_event_gets_it_once(self) -> None:
        kind = order(self.name)
        inbox, got = Inbox(kind), asyncio.Queue[tuple[str, int]]()
        loop = asyncio.get_running_loop()

        def plain(event: Any) -> None:
            loop.call_soon_threadsafe(got.put_nowait, ("plain", event.number))

        class Object(EventListener[Any]):
            def __init__(self, hub: Any) -> None:
                self.hub = hub

            async def on(self, event: Any) -> None:
                got.put_nowait(("object", event.number))

        self.prepare(self.name, "inbox", "plain", "Object")
        async with self.process(inbox) as hub:
            hub.event.init.subscribe(kind, plain)
            hub.event.init.subscribe(kind, Object)
            await hub.event.init.ready()
            for number in range(3):
                await hub.event.init.send(kind(number))
            assert await inbox.numbers(3) == [0, 1, 2]
            found = sorted([await asyncio.wait_for(got.get(), WAIT) for _ in range(6)])
            assert found == [(who, number) for who in ("object", "plain") for number in range(3)]
        assert got.empty()
        assert len(inbox.got) == 3

    async def test_the_processes_of_a_group_share_what_comes(self) -> None:
        kind = order(self.name)
        both = asyncio.Event()

        async def handle(_event: Any) -> None:
            # The first of either waits for the other, so that none can take all.
            if one.got and other.got:
                both.set()
            await both.wait()

        one = Inbox(kind, handle, group="g", prefetch=1)
        other = Inbox(kind, handle, group="g", prefetch=1)
        self.prepare(self.name, "g")
        async with self.process() as sender, self.process(one), self.process(other):
            for number in range(20):
                await sender.event.init.send(kind(number))
            while len(one.got) + len(other.got) < 20:
                waiting = {asyncio.ensure_future(inbox.next()) for inbox in (one, other)}
                _, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in rest:
                    task.cancel()
        assert sorted(event.number for event in one.got + other.got) == list(range(20))
        assert one.got
        assert other.got

    async def test_each_process_gets_a_copy_when_the_listener_or_the_event_says_so(self) -> None:
        kind, to_all = order(self.name), order(f"{self.name}-all", broadcast=True)
        mine = [Inbox(kind, group="g", per_process=True) for _ in range(2)]
        ours = [Inbox(to_all, group="g") for _ in range(2)]
        async with (
            self.process() as sender,
            self.process(mine[0], ours[0]),
            self.process(mine[1], ours[1]),
        ):
            for number in range(3):
                await sender.event.init.send(kind(number))
                await sender.event.init.send(to_all(number))
            for inbox in (*mine, *ours):
                assert await inbox.numbers(3) == [0, 1, 2]
        assert [len(inbox.got) for inbox in (*mine, *ours)] == [3, 3, 3, 3]
        assert not self.dead()

    async def test_what_is_durable_waits_for_its_listener(self) -> None:
        kind = order(self.name, durable=True)
        before, after = Inbox(kind), Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process() as sender:
            async with self.process(before):
                await sender.event.init.send(kind(0))
                assert await before.numbers(1) == [0]
            for number in (1, 2):
                await sender.event.init.send(kind(number))
            async with self.process(after):
                assert await after.numbers(2) == [1, 2]
        assert len(before.got) == 1
        assert not self.dead()

    async def test_the_names_of_events_and_groups_may_hold_strange_characters(self) -> None:
        names = [self.name + self.strange_name, self.name]
        groups = [self.strange_group, "c"]
        kinds = [order(name) for name in names]
        inboxes = [Inbox(kind, group=group) for kind in kinds for group in groups]
        for name in names:
            self.prepare(name, *groups)
        async with self.process(*inboxes) as hub:
            for number, kind in enumerate(kinds):
                await hub.event.init.send(kind(number))
            assert [await inbox.numbers(1) for inbox in inboxes] == [[0], [0], [1], [1]]
        assert [len(inbox.got) for inbox in inboxes] == [1, 1, 1, 1]
        assert not self.dead()

    async def test_a_listener_gets_the_events_that_derive_from_its_own(self) -> None:
        base = order(self.name)

        @event(name=f"{self.name}-more")
        @dataclass
        class More(base):  # type: ignore[misc,valid-type]
            extra: str = "x"

        all_of_them, only = Inbox(base, subclasses=True), Inbox(base, name="only")
        self.prepare(self.name, "inbox", "only")
        self.prepare(f"{self.name}-more", "inbox")
        async with self.process(all_of_them, only) as hub:
            await hub.event.init.send(More(1, extra="y"))
            assert await all_of_them.next() == More(1, extra="y")
            await hub.event.init.send(base(2))
            found = await all_of_them.next()
            assert (type(found), found.number) == (base, 2)
            assert await only.numbers(1) == [2]

    # -- listeners to patterns ---------------------------------------------------------------------

    def several(self) -> list[Any]:
        """Return events whose names have the word in front in common."""
        return [order(f"{self.name}{end}") for end in ("", ".placed", ".eu.placed")]

    async def test_a_listener_to_a_pattern_gets_the_events_whose_names_match_it(self) -> None:
        own, placed, abroad = self.several()
        by_name, word, words = (
            Inbox(placed, name="name"),
            Inbox(f"{self.name}.*", name="word"),
            Inbox(f"{self.name}.#", name="words"),
        )
        self.prepare(f"{self.name}.placed", "name")
        self.prepare(f"{self.name}.*", "word")
        self.prepare(f"{self.name}.#", "words")
        async with self.process() as sender, self.process(by_name, word, words) as hub:
            for kind in (own, placed, abroad):  # so that this process knows them, too
                hub.event.REGISTRY.of(kind)
            await sender.event.init.send(own(1))
            await sender.event.init.send(placed(2))
            await sender.event.init.send(abroad(3))
            await sender.evbus.broker.put(routing_key=f"{self.name}.else", body={"number": 4})
            assert await words.next() == own(1)
            assert await words.next() == placed(2)
            assert await words.next() == abroad(3)
            assert await words.next() == {"number": 4}
            assert await word.next() == placed(2)
            assert await word.next() == {"number": 4}
            assert await by_name.numbers(1) == [2]
            names = [found["name"] for found in hub.event.init.subscriptions(f"{self.name}.placed")]
            assert sorted(names) == ["name", "word", "words"]
        assert [len(inbox.got) for inbox in (by_name, word, words)] == [1, 2, 4]
        assert not self.dead()

    async def test_a_group_shares_what_matches_its_pattern_and_keeps_it_while_it_is_away(self) -> None:
        _, placed, abroad = self.several()
        pattern, options = f"{self.name}.#", {"group": "g", "durable": True}
        before, after = Inbox(pattern, **options), [Inbox(pattern, **options) for _ in range(2)]
        self.prepare(pattern, "g")
        async with self.process() as sender:
            async with self.process(before):
                await sender.event.init.send(placed(0))
                await before.next()
            for number in range(1, 21):
                await sender.event.init.send((placed, abroad)[number % 2](number))
            await self.delivered(sender, 21)
            async with self.process(after[0]), self.process(after[1]):
                await eventually(lambda: sum(len(inbox.got) for inbox in after) == 20, "all events")
        got = [getattr(one, "number", None) or one["number"] for inbox in after for one in inbox.got]
        assert sorted(got) == list(range(1, 21))
        assert len(before.got) == 1
        assert not self.dead()

    async def test_two_patterns_and_a_name_are_three_listeners_even_of_one_name(self) -> None:
        _, placed, _ = self.several()
        names = [f"{self.name}.placed", f"{self.name}.*", f"{self.name}.#"]
        inboxes = [Inbox(name) for name in names]
        for name in names:
            self.prepare(name, "inbox")
        async with self.process(*inboxes) as hub:
            for number in range(10):
                await hub.event.init.send(placed(number))
            assert [await inbox.numbers(10) for inbox in inboxes] == [list(range(10))] * 3
        assert [len(inbox.got) for inbox in inboxes] == [10, 10, 10]

    async def test_each_process_gets_a_copy_of_what_matches_a_pattern(self) -> None:
        _, placed, abroad = self.several()
        inboxes = [Inbox(f"{self.name}.#", per_process=True) for _ in range(2)]
        async with self.process() as sender, self.process(inboxes[0]), self.process(inboxes[1]):
            await sender.event.init.send(placed(1))
            await sender.event.init.send(abroad(2))
            for inbox in inboxes:
                found = [await inbox.next(), await inbox.next()]
                assert [getattr(one, "number", None) or one["number"] for one in found] == [1, 2]
        assert [len(inbox.got) for inbox in inboxes] == [2, 2]

    async def test_what_fails_at_a_listener_to_a_pattern_is_tried_again_and_dies(self) -> None:
        async def handle(event: Any) -> None:
            if event["number"] == 1:
                raise ValueError("never")

        inbox = Inbox(f"{self.name}.#", handle, durable=True, prefetch=1)
        self.prepare(f"{self.name}.#", "inbox")
        async with self.process() as sender, self.process(inbox):
            await sender.evbus.broker.put(routing_key=f"{self.name}.placed", body={"number": 1})
            assert str(await inbox.problem()) == "never"
            await sender.evbus.broker.put(routing_key=f"{self.name}.eu.placed", body={"number": 2})
            assert [(await inbox.next())["number"] for _ in range(4)] == [1, 1, 1, 2]
        (record,) = self.dead()
        assert record.routing_key == f"{self.name}.placed"
        assert record.dead is not None
        assert (record.dead["reason"], record.dead["attempts"]) == ("ValueError: never", 3)

    # -- listeners that take batches ---------------------------------------------------------------

    async def test_a_listener_takes_events_in_batches_which_are_settled_together(self) -> None:
        kind = order(self.name, durable=True)
        # The time that others are waited for is over only where fewer than a batch are left.
        inbox, after = Inbox(kind, batch=10, batch_wait=0.2), Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process() as sender:
            async with self.process(inbox) as hub:
                for number in range(25):
                    await sender.event.init.send(kind(number))
                got: list[int] = []
                while len(got) < 25:
                    got += [event.number for event in await inbox.next()]
                assert got == list(range(25))
                assert max(len(batch) for batch in inbox.got) == 10
                await eventually(lambda: self.counted(hub)["handled"] == 25, "the end")
            async with self.process(after):
                await sender.event.init.send(kind(99))
                assert await after.numbers(1) == [99]
        assert not self.dead()

    async def test_a_bad_event_of_a_batch_dies_alone(self) -> None:
        kind = order(self.name, durable=True)
        handled: list[int] = []

        async def handle(events: Any) -> None:
            numbers = [one.number for one in events]
            if 3 in numbers:
                raise ValueError("never")
            if 4 in numbers:
                raise Rejected("not this one")
            handled.extend(numbers)

        inbox, after = Inbox(kind, handle, batch=10, batch_wait=0.2), Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process() as sender:
            async with self.process(inbox) as hub:
                for number in range(10):
                    await sender.event.init.send(kind(number))
                problems = {str(await inbox.problem()) for _ in range(2)}
                assert problems == {"never", "not this one"}
                await eventually(lambda: self.counted(hub)["handled"] == 8, "the good ones")
                assert self.counted(hub)["dead"] == 2
            async with self.process(after):
                await sender.event.init.send(kind(99))
                assert await after.numbers(1) == [99]
        assert sorted(handled) == [0, 1, 2, 5, 6, 7, 8, 9]
        died = {record.body["number"]: record.dead for record in self.dead()}
        assert {number: dead and (dead["reason"], dead["attempts"]) for number, dead in died.items()} == {
            3: ("ValueError: never", 3),
            4: ("Rejected: not this one", 1),
        }

    async def test_a_stop_does_not_wait_for_a_batch_to_be_full(self) -> None:
        kind = order(self.name, durable=True)
        inbox = Inbox(kind, batch=10, batch_wait=3600)
        self.prepare(self.name, "inbox")
        async with self.process() as sender:
            async with self.process(inbox) as hub:
                await sender.event.init.send(kind(1))
                await eventually(lambda: self.counted(hub)["running"] == 1, "the event")
            assert [[event.number for event in batch] for batch in inbox.got] == [[1]]
        assert not self.dead()

    # -- what goes wrong ---------------------------------------------------------------------------

    async def test_a_listener_that_fails_gets_the_event_again(self) -> None:
        kind = order(self.name)

        async def handle(_event: Any) -> None:
            if len(inbox.got) < 3:
                raise ValueError("not yet")

        inbox = Inbox(kind, handle)
        self.prepare(self.name, "inbox")
        async with self.process(inbox) as hub:
            await hub.event.init.send(kind(1))
            await hub.event.init.send(kind(2))
            assert await inbox.numbers(4) == [1, 1, 1, 2]
            assert self.counted(hub)["retried"] == 2
        assert not self.dead()

    async def test_an_event_that_always_fails_is_a_dead_letter_and_not_delivered_again(self) -> None:
        kind = order(self.name, durable=True)

        async def handle(event: Any) -> None:
            if event.number == 1:
                raise ValueError("never")

        inbox, after = Inbox(kind, handle), Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process() as sender:
            async with self.process(inbox) as hub:
                await sender.event.init.send(kind(1))
                assert str(await inbox.problem()) == "never"
                assert len(inbox.got) == 3
                assert self.counted(hub)["dead"] == 1
            (record,) = self.dead()
            assert record.body["number"] == 1
            assert record.dead is not None
            assert (record.dead["reason"], record.dead["attempts"]) == ("ValueError: never", 3)
            async with self.process(after):
                await sender.event.init.send(kind(2))
                assert await after.numbers(1) == [2]

    async def test_a_message_that_is_no_such_event_is_a_dead_letter(self) -> None:
        kind = order(self.name)
        inbox = Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process(inbox) as hub:
            for headers, body, _ in UNREADABLE:
                await hub.evbus.broker.put(routing_key=self.name, body=body, headers=headers)
            await hub.event.init.send(kind(2))
            for _, _, reason in UNREADABLE:
                problem = await inbox.problem()
                assert isinstance(problem, EvbusError)
                assert reason in str(problem)
            assert await inbox.numbers(1) == [2]
            found = self.counted(hub)
            assert (found["unreadable"], found["dead"]) == (len(UNREADABLE), len(UNREADABLE))
        for record, (_, body, reason) in zip(self.dead(), UNREADABLE, strict=True):
            assert record.body == body
            assert record.dead is not None
            assert reason in record.dead["reason"]
        assert len(inbox.got) == 1

    async def test_an_event_whose_handling_is_cancelled_comes_again(self) -> None:
        kind = order(self.name, durable=True)

        async def handle(_event: Any) -> None:
            task = asyncio.current_task()
            if len(inbox.got) == 1 and task is not None:
                task.cancel()
                await asyncio.sleep(0)

        inbox = Inbox(kind, handle)
        self.prepare(self.name, "inbox")
        async with self.process(inbox) as hub:
            await hub.event.init.send(kind(1))
            assert await inbox.numbers(2) == [1, 1]
            assert self.counted(hub)["cancelled"] == 1
        assert not self.dead()

    async def test_what_a_stopped_process_was_handling_comes_to_the_next(self) -> None:
        kind = order(self.name, durable=True)
        ended: list[str] = []

        async def handle(_event: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        stuck, after = Inbox(kind, handle), Inbox(kind)
        self.prepare(self.name, "inbox")
        # The stopped one waits so long for its handler.
        async with self.process(drain_timeout=0.1) as sender:
            async with self.process(stuck, drain_timeout=0.1):
                for number in range(3):
                    await sender.event.init.send(kind(number))
                assert await stuck.numbers(1) == [0]
            assert ended == ["cancelled"]
            async with self.process(after, drain_timeout=0.1):
                assert await after.numbers(3) == [0, 1, 2]
        assert len(stuck.got) == 1
        assert not self.dead()

    async def test_what_is_being_handled_when_a_process_stops_is_handled_first(self) -> None:
        kind = order(self.name, durable=True)
        go_on, handled = asyncio.Event(), []

        async def handle(event: Any) -> None:
            await go_on.wait()
            handled.append(event.number)

        slow, after = Inbox(kind, handle), Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process() as sender:
            stack = AsyncExitStack()
            await stack.enter_async_context(self.process(slow))
            await sender.event.init.send(kind(1))
            assert await slow.numbers(1) == [1]
            stopping = asyncio.ensure_future(stack.aclose())
            assert not (await asyncio.wait({stopping}, timeout=0.1))[0]
            go_on.set()
            await stopping
            assert handled == [1]
            async with self.process(after):
                await sender.event.init.send(kind(2))
                assert await after.numbers(1) == [2]

    # -- coming and going --------------------------------------------------------------------------

    async def test_unsubscribing_reaches_the_broker(self) -> None:
        kind = order(self.name, durable=True)
        first, second = Inbox(kind), Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process(first) as hub:
            await hub.event.init.send(kind(1))
            assert await first.numbers(1) == [1]
            assert self.consumers(self.name, "inbox") in (1, None)
            assert await hub.event.init.unsubscribe(first.id) is True
            assert self.consumers(self.name, "inbox") in (0, None)
            assert hub.event.init.subscriptions(self.name) == []
            assert await hub.event.init.unsubscribe(first.id) is False
            for number in range(2, 12):
                await hub.event.init.send(kind(number))
            # A consumer that the broker still had would get them before the next is there.
            await self.delivered(hub, 11)
            second.listen(hub)
            assert await second.numbers(10) == list(range(2, 12))
        assert len(first.got) == 1

    async def test_no_more_than_prefetch_is_with_a_listener(self) -> None:
        kind = order(self.name)
        release = asyncio.Event()

        async def handle(_event: Any) -> None:
            await release.wait()

        # It could handle more at once, and gets one.
        slow = Inbox(kind, handle, group="g", prefetch=1, concurrency=10)
        quick = Inbox(kind, group="g", prefetch=1)
        self.prepare(self.name, "g")
        async with self.process() as sender, self.process(slow):
            await sender.event.init.send(kind(0))
            assert await slow.numbers(1) == [0]
            async with self.process(quick):
                for number in range(1, 6):
                    await sender.event.init.send(kind(number))
                assert await quick.numbers(5) == [1, 2, 3, 4, 5]
                assert len(slow.got) == 1
                release.set()

    # -- protected on both sides -------------------------------------------------------------------

    async def test_what_is_signed_and_compressed_is_handled_as_it_was_in_its_session(self) -> None:
        kind = order(self.name)
        users = []

        async def handle(_event: Any) -> None:
            users.append(session.current().get("user"))

        inboxes = [Inbox(kind, handle, name=name) for name in ("one", "other")]
        self.prepare(self.name, "one", "other")
        sent = kind(1, "again " * 5000)
        async with self.process(**PROTECTED) as sender, self.process(*inboxes, **PROTECTED):
            with session.use(user="joe"):
                await sender.event.init.send(sent)
            await sender.event.init.send(kind(2))
            for inbox in inboxes:
                assert await inbox.next() == sent
                assert await inbox.numbers(1) == [2]
        assert sorted(users, key=str) == [None, None, "joe", "joe"]
        assert not self.dead()

    async def test_what_is_signed_may_fail_and_come_again(self) -> None:
        kind = order(self.name, durable=True)

        async def handle(_event: Any) -> None:
            if len(inbox.got) == 1:
                raise ValueError("not yet")
            if len(inbox.got) == 2:
                raise asyncio.CancelledError

        inbox = Inbox(kind, handle)
        self.prepare(self.name, "inbox")
        async with self.process(**PROTECTED) as sender, self.process(inbox, **PROTECTED):
            await sender.event.init.send(kind(1, "again " * 5000))
            assert await inbox.numbers(3) == [1, 1, 1]
        assert not self.dead()

    async def test_what_is_not_signed_is_a_dead_letter_of_who_wants_it_signed(self) -> None:
        kind = order(self.name)
        inbox = Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process(inbox, **PROTECTED) as hub:
            await self.send_unsigned(hub)
            assert "not signed" in str(await inbox.problem())
        assert not inbox.got
        assert len(self.dead()) == 1

    async def send_unsigned(self, hub: Any) -> None:
        """Send an event that no pipeline has seen, to a listener on ``hub``."""
        async with self.process(pipeline=()) as other:
            await other.evbus.broker.put(routing_key=self.name, body={"number": 1})


class BrokerBehaviour(Behaviour):
    """What can be done to transports with a broker."""

    node: Any
    proxy: Callable[..., Any]
    #: Where `node` listens for this transport.
    port: int

    async def test_a_connection_that_is_cut_is_restored_and_everything_arrives(self) -> None:
        kind = order(self.name, durable=True)
        way = self.proxy(self.port)

        async def handle(event: Any) -> None:
            if event.number == 10 and not cut.is_set():
                cut.set()
                await asyncio.to_thread(way.cut)

        cut = asyncio.Event()
        inbox = Inbox(kind, handle, prefetch=5)
        self.prepare(self.name, "inbox")
        async with self.process() as sender, self.process(inbox, port=way.port):
            for number in range(30):
                await sender.event.init.send(kind(number))
            missing = set(range(30))
            while missing:
                missing.discard((await inbox.next()).number)
            await sender.event.init.send(kind(30))
            while (await inbox.next()).number != 30:
                pass
        assert cut.is_set()
        assert way.accepted >= 2
        assert not self.dead()

    async def test_what_was_not_begun_is_handled_only_when_it_comes_again(self) -> None:
        """What was prefetched waits in the process, and each cut brings all of it again."""
        kind = order(self.name, durable=True)
        way, cuts, count = self.proxy(self.port), list[int](), 30

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

        inbox = Inbox(kind, handle, prefetch=20)
        self.prepare(self.name, "inbox")
        async with self.process() as sender, self.process(inbox, port=way.port) as receiver:
            for number in range(count):
                await sender.event.init.send(kind(number))
            missing = set(range(count))
            while missing:
                missing.discard((await inbox.next()).number)
        assert cuts == [3, 12, 21]
        # Some acknowledgements are lost with it, and so it begins again no later than with what was handled.
        numbers = [event.number for event in inbox.got]
        assert all(numbers[numbers.index(cut) + 1] <= cut for cut in cuts), numbers

    async def test_with_dedupe_a_cut_connection_brings_nothing_twice(self) -> None:
        kind = order(self.name, durable=True)
        way = self.proxy(self.port)

        async def handle(event: Any) -> None:
            if event.number in (5, 15):
                await asyncio.to_thread(way.cut)

        inbox = Inbox(kind, handle, prefetch=5)
        self.prepare(self.name, "inbox")
        async with (
            self.process(**PROTECTED) as sender,
            self.process(inbox, port=way.port, **PROTECTED),
        ):
            for number in range(30):
                await sender.event.init.send(kind(number))
            assert sorted(await inbox.numbers(30)) == list(range(30))
            await sender.event.init.send(kind(30))
            assert await inbox.numbers(1) == [30]
        assert len(inbox.got) == 31
        assert way.accepted >= 3
        assert not self.dead()

    async def test_a_broker_that_comes_later_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # How long a start waits for consumers; the seconds of that are nothing to look at.
        monkeypatch.setattr(consumer, "PATIENCE", 0.01)
        kind = order(self.name)
        way = self.proxy(self.port)
        way.refuse()
        inbox = Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process(inbox, port=way.port, first_connect="wait") as hub:
            assert self.counted(hub)["listening"] is False
            await asyncio.to_thread(way.accept)
            await eventually(lambda: self.counted(hub)["listening"], "the subscription")
            await hub.event.init.send(kind(1))
            assert await inbox.numbers(1) == [1]
        assert not self.dead()

    async def test_a_sender_whose_connection_is_cut_sends_everything(self) -> None:
        kind = order(self.name, durable=True)
        way = self.proxy(self.port)
        inbox = Inbox(kind)
        self.prepare(self.name, "inbox")
        async with self.process(inbox), self.process(port=way.port) as sender:
            for number in range(30):
                if number == 10:
                    await asyncio.to_thread(way.cut)
                await sender.event.init.send(kind(number))
            missing = set(range(30))
            while missing:
                missing.discard((await inbox.next()).number)
        assert not self.dead()
