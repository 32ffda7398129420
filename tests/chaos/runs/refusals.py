"""The broker does not take an event, or every event of a lane (bars 12 and 13)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.chaos._process import Program
from tests.chaos._run import Run
from tests.chaos._transport import amqp, taken
from tests.servers._rabbitmq import RabbitMQ

NEXT = 5.0  # seconds for the 1,000 events behind a poison
SIZE = 10_000  # bytes of a body that the broker takes


def bar_12(node: RabbitMQ, folder: Path, *, events: int = 2_000) -> Run:
    """Unroutable, missing exchange: parked with a clear error, none falsely acked, other routes go on."""
    run = Run("12: unroutable, and a missing exchange")
    good, mixed, missing, nowhere = (f"{run.name}-{name}" for name in ("good", "mixed", "missing", "nowhere"))
    for exchange in (mixed, missing, nowhere):
        node.declare_exchange(exchange)
    node.declare_queue(mixed)
    node.bind(mixed, mixed, "yes")
    profiles = {
        "*good*": amqp(node, good),
        "*mixed*": amqp(node, None, exchange=mixed),
        "*nowhere*": amqp(node, None, exchange=nowhere),
        "*missing*": amqp(node, None, exchange=missing, queue={"name": missing, "bind": "chaos"}),
    }
    with Program(folder, run.name, {"amqp": profiles}) as program:
        program.put(events, profile="good+missing")
        program.until(lambda: program.settled("good", "missing"), "the first events")
        node.delete_exchange(missing)
        program.put(events, profile="good+missing")
        program.put(events, profile="good+mixed+nowhere", routing_keys=["yes", "no"])
        program.until(lambda: program.settled("good", "mixed", "nowhere"), "the routes that work")
        program.until(lambda: "there is no exchange" in program.lane("missing")["last_error"], "its reason")
        run.note(missing_says=program.lane("missing")["last_error"])
        run.same("missing_waits_with", program.lane("missing")["in_flight"] + _queued(program), events)
        node.declare_exchange(missing)
        program.until(lambda: program.settled("missing"), "the exchange's return")
        program.until(lambda: len(program.dead()) >= events * 3 // 2, "the dead store")
        _unroutable(run, program, mixed=program.accepted("mixed", routing_key="no"))
        _unroutable(run, program, nowhere=program.accepted("nowhere"))
        run.count(program.accepted("good"), taken(node, good), most=0, where="good")
        yes = program.accepted("mixed", routing_key="yes")
        run.count(yes, taken(node, mixed), most=0, where="mixed")
        run.same("mixed_acked", program.delivered("mixed"), len(yes))
        run.same("nowhere_acked", program.delivered("nowhere"), 0)
        run.count(program.accepted("missing"), taken(node, missing), most=0, where="missing")
        run.fresh(node, program, {"good": good, "missing": missing})
        run.quiet(program)
    return run


def _queued(program: Program) -> int:
    return int(program.lane("missing")["queued"])


def _unroutable(run: Run, program: Program, **lane: Iterable[Any]) -> None:
    """Compare the dead letters of a lane with the events that should be there."""
    ((name, events),) = lane.items()
    records = program.dead(name)
    run.count(events, bodies_of(records), most=0, where=f"{name}_dead")
    reasons = {record["dead"]["reason"] for record in records}
    run.note(**{f"{name}_says": sorted(reasons)[:1]})
    clear = all("unroutable" in reason for reason in reasons)
    run.hold(f"{name}_clear", clear, clear, "every dead letter says that it was unroutable")


def bodies_of(records: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return the bodies of records of the dead store."""
    return [record["body"].encode() for record in records]


def bar_13(node: RabbitMQ, folder: Path, *, events: int = 1_000, attempts: int = 3) -> Run:
    """An event that the broker never takes: dead at once, with its reason; the next 1,000 in 5 s."""
    run = Run("13: a poison event", attempts=attempts)
    delivery = {"retry": {"attempts": attempts, "min": 0.05, "max": 0.2}}
    profiles = {"amqp": {"default": amqp(node, run.name, delivery=delivery)}}
    _limit(node, SIZE)
    try:
        with Program(folder, run.name, profiles) as program:
            before = _refused(node)
            program.put(100)
            program.put(1, size=2 * SIZE)
            program.put(events)
            program.until(lambda: program.lane("default")["dead"], "the end of the poison")
            died = program.state["at"]
            program.until(lambda: program.settled("default"), "the events behind the poison")
            run.time("next_s", round(program.when("default", 100 + events - 1) - died, 2), NEXT)
            program.until(program.dead, "the dead letter")
            (record,) = program.dead()
            run.same("attempts_recorded", record["dead"]["attempts"], 1)
            run.same("channels_that_it_cost", _refused(node) - before, 1)
            run.note(reason=record["dead"]["reason"])
            clear = "larger than" in record["dead"]["reason"]
            run.hold("clear", clear, clear, "the dead letter tells the broker's reason")
            accepted = program.accepted()
            run.count([*accepted[:100], *accepted[101:]], taken(node, run.name))
            run.count([accepted[100]], bodies_of([record]), most=0, where="dead")
            run.fresh(node, program, {"default": run.name})
            run.quiet(program)
    finally:
        _limit(node, 134_217_728 if node.version < (4,) else 16_777_216)
    return run


def _limit(node: RabbitMQ, size: int) -> None:
    """Let the broker take bodies of at most so many bytes, on channels that are opened from now on."""
    # Version 3 looks at the first, version 4 at the second.
    first = f"application:set_env(rabbit, max_message_size, {size})"
    node.evaluate(f"{first}, persistent_term:put(max_message_size, {size})")


def _refused(node: RabbitMQ) -> int:
    """Return how many channels the broker has closed because of a body."""
    return len(re.findall(r"message size \d+ is larger than", node.log.read_text()))
