"""The reliability bar of the bus in memory: poison, cancellation, neighbours that are down.

``EVBUS_CHAOS=20 pytest tests/chaos`` runs everything 20 times as long.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.settings import DeliverySettings, Retry
from evbus.errors import Unavailable
from tests.evbus.rig import Rig, Target, numbers, turns, until, within

SCALE = int(os.environ.get("EVBUS_CHAOS", "1"))
FAST = Retry(attempts=3, min=1e-9, max=1e-9)


@pytest.mark.parametrize("batching", [True, False])
@pytest.mark.parametrize("seed", range(3 * SCALE))
async def test_a_poison_among_a_thousand(tmp_path: Path, batching: bool, seed: int) -> None:
    """Exactly its attempts, then dead with its reason; all others delivered in order (bar 13)."""
    poison = b"%d" % random.Random(seed).randrange(1000)  # noqa: S311 - no secret

    class Poisoned(Target):
        poisoned = 0

        async def publish_batch(self, ctx: Any, events: Any) -> Any:
            await asyncio.sleep(0)
            if poison in [event.body for event in events]:
                self.poisoned += 1
                raise ConnectionResetError("the server does not like it")
            return await super().publish_batch(ctx, events)

    rig, target = Rig(tmp_path), Poisoned(batching=batching)
    rig.add(target, delivery=DeliverySettings(batch=300, retry=FAST))
    async with rig.running():
        for number in range(1000):
            await rig.put(number)
            if number % 100 == 0:
                rig.check()
    assert target.got == [body for body in numbers(1000) if body != poison]
    assert target.poisoned == 3
    (record,) = rig.dead()
    assert record.envelope().body == poison
    assert (record.dead["attempts"], record.dead["reason"]) == (3, "the server does not like it")


class Server:
    """Confirms what it was sent some time after it came; outlives who sent it."""

    batching = False

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.has: list[bytes] = []

    async def publish(self, _ctx: Any, routing_key: str, body: bytes, headers: Any) -> None:
        await turns(self.dice.randrange(4))
        self.has.append(body)
        await turns(self.dice.randrange(4))


def test_a_thousand_cancellations_in_the_middle_of_publish(tmp_path: Path) -> None:
    """Each event is confirmed or kept, never neither (bar 17)."""
    dice = random.Random(17)  # noqa: S311 - no secret

    async def main(folder: Path) -> int:
        rig = Rig(folder, drain_timeout=0)
        servers = [Server(dice) for _ in range(20)]
        for server in servers:
            rig.add(server, delivery=DeliverySettings(retry=FAST, concurrency=dice.choice([1, 1, 3])))
        count = dice.randrange(1, 8)
        async with rig.running():
            for number in range(count):
                await rig.put(number)
                await turns(dice.randrange(3))
            flying = sum(lane["in_flight"] for lane in rig.check()["lanes"].values())
        found = rig.check()["lanes"]
        for (name, lane), server in zip(found.items(), servers):  # noqa: B905
            kept = [record.envelope().body for record in rig.dead() if record.dead["lane"] == name]
            assert set(server.has) | set(kept) == set(numbers(count))
            assert lane["delivered"] == count - len(kept)
            assert len(server.has) == len(set(server.has))
        return flying

    cancelled = run = 0
    while cancelled < 1000 * SCALE:
        folder = tmp_path / str(run)
        folder.mkdir()
        cancelled += asyncio.run(main(folder))
        run += 1


async def test_a_thousand_cancelled_puts(tmp_path: Path) -> None:
    """A put that was cancelled put nothing, one that returned is delivered, and nobody waits for ever."""
    dice = random.Random(3)  # noqa: S311 - no secret

    rig, target = Rig(tmp_path, queue_limit=3), Target()
    rig.add(target, delivery=DeliverySettings(buffer=2))

    async def slow(*args: Any) -> None:
        await turns(dice.randrange(3))
        target.got.append(args[2])

    target.publish = lambda ctx, routing_key, body, headers: slow(ctx, routing_key, body)  # type: ignore[method-assign,assignment]
    accepted: set[bytes] = set()

    async def put(number: int) -> None:
        await rig.put(number)
        accepted.add(b"%d" % number)

    async with rig.running():
        tasks = [asyncio.ensure_future(put(number)) for number in range(2000 * SCALE)]
        victims = dice.sample(tasks, len(tasks) // 2)
        while victims:
            await turns(dice.randrange(4))
            for victim in victims[:5]:
                victim.cancel()
            del victims[:5]
        await within(asyncio.gather(*tasks, return_exceptions=True))
        rig.check()
    assert len(target.got) == len(set(target.got))
    assert set(target.got) == accepted
    assert len(accepted) >= 1000 * SCALE
    assert not rig.queue._waiters


async def test_a_healthy_destination_beside_one_that_is_down_and_one_that_hangs(tmp_path: Path) -> None:
    """It delivers as many events with every turn of the loop as alone (bar 14, counted and not timed)."""

    async def loop_turns(*neighbours: Any) -> int:
        rig, good = Rig(tmp_path, drain_timeout=0), Target(batching=True)
        rig.add(good)
        for neighbour in neighbours:
            rig.add(neighbour, delivery=DeliverySettings(retry=Retry(attempts=0, min=1e-9, max=1e-9)))
        count = 0
        async with rig.running():
            for number in range(500 * SCALE):
                rig.put_nowait(number)
                while len(good.got) <= number:
                    await turns(1)
                    count += 1
        return count

    down, hangs = Target(), Target(batching=True)
    down.plan.extend([Unavailable("down")] * 1_000_000)
    hangs.publish_batch = lambda ctx, events: asyncio.Event().wait()  # type: ignore[method-assign,assignment]
    alone, beside = (await loop_turns(), await loop_turns(down, hangs))
    assert beside <= 2 * alone


async def test_lanes_that_fail_all_the_time_starve_nobody(tmp_path: Path) -> None:
    rig, good = Rig(tmp_path, drain_timeout=0), Target()
    for _ in range(20):
        bad = Target()
        bad.plan.extend([ValueError("x")] * 100_000)
        rig.add(bad, delivery=DeliverySettings(retry=Retry(attempts=0, min=1e-9, max=1e-9)))
    rig.add(good)
    async with rig.running():
        for number in range(200):
            await rig.put(number)
        await until(lambda: len(good.got) == 200)
        rig.check()
    assert good.got == numbers(200)
