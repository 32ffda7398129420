"""What became of each publish of a channel, whatever the broker answers and in which order."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.confirms import PENDING, Batch, Confirms, Sent
from evbus.engine.wire.amqp.profile import Profile
from evbus.errors import DeliveryError, Rejected, Unavailable

GOOD: Sent = ("good", b"\0\0", b"body")
LOST: Sent = ("lost", b"\0\0", b"body")


class Ended(Unavailable):
    """Why no more confirms come: code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")


class Publishes(Confirms):
    """Publishes whose outcomes say what they are of."""

    def _refused(self) -> Exception:
        return DeliveryError("nack")

    def _unroutable(self, code: int, text: str, exchange: str, routing_key: str) -> Rejected:
        return Rejected(f"{code} {text} {exchange}/{routing_key}")

    def _closed(self, code: int, text: str) -> Exception:
        return Ended(code, text)

    def silent(self) -> Exception:
        return Unavailable("silent")


def new() -> Confirms:
    return Publishes(30.0)


def ack(confirms: Confirms, tag: int, *, multiple: bool = False) -> None:
    assert confirms.method(frames.ACK, struct.pack(">IQB", frames.ACK, tag, multiple))


def nack(confirms: Confirms, tag: int, *, multiple: bool = False) -> None:
    assert confirms.method(frames.NACK, struct.pack(">IQB", frames.NACK, tag, multiple))


