"""The scripts of the benchmarks run, on each event loop, and prove that everything came that was sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
LIMIT = 100  # seconds
LOOPS = ("asyncio", "uvloop")
#: More than a listener of this process may have waiting.
MANY = 12_000
CASES_OF_SERVICES = [
    ("evbus", "one", 200),
    ("evbus", "tree", 320),
    ("evbus, REST", "rest", 320),
    ("evbus, local", "local", 320),
]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("bus_case.py", ("ten", 500)),
        ("bus_case.py", ("latency", 500)),
        ("events_case.py", ("evbus", "one", MANY)),
        ("events_case.py", ("evbus", "plain", 3_000)),
        ("events_case.py", ("evbus", "ten", 2_000)),
    ],
    ids=["bus-ten", "bus-latency", "events-one", "events-plain", "events-ten"],
)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_case_of_evbus_ends_on_each_event_loop(
    script: str, arguments: tuple[object, ...], loop: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "EVBUS_BENCH_LOOP": loop, "HOME": str(tmp_path)}
    command = [sys.executable, "-s", str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cpu"] > 0


@pytest.mark.parametrize(("side", "case", "calls"), CASES_OF_SERVICES)
def test_a_case_of_services_ends(side: str, case: str, calls: int) -> None:
    code = f"import json, services; print(json.dumps(services.measure({side!r}, {case!r}, {calls})))"
    command = [sys.executable, "-s", "-c", code]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["cpu"] > 0


def test_the_case_of_services_over_a_broker_ends(rabbitmq: object) -> None:
    # It starts a broker of its own; without one here there is none there.
    test_a_case_of_services_ends("evbus, RabbitMQ", "broker", 320)
