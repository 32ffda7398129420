"""The publisher: what is known of each event when answers are late, missing, or for an earlier attempt."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from evbus.engine.core.settings import DeliverySettings
from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.connect import Refused
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.amqp.publish import CACHED, Publisher
from evbus.errors import ConnectFailed, Rejected, Unavailable
from evbus.types import Envelope, OwnHeaders, SharedHeaders
from tests.evbus.rig import SOON, Rig, numbers, turns
from tests.ingress.amqp_kit import (
    WAIT,
    bus,
    event,
    eventually,
    lane,
    new_hub,
    numbered,
    opened,
    publish,
    put,
    ready,
    until_lost,
    url,
)


class Line:
    """A connection to a broker that does what a test tells it: the session, its wire and its channels."""

    def __init__(self, **data: Any) -> None:
        self.name = "amqp profile 'orders'"
        self.session: Any = self
        self.wire = self
        self.frame_max = 4096
        self.blocked = ""
        self.broke = False
        self.settling = 0.0
        self.probed: list[float] = []
        self.server = (3, 10, 8)
        self.number = 0
        self.sink: Any = None
        self.written: list[bytes] = []
        self.refuses: Exception | None = None
        self.queue_is_there = True
        self.publisher = Publisher(self, msgspec.convert(data, Profile))  # type: ignore[arg-type]

    def up(self) -> Any:
        if self.session is None:
            raise Unavailable("not connected")
        return self.session

    async def channel(self, *, confirms: bool = False) -> Any:
        if self.refuses is not None:
            raise self.refuses
        self.number += 1
        if confirms:
            self.written.append(b"confirm")
        await asyncio.sleep(0)
        return SimpleNamespace(
            number=self.number, declare_queue=lambda _, passive=False, **__: "look" if passive else "declare"
        )

    async def leave(self, channel: Any, sink: Any = None) -> None:
        self.written.append(b"close")
        await asyncio.sleep(0)
        if sink is not None:
            self.detach(channel.number, sink)

    async def rpc(self, what: Any) -> None:
        self.written.append(what.encode())
        await asyncio.sleep(0)
        if what == "look" and not self.queue_is_there:
            raise Refused(404, "no queue")
        self.queue_is_there = self.queue_is_there or what == "declare"

    def probe(self, seconds: float) -> None:
        self.probed.append(seconds)

    def attach(self, channel: int, sink: Any) -> int:
        assert channel == self.number
        self.sink = sink
        return channel

    def detach(self, channel: int, sink: Any) -> None:
        assert sink is self.sink
        self.sink = None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all that was published, in order, each from a frame of its own."""
        return self.payloads(3)

    def payloads(self, wanted: int) -> list[bytes]:
        """Return what is in the frames of one kind: 1 for methods, 2 for headers, 3 for bodies."""
        calls = (b"confirm", b"close", b"look", b"declare")
        found, data = [], b"".join(each for each in self.written if each not in calls)
        while data:
            kind, _, size = struct.unpack_from(">BHI", data)
            if kind == wanted:
                found.append(data[7 : 7 + size])
            data = data[8 + size :]
        return found

    def come_back(self, *tags: int) -> None:
        """Return what was published under these numbers, as no queue is bound for it, and confirm it."""
        for tag in tags:
            method = self.payloads(1)[tag - 1]
            key = method[8 : 8 + method[7]]  # what is before it is the same for all: the default exchange
            texts = b"".join(bytes((len(text),)) + text for text in (b"NO_ROUTE", b"", key))
            self.sink.method(frames.RETURN, struct.pack(">IH", frames.RETURN, 312) + texts)
            self.sink.content(2, self.payloads(2)[tag - 1])
            self.sink.content(3, self.payloads(3)[tag - 1])
            self.ack(tag)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.sink.method(frames.ACK, struct.pack(">IQB", frames.ACK, tag, multiple))

    async def sent(self, *events: Envelope, cancelled: bool = False) -> asyncio.Task[list[Any]]:
        """Publish as far as the first wait, and go no further if `cancelled`."""
        task = asyncio.ensure_future(self.publisher.publish(list(events)))
        count = len(self.written)
        await eventually(lambda: len(self.written) != count or task.done(), "it is sent")
        if cancelled:
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
        return task


def run(test: Callable[[Line], Any], **data: Any) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(Line(**data)), WAIT)

    asyncio.run(main())


# Without a broker: answers come when a test says so


