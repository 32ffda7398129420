"""What the benchmark of the brokers measures: evbus, its peers and the bound against one RabbitMQ."""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import build
import page
import rounds
from peers import ROOT, title_of
from rounds import Case, Results
from sides import common, wire

MARK = "the table of the brokers"
QUEUE = "evbus-bench"
OURS, BOUND = "evbus", "bound"
AIO_PIKA, FASTSTREAM, KOMBU, STOMP_PY, PIKA = "aio-pika", "FastStream", "kombu", "stomp.py", "evbus-pika"
MULTIPLE = "aio-pika, one ack for 100"


class Side(NamedTuple):
    """Who is measured: its script below sides/, and the peer whose environment that needs."""

    script: str
    peer: str = ""


SIDES = {
    OURS: Side("evbus_side.py"),
    BOUND: Side("bound_side.py"),
    AIO_PIKA: Side("aio_pika_side.py", AIO_PIKA),
    MULTIPLE: Side("aio_pika_side.py", AIO_PIKA),
    FASTSTREAM: Side("faststream_side.py", FASTSTREAM),
    KOMBU: Side("kombu_side.py", KOMBU),
    STOMP_PY: Side("stomp_py_side.py", STOMP_PY),
    PIKA: Side("evbus_pika_side.py", PIKA),
}
# A side that does a case in a way of its own.
VARIANTS = {(MULTIPLE, "consume"): "consume-multiple"}

CASES = [
    Case("publish-persistent", {FASTSTREAM: 6_000, AIO_PIKA: 8_000, OURS: 40_000, BOUND: 50_000}),
    Case("publish-transient", {PIKA: 300, FASTSTREAM: 6_000, AIO_PIKA: 9_000, OURS: 60_000, BOUND: 120_000}),
    Case(
        "consume",
        {FASTSTREAM: 7_000, AIO_PIKA: 10_000, MULTIPLE: 15_000, KOMBU: 20_000, OURS: 100_000, BOUND: 120_000},
    ),
    Case("publish-one", {AIO_PIKA: 3_000, KOMBU: 4_000, OURS: 4_000, BOUND: 5_000}),
    Case("stomp", {STOMP_PY: 25_000, OURS: 25_000, BOUND: 35_000}),
    Case("end-to-end", {FASTSTREAM: 3_000, OURS: 20_000}),
    Case("latency", {FASTSTREAM: 1_500, OURS: 1_500}),
]


PUBLISHING = {"publish-persistent", "publish-transient", "publish-one", "stomp"}  # the rest empties the queue


class Row(NamedTuple):
    """Lines of the table, one for each side; aims are ratios of evbus to it, the limit is for evbus alone."""

    title: str
    case: str
    key: str
    unit: str
    aims: dict[str, float]
    limit: str = ""

    @property
    def less_is_better(self) -> bool:
        """Whether the unit is one of time."""
        return self.unit == "ms"


ROWS = [
    Row("publish, persistent", "publish-persistent", "rate", "events/s", {AIO_PIKA: 4, BOUND: 0.7}),
    Row("publish, transient", "publish-transient", "rate", "events/s", {AIO_PIKA: 7, BOUND: 0.45}),
    Row("consume, acknowledged", "consume", "rate", "events/s", {AIO_PIKA: 4}),
    Row("publish one at a time, persistent", "publish-one", "rate", "events/s", {AIO_PIKA: 1.5}),
    Row("STOMP send, persistent, with receipts", "stomp", "rate", "events/s", {STOMP_PY: 0.9}),
    Row("put to handler", "end-to-end", "rate", "events/s", {FASTSTREAM: 3}),
    Row("put to handler at 500/s, median", "latency", "median", "ms", {}),
    Row("put to handler at 500/s, 99th percentile", "latency", "p99", "ms", {}, "<= 10 ms"),
]


class Broker(NamedTuple):
    """Where the broker listens: ``amqp://user:password@host:port/`` and ``stomp://user:password@host:port``."""

    amqp: str
    stomp: str

    def measure(self, side: str, case: str, events: int) -> dict[str, float]:
        """Run one case of one side against a new queue, and see that the queue holds then what it should."""
        with contextlib.closing(wire.Wire(self.amqp)) as broker:
            broker.delete(QUEUE)
            broker.declare(QUEUE)
        if case == "consume":
            wire.fill(self.amqp, QUEUE, events, common.payload(0))
        url = self.stomp if case == "stomp" else self.amqp
        script, peer = SIDES[build.script_of(side)]
        python = build.interpreter(side, peer)
        arguments = [VARIANTS.get((side, case), case), str(events), url, QUEUE]
        # Not -I: the folder of the script, which holds common.py and wire.py, has to stay on the path.
        result = rounds.output_of([python, "-Es", str(ROOT / "benchmarks/sides" / script), *arguments])
        with contextlib.closing(wire.Wire(self.amqp)) as broker:
            left, right = broker.depth(QUEUE), events if case in PUBLISHING else 0
            broker.delete(QUEUE)
        if left != right:
            sys.exit(f"{side} left {left} messages in the queue after {case}, where {right} are right")
        return result


@contextlib.contextmanager
def private_node() -> Iterator[Broker]:
    """Start a RabbitMQ of our own for the time of the benchmark."""
    sys.path.insert(0, str(ROOT))
    from tests.servers._rabbitmq import RabbitMQ, missing

    if lacks := missing():
        sys.exit(f"{lacks}; or name a broker that runs with --amqp and --stomp, or measure only the bus: bus")
    with tempfile.TemporaryDirectory() as folder, RabbitMQ() as node:
        node.start(Path(folder))
        yield Broker(node.url, f"stomp://{node.user}:{node.password}@{node.host}:{node.stomp_port}")


def table(found: Results) -> list[str]:
    """Return the medians as a reStructuredText table: a line for each side of each case."""
    cells = [["case", "side", "unit", "median", "CPU us", "evbus against it", "aim"]]
    for row in ROWS:
        medians = {
            side: statistics.median(values)
            for (side, case, key), values in found.items()
            if (case, key) == (row.case, row.key)
        }
        title = row.title
        for case in CASES:
            for side in case.events if case.name == row.case else ():
                if side in medians:
                    cells.append([title, *line(row, side, medians, found.get((side, row.case, "cpu"), []))])
                    title = ""
    return page.list_table([26, 22, 10, 12, 10, 12, 10], cells)


def line(row: Row, side: str, medians: dict[str, float], cpu: list[float]) -> list[str]:
    """Return what the table says of one side."""
    peer, figure, ours = SIDES[side].peer, medians[side], medians.get(OURS)
    ratio = ""
    if ours and side != OURS:
        ratio = f"{figure / ours if row.less_is_better else ours / figure:.2f} x"
    return [
        side.replace(peer, title_of(peer), 1) if peer else side,
        row.unit,
        f"{figure:,.1f}" if row.unit == "ms" else f"{figure:,.0f}",
        f"{statistics.median(cpu):,.0f}" if cpu else "",
        ratio,
        f">= {row.aims[side]:g} x" if side in row.aims else row.limit if side == OURS else "",
    ]
