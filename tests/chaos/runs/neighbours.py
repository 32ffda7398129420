"""One destination is down beside two that are well (bar 14)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.chaos._consumer import Arrival, Consumer
from tests.chaos._process import Program
from tests.chaos._run import WINDOW, Run
from tests.chaos._transport import amqp, taken
from tests.servers._proxy import Proxy
from tests.servers._rabbitmq import RabbitMQ

MOST = 2.0  # times the baseline
MEANINGFUL = 500.0  # milliseconds
LANES = ("one", "two")


def bar_14(
    node: RabbitMQ, folder: Path, *, seconds: float = 300.0, before: float = 30.0, rate: float = 200.0
) -> Run:
    """One destination is down: the others' time from put to consumer has at most twice the p99 of without.

    The baseline is a second program that does the same at the same time without the destination that is down,
    so that what else keeps the machine busy is in both.
    """
    run = Run("14: one destination down beside two healthy ones", down_s=seconds, rate=rate)
    queues = {name: f"{run.name}-{name}" for name in LANES}
    others = {name: f"{run.name}-without-{name}" for name in LANES}
    with Proxy(node.host, node.port) as proxy:
        without = {f"*{name}*": amqp(node, queue) for name, queue in others.items()}
        profiles = {f"*{name}*": amqp(node, queue) for name, queue in queues.items()}
        profiles["*down*"] = amqp(node, f"{run.name}-down", port=proxy.port)
        baseline = Program(folder / "without", f"{run.name}-without", {"amqp": without}, every=0.2)
        with (
            baseline,
            Program(folder / "with", run.name, {"amqp": profiles}, every=0.2) as program,
            Consumer(folder / "consumer", node.url, [*queues.values(), *others.values()]) as consumer,
        ):
            _put(program, baseline, before, rate)
            proxy.refuse()
            proxy.cut()
            begun = program.state["at"]
            _put(program, baseline, seconds, rate)
            end = program.state["at"]
            program.until(lambda: program.lane("down")["state"] == "waiting", "the lane that waits")
            waiting = program.lane("down")["queued"] + program.lane("down")["in_flight"]
            run.hold("waiting_events", waiting, waiting > 0, "above 0")
            proxy.accept()
            program.until(lambda: program.settled(*LANES, "down"), "the deliveries afterwards")
            baseline.until(lambda: baseline.settled(*LANES), "the deliveries of the baseline")
            run.count(program.accepted("down"), taken(node, f"{run.name}-down"), most=WINDOW, where="down")
            run.quiet(program)
        arrivals = consumer.arrivals()
        for name, queue in queues.items():
            bodies = [one.body for one in arrivals if one.queue == queue]
            run.count(program.accepted(name), bodies, most=0, where=name)
        during = [one for one in arrivals if begun <= one.put_at < end]
        _compare(run, during, list(others.values()))
    return run


def _put(program: Program, baseline: Program, seconds: float, rate: float) -> None:
    for one in (program, baseline):
        one.put(round(seconds * rate), rate=rate, profile="one+two+down", stamp=True)
    for one in (program, baseline):
        one.until(lambda one=one: one.idle, "the events of this time", 3 * seconds + 60)


def _compare(run: Run, arrivals: Sequence[Arrival], others: Sequence[str]) -> None:
    without = _percentiles(sorted(one.took for one in arrivals if one.queue in others))
    beside = _percentiles(sorted(one.took for one in arrivals if one.queue not in others))
    run.note(baseline_ms=without, beside_ms=beside)
    # Where everything waits for the machine, nobody can see who waits for whom.
    run.time("baseline_p99_ms", without["p99"], MEANINGFUL)
    run.time("p99_ratio", round(beside["p99"] / without["p99"], 2), MOST)


def _percentiles(ordered: Sequence[float]) -> dict[str, float]:
    """Return milliseconds."""
    last = len(ordered) - 1
    found = {name: ordered[round(last * part)] for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1))}
    return {"count": len(ordered), **{name: round(value * 1000, 2) for name, value in found.items()}}
