"""The bytes of a connection: what its channels get, what aiormq gets, and how it ends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame

from evbus.engine.wire.amqp import frames, transport
from evbus.engine.wire.amqp.transport import Wire

WAIT = 20.0
MINE, OTHER = 1, 2


class Sink(transport.Sink):
    """Takes what comes on its channel, except the methods that are aiormq's."""

    def __init__(self, *leave: int) -> None:
        super().__init__()
        self.leave = leave
        self.got: list[tuple[int, int, bytes]] = []
        self.reasons: list[str] = []

    def method(self, method: int, payload: bytes) -> bool:
        if method in self.leave:
            return False
        self.got.append((1, method, payload))
        return True

    def content(self, kind: int, payload: bytes) -> None:
        self.got.append((kind, 0, payload))

    def message(self, properties: bytes, body: bytes) -> None:
        raise AssertionError("it takes the frames themselves")

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)


class Far(asyncio.Transport):
    """A transport whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def close(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        raise NotImplementedError("a stream reader then stops pausing")


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, WAIT))


def new() -> tuple[Wire, Far]:
    wire, far = Wire(asyncio.get_running_loop()), Far()
    wire.connection_made(far)
    return wire, far


async def passed(wire: Wire) -> bytes:
    """Return what aiormq got, once the connection has ended."""
    wire.connection_lost(None)
    data: bytes = await wire.reader.read()
    return data


def raw(kind: int, channel: int, payload: bytes) -> bytes:
    return (
        bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + frames.END
    )


def close_of_connection(text: str) -> bytes:
    data: bytes = frame.marshal(commands.Connection.Close(320, text, 0, 0), 0)
    return data


# Reading

FRAMES = st.one_of(
    st.builds(raw, st.sampled_from([2, 3, 8]), st.integers(0, 3), st.binary(max_size=30)),
    st.builds(raw, st.just(1), st.integers(1, 3), st.binary(min_size=4, max_size=30)),
    st.just(frames.HEARTBEAT),
    st.just(frames.ack_frame(MINE, 7, multiple=True)),
)


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(0, 300), max_size=12))
def test_however_the_bytes_arrive_the_frames_are_the_same(whole: list[bytes], cuts: list[int]) -> None:
    data = b"".join(whole)

    async def main() -> None:
        wire, _ = new()
        sink = Sink(frames.CHANNEL_CLOSE)
        wire.attach(MINE, sink)
        places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        for start, stop in itertools.pairwise(places):
            wire.data_received(data[start:stop])
        # A heartbeat is nobody's, whatever channel it says.
        mine = [one for one in whole if one[1:3] == b"\0\1" and one[0] != 8]
        assert [payload for _, _, payload in sink.got] == [one[7:-1] for one in mine]
        assert [kind for kind, _, _ in sink.got] == [one[0] for one in mine]
        for kind, method, payload in sink.got:
            assert method == (int.from_bytes(payload[:4], "big") if kind == 1 else 0)
        assert await passed(wire) == b"".join(one for one in whole if one not in mine)

    run(main())


@given(st.lists(FRAMES, max_size=4), st.binary(min_size=1, max_size=80), st.lists(st.integers(1, 40)))
def test_what_is_no_amqp_reaches_aiormq_as_it_came(whole: list[bytes], junk: bytes, sizes: list[int]) -> None:
    """From the first byte on that begins no frame, however it arrives, and whatever is in it."""
    strange = b"H" + junk + b"".join(whole)
    head = b"".join(one for one in whole if one[1:3] != b"\0\1")
    data = head + strange

    async def main() -> None:
        wire, _ = new()
        sink = Sink()
        wire.attach(MINE, sink)
        position = 0
        for size in [*sizes, len(data)]:
            wire.data_received(data[position : position + size])
            position += size
            if position >= len(data):
                break
        assert sink.got == []
        assert strange.startswith(wire.strange)
        assert wire.strange != b""
        assert await passed(wire) == data

    run(main())


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"AMQP\x00\x01\x00\x00",
        b"\x01\x00\x01\xff\xff\xff\xff\x00",
        b"\x01\x00\x01\x00\x00\x00\x00\xce",
    ],
)
async def test_other_protocols_are_recognized(data: bytes) -> None:

    wire, _ = new()
    assert not wire.heard
    wire.data_received(data)
    assert wire.heard
    assert wire.strange == data[:64]
    wire.data_received(raw(3, MINE, b"more"))
    assert await passed(wire) == data + raw(3, MINE, b"more")


async def test_a_sink_gets_what_comes_while_it_is_attached_and_leaves_what_it_wants() -> None:

    wire, _ = new()
    first, second = Sink(frames.CANCEL), Sink()
    body, cancel = raw(3, MINE, b"body"), raw(1, MINE, frames.CANCEL.to_bytes(4, "big"))
    wire.data_received(body)
    wire.attach(MINE, first)
    wire.data_received(body + cancel + raw(3, OTHER, b"other"))
    wire.attach(MINE, second)
    wire.detach(MINE, first)  # not its own any more
    wire.data_received(body)
    wire.detach(MINE, second)
    wire.data_received(body)
    assert [payload for _, _, payload in first.got] == [b"body"]
    assert [payload for _, _, payload in second.got] == [b"body"]
    assert await passed(wire) == body + cancel + raw(3, OTHER, b"other") + body


async def test_aiormq_is_kept_awake_while_sinks_take_everything() -> None:

    wire, _ = new()
    now = wire.last_received
    wire._clock = Clock(now)
    wire.attach(MINE, Sink())
    body = raw(3, MINE, b"body")
    for second in (0.5, 0.9, 1.5, 2.0, 2.4, 2.6):
        wire._clock.now = now + second
        wire.data_received(body)
        assert wire.last_received == now + second
    assert await passed(wire) == frames.HEARTBEAT * 2


class Clock:
    """The loop's clock, by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(("reason", "told"), [("low on memory", "low on memory"), ("", "an alarm")])
