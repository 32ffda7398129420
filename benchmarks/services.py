"""What the benchmark of services measures: calls between two processes on loopback, and streams."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import brokers
import build
import page
import rounds
from peers import ROOT, title_of
from rounds import Case, Results

MARK = "the table of services"
OURS, JSON, REST = "evbus", "evbus, JSON", "evbus, REST"
ASPYX, ASPYX_JSON, ASPYX_REST = "aspyx-service", "aspyx-service, JSON", "aspyx-service, REST"
GRPC, AIOHTTP, FASTAPI = "grpcio", "aiohttp", "fastapi"
OVER, AIO_PIKA = "evbus, RabbitMQ", brokers.AIO_PIKA
LOCAL, DIRECT = "evbus, local", "a direct call"
STARTED = 30.0  # seconds for a server to listen
TICKS = os.sysconf("SC_CLK_TCK")


class Side(NamedTuple):
    """Who is measured: its peer, its script, how that serves, and the channel that it is told."""

    peer: str
    script: str
    serve: str = "serve"
    channel: str = "-"


SIDES = {
    OURS: Side("", "services_evbus_side.py", channel="dispatch-msgpack"),
    JSON: Side("", "services_evbus_side.py", channel="dispatch-json"),
    REST: Side("", "services_evbus_side.py", channel="rest"),
    ASPYX: Side(ASPYX, "aspyx_service_side.py", channel="dispatch-msgpack"),
    ASPYX_JSON: Side(ASPYX, "aspyx_service_side.py", channel="dispatch-json"),
    ASPYX_REST: Side(ASPYX, "aspyx_service_side.py", channel="rest"),
    GRPC: Side(GRPC, "services_grpc_side.py"),
    AIOHTTP: Side(AIOHTTP, "services_http_side.py"),
    FASTAPI: Side(FASTAPI, "services_http_side.py", "serve-fastapi"),
    OVER: Side("", "services_evbus_side.py", "serve-over", "amqp"),
    LOCAL: Side("", "services_evbus_side.py", channel="local"),
    DIRECT: Side("", "services_evbus_side.py", channel="-"),
    AIO_PIKA: Side(AIO_PIKA, "services_aio_pika_side.py", "serve-over"),
}
IN_FLIGHT = {"hello": 32, "tree": 32, "rest": 32, "broker": 32}
CASES = [
    Case("hello", {ASPYX: 640, ASPYX_JSON: 640, GRPC: 9_600, AIOHTTP: 9_600, JSON: 9_600, OURS: 9_600}),
    Case("one", {ASPYX: 500, GRPC: 2_000, AIOHTTP: 2_000, OURS: 2_000}),
    Case("sync", {ASPYX: 1_000, OURS: 2_000}),
    Case("tree", {ASPYX: 640, GRPC: 6_400, OURS: 6_400}),
    Case("rest", {ASPYX_REST: 640, FASTAPI: 9_600, REST: 9_600}),
    Case("broker", {AIO_PIKA: 3_200, OVER: 9_600}),
    Case("local", {DIRECT: 200_000, LOCAL: 200_000}),
    Case("stream", {GRPC: 100_000, OURS: 100_000}),
]
TITLES = {
    "hello": "32 calls in flight",
    "one": "one call at a time, asynchronous",
    "sync": "one call at a time, a plain function",
    "tree": "a recursive dataclass of 1 KiB, 32 calls in flight",
    "rest": "REST, 32 calls in flight",
    "broker": "over RabbitMQ, 32 calls in flight",
    "local": "in the same process, without interceptors",
    "stream": "a stream of 100,000 numbers, items",
}
#: What evbus is to be against each, in times.
BARS = {
    ("hello", ASPYX): 12,
    ("hello", GRPC): 1.0,
    ("hello", AIOHTTP): 0.7,
    ("one", ASPYX): 3,
    ("one", GRPC): 1.3,
    ("sync", ASPYX): 1.3,
    ("tree", ASPYX): 8,
    ("tree", GRPC): 0.8,
    ("rest", ASPYX_REST): 8,
    ("rest", FASTAPI): 0.8,
    ("broker", AIO_PIKA): 4,
    ("stream", GRPC): 1.0,
}
#: Microseconds that a call within the process may cost more than one without evbus.
ADDED = 1.0


def measure(side: str, case: str, calls: int) -> dict[str, float]:
    """Run one case between a server and a client, each a process of its own."""
    peer, script, serve, channel = SIDES[build.script_of(side)]
    command = [build.interpreter(side, peer), "-Es", str(ROOT / "benchmarks/sides" / script)]
    if case == "local":
        return {**rounds.output_of([*command, case, channel, str(calls)]), "server": 0.0}
    serving = _serving_over if case == "broker" else _serving
    with serving([*command, serve]) as (url, server):
        before = _time_of(server)
        in_flight = str(IN_FLIGHT.get(case, 1))
        found = rounds.output_of([*command, "call", channel, url, case, str(calls), in_flight])
        # The calls that warm it up are among them, and few.
        found["server"] = (_time_of(server) - before) / calls * 1e6
    return found


@contextlib.contextmanager
def _serving(command: list[str]) -> Iterator[tuple[str, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        process = subprocess.Popen([*command, str(port)], cwd=folder, stdout=log, stderr=log)
        try:
            end = time.monotonic() + STARTED
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    sys.exit(f"does not listen: {command}\n{log.read()}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _serving_over(command: list[str]) -> Iterator[tuple[str, int]]:
    """Serve over a RabbitMQ of its own, without a port."""
    with brokers.private_node() as broker, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([*command, broker.amqp], cwd=folder, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                sys.exit(f"does not serve: {command}")
            yield broker.amqp, process.pid
        finally:
            process.kill()
            process.communicate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _time_of(process: int) -> float:
    """Return the processor time of a process in seconds; Linux tells it in hundredths."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def table(found: Results) -> list[str]:
    """Return the medians as a reStructuredText table: a line for each side of each case."""
    cells = [["case", "side", "calls/s", "CPU us, client", "CPU us, server", "evbus against it", "bar"]]
    for case in CASES:
        medians = {
            side: [
                statistics.median(found[side, case.name, key]) if (side, case.name, key) in found else 0.0
                for key in ("rate", "cpu", "server")
            ]
            for side in case.events
            if (side, case.name, "rate") in found
        }
        ours = next((medians[side][0] for side in (OURS, REST, OVER) if side in medians), 0.0)
        title = TITLES[case.name]
        for side, (rate, client, server) in medians.items():
            bar = BARS.get((case.name, side))
            against = "" if side.startswith(OURS) or not rate else f"{ours / rate:.2f} x"
            told = "" if bar is None else f">= {bar:g} x"
            numbers = [f"{number:,.0f}" for number in (rate, client, server)]
            if case.name == "local":
                numbers[1:] = f"{client:.2f}", ""
                added = medians[LOCAL][1] - client if LOCAL in medians else 0.0
                against, told = (f"{added:+.2f} us", f"<= {ADDED:g} us") if side == DIRECT else ("", "")
            cells.append([title, _title(side), *numbers, against, told])
            title = ""
    return page.list_table([24, 20, 11, 12, 12, 14, 9], cells)


def _title(side: str) -> str:
    peer = SIDES[side].peer
    return side.replace(peer, title_of(peer), 1) if peer else side