def test_a_cancelled_event_is_asked_for_again_and_not_sent_again() -> None:
    async def check(line: Line) -> None:
        one, two = event("k", b"1"), event("k", b"2")
        await line.publisher.open()
        await line.sent(one, cancelled=True)
        # A routing key of the profile makes a new envelope of the same body each time.
        again = await line.sent(one.replace(), two)
        line.ack(1)
        line.ack(2)
        assert await again == [None, None]
        assert line.bodies == [b"1", b"2"]
        # Settled, it would be another event.
        once_more = await line.sent(one)
        line.ack(3)
        assert await once_more == [None]
        assert line.bodies == [b"1", b"2", b"1"]

    run(check)


def test_what_was_confirmed_meanwhile_is_not_sent_again_when_an_older_answer_is_missing() -> None:
    async def check(line: Line) -> None:
        old, fresh = event("k", b"old"), event("k", b"fresh")
        await line.publisher.open()
        await line.sent(old, cancelled=True)
        again = await line.sent(old, fresh)
        line.ack(2)
        with pytest.raises(Unavailable, match="confirm_timeout"):
            await again
        again = asyncio.ensure_future(line.publisher.publish([old, fresh]))
        line.ack(1)
        assert await again == [None, None]
        assert line.bodies == [b"old", b"fresh"]

    run(check, confirm_timeout=0.3)


@pytest.mark.parametrize("kind", [SharedHeaders, OwnHeaders])
def test_what_all_events_of_a_kind_begin_with_is_made_once(kind: type[SharedHeaders]) -> None:
    async def check(line: Line) -> None:
        headers = kind({"content-type": "application/json"})
        await line.publisher.open()
        sending = await line.sent(*(Envelope("p", "k", b"%d" % number, headers) for number in range(9)))
        line.ack(9, multiple=True)
        assert await sending == [None] * 9
        assert len(line.sink._heads) == 1

    run(check)


def test_a_publish_that_its_event_loop_leaves_behind_ends_without_a_word() -> None:
    async def begin() -> Any:
        line = Line()
        await line.publisher.open()
        publishing = line.publisher.publish([event("k", b"1")])
        publishing.send(None)
        return publishing

    asyncio.run(begin()).close()


def test_a_batch_with_a_refused_event_is_not_sent_again_either() -> None:
    async def check(line: Line) -> None:
        events = [event("k", b"1"), event("k" * 256, b"2"), event("k", b"3")]
        await line.publisher.open()
        await line.sent(*events, cancelled=True)
        again = asyncio.ensure_future(line.publisher.publish(events))
        line.ack(2, multiple=True)
        outcomes = await again
        assert [type(outcome) for outcome in outcomes] == [type(None), Rejected, type(None)]
        assert line.bodies == [b"1", b"3"]

    run(check)


def test_twins_have_an_outcome_each() -> None:
    async def check(line: Line) -> None:
        one = event("k", b"same")
        twins = [one, one.replace(), one.replace()]
        await line.publisher.open()
        await line.sent(*twins, cancelled=True)
        line.ack(1)
        line.sink.method(frames.NACK, struct.pack(">IQB", frames.NACK, 2, 0))
        again = asyncio.ensure_future(line.publisher.publish(twins))
        line.ack(3)
        outcomes = await again
        assert sum(outcome is None for outcome in outcomes) == 2
        assert len(line.bodies) == 3

    run(check)


def test_one_body_used_for_several_events_makes_them_no_less_several() -> None:
    async def check(line: Line) -> None:
        body = b"same"
        await line.publisher.open()
        await line.sent(Envelope("orders", "first", body), cancelled=True)
        await line.sent(Envelope("orders", "first", body, {}, 7.0), cancelled=True)
        # Another key at the same time, and events of unknown time: these were never sent.
        again = await line.sent(
            Envelope("orders", "second", body, {}, 7.0), Envelope("orders", "first", body)
        )
        line.ack(4, multiple=True)
        assert await again == [None, None]
        assert len(line.bodies) == 4

    run(check)


def test_a_new_channel_knows_nothing_of_the_old_one() -> None:
    async def check(line: Line) -> None:
        one = event("k", b"1")
        await line.publisher.open()
        await line.sent(one, cancelled=True)
        line.sink.lost("reset by peer")
        again = asyncio.ensure_future(line.publisher.publish([one]))
        await eventually(lambda: line.bodies == [b"1", b"1"], "it is sent again")
        line.ack(1)
        assert await again == [None]
        assert line.number == 2

    run(check)


