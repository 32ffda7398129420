"""The broker, or the way to it, stands still for a while (bars 9, 10 and 11)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.chaos._process import Program
from tests.chaos._run import WINDOW, Run
from tests.chaos._transport import FOR_EVER, TRANSPORTS, Broker, amqp, taken
from tests.servers._proxy import Proxy
from tests.servers._rabbitmq import RabbitMQ

PUT = 50.0  # milliseconds, the 99th percentile of put
FIRST = 10  # events before it begins


def bar_9(
    node: Broker,
    folder: Path,
    *,
    seconds: float = 60.0,
    rate: float = 200.0,
    heartbeat: float = 20.0,
    transport: str = "amqp",
) -> Run:
    """The broker is frozen by SIGSTOP: no task dies, put's p99 stays below 50 ms, all is delivered after."""
    run = Run("9: the broker frozen by SIGSTOP", transport=transport, frozen_s=seconds, rate=rate)
    via = TRANSPORTS[transport]
    profiles = {via.provider: {"default": via.profile(node, run.name, heartbeat=heartbeat)}}
    run.note(heartbeat_s=heartbeat)
    with Program(folder, run.name, profiles) as program:
        program.put(FIRST)
        program.until(lambda: program.settled("default"), "the first events")
        workers = program.state["workers"]
        program.figures()
        # As long as these are put, the broker stands still.
        end = FIRST + round((seconds + 1) * rate)
        program.put(end - FIRST, rate=rate)
        program.until(lambda: program.state["put"] >= FIRST + rate, "events on their way")
        node.freeze()
        program.until(lambda: program.state["put"] >= end, "the pause", 3 * seconds + 60)
        run.note(state_when_thawed=program.connection("default")["state"])
        node.thaw()
        program.until(lambda: program.settled("default"), "the deliveries after the pause")
        took = program.figures()["put"]
        run.note(put_ms=took)
        run.time("put_p99_ms", took["p99"], PUT)
        run.same("workers", program.least_workers, workers)
        losses = program.connection("default")["connects"] - 1
        run.note(connections_lost=losses)
        run.count(program.accepted(), taken(node, run.name), most=WINDOW * losses)
        run.fresh(node, program, {"default": run.name})
        run.quiet(program)
    return run


def bar_10(
    node: RabbitMQ,
    folder: Path,
    *,
    seconds: float = 30.0,
    events: int = 300,
    timeout: float = 2.0,
    rate: float = 50.0,
) -> Run:
    """A memory alarm while publishes are under way: lost 0, at most one duplicate for each that timed out."""
    run = Run("10: memory alarm", alarm_s=seconds, confirm_timeout_s=timeout)
    # The broker says that it blocks a connection once something was published on it. What is on its way by
    # then times out, each event in a call of its own; that gives their order up, which the third lane keeps.
    single: dict[str, Any] = {"concurrency": events, "batch": 1, **FOR_EVER}
    deliveries = {"one": single, "two": single, "batch": FOR_EVER}
    queues = {name: f"{run.name}-{name}" for name in deliveries}
    profiles = {
        f"*{name}*": amqp(node, queue, delivery=deliveries[name], confirm_timeout=timeout)
        for name, queue in queues.items()
    }
    with Program(folder, run.name, {"amqp": profiles}) as program:
        everyone = "+".join(queues)
        program.put(FIRST, profile=everyone)
        program.until(lambda: program.settled(*queues), "the first events")
        node.memory_alarm(True)
        program.put(events, profile=everyone)
        program.until(lambda: _timed_out(program, queues) >= events, "timeouts")
        # As long as these are put, there is the alarm.
        program.put(round(seconds * rate), rate=rate, profile="batch")
        program.until(lambda: program.idle, "the alarm's time", 3 * seconds + 60)
        run.note(
            timed_out=_timed_out(program, queues),
            delivered_meanwhile=sum(program.delivered(name) - FIRST for name in queues),
            state=program.lane("batch")["state"],
            last_error=program.lane("batch")["last_error"],
        )
        node.memory_alarm(False)
        program.until(lambda: program.settled(*queues), "the deliveries after the alarm")
        for name, queue in queues.items():
            arrived = taken(node, queue)
            run.count(program.accepted(name), arrived, ordered=name == "batch", where=name)
        run.most("duplicates", sum(run.figures[f"{name}_duplicates"] for name in queues), events)
        run.fresh(node, program, queues)
        run.quiet(program)
    return run


def _timed_out(program: Program, lanes: Iterable[str]) -> int:
    return sum(program.lane(name)["retried"] for name in lanes)


def bar_11(
    node: Broker,
    folder: Path,
    *,
    short: float = 10.0,
    long: float = 30.0,
    rate: float = 50.0,
    heartbeat: float = 4.0,
    usual: float = 20.0,
    transport: str = "amqp",
) -> Run:
    """Partitions each way, and a half-open connection: lost 0, with a quick and with the usual heartbeat."""
    run = Run("11: partitions", transport=transport, partitions_s=[short, long], rate=rate)
    run.note(heartbeats_s=[heartbeat, usual])
    via = TRANSPORTS[transport]
    queues = {"quick": f"{run.name}-quick", "usual": f"{run.name}-usual"}
    beats = {"quick": heartbeat, "usual": usual}
    with Proxy(node.host, getattr(node, via.port)) as proxy:
        profiles = {
            via.provider: {
                f"*{name}*": via.profile(node, queue, port=proxy.port, heartbeat=beats[name])
                for name, queue in queues.items()
            }
        }
        with Program(folder, run.name, profiles) as program:
            _partitions(run, program, proxy, (short, long), rate)
            for name, queue in queues.items():
                losses = program.connection(name)["connects"] - 1
                run.note(**{f"{name}_connections_lost": losses})
                run.count(program.accepted(name), taken(node, queue), most=WINDOW * losses, where=name)
            run.fresh(node, program, queues)
            run.quiet(program)
    return run


def _partitions(run: Run, program: Program, proxy: Proxy, lengths: tuple[float, ...], rate: float) -> None:
    both = "quick+usual"
    for seconds in filter(None, lengths):
        for directions in (["up"], ["down"], ["up", "down"]):
            program.put(1000, profile=both)
            proxy.freeze(*directions)  # type: ignore[arg-type]
            program.put(round(seconds * rate), rate=rate, profile=both)
            program.until(lambda: program.idle, "the time of the partition", 3 * seconds + 60)
            proxy.thaw()
            program.until(lambda: program.settled("quick", "usual"), f"the end of the partition {directions}")
    connects = {name: program.connection(name)["connects"] for name in ("quick", "usual")}
    program.put(1000, profile=both)
    proxy.half_open()
    program.put(100, profile=both)
    program.until(lambda: program.settled("quick", "usual"), "deliveries after the half-open connection")
    for name, before in connects.items():
        run.same(f"{name}_half_open_noticed", program.connection(name)["connects"] - before, 1)
