"""The plugin functions of the console destination, as the bus calls them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evbus.engine.wire.file.console import ConsoleProfile
from evbus.errors import Rejected
from evbus.ingress import console as plugin
from evbus.types import Envelope

PLUGIN: Any = plugin  # its functions take the hub, which no type checker knows


def context(**data: Any) -> Any:
    return SimpleNamespace(name="orders", state=None, profile=ConsoleProfile(**data))


async def test_single_events_and_batches_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    ctx = context()

    ctx.state = await PLUGIN.open_(None, ctx)
    await PLUGIN.publish(None, ctx, "a.b", b"1")
    assert await PLUGIN.publish_batch(None, ctx, [Envelope("p", "c", b"2")]) == [None]
    await PLUGIN.close_(None, ctx)
    assert capfd.readouterr().out == "a.b 1\nc 2\n"


async def test_a_single_event_that_fails_raises_and_close_without_open_is_nothing() -> None:
    ctx = context(format="event")

    await PLUGIN.close_(None, ctx)
    ctx.state = await PLUGIN.open_(None, ctx)
    with pytest.raises(Rejected, match="surrogate"):
        await PLUGIN.publish(None, ctx, "\ud800", b"1")
    await PLUGIN.close_(None, ctx)