def test_confirms_that_come_slowly_are_waited_for_and_none_at_all_is_a_sentence() -> None:
    async def check(line: Line) -> None:
        await line.publisher.open()
        line.blocked = "low on\nmemory"
        with pytest.raises(Unavailable) as caught:
            await line.publisher.publish([event("k")])
        assert str(caught.value) == (
            "amqp profile 'orders': the broker has confirmed nothing for 0.02 s (confirm_timeout); "
            "it blocks publishers: low on\\nmemory"
        )

    run(check, timeout=0.02)


@pytest.mark.parametrize("first_connect", ["fail", "wait"])
def test_a_channel_that_cannot_be_opened_fails_the_start_or_the_publish(first_connect: str) -> None:
    async def check(line: Line) -> None:
        line.refuses = RuntimeError("no more\nchannels")
        if first_connect == "fail":
            with pytest.raises(ConnectFailed, match=r"orders': no channel: no more\\nchannels"):
                await line.publisher.open()
        else:
            await line.publisher.open()
        with pytest.raises(Unavailable, match="no channel"):
            await line.publisher.publish([event("k")])
        line.refuses = None
        again = await line.sent(event("k"))
        await eventually(lambda: line.bodies, "it is sent")
        line.ack(1)
        assert await again == [None]
        assert line.sink is not None
        await line.publisher.close()
        await line.publisher.close()
        assert line.sink is None

    run(check, first_connect=first_connect)


def test_without_a_connection_the_channel_is_opened_later() -> None:
    async def check(line: Line) -> None:
        line.session = None
        await line.publisher.open()
        assert repr(line.publisher) == "<Publisher amqp profile 'orders' no channel>"
        with pytest.raises(Unavailable, match="not connected"):
            await line.publisher.publish([event("k")])

    run(check)


def test_several_who_publish_at_once_open_one_channel() -> None:
    async def check(line: Line) -> None:
        tasks = [asyncio.ensure_future(line.publisher.publish([event("k")])) for _ in range(3)]
        await eventually(lambda: len(line.bodies) == 3, "all are sent")
        line.ack(3, multiple=True)
        assert [await task for task in tasks] == [[None]] * 3
        assert line.number == 1

    run(check)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("later", range(12))
def test_who_publishes_when_the_channel_is_there_comes_after_those_who_waited_for_it(
    later: int, count: int
) -> None:
    async def check(line: Line) -> None:
        tasks = [
            asyncio.ensure_future(line.publisher.publish([event("k", b"%d" % number)]))
            for number in range(count)
        ]
        for _ in range(later):
            await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(line.publisher.publish([event("k", b"%d" % count)])))
        await eventually(lambda: len(line.bodies) == count + 1, "all are sent")
        line.ack(count + 1, multiple=True)
        assert [await task for task in tasks] == [[None]] * (count + 1)
        assert line.bodies == [b"%d" % number for number in range(count + 1)]

    run(check)


def test_cached_heads_are_those_of_their_key_headers_and_size() -> None:
    async def check(line: Line) -> None:
        await line.publisher.open()
        shared = [SharedHeaders({"n": str(number)}) for number in range(2)]
        events = [
            Envelope("orders", f"k{number}", b"x" * (number % 3), shared[number % 2], 1.0)
            for number in range(CACHED + 100)
        ] * 2
        task = await line.sent(*events)
        line.ack(len(events), multiple=True)
        assert set(await task) == {None}
        alone = Line()
        await alone.publisher.open()
        for each in events:
            plain = Envelope("orders", each.routing_key, each.body, dict(each.headers), 0.0)
            done = asyncio.ensure_future(alone.publisher.publish([plain]))
            await asyncio.sleep(0)
            alone.ack(alone.written.count(b"") + len(alone.written) - 1)
            await done
        assert b"".join(line.written) == b"".join(alone.written)

    run(check)


# A queue that is deleted under the lane


async def again(line: Line, task: Any) -> list[bool]:
    """Return which events are to be published again, and have not been yet."""
    before = len(line.bodies)
    outcomes = await task
    assert len(line.bodies) == before
    assert all(outcome is None or isinstance(outcome, Unavailable) for outcome in outcomes)
    return [outcome is not None for outcome in outcomes]


def test_the_queue_is_declared_anew_when_what_came_back_is_published_again_and_not_before() -> None:
    async def check(line: Line) -> None:
        await line.publisher.open()
        line.queue_is_there = False
        first = await line.sent(event("k", b"1"), event("k", b"2"))
        second = await line.sent(event("k", b"3"), event("k", b"4"))
        line.come_back(1, 2, 3, 4)
        assert await again(line, first) == await again(line, second) == [True, True]
        assert not line.queue_is_there
        third = await line.sent(event("k", b"1"), event("k", b"2"))
        assert line.queue_is_there
        line.ack(6, multiple=True)
        assert await third == [None, None]

    run(check, queue="k")


