"""A STOMP connection: what goes wrong on the way in, what it notices, and what it leaves."""

from __future__ import annotations

import asyncio

import pytest

from evbus.errors import ConnectFailed
from tests.connection.stomp_kit import (
    WAIT,
    broker,
    context,
    frame,
    frame_of,
    login,
    new_hub,
    opened,
)


async def test_an_older_version_is_refused() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await login(reader, writer, version="1.1")
        await reader.read()

    async with broker(old) as port:
        with pytest.raises(ConnectFailed, match="STOMP 1.1 only"):
            await new_hub().connection.stomp.open(context(url=f"stomp://127.0.0.1:{port}"))


async def test_heartbeats_are_sent_as_the_broker_wants_them() -> None:
    beaten = asyncio.Event()

    async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = await login(reader, writer, heart_beat="0,50")
        assert sent["heart-beat"] == "100,100"
        for _ in range(3):
            assert await reader.readexactly(1) == b"\n"
        beaten.set()
        await answered(reader, writer)

    async with (
        broker(listening) as port,
        opened(new_hub(), url=f"stomp://127.0.0.1:{port}", heartbeat=0.1),
    ):
        await asyncio.wait_for(beaten.wait(), WAIT)


async def test_close_says_goodbye_and_a_broker_without_an_answer_does_not_hold_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evbus.engine.wire.base.supervisor.CLOSE_TIMEOUT", 0.1)
    said: list[str] = []

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await login(reader, writer)
        said.append((await frame_of(reader))[0])
        await reader.read()

    async with broker(mute) as port, opened(new_hub(), url=f"stomp://127.0.0.1:{port}"):
        pass
    assert said == ["DISCONNECT"]


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give every frame that wants one its receipt."""
    while True:
        _, headers, _ = await frame_of(reader)
        if "receipt" in headers:
            writer.write(frame("RECEIPT", receipt_id=headers["receipt"]))
