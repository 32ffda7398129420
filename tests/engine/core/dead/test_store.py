"""The dead store keeps what nobody took, and says so exactly when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.cli.replay import files, records
from evbus.engine.core.dead import store as dead_store
from evbus.engine.core.dead.store import DeadStore
from evbus.types import Envelope

JSON_HEADERS = {"content-type": "application/json"}


def read(path: Path) -> list[Any]:
    """Return the records of a store; None for a line that is none."""
    return list(records(files(path)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evbus" / "dead.jsonl"


def event(number: int = 0, body: bytes | None = None) -> Envelope:
    return Envelope("p", f"k.{number}", b"%d" % number if body is None else body, JSON_HEADERS)


def add(store: DeadStore, envelope: Envelope) -> bool:
    return store.add(envelope, lane="file:file:orders", reason="no", attempts=3)


@pytest.fixture
def store(path: Path) -> DeadStore:
    return DeadStore(path)


@contextlib.asynccontextmanager
async def closing(store: DeadStore) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await store.close()


def fail(*_args: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_nothing_is_made_before_an_event_dies(store: DeadStore, path: Path) -> None:
    async with closing(store):
        assert await store.flush()
    assert not path.parent.exists()


async def test_a_dead_event_is_kept_with_what_is_known_and_can_be_replayed(
    store: DeadStore, path: Path
) -> None:
    async with closing(store):
        assert store.add(
            event(7),
            lane="file:file:orders",
            reason="refused",
            attempts=10,
            plugin="file",
            provider="file",
            profile="orders",
        )
        assert store.stored + store.pending == 1
        assert await store.flush()
        assert (store.stored, store.pending, store.lost) == (1, 0, 0)
    (record,) = read(path)
    assert record.envelope() == event(7)
    assert record.dead is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.dead.pop("time"))
    assert record.dead == {
        "lane": "file:file:orders",
        "plugin": "file",
        "provider": "file",
        "profile": "orders",
        "reason": "refused",
        "attempts": 10,
    }


async def test_file_and_folder_are_for_the_owner_only(store: DeadStore, path: Path) -> None:
    async with closing(store):
        add(store, event())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_close_writes_what_waits_and_later_events_are_lost_and_counted(
    store: DeadStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with closing(store):
        for number in range(3):
            assert add(store, event(number))
    assert not add(store, event(3))
    assert (store.stored, store.pending, store.lost) == (3, 0, 1)
    assert caplog.messages == [f"dead events are lost, not stored in {path}: it is closed"]
    assert repr(store) == f"<DeadStore {path} stored=3 pending=0 lost=1>"
    await store.close()


async def test_a_full_disk_keeps_the_events_in_memory_until_there_is_room(
    store: DeadStore, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with closing(store):
        with monkeypatch.context() as patch:
            patch.setattr("evbus.engine.kit.append.AppendFile._append", lambda *_: fail())
            for number in range(3):
                add(store, event(number))
                assert not await store.flush()
        assert (store.stored, store.pending, store.lost) == (0, 3, 0)
        assert len(caplog.messages) == 1
        assert "no space is left" in caplog.messages[0]
        add(store, event(3))
        assert await store.flush()
    assert (store.stored, store.pending, store.lost) == (4, 0, 0)
    assert [record.routing_key for record in read(path)] == ["k.0", "k.1", "k.2", "k.3"]


async def test_what_dies_while_others_are_written_is_not_held_against_them(
    store: DeadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = store._worker.begin

    def begin_and_add(job: Any) -> asyncio.Future[Any]:
        writing = begin(job)
        writing.add_done_callback(lambda _: add(store, event(2)))
        return writing

    async with closing(store):
        add(store, event(1))
        monkeypatch.setattr(store._worker, "begin", begin_and_add)
        assert await store.flush()
        assert store.stored + store.pending == 2


async def test_a_failed_fsync_is_tried_again_and_doubles_nothing(
    store: DeadStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with closing(store):
        add(store, event(1))
        await store.flush()
        with monkeypatch.context() as patch:
            patch.setattr("evbus.engine.kit.append.os.fsync", fail)
            add(store, event(2))
            assert not await store.flush()
        assert await store.flush()
    assert [record.routing_key for record in read(path)] == ["k.1", "k.2"]


async def test_what_cannot_be_written_at_the_end_is_lost_and_logged(
    store: DeadStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir(parents=True)

    async with closing(store):
        add(store, event(1))
        add(store, event(2))
    assert (store.stored, store.pending, store.lost) == (0, 0, 2)
    assert caplog.messages == [
        f"dead events are kept in memory: cannot write {path}: it is a folder; a file is right",
        f"2 dead events are lost: cannot write {path}: it is a folder; a file is right",
    ]


@pytest.mark.parametrize("bound", ["MAX_PENDING", "MAX_PENDING_BYTES"])
async def test_memory_is_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bound: str
) -> None:
    monkeypatch.setattr(dead_store, bound, 3 if bound == "MAX_PENDING" else 600)
    path.mkdir(parents=True)
    store = DeadStore(path)

    async with closing(store):
        add(store, event())
        assert not await store.flush()
        kept = sum(add(store, event(number)) for number in range(1, 8))
        assert (kept, store.pending, store.lost) == (2, 3, 5)
        assert caplog.messages[1:] == [f"dead events are lost, not stored in {path}: too many wait for it"]
        await asyncio.to_thread(path.rmdir)
    assert (store.stored, store.pending, store.lost) == (3, 0, 5)


async def test_a_disk_that_hangs_bounds_memory_by_the_limit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr("evbus.engine.kit.append.AppendFile.open", lambda *_: gate.wait())
    monkeypatch.setattr("evbus.engine.kit.append.AppendFile.write", lambda _, lines: (len(lines), None))
    store = DeadStore(path, limit=1_000)

    async with closing(store):
        kept = sum(add(store, event(number)) for number in range(10))
        assert kept == store.pending == 5
        assert store.lost == 5
        gate.set()
    assert store.stored == 5


async def test_events_are_written_without_a_flush(store: DeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = threading.Event()
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        written.set()

    monkeypatch.setattr("evbus.engine.kit.append.os.fsync", fsync)

    async with closing(store):
        add(store, event())
        assert await asyncio.to_thread(written.wait, 10)
    assert store.stored == 1


async def test_a_file_that_could_not_be_written_is_tried_again_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dead_store, "RETRY", 0.001)
    path.mkdir(parents=True)
    store = DeadStore(path)

    async with closing(store):
        add(store, event())
        await store.flush()
        await asyncio.to_thread(path.rmdir)
        for _ in range(10_000):
            if store.stored:
                break
            await asyncio.sleep(0.001)
    assert (store.stored, store.pending, store.lost) == (1, 0, 0)
    assert len(caplog.messages) == 1


async def test_over_the_limit_the_oldest_go_and_are_counted_exactly(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DeadStore(path, limit=4_000)

    async with closing(store):
        for number in range(60):
            add(store, event(number))
            if number % 7 == 0:
                await store.flush()
    kept = [record.routing_key for record in read(path)]
    assert kept == [f"k.{number}" for number in range(60 - len(kept), 60)]
    assert (store.stored, store.lost) == (len(kept), 60 - len(kept))
    assert store.last_error == f"the dead store {path} is at its limit"
    assert store.lost > 0
    assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 4_000
    assert len(caplog.messages) == 1
    assert "is at its limit" in caplog.messages[0]


async def test_a_process_that_holds_the_file_is_waited_for(
    store: DeadStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    path.touch()
    waited = threading.Event()
    monkeypatch.setattr("evbus.engine.kit.append.time.sleep", lambda _: waited.set())

    async with closing(store):
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            add(store, event())
            assert await asyncio.to_thread(waited.wait, 5)
        assert await store.flush()
    assert store.stored == 1


async def test_two_stores_share_a_file(path: Path) -> None:
    stores = [DeadStore(path), DeadStore(path)]

    for number in range(20):
        add(stores[number % 2], event(number))
        await asyncio.gather(*(store.flush() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))
    assert len(list(read(path))) == sum(store.stored for store in stores) == 20


async def test_events_may_be_added_from_any_thread_while_flushing(store: DeadStore, path: Path) -> None:

    def many() -> None:
        for number in range(200):
            add(store, event(number))

    async with closing(store):
        threads = [threading.Thread(target=many) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await store.flush()
        for thread in threads:
            thread.join()
    assert (store.stored, store.pending, store.lost) == (800, 0, 0)
    assert len(list(read(path))) == 800


async def test_a_cancelled_flush_loses_and_doubles_nothing(store: DeadStore, path: Path) -> None:
    async with closing(store):
        for number in range(50):
            add(store, event(number))
            flushing = asyncio.create_task(store.flush())
            await asyncio.sleep(0)
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
    assert [record.routing_key for record in read(path)] == [f"k.{number}" for number in range(50)]


async def test_an_event_that_died_of_a_lone_surrogate_is_kept_spelled_out(
    store: DeadStore, path: Path
) -> None:
    async with closing(store):
        broken = Envelope("p", "\ud800", b"1", {**JSON_HEADERS, "x": "\udfff"})
        assert store.add(broken, lane="l", reason="\udc80", attempts=1)
    (record,) = read(path)
    assert (record.routing_key, record.headers["x"], record.raw) == ("\\ud800", "\\udfff", b"1")


async def test_a_long_reason_is_cut(store: DeadStore, path: Path) -> None:
    async with closing(store):
        store.add(event(), lane="l", reason="x" * 100_000, attempts=1)
    assert json.loads(path.read_text())["dead"]["reason"] == "x" * 2_000


def test_reading_goes_on_after_a_line_that_is_no_event(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"body":1}\n{"bo\n{"body":2}\n')
    path.with_name("dead.jsonl.1").write_bytes(b'{"body":0}\n')
    assert [None if record is None else record.body for record in read(path)] == [0, 1, None, 2]


def test_whether_it_can_be_written_is_seen_without_making_or_changing_anything(tmp_path: Path) -> None:
    new = tmp_path / "not" / "there" / "dead.jsonl"
    assert DeadStore(new).try_out() == ""
    assert list(tmp_path.iterdir()) == []
    there = tmp_path / "dead.jsonl"
    there.write_text("{}\n")
    assert DeadStore(there).try_out() == ""
    assert there.read_text() == "{}\n"
    below = DeadStore(there / "dead.jsonl")
    assert below.try_out() == f"cannot write {below.path}: a part of its path is a file, not a folder"
    assert DeadStore(tmp_path).try_out() == f"cannot write {tmp_path}: it is a folder; a file is right"
    assert (
        DeadStore(Path("/proc/self/dead.jsonl")).try_out().startswith("cannot write /proc/self/dead.jsonl: ")
    )
    assert "it is a pipe, socket or device" in DeadStore(Path("/dev/null")).try_out()
    assert "there is no home directory" in DeadStore(Path("~/dead.jsonl")).try_out()


async def test_a_tilde_that_nobody_can_write_out_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = DeadStore(Path("~/dead.jsonl"))

    async with closing(store):
        add(store, event())
    assert (store.stored, store.lost) == (0, 1)
    assert "there is no home directory" in store.last_error
    assert list(tmp_path.iterdir()) == []


# In runs


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how long the file was each time that it was synced."""
    found: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            found.append(os.fstat(fd).st_size)

    monkeypatch.setattr("evbus.engine.kit.append.os.fsync", fsync)
    return found