def test_what_came_back_from_before_the_queue_was_declared_is_published_again_too() -> None:
    async def check(line: Line) -> None:
        await line.publisher.open()
        first = await line.sent(event("k", b"1"))
        second = await line.sent(event("k", b"2"))
        line.come_back(1)
        assert await again(line, first) == [True]
        third = await line.sent(event("k", b"1"))
        line.come_back(2)
        assert await again(line, second) == [True]
        line.ack(3)
        assert await third == [None]

    run(check, queue="k")


def test_without_the_connection_what_came_back_waits_for_it() -> None:
    async def check(line: Line) -> None:
        await line.publisher.open()
        task = await line.sent(event("k", b"1"), event("k", b"2"))
        line.ack(1)
        line.come_back(2)
        assert await again(line, task) == [False, True]
        line.session = None
        with pytest.raises(Unavailable):
            await line.publisher.publish([event("k", b"2")])

    run(check, queue="k")


def test_a_key_that_leads_nowhere_is_rejected_and_declares_the_queue_only_once() -> None:
    async def check(line: Line) -> None:
        await line.publisher.open()
        before = line.written.count(b"look")
        task = await line.sent(event("elsewhere", b"1"))
        line.come_back(1)
        assert await again(line, task) == [True]
        for number in (2, 3):
            task = await line.sent(event("elsewhere", b"%d" % number))
            line.come_back(number)
            (outcome,) = await task
            assert isinstance(outcome, Rejected)
        assert line.written.count(b"look") == before + 1

    run(check, queue="k")


def test_a_queue_that_is_deleted_a_second_time_is_declared_a_second_time() -> None:
    async def check(line: Line) -> None:
        await line.publisher.open()
        for number in (1, 3):
            task = await line.sent(event("k", b"x"))
            line.come_back(number)
            assert await again(line, task) == [True]
            task = await line.sent(event("k", b"x"))
            line.ack(number + 1)
            assert await task == [None]

    run(check, queue="k")


@pytest.mark.parametrize("earlier", range(12))
def test_what_came_back_is_in_the_new_queue_before_a_batch_that_was_begun_meanwhile(
    tmp_path: Path, earlier: int
) -> None:
    async def check(line: Line) -> None:
        await line.publisher.open()
        line.queue_is_there = False
        rig = Rig(tmp_path)
        target = SimpleNamespace(batching=True, overlap=True, publish=None)
        target.publish_batch = lambda _ctx, events: line.publisher.publish(events)
        lane = rig.add(target, delivery=DeliverySettings(batch=3, retry=SOON))
        arrived: list[bytes] = []
        async with rig.running():
            for number in range(6):
                rig.put_nowait(number, key="k")
                if number == 2:
                    await eventually(lambda: len(line.bodies) == 3, "the first batch is sent")
            await turns(earlier)
            line.come_back(1, 2, 3)
            answered = 3
            while lane.counters.delivered < 6:
                for body in line.bodies[answered:]:
                    answered += 1
                    if line.queue_is_there:
                        arrived.append(body)
                        line.ack(answered)
                    else:
                        line.come_back(answered)
                await asyncio.sleep(0)
        assert arrived == numbers(6)

    run(check, queue="k")


# With a broker


async def test_a_frozen_broker_is_unavailable_and_nothing_is_sent_twice_after_the_thaw(
    rabbitmq: Any, proxy: Any, unique: str
) -> None:
    way = proxy(rabbitmq.port)

    hub = new_hub()
    data = {"url": url(rabbitmq, way.port), "queue": unique, "confirm_timeout": 0.1}
    async with opened(hub, **data) as ctx:
        assert await publish(hub, ctx, event(unique, b"first")) == [None]
        way.freeze()
        events = numbered(unique, 500)
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"nothing for 0\.1 s \(confirm_timeout\); it may be over"):
                await publish(hub, ctx, *events)
        way.thaw()
        assert await publish(hub, ctx, *events) == [None] * 500
    assert rabbitmq.queue_depth(unique) == 501


async def test_a_frozen_broker_is_noticed_although_the_buffers_are_full(
    rabbitmq: Any, proxy: Any, unique: str
) -> None:
    way = proxy(rabbitmq.port)

    hub = new_hub()
    data = {"url": url(rabbitmq, way.port), "queue": unique, "confirm_timeout": 1, "heartbeat": 0}
    async with opened(hub, **data) as ctx:
        way.freeze()
        events = [event(unique, b"x" * 1024 * 1024) for _ in range(16)]
        with pytest.raises(Unavailable, match="confirm_timeout"):
            await publish(hub, ctx, *events)
        assert ctx.state.connection.session.wire.transport.get_write_buffer_size() > 0
        way.thaw()
        outcomes: list[Any] = []
        while outcomes != [None] * 16:
            try:
                outcomes = await publish(hub, ctx, *events)
            except Unavailable:
                continue
    assert rabbitmq.queue_depth(unique) == 16


