"""More events in a file than its destination takes in the time that a stop has (bar 26)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos._process import LIMIT, environment
from tests.chaos._run import Run
from tests.chaos._transport import Broker

DESTINATION = """
import asyncio


async def publish(hub, ctx, routing_key, body, headers=None):
    await asyncio.sleep({pause})
    with open("arrived", "ab") as file:
        file.write(body + b"\\n")
"""
LISTENER = """
from evbus.api import event_listener


@event_listener("chaos", retry={"attempts": 1})
async def fails(event):
    raise RuntimeError("it cannot")
"""


def bar_26(node: Broker, folder: Path, *, events: int = 6_000, rate: float = 90.0, failing: int = 100) -> Run:
    """``evbus run FILE``: the end of the input is no stop; listeners that fail show in the exit code."""
    run = Run("26: a file to a slow destination, and to listeners that fail", rate=rate)
    begun = time.monotonic()
    slow = folder / "slow"
    _file(slow / "plugins" / "ingress" / "slowly.py", DESTINATION.format(pause=1 / rate))
    done = _run(slow, {"slowly": {"default": {}}}, events, LIMIT + 2 * events / rate)
    run.note(seconds_of_the_file=round(time.monotonic() - begun, 1))
    arrived = [json.loads(line)["number"] for line in (slow / "arrived").read_text().splitlines()]
    run.same("delivered", len(arrived), events)
    run.same("distinct", len(set(arrived)), events)
    run.hold("exit_code", done.returncode, done.returncode == 0, f"0; {done.stderr[-500:]}")
    fails = folder / "fails"
    _file(fails / "plugins" / "listener" / "fails.py", LISTENER)
    done = _run(fails, {"internal": {"default": {}}}, failing, LIMIT)
    run.same("exit_code_when_listeners_fail", done.returncode, 1)
    told = str(failing) in done.stdout + done.stderr
    run.hold(
        "number_told", told, told, f"the number of events that failed: {(done.stdout + done.stderr)[-500:]}"
    )
    return run


def _file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _run(folder: Path, profiles: object, events: int, limit: float) -> subprocess.CompletedProcess[str]:
    lines = [json.dumps({"routing_key": "chaos", "body": {"number": number}}) for number in range(events)]
    _file(folder / "events.jsonl", "\n".join(lines) + "\n")
    _file(folder / "profiles.yml", json.dumps(profiles))  # JSON is YAML
    command = ["run", "events.jsonl", "--profiles", "profiles.yml", "--plugin-dirs", "plugins"]
    return subprocess.run(
        [sys.executable, "-m", "evbus", *command],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
