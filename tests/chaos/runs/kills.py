"""The broker is killed while events are published (bars 1 and 3)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.chaos._process import Program
from tests.chaos._run import WINDOW, Listening, Run
from tests.chaos._transport import TRANSPORTS, Broker, Transport, taken
from tests.servers._wait import until

RECOVERY = 10.0  # seconds after the broker's port is up
#: What the profile says of the queue of each lane.
QUEUES: dict[str, dict[str, Any]] = {"classic": {}, "quorum": {"type": "quorum"}}


def bar_1(
    node: Broker, folder: Path, *, events: int = 20_000, kills: int = 10, transport: str = "amqp"
) -> Run:
    """A durable classic queue: lost 0, at most W x kills duplicates, recovery within 10 s."""
    run = Run("1: kill -9 of the broker, classic queue", transport=transport, kills=kills, window=WINDOW)
    return kill(run, node, folder, events, kills, ["classic"], TRANSPORTS[transport])


def bar_3(node: Broker, folder: Path, *, events: int = 15_000, kills: int = 5) -> Run:
    """A quorum queue: lost 0."""
    run = Run("3: kill -9 of the broker, quorum queue", kills=kills, window=WINDOW)
    return kill(run, node, folder, events, kills, ["quorum"])


def bars_1_and_3(node: Broker, folder: Path, *, events: int, kills: int) -> Run:
    """Both at once."""
    return kill(Run("1 and 3", kills=kills), node, folder, events, kills, ["classic", "quorum"])


def kill(
    run: Run,
    node: Broker,
    folder: Path,
    events: int,
    kills: int,
    lanes: Sequence[str],
    via: Transport = TRANSPORTS["amqp"],
) -> Run:
    """Kill and start the broker while these lanes publish, as often as said."""
    queues = {lane: f"{run.name}-{lane}" for lane in lanes}
    profiles = {f"*{lane}*": via.profile(node, queue) for lane, queue in queues.items()}
    for lane, queue in queues.items():
        if QUEUES[lane]:
            profiles[f"*{lane}*"]["queue"] = {"name": queue, **QUEUES[lane]}
    dice = random.Random(1)  # noqa: S311 - no secret
    recovery: list[float] = []
    in_flight: list[int] = []
    with Program(folder, run.name, {via.provider: profiles}) as program:
        if "quorum" in lanes:
            until(lambda: _is_registered(node, queues["quorum"]), 30, "the queue on the broker's disk")
        node.sync()
        for number in range(kills):
            share = events * (number + 1) // kills - events * number // kills
            least = program.delivered(lanes[0]) + dice.randrange(1, max(2, share // 2))
            program.put(share, profile="+".join(lanes))
            program.until(lambda least=least: program.delivered(lanes[0]) >= least, "confirms")
            node.kill()
            recovery.append(_start(node, program, lanes, in_flight, getattr(node, via.port)))
        program.until(lambda: program.settled(*lanes), "the end of the deliveries")
        run.note(in_flight_at_kill=in_flight)
        hits = sum(flying > 0 for flying in in_flight)
        run.hold("kills_in_the_middle", hits, hits > 0, "at least one, or nothing was proved")
        run.note(recovery_s=recovery)
        run.time("slowest_recovery_s", max(recovery), RECOVERY)
        for lane, queue in queues.items():
            run.count(program.accepted(lane), taken(node, queue), most=WINDOW * kills, where=lane)
            run.same(f"{lane}_connects", program.connection(lane)["connects"], kills + 1)
        run.fresh(node, program, queues)
        run.quiet(program)
    return run


def _start(node: Broker, program: Program, lanes: Sequence[str], in_flight: list[int], port: int) -> float:
    """Start the broker, which was killed; return the seconds until each lane has its first confirm."""
    program.until(
        lambda: all(program.connection(lane)["state"] != "up" for lane in lanes), "the end of the connection"
    )
    left = [program.lane(lane)["in_flight"] + program.lane(lane)["queued"] for lane in lanes]
    in_flight.append(sum(program.lane(lane)["in_flight"] for lane in lanes))
    if not all(left):
        program.put(1, profile="+".join(lanes))
    before = {lane: program.delivered(lane) for lane in lanes}
    with Listening(node, port) as listening, ThreadPoolExecutor(1) as pool:
        started = pool.submit(node.start)
        program.until(
            lambda: all(program.delivered(lane) > count for lane, count in before.items()),
            "the first confirm",
        )
        started.result()
    return round(max(program.when(lane, count) for lane, count in before.items()) - listening.since, 2)


def _is_registered(node: Broker, queue: str) -> bool:
    """Return whether the broker has a quorum queue in its register on the disk.

    It writes that within a second. RabbitMQ 3.10 killed before that starts without a leader for the queue,
    which then takes nothing any more, whoever publishes.
    """
    return any(queue.encode() in path.read_bytes() for path in node.folder.glob("data/*/quorum/*/names.dets"))