async def test_blocked_and_unblocked_are_told_and_left_to_aiormq(reason: str, told: str) -> None:
    blocked = frame.marshal(commands.Connection.Blocked(reason), 0)
    unblocked = frame.marshal(commands.Connection.Unblocked(), 0)

    wire, _ = new()
    seen: list[str] = []
    wire.data_received(blocked)
    assert wire.blocked == told
    wire.on_blocked = lambda: seen.append(wire.blocked)
    wire.data_received(unblocked + blocked + unblocked)
    assert seen == ["", told, ""]
    assert await passed(wire) == blocked + unblocked + blocked + unblocked


# The end


@pytest.mark.parametrize(
    ("said", "exc", "reason"),
    [
        (close_of_connection("bye"), None, "the broker closed it: bye (320)"),
        (close_of_connection("bye"), ConnectionResetError(104, "reset"), "the broker closed it: bye (320)"),
        (b"", ConnectionResetError(104, "Connection reset by peer"), "[Errno 104] Connection reset by peer"),
        (b"", None, "the broker ended it without a word"),
        (b"", ConnectionAbortedError(), "the broker ended it without a word"),
    ],
)
async def test_the_reason_of_the_end_is_told_to_all(said: bytes, exc: Exception | None, reason: str) -> None:

    wire, _ = new()
    sinks = [Sink(), Sink()]
    for number, sink in enumerate(sinks):
        wire.attach(number + 1, sink)
    wire.data_received(said)
    wire.connection_lost(exc)
    assert await wire.lost == reason
    assert [sink.reasons for sink in sinks] == [[reason], [reason]]
    assert wire.closed_by == ((320, "bye") if said else None)


async def test_the_first_reason_counts_and_is_told_once() -> None:

    wire, far = new()
    sink = Sink()
    wire.attach(MINE, sink)
    wire.end("two heartbeats")
    wire.abort()
    assert far.aborted
    wire.connection_lost(None)
    assert wire.lost.result() == "two heartbeats"
    assert sink.reasons == ["two heartbeats"]


async def test_one_that_never_connected_can_be_ended() -> None:

    wire = Wire(asyncio.get_running_loop())
    wire.write(b"x")
    wire.end("never")
    wire.abort()
    assert wire.lost.result() == "never"


# Writing


async def test_what_is_written_after_the_end_goes_nowhere() -> None:

    wire, far = new()
    wire.write(b"one")
    wire.end("gone")
    wire.write(b"two")
    assert far.written == b"one"


# What is written to a connection that is about to end, and why it ended


class Closing(Far):
    """A transport that is being closed, or, as aiormq does first, told that nothing more comes."""

    def __init__(self, *, said: bool) -> None:
        super().__init__()
        self.said = said

    def is_closing(self) -> bool:
        return not self.said

    def write(self, data: Any) -> None:
        raise RuntimeError("Cannot call write() after write_eof()")


@pytest.mark.parametrize("said", [True, False])
async def test_what_is_written_while_the_transport_closes_is_lost_and_the_sinks_are_told(said: bool) -> None:

    wire, sink = Wire(asyncio.get_running_loop()), Sink()
    wire.connection_made(Closing(said=said))
    wire.attach(MINE, sink)
    wire.write(b"frame")
    wire.write(b"frame")
    assert sink.reasons == ["it is being closed"]
    assert not wire.broke


def closing(code: int) -> bytes:
    return frame.marshal(commands.Connection.Close(code, "why", 0, 0), 0)


@pytest.mark.parametrize(
    ("said", "broke"),
    [(b"", True), (closing(501), True), (closing(320), False)],
    ids=["nothing", "501", "320"],
)
@pytest.mark.parametrize("noticed", ["by the end", "by a write"])
async def test_a_connection_broke_unless_the_broker_had_a_cause_of_its_own(
    said: bytes, broke: bool, noticed: str
) -> None:

    wire, far = new()
    if said:
        wire.data_received(said)
    if noticed == "by a write" and said:
        far.aborted = True
        wire.write(b"frame")
        assert wire.lost.done()
    wire.connection_lost(ConnectionResetError())
    assert wire.broke is broke


async def test_a_connection_that_is_given_up_did_not_break() -> None:

    wire, _ = new()
    wire.end("nothing came for 40 s")
    wire.connection_lost(None)
    assert not wire.broke
