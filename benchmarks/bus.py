"""What the benchmark of the bus measures: evbus against pop-evbus 7, and against the bound."""

from __future__ import annotations

from typing import NamedTuple

PEER = "pop-evbus"
OURS = "evbus"


class Case(NamedTuple):
    """A case of bus_case.py: how many events each side handles, so that both run for about a second."""

    name: str
    events: dict[str, int]


class Row(NamedTuple):
    """A line of the table: one result of a case, and the ratio that is aimed at."""

    title: str
    case: str
    key: str
    unit: str
    aim: float
    less_is_better: bool = False


CASES = [
    Case("one", {PEER: 5_000, OURS: 100_000}),
    Case("ten", {PEER: 1_000, OURS: 30_000}),
    Case("hundred", {PEER: 150, OURS: 4_000}),
    Case("one-of-100", {PEER: 600, OURS: 100_000}),
    Case("latency", {PEER: 2_000, OURS: 10_000}),
    Case("memory", {PEER: 100_000, OURS: 100_000}),
    Case("bound", {OURS: 300_000}),
]

ROWS = [
    Row("1 profile, end to end", "one", "rate", "events/s", 20),
    Row("10 matching profiles", "ten", "rate", "events/s", 30),
    Row("100 matching profiles", "hundred", "rate", "events/s", 30),
    Row("1 matching of 100", "one-of-100", "rate", "events/s", 200),
    Row("one at a time, put to delivered, median", "latency", "median", "us", 3, less_is_better=True),
    Row("one at a time, put to delivered, 99th percentile", "latency", "p99", "us", 0, less_is_better=True),
    Row("100,000 queued, resident bytes an event", "memory", "bytes", "bytes", 2, less_is_better=True),
]
