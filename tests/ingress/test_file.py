"""The plugin functions of the file destination, as the bus calls them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evbus.engine.wire.file.lines import FileProfile
from evbus.errors import Rejected, Unavailable
from evbus.ingress import file as plugin
from evbus.types import Envelope

PLUGIN: Any = plugin  # its functions take the hub, which no type checker knows


def context(path: Path, **data: Any) -> Any:
    return SimpleNamespace(name="orders", state=None, profile=FileProfile(path=str(path), **data))


async def test_single_events_and_batches_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "a"
    ctx = context(path)

    ctx.state = await PLUGIN.open_(None, ctx)
    await PLUGIN.publish(None, ctx, "a.b", b"1", {"content-type": "application/json"})
    batch = [Envelope("p", "c", b"2", {"content-type": "application/json"})]
    assert await PLUGIN.publish_batch(None, ctx, batch) == [None]
    await PLUGIN.close_(None, ctx)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"routing_key": "a.b", "profile": "orders", "body": 1},
        {"routing_key": "c", "profile": "p", "body": 2},
    ]


async def test_a_single_event_that_fails_raises(tmp_path: Path) -> None:
    ctx = context(tmp_path / "a", format="body")

    ctx.state = await PLUGIN.open_(None, ctx)
    with pytest.raises(Rejected, match="holds a line break"):
        await PLUGIN.publish(None, ctx, "a", b"\n")
    await PLUGIN.close_(None, ctx)


async def test_a_path_that_cannot_be_opened_raises_and_close_without_open_is_nothing(tmp_path: Path) -> None:
    ctx = context(tmp_path)

    with pytest.raises(Unavailable, match="it is a folder"):
        await PLUGIN.open_(None, ctx)
    await PLUGIN.close_(None, ctx)
