"""The settings of a file profile, and the file with its thread."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evbus.engine.codec import jsonl
from evbus.engine.wire.file.lines import FileDestination, FileProfile, body_line, event_line
from evbus.errors import Rejected, Unavailable
from evbus.types import Envelope
from tests.evbus.rig import failure

JSON_HEADERS = {"content-type": "application/json"}


def profile(**data: Any) -> FileProfile:
    return msgspec.convert(data, type=FileProfile, strict=False)


def event(number: int, body: bytes | None = None) -> Envelope:
    return Envelope("p", f"k.{number}", b"%d" % number if body is None else body, JSON_HEADERS)


def test_defaults_are_the_documented_ones() -> None:
    made = profile(path="/x")
    assert (made.max_size, made.keep, made.sync_seconds(), made.mode_bits()) == (104857600, 5, None, 0o600)
    assert made.format == "event"


@pytest.mark.parametrize(("written", "seconds"), [("batch", 0.0), ("never", None), (5, 5.0), ("0.5", 0.5)])
def test_fsync_takes_words_and_seconds(written: Any, seconds: float | None) -> None:
    assert profile(path="/x", fsync=written).sync_seconds() == seconds


@pytest.mark.parametrize(("written", "bits"), [("0640", 0o640), ("644", 0o644), ("0o600", 0o600)])
def test_mode_is_octal(written: str, bits: int) -> None:
    assert profile(path="/x", mode=written).mode_bits() == bits


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "missing required field `path`"),
        ({"path": ""}, "path is empty"),
        ({"path": "a\0b"}, "holds a NUL"),
        ({"path": "/a/"}, "is a folder"),
        ({"path": "~nobody-of-this-name/a"}, "there is no user 'nobody-of-this-name' with a home directory"),
        ({"path": "/x", "fsync": "always"}, "'always'; never, batch or a number of seconds is right"),
        ({"path": "/x", "fsync": 0}, "fsync is 0.0"),
        ({"path": "/x", "fsync": "nan"}, "fsync is 'nan'"),
        ({"path": "/x", "fsync": True}, "got `bool`"),
        ({"path": "/x", "mode": 384}, 'an octal number in quotes such as "0640" is right'),
        ({"path": "/x", "mode": "0900"}, "mode is '0900'"),
        ({"path": "/x", "max_size": -1}, ">= 0"),
        ({"path": "/x", "keep": "many"}, "Expected `int`"),
        ({"path": "/x", "format": "json"}, "Invalid enum value 'json'"),
        ({"path": "/x", "max_sise": 1}, "unknown field `max_sise`"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(data: dict[str, Any], sentence: str) -> None:
    assert sentence in failure(msgspec.ValidationError, profile, **data)


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert profile(path="~/a.jsonl").full_path() == Path("/home/me/a.jsonl")


def test_event_lines_are_read_back() -> None:
    assert jsonl.decode(event_line(event(1)), 0).envelope() == event(1)
    with pytest.raises(Rejected, match="surrogate"):
        event_line(Envelope("p", "\udc80", b"1", JSON_HEADERS))


def test_body_lines_are_the_body_alone() -> None:
    assert body_line(event(1, b'{"a": 1}')) == b'{"a": 1}\n'
    assert body_line(Envelope("p", "k", b"\x00\xff")) == b"\x00\xff\n"


def test_json_that_spans_lines_is_put_on_one() -> None:
    assert body_line(event(1, b'{\n  "a": "b"\n}\n')) == b'{"a":"b"}\n'


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"a\nb", "text/plain"),
        (b"a\n", ""),
        (b'{"a":\n', "application/json"),
        (b'"a\nb"', "application/json"),
    ],
)
def test_other_bodies_that_span_lines_are_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(Rejected, match="holds a line break"):
        body_line(Envelope("p", "k", body, {"content-type": content_type}))


async def test_a_batch_is_written_in_order_and_outside_of_the_loops_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a" / "b.jsonl"
    threads = set()
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if threading.current_thread().name == "evbus-file":
            threads.add(threading.current_thread())
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)

    destination = FileDestination(profile(path=str(path)))
    await destination.open()
    assert await destination.publish([event(number) for number in range(10)]) == [None] * 10
    assert await destination.publish([]) == []
    await destination.close()
    await destination.close()
    assert len(threads) == 1
    keys = [json.loads(line)["routing_key"] for line in path.read_text().splitlines()]
    assert keys == [f"k.{number}" for number in range(10)]


def test_an_event_that_is_refused_stops_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a"

    async def main() -> list[Exception | None]:
        destination = FileDestination(profile(path=str(path), format="body"))
        events = [event(1), event(2, b"\n{"), event(3)]
        try:
            return await destination.publish(events)
        finally:
            await destination.close()

    outcomes = asyncio.run(main())
    assert [type(outcome) for outcome in outcomes] == [type(None), Rejected, type(None)]
    assert path.read_bytes() == b"1\n3\n"


def test_a_failed_batch_is_unavailable_for_what_is_not_in_the_file_and_rejected_stays_rejected(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    path.mkdir()

    async def main() -> list[Exception | None]:
        destination = FileDestination(profile(path=str(path), format="body"))
        try:
            return await destination.publish([event(1), event(2, b"\n{"), event(3)])
        finally:
            await destination.close()

    outcomes = asyncio.run(main())
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Rejected, Unavailable]
    assert "it is a folder" in str(outcomes[0])


async def test_open_tells_of_a_bad_path_and_leaves_no_thread(tmp_path: Path) -> None:
    destination = FileDestination(profile(path=str(tmp_path)))
    with pytest.raises(Unavailable, match="it is a folder"):
        await destination.open()
    assert "evbus-file" not in {thread.name for thread in threading.enumerate()}


async def test_two_profiles_with_one_path_are_told(tmp_path: Path) -> None:
    first = FileDestination(profile(path=str(tmp_path / "a")))
    await first.open()
    with pytest.raises(Unavailable, match="already written by another profile or process"):
        await FileDestination(profile(path=str(tmp_path / "a"))).open()
    await first.close()


async def test_a_cancelled_batch_is_whole_and_the_file_stays_usable_while_the_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    gate, started = threading.Event(), threading.Event()
    real = os.write

    def slow(fd: int, data: bytes) -> int:
        if threading.current_thread().name == "evbus-file":
            started.set()
            gate.wait()
        return real(fd, data)

    monkeypatch.setattr(os, "write", slow)

    destination = FileDestination(profile(path=str(path), format="body"))
    hanging = asyncio.create_task(destination.publish([event(1), event(2)]))
    await asyncio.to_thread(started.wait)
    hanging.cancel()
    queued = asyncio.create_task(destination.publish([event(3)]))
    await asyncio.sleep(0)
    queued.cancel()
    await asyncio.gather(hanging, queued, return_exceptions=True)
    assert hanging.cancelled()
    assert queued.cancelled()
    gate.set()
    assert await destination.publish([event(4)]) == [None]
    await destination.close()
    assert path.read_bytes() == b"1\n2\n4\n"


async def test_seconds_of_fsync_pass_without_another_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    path = tmp_path / "a"
    path.touch()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.set())

    destination = FileDestination(profile(path=str(path), fsync=0.001))
    await destination.publish([event(1)])
    reached = await asyncio.to_thread(synced.wait, 10)
    await destination.close()
    assert reached


def test_no_secret_and_no_event_shows_in_the_repr(tmp_path: Path) -> None:
    destination = FileDestination(profile(path=str(tmp_path / "a")))
    assert repr(destination) == f"<FileDestination <AppendFile {tmp_path / 'a'} closed>>"
