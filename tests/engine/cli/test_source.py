from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.cli.source import Lines, Splitter, serve
from evbus.errors import ConfigError

WAIT = 30


@given(st.lists(st.binary(max_size=8) | st.just(b"\n")))
def test_chunks_of_any_size_make_the_same_lines(chunks: list[bytes]) -> None:
    splitter = Splitter(0)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    assert b"\n".join([*lines, *(splitter.rest() or [b""])]) == b"".join(chunks)


def test_of_a_line_that_is_too_long_only_so_much_is_kept_as_shows_it() -> None:
    splitter = Splitter(4)
    assert splitter.feed(b"abcdef") == []
    assert splitter.feed(b"ghi\nxy\nz") == [b"abcde", b"xy"]
    assert splitter.rest() == [b"z"]


async def test_a_feed_numbers_its_lines_from_one(tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(b"".join(b"%d\n" % number for number in range(1, 100_001)) + b"last")

    found = []
    async with contextlib.aclosing(Lines(str(file)).batches()) as batches:
        async for first, lines in batches:
            found += list(enumerate(lines, first))
    assert found == [*((number, b"%d" % number) for number in range(1, 100_001)), (100_001, b"last")]


def test_a_feed_that_is_left_half_way_ends_its_thread(tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(b"x\n" * 3_000_000)

    async def main() -> int:
        async with contextlib.aclosing(Lines(str(file)).batches()) as batches:
            async for first, _ in batches:
                return first
        return 0

    assert asyncio.run(main()) == 1  # the thread is looked for when the test has ended


async def _refuse_odd(line: bytes) -> str:
    return "" if int(line) % 2 == 0 else f"{int(line)} is odd"


@contextlib.asynccontextmanager
async def _serving(path: Path, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(serve(str(path), _refuse_odd, **options))
    while not _listens(path):
        await asyncio.sleep(0)
        if task.done():
            break
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


async def _talk(path: Path, text: bytes) -> list[Any]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(text)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), WAIT)
    writer.close()
    await writer.wait_closed()
    return [json.loads(line) for line in answer.splitlines()]


def test_refused_lines_are_answered_and_a_summary_ends_the_talk(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> list[Any]:
        async with _serving(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            return await _talk(path, b"2\n\n3\n4\n5")

    assert asyncio.run(main()) == [
        {"line": 3, "error": "3 is odd"},
        {"line": 5, "error": "5 is odd"},
        {"accepted": 2, "refused": 2},
    ]
    assert not path.exists()


async def test_a_line_without_end_is_answered_and_ends_the_talk(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async with _serving(path, longest=10):
        assert await _talk(path, b"2\n" + b"4" * 100) == [
            {"line": 2, "error": "the line is too long; the connection ends"},
            {"accepted": 1, "refused": 1},
        ]


async def test_a_stop_tells_clients_what_was_accepted(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async with _serving(path) as task:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"2\n1\n")
        assert b"1 is odd" in await asyncio.wait_for(reader.readline(), WAIT)
        task.cancel()
        answer = await asyncio.wait_for(reader.read(), WAIT)
        writer.close()
        await writer.wait_closed()
        assert json.loads(answer) == {"accepted": 1, "refused": 1}


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))

    async with _serving(path):
        assert await _talk(path, b"2\n") == [{"accepted": 1, "refused": 0}]


async def test_a_live_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async with _serving(path):
        with pytest.raises(ConfigError, match="in use by another process"):
            await serve(str(path), _refuse_odd)
        assert await _talk(path, b"2\n") == [{"accepted": 1, "refused": 0}]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "there is a file of that name"),
        ("none/s", "No such file"),
        ("x" * 200, "AF_UNIX path too long"),
    ],
)
def test_a_path_that_cannot_be_a_socket_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match=reason):
        asyncio.run(serve(str(tmp_path / name), _refuse_odd))
    assert (tmp_path / "file").read_text() == "precious"
