"""Events from many threads (bar 16)."""

from __future__ import annotations

from pathlib import Path

from tests.chaos._process import Program
from tests.chaos._program import WAKE
from tests.chaos._run import Run
from tests.chaos._transport import TRANSPORTS, Broker, taken

MOST = 50.0  # milliseconds, the 99th percentile


def bar_16(
    node: Broker,
    folder: Path,
    *,
    threads: int = 8,
    events: int = 5_000,
    wakes: int = 500,
    pause: float = 0.01,
    transport: str = "amqp",
) -> Run:
    """Other threads put: everything delivered, each thread's order kept, p99 of the wake-up below 50 ms."""
    run = Run("16: puts from other threads", transport=transport, threads=threads)
    run.note(events_of_each=events)
    via = TRANSPORTS[transport]
    profiles = {via.provider: {"default": via.profile(node, run.name)}, "internal": {WAKE: {}}}
    with Program(folder, run.name, profiles) as program:
        # The loop sleeps in between: what is timed is how soon another thread's event wakes it.
        program.order("threads", threads=threads, count=wakes, pause=pause, profile=WAKE)
        program.until(lambda: program.settled("default", WAKE), "the wakes")
        took = program.figures()["wake"]
        run.same("woken", took["count"], threads * wakes)
        run.note(wake_ms=took)
        run.time("wake_p99_ms", took["p99"], MOST)
        program.order("threads", threads=threads, count=events)
        program.until(lambda: program.settled("default"), "the deliveries")
        run.same("delivered", program.delivered("default"), threads * events)
        run.count(program.accepted(), taken(node, run.name), most=0)
        run.fresh(node, program, {"default": run.name})
        run.quiet(program)
    return run
