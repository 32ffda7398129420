"""Events on a terminal or a pipe: they cannot drive it, and a pipe that blocks blocks nobody."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import threading
from typing import Any, TextIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.codec import jsonl
from evbus.engine.wire.file.console import (
    ConsoleDestination,
    ConsoleProfile,
    event_line,
    may_colour,
    printable,
    text_line,
)
from evbus.errors import Rejected, Unavailable
from evbus.types import Envelope
from tests.evbus.rig import failure

JSON_HEADERS = {"content-type": "application/json"}


def event(key: str = "a.b", body: bytes = b'{"id":1}') -> Envelope:
    return Envelope("p", key, body, JSON_HEADERS)


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def print_events(destination: ConsoleDestination, *events: Envelope) -> list[Exception | None]:
    async def main() -> list[Exception | None]:
        try:
            return await destination.publish(events)
        finally:
            await destination.close()

    return asyncio.run(main())


def test_a_line_is_the_routing_key_and_the_body() -> None:
    assert text_line(event(), colour=False) == 'a.b {"id":1}\n'
    assert text_line(event(key=""), colour=False) == '{"id":1}\n'
    assert text_line(event(), colour=True) == '\x1b[36ma.b\x1b[0m {"id":1}\n'


def test_unicode_text_stays_as_it_is() -> None:
    assert printable("Grüße 日本語 👩‍🚀 ") == "Grüße 日本語 👩‍🚀 "


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\r\t\x00\x07\x7f", "a\\nb\\r\\t\\x00\\x07\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("\u2028\ufeff\U000e0041", "\\u2028\\ufeff\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_drives_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=[])), st.binary())
def test_no_event_makes_more_than_one_line_or_an_escape(key: str, body: bytes) -> None:
    line = text_line(event(key, body), colour=False)
    assert line.endswith("\n")
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in line[:-1])


@given(st.text())
def test_an_event_line_is_safe_and_means_the_same(text: str) -> None:
    made = Envelope("p", text, json.dumps(text, ensure_ascii=False).encode(), JSON_HEADERS)
    line = event_line(made, colour=True)
    unsafe = [*range(32), *range(127, 160), *range(0x2028, 0x202F)]
    assert not any(ord(sign) in unsafe for sign in line[:-1])
    record = jsonl.decode(line.encode(), 0)
    assert (record.routing_key, record.body) == (text, text)


def test_an_event_line_keeps_its_meaning_with_tabs_between_values() -> None:
    line = event_line(event(body=b'{\t"a":\t"\xc2\x9b"}'), colour=False)
    assert line == '{"routing_key":"a.b","profile":"p","body":{ "a": "\\u009b"}}\n'


@pytest.mark.parametrize(
    ("stream", "environ", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_and_no_color_is_honoured(
    stream: TextIO, environ: dict[str, str], expected: bool
) -> None:
    assert may_colour(stream, environ) is expected
    print_events(ConsoleDestination(ConsoleProfile(), stream=stream, environ=environ), event())
    assert stream.getvalue().startswith("\x1b[36m") is expected  # type: ignore[attr-defined]


def test_a_closed_stream_has_no_colour() -> None:
    stream = Terminal()
    stream.close()
    assert may_colour(io.TextIOWrapper(io.BytesIO()), {}) is False


def test_events_are_printed_in_order_on_the_stream_of_the_profile(capfd: pytest.CaptureFixture[str]) -> None:
    assert print_events(ConsoleDestination(ConsoleProfile()), event(), event("c")) == [None, None]
    print_events(ConsoleDestination(ConsoleProfile(stream="stderr", format="event")), event("d"))
    out, err = capfd.readouterr()
    assert out == 'a.b {"id":1}\nc {"id":1}\n'
    assert jsonl.decode(err.encode(), 0).envelope() == event("d")


def test_what_the_encoding_cannot_say_is_spelled_out() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_events(ConsoleDestination(ConsoleProfile(), stream=stream), event(body="ü".encode()))
    assert raw.getvalue() == b"a.b \\xfc\n"


def test_an_event_that_is_no_unicode_is_refused_alone(capfd: pytest.CaptureFixture[str]) -> None:
    destination = ConsoleDestination(ConsoleProfile(format="event"))
    outcomes = print_events(destination, event("\ud800"), event("b"))
    assert [type(outcome) for outcome in outcomes] == [Rejected, type(None)]
    assert capfd.readouterr().out.count("\n") == 1


def test_a_closed_pipe_is_told_in_a_sentence() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as stream:
        assert (
            failure(Unavailable, print_events, ConsoleDestination(ConsoleProfile(), stream=stream), event())
            == "nobody reads stdout any more: its pipe is closed"
        )


def test_a_closed_stream_is_told_in_a_sentence() -> None:
    stream = io.StringIO()
    destination = ConsoleDestination(ConsoleProfile(), stream=stream)
    stream.close()
    with pytest.raises(Unavailable, match="cannot write to stdout: I/O operation on closed file"):
        print_events(destination, event())


def test_a_process_without_the_stream_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with pytest.raises(Unavailable, match="the process has no stderr"):
        ConsoleDestination(ConsoleProfile(stream="stderr"))


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_reads_stalls_no_loop_and_loses_nothing(blocking: bool) -> None:
    read, write = os.pipe()
    os.set_blocking(write, blocking)
    size = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 1 << 16
    body = b"x" * size
    got = bytearray()

    def drain() -> None:
        while data := os.read(read, 1 << 16):
            got.extend(data)

    async def main(stream: TextIO) -> None:
        destination = ConsoleDestination(ConsoleProfile(), stream=stream)
        hanging = asyncio.create_task(destination.publish([event(body=body)]))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not hanging.done()
        reader.start()
        assert await hanging == [None]
        await destination.close()

    reader = threading.Thread(target=drain)
    with os.fdopen(write, "w", encoding="utf-8") as stream:
        asyncio.run(main(stream))
    reader.join()
    os.close(read)
    assert bytes(got) == b"a.b " + body + b"\n"


@pytest.mark.parametrize("data", [{"stream": "stdin"}, {"format": "json"}, {"colour": True}])
def test_bad_settings_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"Invalid enum value|unknown field `colour`"):
        msgspec.convert(data, type=ConsoleProfile, strict=False)
