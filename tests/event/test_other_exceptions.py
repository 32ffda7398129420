"""Handlers that raise what is no ``Exception``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.evbus.kit import running
from tests.event.kit import INTERNAL, SOON, OrderPlaced, new_hub, settled


class Odd(BaseException):
    """What some libraries use to get past ``except Exception``."""


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("options", [{}, {"key": "id"}, {"timeout": 20}])
async def test_it_is_a_failed_attempt_and_told(
    plain: bool, options: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = list[str]()

    def handle(event: Any) -> None:
        calls.append(event.id)
        if calls.count("a") < 3 and event.id == "a":
            raise Odd("panicked")

    async def wait(event: Any) -> None:
        await asyncio.sleep(0)
        handle(event)

    hub = new_hub(dead_store=str(tmp_path / "dead.jsonl"))
    async with running(hub, INTERNAL):
        hub.event.init.subscribe(
            OrderPlaced, handle if plain else wait, name="odd", prefetch=1, retry=SOON, **options
        )
        for each in "ab":
            await hub.event.init.send(OrderPlaced(each))
        await settled(hub)
        (told,) = hub.event.init.subscriptions()
    assert calls == ["a", "a", "a", "b"]
    assert (told["handled"], told["retried"], told["cancelled"], told["dead"]) == (2, 2, 0, 0)
    assert "OrderPlaced fails and is tried again: DeliveryError: it raised Odd: panicked" in caplog.text
