"""The process under test of bar 17: it cancels publishes in the middle and writes down what is known of each.

``python -m tests.chaos._canceller SETTINGS`` reads a JSON file with ``run``, ``profiles`` (one), ``count``,
``seed``, ``dead_store`` and ``journal``. Lines of the journal: ``acked NUMBER``, ``queued NUMBER`` (it was
cancelled, and is not sent again), and at last ``cancelled COUNT``.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from evbus.api import bus
from evbus.types import Envelope, SharedHeaders
from tests.chaos._events import KEYS, body_of

HEADERS = SharedHeaders({"content-type": "text/plain"})
BATCH = 20
LEFT = 50  # events of the last cancelled publishes, which are not sent again


def envelope(run: str, number: int) -> Envelope:
    return Envelope("default", "chaos", body_of(run, number, number % KEYS), HEADERS, time.monotonic())


async def cancel(settings: dict[str, Any], journal: Any) -> None:
    """Publish as a lane does, cancelled at any moment, and publish again what has no outcome."""
    dice = random.Random(settings["seed"])  # noqa: S311 - no secret
    queued: list[tuple[int, Envelope]] = []
    cancelled = number = 0
    async with bus(settings["profiles"], dead_store=settings["dead_store"]) as handle:
        (lane,) = handle.hub.evbus.ENGINE.lanes.values()
        while cancelled < settings["count"] or len(queued) > LEFT:
            fresh = dice.randrange(1, BATCH) if cancelled < settings["count"] else 0
            queued += [(index, envelope(settings["run"], index)) for index in range(number, number + fresh)]
            number += fresh
            batch = queued[: 2 * BATCH]
            outcomes = await cut_short(
                lane.sender.send([event for _, event in batch]), dice if fresh else None
            )
            if outcomes is None:
                cancelled += 1
                continue
            queued[: 2 * BATCH] = [
                entry for entry, outcome in zip(batch, outcomes, strict=True) if outcome is not None
            ]
            for (index, _), outcome in zip(batch, outcomes, strict=True):
                if outcome is None:
                    journal.write(f"acked {index}\n")
    for index, _ in queued:
        journal.write(f"queued {index}\n")
    journal.write(f"cancelled {cancelled}\n")


async def cut_short(publish: Coroutine[Any, Any, list[Any]], dice: random.Random | None) -> list[Any] | None:
    """Return the outcomes, or None when the publish was cancelled before it had any."""
    task = asyncio.ensure_future(publish)
    if dice is not None:
        await moment(dice)
        task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.result()


async def moment(dice: random.Random) -> None:
    """Let the publish come some way: a few turns of the loop, or some time for the broker to answer."""
    if dice.random() < 0.3:
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(dice.random() ** 3 * 0.02)


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    with Path(found["journal"]).open("w") as file:
        asyncio.run(cancel(found, file))