def come_back(confirms: Confirms, sent: Sent, *, pieces: int = 1) -> None:
    """Hand in ``basic.return`` with its header and its body in so many frames."""
    key, properties, body = sent
    texts = b"".join(bytes((len(text),)) + text for text in (b"NO_ROUTE", b"events", key.encode()))
    assert confirms.method(frames.RETURN, struct.pack(">IH", frames.RETURN, 312) + texts)
    confirms.content(2, struct.pack(">HHQ", 60, 0, len(body)) + properties)
    step = -(-len(body) // pieces) or 1
    for start in range(0, len(body), step):
        confirms.content(3, body[start : start + step])


def close(confirms: Confirms, code: int, text: bytes) -> None:
    payload = struct.pack(">IHB", frames.CHANNEL_CLOSE, code, len(text)) + text + b"\0\0\0\0"
    assert not confirms.method(frames.CHANNEL_CLOSE, payload)  # aiormq has to answer it


def kinds(batch: Batch) -> list[Any]:
    return [type(outcome) for outcome in batch.outcomes]


def run(test: Any) -> None:
    async def main() -> None:
        test(new())

    asyncio.run(main())


def test_each_confirm_is_for_its_own_number() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([GOOD] * 3)
        ack(confirms, 3)
        nack(confirms, 1)
        assert not batch.done.done()
        assert batch.outcomes[1] is PENDING
        ack(confirms, 2)
        assert batch.done.done()
        assert kinds(batch) == [DeliveryError, type(None), type(None)]

    run(check)


def test_multiple_reaches_over_all_batches_up_to_its_number() -> None:
    def check(confirms: Confirms) -> None:
        batches = [confirms.add([GOOD] * 2) for _ in range(3)]
        nack(confirms, 3)
        ack(confirms, 5, multiple=True)
        assert [batch.done.done() for batch in batches] == [True, True, False]
        assert kinds(batches[1]) == [DeliveryError, type(None)]
        assert batches[2].outcomes == [None, PENDING]
        nack(confirms, 6, multiple=True)
        assert kinds(batches[2]) == [type(None), DeliveryError]
        assert repr(confirms) == "<Confirms next=7 pending=0>"

    run(check)


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_what_comes_back_is_rejected_and_stays_so_when_it_is_confirmed(pieces: int) -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([GOOD, LOST, GOOD])
        come_back(confirms, LOST, pieces=pieces)
        ack(confirms, 3, multiple=True)
        assert kinds(batch) == [type(None), Rejected, type(None)]
        assert str(batch.outcomes[1]) == "312 NO_ROUTE events/lost"

    run(check)


def test_a_message_without_a_body_comes_back_too() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([("lost", b"\0\0", b"")])
        come_back(confirms, ("lost", b"\0\0", b""))
        assert not batch.done.done()
        ack(confirms, 1)
        assert kinds(batch) == [Rejected]
        assert batch.done.done()

    run(check)


def test_of_several_that_are_alike_each_return_rejects_one() -> None:
    def check(confirms: Confirms) -> None:
        first, second = confirms.add([LOST, GOOD]), confirms.add([LOST])
        come_back(confirms, LOST)
        come_back(confirms, LOST)
        ack(confirms, 3, multiple=True)
        assert kinds(first) == [Rejected, type(None)]
        assert kinds(second) == [Rejected]

    run(check)


def test_of_two_that_are_alike_the_one_that_was_not_routed_is_rejected() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([LOST, LOST])
        come_back(confirms, LOST)  # the queue was there for the first, and refuses it later
        ack(confirms, 2)
        nack(confirms, 1)
        assert kinds(batch) == [DeliveryError, Rejected]

    run(check)


def headers(**table: str) -> bytes:
    return frames.encode_properties(table, Profile())


def returned(confirms: Confirms, key: str, body: bytes = b"body", **table: str) -> None:
    come_back(confirms, (key, headers(**table), body))


def test_a_return_is_known_although_its_headers_were_sorted_and_others_added() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add(
            [("good", headers(b="1", a="2"), b"body"), ("lost", headers(b="1", a="2"), b"body")]
        )
        returned(confirms, "lost", a="2", b="1", timestamp_in_ms="17")
        ack(confirms, 2, multiple=True)
        assert kinds(batch) == [type(None), Rejected]

    run(check)


@pytest.mark.parametrize("came", [0, 1, 2])
@pytest.mark.parametrize("added", [{}, {"timestamp_in_ms": "17"}])
def test_of_several_with_one_key_and_body_the_headers_tell_which_came_back(
    came: int, added: dict[str, str]
) -> None:
    tables = [{"a": "1"}, {"a": "1", "b": "2"}, {"a": "2", "c": "3"}]

    def check(confirms: Confirms) -> None:
        batch = confirms.add([("k", headers(**table), b"body") for table in tables])
        returned(confirms, "k", **tables[came], **added)
        ack(confirms, 3, multiple=True)
        assert [index for index, kind in enumerate(kinds(batch)) if kind is Rejected] == [came]

    run(check)


def test_what_a_broker_overwrites_tells_nothing_and_each_return_still_rejects_one() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([("k", headers(t=t), b"body") for t in "12"])
        returned(confirms, "k", t="9")
        returned(confirms, "k", t="9")
        ack(confirms, 2, multiple=True)
        assert kinds(batch) == [Rejected, Rejected]

    run(check)


def test_what_came_back_is_not_sent_again_when_the_connection_is_lost_before_its_confirm() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([GOOD, LOST, ("twin", b"\0\0", b""), ("twin", b"\0\0", b"")])
        come_back(confirms, LOST)
        come_back(confirms, ("twin", b"\0\0", b""))
        confirms.lost("reset by peer")
        # Which of the twins it was is not known.
        assert kinds(batch) == [Ended, Rejected, Ended, Ended]

    run(check)


def test_a_return_that_nobody_knows_ends_one_attempt_of_what_is_pending_and_nothing_else() -> None:
    def check(confirms: Confirms) -> None:
        first, batch = confirms.add([GOOD]), confirms.add([GOOD, LOST])
        ack(confirms, 1)
        come_back(confirms, ("changed", b"\0\0", b"body"))
        assert kinds(first) == [type(None)]
        assert kinds(batch) == [DeliveryError, DeliveryError]
        assert batch.outcomes[0] is batch.outcomes[1]  # which tells a lane to send each of them alone
        assert confirms.ended is None
        again = confirms.add([GOOD])
        ack(confirms, 3, multiple=True)
        assert kinds(batch) == [DeliveryError, DeliveryError]
        ack(confirms, 4)
        assert kinds(again) == [type(None)]

    run(check)


def test_the_only_publish_is_what_came_back_however_the_broker_has_changed_it() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([LOST])
        come_back(confirms, ("changed", b"\0\0", b"altered"))
        ack(confirms, 1)
        assert kinds(batch) == [Rejected]

    run(check)


def test_an_error_of_its_own_is_made_for_each_that_one_nack_refuses() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([GOOD, GOOD])
        nack(confirms, 2, multiple=True)
        assert kinds(batch) == [DeliveryError, DeliveryError]
        assert batch.outcomes[0] is not batch.outcomes[1]

    run(check)


def test_a_closed_channel_ends_what_is_pending_with_its_code_and_text() -> None:
    def check(confirms: Confirms) -> None:
        batch = confirms.add([GOOD, GOOD])
        ack(confirms, 1)
        close(confirms, 404, b"NOT_FOUND - no exchange")
        confirms.lost("reset by peer")
        assert kinds(batch) == [type(None), Ended]
        assert str(confirms.ended) == "404 NOT_FOUND - no exchange"

    run(check)


def test_other_frames_are_left_to_the_library() -> None:
    def check(confirms: Confirms) -> None:
        assert not confirms.method((20 << 16) + 11, struct.pack(">I", (20 << 16) + 11))

    run(check)


def test_an_empty_batch_is_nothing_to_wait_for_and_in_nobodys_way() -> None:
    def check(confirms: Confirms) -> None:
        empty, batch = confirms.add([]), confirms.add([GOOD])
        ack(confirms, 1)
        assert (empty.left, batch.outcomes) == (0, [None])
        assert repr(confirms) == "<Confirms next=2 pending=0>"

    run(check)


class Broker:
    """Confirms in any order, alone or up to a number, and returns first what it cannot route."""

    def __init__(self, confirms: Confirms) -> None:
        self.confirms = confirms
        self.open: list[int] = []
        self.expected: dict[int, type[BaseException] | None] = {}
        self.sent: dict[int, Sent] = {}
        self.batches: list[Batch] = []

    def take(self, sent: list[Sent]) -> None:
        first = len(self.sent) + 1
        self.batches.append(self.confirms.add(sent))
        for tag, each in enumerate(sent, first):
            self.sent[tag] = each
            self.open.append(tag)

    def answer(self, tag: int, *, multiple: bool, good: bool, pieces: int) -> None:
        tags = [each for each in self.open if each <= tag] if multiple else [tag]
        good = good or any(self.sent[each][0] == "lost" for each in tags)  # those are acked
        for each in tags:
            self.open.remove(each)
            lost = self.sent[each][0] == "lost"
            if lost:
                come_back(self.confirms, self.sent[each], pieces=pieces)
            self.expected[each] = Rejected if lost else None if good else DeliveryError
        (ack if good else nack)(self.confirms, tag, multiple=multiple)

    def end(self, *, closing: bool) -> None:
        if closing:
            close(self.confirms, 406, b"PRECONDITION_FAILED")
        else:
            self.confirms.lost("reset")
        self.expected.update(dict.fromkeys(self.open, Ended))

    def check(self) -> None:
        for batch in self.batches:
            tags = range(batch.first, batch.first + len(batch.outcomes))
            assert batch.left == sum(outcome is PENDING for outcome in batch.outcomes)
            assert batch.done.done() == (not batch.left and bool(batch.outcomes))
            for tag, outcome in zip(tags, batch.outcomes, strict=True):
                if tag not in self.expected:
                    assert outcome is PENDING
                else:
                    wanted = self.expected[tag]
                    assert (type(outcome) if outcome is not None else None) is wanted


# "lost" is unroutable. Bodies are few, so that many messages are alike.
MESSAGES = st.tuples(st.sampled_from(["good", "lost"]), st.just(b"\0\0"), st.sampled_from([b"", b"a", b"bb"]))


@settings(deadline=None)
@given(st.data())
def test_every_publish_gets_exactly_its_one_outcome_in_any_interleaving(data: st.DataObject) -> None:
    async def main() -> None:
        broker = Broker(new())
        for _ in range(data.draw(st.integers(1, 12))):
            if not broker.open or data.draw(st.booleans()):
                broker.take(data.draw(st.lists(MESSAGES, min_size=1, max_size=6)))
            else:
                broker.answer(
                    data.draw(st.sampled_from(broker.open)),
                    multiple=data.draw(st.booleans()),
                    good=data.draw(st.booleans()),
                    pieces=data.draw(st.integers(1, 2)),
                )
            broker.check()
        if data.draw(st.booleans()):
            broker.end(closing=data.draw(st.booleans()))
        elif broker.open:
            broker.answer(broker.open[-1], multiple=True, good=True, pieces=1)
        broker.check()

    asyncio.run(main())
