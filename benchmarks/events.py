"""What the benchmark of typed events measures: from ``send`` to the listener, in one process and in two."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import build
import dispatch
import page
import rounds
from peers import ROOT, title_of
from rounds import Case, Measure, Results
from sides import wire

MARK = "the table of typed events"
#: The queue that evbus gives the listener ``listener`` of the event ``evbus-bench``.
QUEUE = "evbus-bench::listener"
OURS, ASPYX, IAMBUS, FASTSTREAM = "evbus", "aspyx-event", "iambus", "FastStream"
NATS, RABBIT = "FastStream TestNatsBroker", "FastStream TestRabbitBroker"
ONE_BY_ONE, HUNDRED = "FastStream, one by one", "FastStream, 100 in flight"
FASTEST = "FastStream, 1,000, no types"
ON_THE_LOOP = "aspyx-event, on the loop"
AIM = 3.0  # times the fastest peer that encodes and decodes


class Side(NamedTuple):
    """Who is measured: the peer, and what the script calls this way of it.

    :ivar encodes: whether a listener gets a copy that was encoded and decoded.
    """

    peer: str
    name: str
    encodes: bool = True


SIDES = {
    OURS: Side("", OURS),
    ASPYX: Side(ASPYX, ASPYX),
    ON_THE_LOOP: Side(ASPYX, ASPYX),
    IAMBUS: Side(IAMBUS, IAMBUS, encodes=False),
    NATS: Side(FASTSTREAM, "nats"),
    RABBIT: Side(FASTSTREAM, "rabbit"),
}
#: What each side calls the case of the sender and that of the listener.
ENDS = {
    OURS: ("send", "listen"),
    ONE_BY_ONE: ("send", "listen"),
    HUNDRED: ("send-100", "listen"),
    FASTEST: ("send-fastest", "listen-fastest"),
}

RABBITMQ = "rabbitmq"
CASES = [
    Case("one", {RABBIT: 1_000, NATS: 5_000, IAMBUS: 20_000, ASPYX: 40_000, OURS: 100_000}),
    Case("plain", {NATS: 3_000, ON_THE_LOOP: 40_000, OURS: 20_000}),
    Case("ten", {NATS: 500, IAMBUS: 4_000, ASPYX: 8_000, OURS: 10_000}),
    Case("decimal", {NATS: 4_000, OURS: 40_000}),
    Case("nested", {NATS: 3_000, OURS: 20_000}),
    Case("pydantic", {NATS: 4_000, OURS: 20_000}),
]
THROUGH_RABBITMQ = [Case(RABBITMQ, {ONE_BY_ONE: 1_500, HUNDRED: 4_000, FASTEST: 5_000, OURS: 30_000})]


class Row(NamedTuple):
    """Lines of the table, one for each side; without an aim they are for information."""

    title: str
    case: str
    aimed: bool = False


ROWS = [
    Row("in process, an asynchronous listener", "one", aimed=True),
    Row("in process, a plain function, in a thread", "plain"),
    Row("in process, 10 asynchronous listeners", "ten"),
    Row("in process, a dataclass with a Decimal", "decimal"),
    Row("in process, a dataclass with others in it", "nested"),
    Row("in process, a pydantic model", "pydantic"),
    Row("through RabbitMQ, two processes, persistent, confirmed, acknowledged", RABBITMQ, aimed=True),
]


def cases() -> list[Case]:
    """Return the cases within one process, without the peer that this Python is too old for."""
    lacks = set() if sys.version_info >= dispatch.NEEDS else {IAMBUS}
    return [
        case._replace(events={side: events for side, events in case.events.items() if side not in lacks})
        for case in CASES
    ]


def measure(side: str, case: str, events: int) -> dict[str, float]:
    """Run one case in a process that sees nothing but its own environment."""
    peer, name, _ = SIDES[build.script_of(side)]
    python = build.interpreter(side, peer)
    # Not -I: the folder of the script has to stay on the path.
    script = str(ROOT / "benchmarks/events_case.py")
    return rounds.output_of([python, "-Es", script, name, case, str(events)])


def through(amqp: str) -> Measure:
    """Return what measures through the RabbitMQ at this URL, a process sending and another listening."""

    def run(side: str, case: str, events: int) -> dict[str, float]:
        ours = build.script_of(side) == OURS
        python = build.interpreter(side, "" if ours else FASTSTREAM)
        script = "events_evbus_side.py" if ours else "events_faststream_side.py"
        command = [python, "-Es", str(ROOT / "benchmarks/sides" / script)]
        rest = [str(events), amqp, QUEUE]
        send, listen = ENDS[build.script_of(side)]
        with contextlib.closing(wire.Wire(amqp)) as broker:
            broker.delete(QUEUE)
            broker.declare(QUEUE)
        with _started([*command, listen, *rest]) as listener:
            while listener.poll() is None and not _consumers(amqp):
                time.sleep(0.05)
            sent = rounds.output_of([*command, send, *rest])
            received = _output(listener)
        with contextlib.closing(wire.Wire(amqp)) as broker:
            left = broker.depth(QUEUE)
            broker.delete(QUEUE)
        if left:
            sys.exit(f"{side} left {left} messages in the queue")
        taken = received["ended"] - sent["started"]  # one clock for all processes of a machine
        return {"rate": events / taken, "cpu": sent["cpu"] + received["cpu"]}

    return run


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()  # which does nothing to one that has ended


def _consumers(amqp: str) -> int:
    with contextlib.closing(wire.Wire(amqp)) as broker:
        return broker.consumers(QUEUE)


def _output(process: subprocess.Popen[str]) -> dict[str, float]:
    try:
        said, problems = process.communicate(timeout=rounds.LIMIT)
    except subprocess.TimeoutExpired:
        sys.exit(f"not done within {rounds.LIMIT} s: {process.args!r}")
    if process.returncode != 0:
        sys.exit(f"failed: {process.args!r}\n{problems.strip()}")
    result: dict[str, float] = json.loads(said.splitlines()[-1])
    return result


def table(found: Results) -> list[str]:
    """Return the medians as a reStructuredText table: a line for each side of each case."""
    cells = [["case", "side", "events/s", "CPU us", "evbus against it", "rounds", "aim"]]
    for row in ROWS:
        rates = {
            side: values for (side, case, key), values in found.items() if (case, key) == (row.case, "rate")
        }
        medians = {side: statistics.median(values) for side, values in rates.items()}
        fastest = max((side for side in medians if _comparable(side)), key=medians.__getitem__, default="")
        title = row.title
        for case in [*CASES, *THROUGH_RABBITMQ]:
            for side in case.events if case.name == row.case else ():
                if side in rates:
                    aim = f">= {AIM:g} x" if row.aimed and side == fastest else ""
                    cpu = statistics.median(found[side, row.case, "cpu"])
                    ratios = _against(rates.get(OURS, []), rates[side]) if side != OURS else ["", ""]
                    cells.append([title, _title(side), f"{medians[side]:,.0f}", f"{cpu:,.0f}", *ratios, aim])
                    title = ""
    lines = page.list_table([26, 26, 12, 10, 12, 14, 9], cells)
    return [
        *lines,
        "",
        "The aim is against the fastest side that encodes and decodes, which iambus does not.",
    ]


def _comparable(side: str) -> bool:
    return side != OURS and (side not in SIDES or SIDES[side].encodes)


def _title(side: str) -> str:
    peer = SIDES[side].peer if side in SIDES else FASTSTREAM
    return side.replace(peer, title_of(peer), 1) if peer else side


def _against(ours: list[float], theirs: list[float]) -> list[str]:
    """Return the ratio of the medians, and the least and the greatest of the rounds."""
    if not ours:
        return ["", ""]
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    middle = statistics.median(ours) / statistics.median(theirs)
    return [f"{middle:.2f} x", f"{ratios[0]:.1f} to {ratios[-1]:.1f}"]