async def test_a_lane_waits_out_a_frozen_broker_without_counting_attempts(
    rabbitmq: Any, proxy: Any, tmp_path: Any, unique: str
) -> None:
    way = proxy(rabbitmq.port)

    profile = {"url": url(rabbitmq, way.port), "queue": unique, "confirm_timeout": 0.2}
    async with bus(tmp_path, orders=profile) as hub:
        way.freeze()
        await put(hub, "orders", unique, *range(100))
        await eventually(lambda: lane(hub, "orders")["retried"] > 5, "it was tried several times")
        assert "confirm_timeout" in lane(hub, "orders")["last_error"]
        way.thaw()
        await eventually(lambda: lane(hub, "orders")["delivered"] == 100, "all are delivered")
        assert lane(hub, "orders")["dead"] == 0
    assert [message["payload"] for message in rabbitmq.take(unique)] == [str(n) for n in range(100)]


async def test_each_of_many_cancelled_publishes_is_delivered_exactly_once(rabbitmq: Any, unique: str) -> None:
    """Bar 17: acknowledged or still queued, and on one channel never twice."""
    dice = random.Random(17)  # noqa: S311 - no secret

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq), queue=unique) as ctx:
        for start in range(0, 3000, 10):
            left = numbered(unique, 10, start=start)
            for _ in range(dice.randrange(4)):
                task = asyncio.ensure_future(hub.ingress.amqp.publish_batch(ctx, list(left)))
                for _ in range(dice.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    assert task.result() == [None] * 10
                    left = []
                    break
            if left:
                assert await publish(hub, ctx, *left) == [None] * 10
    found = [int(message["payload"]) for message in rabbitmq.take(unique, 4000)]
    assert sorted(found) == list(range(3000))


async def test_connections_that_are_cut_lose_nothing(rabbitmq: Any, proxy: Any, unique: str) -> None:
    way = proxy(rabbitmq.port)

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq, way.port), queue=unique) as ctx:
        left = numbered(unique, 2000)
        for cut in range(60):
            if not left:
                break
            if cut % 2:
                task = asyncio.ensure_future(publish(hub, ctx, *left[:100]))
                await asyncio.sleep(0)
                way.cut()
                await asyncio.wait({task})
                await until_lost(ctx)
                if task.exception() is not None:
                    assert isinstance(task.exception(), Unavailable)
                    continue
                outcomes = task.result()
            else:
                await ready(hub, ctx)
                try:
                    outcomes = await publish(hub, ctx, *left[:100])
                except Unavailable:
                    continue  # a cut may hit the connection after the one that it was meant for
            done = [one for one, outcome in zip(left, outcomes) if outcome is None]  # noqa: B905 - a part
            left = [one for one in left if one not in done]
        assert not left
    assert {int(message["payload"]) for message in rabbitmq.take(unique, 9000)} == set(range(2000))


async def test_closing_is_quickly_done_when_the_connection_is_gone(
    rabbitmq: Any, proxy: Any, unique: str
) -> None:
    way = proxy(rabbitmq.port)

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq, way.port), queue=unique) as ctx:
        assert await publish(hub, ctx, event(unique)) == [None]
        way.refuse()
        way.cut()
        await until_lost(ctx)
    assert hub.connection.init.states() == {}


async def test_events_that_need_not_wait_are_written_before_begin_returns() -> None:

    line = Line()
    assert line.publisher.begin([event("k", b"1")]) is None  # there is no channel yet
    first = await line.sent(event("k", b"1"))
    answer = line.publisher.begin([event("k", b"2"), event("k", b"3")])
    assert answer is not None
    assert line.bodies == [b"1", b"2", b"3"]
    assert line.publisher.begin([event("k" * 256)]) is None  # AMQP cannot carry it
    line.ack(3, multiple=True)
    assert await asyncio.wait_for(first, WAIT) == [None]
    assert await asyncio.wait_for(answer, WAIT) == [None, None]
    given_up = line.publisher.begin([event("k", b"4")])
    assert given_up is not None
    given_up.cancel()
    await asyncio.sleep(0)
    assert line.publisher.begin([event("k", b"5")]) is None  # what has no outcome yet comes first
