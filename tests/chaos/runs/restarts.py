"""The broker restarts under a bus that sends and listens (bar 24)."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.chaos._process import Program
from tests.chaos._run import Run
from tests.chaos._transport import FOR_EVER
from tests.servers._rabbitmq import RabbitMQ

AFTER = 20.0  # seconds until what is handled is counted
BETWEEN = 2.0  # seconds of events before and after each restart


def bar_24(
    node: RabbitMQ, folder: Path, *, restarts: int = 5, rate: float = 100.0, after: float = AFTER
) -> Run:
    """Sender and listener on one bus, transient events: none is dead because it reached no queue.

    The listener's queue does not outlive the broker: what is sent has to wait until it is declared again.
    """
    run = Run("24: restarts under a bus that sends and listens", restarts=restarts, rate=rate)
    profile = {
        "url": f"amqp://{node.user}:{node.password}@{node.address}/",
        "exchange": {"name": run.name, "type": "topic"},
        "delivery": FOR_EVER,
    }
    share = round(BETWEEN * rate)
    with Program(folder, run.name, {"amqp": {"default": profile}}) as program:
        program.order("listen", event="chaos")
        program.until(lambda: program.idle, "the listener")
        program.put(share, rate=rate)
        program.until(lambda: program.state["heard"], "the first events")
        for number in range(restarts):
            # As long as these are put the broker goes away and comes back.
            before = program.state["put"]
            program.put(2 * share, rate=rate)
            program.until(lambda before=before: program.state["put"] > before, "events on their way")
            node.restart()
            program.until(
                lambda number=number: program.connection("default")["connects"] > number + 1, "a connection"
            )
            program.until(lambda: program.settled("default"), "the deliveries after a restart")
        program.put(1)
        # What was on the broker may be lost with it: these events are not durable.
        with contextlib.suppress(TimeoutError):
            program.until(lambda: program.state["heard"] >= program.state["put"], "the handling", after)
        reasons = [record["dead"]["reason"] for record in program.dead()]
        run.note(accepted=len(program.accepted()), handled=program.state["heard"])
        run.same("dead_by_no_route", sum("unroutable" in reason for reason in reasons))
        run.note(dead=len(reasons), says=sorted(set(reasons))[:2])
        run.quiet(program)
    return run
