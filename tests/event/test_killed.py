"""A worker that is killed while it handles events: nothing of what it had is missing."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from evbus.api import bus
from tests.command.kit import Shell
from tests.servers._rabbitmq import RabbitMQ

EVENTS = 300

LISTENER = """
from evbus.api import event_listener

@event_listener("{name}", name="worker", durable=True, prefetch=50)
async def on(event):
    with open("handled.txt", "a") as file:
        file.write(f"{{event['number']}}\\n")
    print(event["number"], flush=True)
"""


def test_what_a_killed_worker_had_is_handled_by_the_next(
    rabbitmq: RabbitMQ, unique: str, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    profiles = {
        "amqp": {
            "default": {
                "url": f"amqp://guest:guest@{rabbitmq.host}:{rabbitmq.port}/",
                "exchange": {"name": unique, "type": "topic"},
                "queue": {"name": f"{unique}::worker", "bind": [unique]},
            }
        }
    }
    shell.file("profiles.yml", json.dumps(profiles))
    shell.file("plugins/listener/worker.py", LISTENER.format(name=unique))
    options = ("listen", "-p", "profiles.yml", "--plugin-dirs", "plugins", "--quiet")

    async def send() -> Any:
        async with bus(profiles) as events:
            for number in range(EVENTS):
                await events.put(routing_key=unique, body={"number": number})
        return events.report

    assert str(asyncio.run(send())).startswith("everything was delivered")

    with shell.start(*options) as first:
        for _ in range(EVENTS // 3):
            assert first.stdout.readline(), first.stderr.read()
        first.kill()
        first.wait(60)

    with shell.start(*options) as second:
        while len(_handled(tmp_path)) < EVENTS:
            assert second.stdout.readline()
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0

    assert _handled(tmp_path) == set(range(EVENTS))
    assert rabbitmq.depth(f"{unique}::worker").messages == 0


def _handled(folder: Path) -> set[int]:
    return {int(line) for line in (folder / "handled.txt").read_text().split()}
