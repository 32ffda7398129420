"""Publishes that are cancelled in the middle (bar 17)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.chaos._events import KEYS, Event, event_of, tally
from tests.chaos._process import LIMIT, ROOT, Program, environment
from tests.chaos._run import Run
from tests.chaos._transport import TRANSPORTS, Broker, Transport, taken
from tests.chaos.runs.refusals import bodies_of


def bar_17(
    node: Broker,
    folder: Path,
    *,
    cancellations: int = 1_000,
    stops: int = 20,
    seed: int = 17,
    transport: str = "amqp",
) -> Run:
    """Random cancellations in the middle of publish: each event acked or still queued, never neither."""
    run = Run("17: cancellations in the middle of publish", transport=transport, seed=seed)
    via = TRANSPORTS[transport]
    _cancelled_calls(run, via, node, folder / "calls", cancellations, seed)
    _deadlines(run, via, node, folder / "deadlines", cancellations)
    _stops(run, via, node, folder / "stops", stops, seed)
    return run


def _cancelled_calls(run: Run, via: Transport, node: Broker, folder: Path, count: int, seed: int) -> None:
    """The call that a lane makes, cancelled at any moment; what has no outcome is published again."""
    folder.mkdir(parents=True)
    queue = f"{run.name}-calls"
    settings = {
        "run": run.name,
        "profiles": {via.provider: {"default": via.profile(node, queue)}},
        "count": count,
        "seed": seed,
        "journal": str(folder / "journal"),
        "dead_store": str(folder / "dead.jsonl"),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    subprocess.run(
        [sys.executable, "-m", "tests.chaos._canceller", str(folder / "settings.json")],
        cwd=ROOT,
        env=environment(folder),
        timeout=LIMIT,
        check=True,
    )
    lines = [line.split() for line in (folder / "journal").read_text().splitlines()]
    outcomes = {what: [int(number) for kind, number in lines if kind == what] for what in ("acked", "queued")}
    events = {what: [Event(one, one % KEYS) for one in numbers] for what, numbers in outcomes.items()}
    (cancelled,) = (int(number) for kind, number in lines if kind == "cancelled")
    run.hold("cancelled", cancelled, cancelled >= count, f"{count} or more")
    neither = set(range(max(outcomes["acked"]) + 1)) - {*outcomes["acked"], *outcomes["queued"]}
    run.same("neither_acked_nor_queued", len(neither))
    arrived = taken(node, queue)
    queued = set(events["queued"])
    acked = [body for body in arrived if event_of(run.name, body) not in queued]
    run.count(events["acked"], acked, most=0, where="acked")
    # What is still queued may have arrived, once.
    found = tally(run.name, [*events["acked"], *events["queued"]], arrived)
    run.note(queued=len(queued))
    run.same("calls_invented", found.invented + found.corrupted)


def _deadlines(run: Run, via: Transport, node: Broker, folder: Path, count: int) -> None:
    """A lane whose ``delivery.timeout`` is too short cancels its own publishes, again and again."""
    queue = f"{run.name}-deadlines"
    delivery: dict[str, Any] = {
        "timeout": 0.001,
        "batch": 5,
        "retry": {"attempts": 0, "min": 0.0001, "max": 0.002},
    }
    profiles = {via.provider: {"default": via.profile(node, queue, delivery=delivery)}}
    with Program(folder, run.name, profiles) as program:
        while not program.state or program.lane("default")["retried"] < count:
            program.put(500)
            program.until(lambda: program.settled("default"), "deliveries in spite of the deadline")
        run.note(events_past_deadline=program.lane("default")["retried"])
        run.count(program.accepted(), taken(node, queue), most=0, where="deadlines")
        run.fresh(node, program, {"default": queue})
        run.quiet(program)


def _stops(run: Run, via: Transport, node: Broker, folder: Path, count: int, seed: int) -> None:
    """A bus that is stopped in the middle: what it does not call delivered is in its dead store."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    lost = false = in_flight = 0
    for number in range(count):
        queue = f"{run.name}-{number}"
        profiles = {via.provider: {"default": via.profile(node, queue)}}
        with Program(folder / str(number), run.name, profiles, drain_timeout=0) as program:
            program.put(2_000)
            least = dice.randrange(1, 1_500)
            program.until(lambda least=least: program.delivered("default") >= least, "some deliveries")
            program.stop()
            lane = program.lane("default")
            accepted, dead = program.accepted(), bodies_of(program.dead())
            arrived = taken(node, queue)
            lost += tally(run.name, accepted, [*arrived, *dead]).lost
            false += lane["delivered"] + tally(run.name, accepted, dead).arrived - len(accepted)
            in_flight += len({*arrived} & {*dead})
    run.note(stops=count, arrived_and_kept=in_flight)
    run.same("stops_lost", lost)
    run.same("stops_miscounted", false)