async def test_a_thousand_that_die_in_one_turn_are_synced_together(
    store: DeadStore, path: Path, syncs: list[int]
) -> None:

    def check(number: int) -> None:
        assert len(path.read_bytes().splitlines()) > number
        assert path.stat().st_size <= syncs[-1]

    async def one(number: int) -> None:
        add(store, event(number))
        assert await store.flush()
        check(number)

    async with closing(store):
        await asyncio.gather(*(one(number) for number in range(1_000)))
    assert len(syncs) <= 5


async def test_a_thousand_that_die_in_a_run_are_synced_in_few_parts(
    store: DeadStore, path: Path, syncs: list[int]
) -> None:

    async def one() -> None:
        assert await store.flush()

    async with closing(store):
        flushes = []
        for number in range(1_000):
            add(store, event(number))
            flushes.append(asyncio.ensure_future(one()))
            await asyncio.sleep(0)
        await asyncio.gather(*flushes)
    assert len(syncs) <= 200
    assert len(list(read(path))) == 1_000


async def test_those_who_wait_go_on_in_their_order(store: DeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    went_on: list[int] = []
    wrote, write = threading.Event(), store._write

    def written() -> None:
        write()
        if store.stored:
            wrote.set()

    async def one(number: int) -> None:
        add(store, event(number))
        assert await store.flush()
        went_on.append(number)
        if number == 0:
            # In the same step, before the others are told that the write has ended.
            await one(3)

    monkeypatch.setattr(store, "_write", written)
    async with closing(store):
        first = asyncio.ensure_future(one(0))
        while not store._wanted.is_set():  # noqa: ASYNC110 - a thread waits for it
            await asyncio.sleep(0)
        others = [asyncio.ensure_future(one(number)) for number in (1, 2)]
        # They come when the write of the first has ended, and before the loop knows it.
        assert wrote.wait(30)
        await asyncio.gather(first, *others)
    assert went_on == [0, 1, 2, 3]


async def test_what_writing_fails_with_is_told_to_all_who_wait(
    store: DeadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise ValueError("no text")

    async with closing(store):
        with monkeypatch.context() as patch:
            patch.setattr(store, "_write", fails)
            flushes = []
            for number in range(3):
                add(store, event(number))
                flushes.append(asyncio.ensure_future(store.flush()))
            flushes[1].cancel()
            first, second, third = await asyncio.gather(*flushes, return_exceptions=True)
        assert [str(problem) for problem in (first, third)] == ["no text"] * 2
        assert isinstance(second, asyncio.CancelledError)
        assert await store.flush()
    assert store.stored == 3


async def test_what_is_added_alone_waits_for_no_others(
    path: Path, syncs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_store, "GATHER", 3600)
    monkeypatch.setattr(dead_store, "LINGER", 3600)
    store = DeadStore(path)

    async with closing(store):
        for number in range(5):
            add(store, event(number))
            assert await store.flush()
            assert len(syncs) == number + 1
        add(store, event(5))
    assert len(list(read(path))) == 6
