"""Processes that end while they handle events: what they had comes again, and not without end."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from evbus.api import bus
from tests.command.kit import Shell
from tests.ingress.amqp_kit import eventually
from tests.servers._rabbitmq import RabbitMQ

LISTENER = """
import os

from evbus.api import event_listener

@event_listener("{name}", name="worker", durable=True, prefetch=1, max_deliveries={most})
async def on(event):
    with open("handled.txt", "a") as file:
        file.write(f"{{event}}\\n")
    if event == "deadly":
        os._exit(9)
    print(event, flush=True)
"""

OPTIONS = (
    "listen",
    "-p",
    "profiles.yml",
    "--plugin-dirs",
    "plugins",
    "--quiet",
    "--dead-store",
    "dead.jsonl",
)


def shell_for(folder: Path, node: RabbitMQ, name: str, queue: Any, most: int) -> Shell:
    """Write the files of a listener, and send it a deadly event and a harmless one."""
    shell = Shell(folder)
    data = {
        "url": f"amqp://guest:guest@{node.host}:{node.port}/",
        "exchange": {"name": name, "type": "topic"},
        "queue": queue,
    }
    shell.file("profiles.yml", json.dumps({"amqp": {"default": data}}))
    shell.file("plugins/listener/worker.py", LISTENER.format(name=name, most=most))

    async def send() -> None:
        async with bus({"amqp": {"default": data}}) as events:
            for body in ("deadly", "harmless"):
                await events.put(routing_key=name, body=body)

    asyncio.run(send())
    return shell


def run(shell: Shell, deaths: int) -> None:
    """Let it be killed so often, and then handle what is harmless."""
    for _ in range(deaths):
        with shell.start(*OPTIONS) as killed:
            assert killed.wait(60) == 9, killed.stderr.read()
    with shell.start(*OPTIONS) as last:
        assert last.stdout.readline() == "harmless\n", last.stderr.read()
        last.send_signal(signal.SIGTERM)
        last.wait(60)
    handled = (shell.folder / "handled.txt").read_text().split()
    assert handled == ["deadly"] * deaths + ["harmless"]


@pytest.mark.parametrize("each_rabbitmq", ["4.0", "4.3"], indirect=True)
def test_an_event_that_was_delivered_too_often_is_in_the_dead_store(
    each_rabbitmq: RabbitMQ, unique: str, tmp_path: Path
) -> None:
    queue = {"name": f"{unique}::worker", "type": "quorum", "bind": [unique]}
    run(shell_for(tmp_path, each_rabbitmq, unique, queue, 2), 2)
    (letter,) = (json.loads(line) for line in (tmp_path / "dead.jsonl").read_text().splitlines())
    assert (letter["body"], letter["dead"]["lane"]) == ("deadly", "listener worker")
    assert letter["dead"]["reason"] == (
        "DeliveryError: it was delivered 2 times before and never settled: its handling may have ended the "
        "process (max_deliveries: 2)"
    )
    assert each_rabbitmq.depth(f"{unique}::worker").messages == 0


@pytest.mark.parametrize("each_rabbitmq", ["4.0", "4.3"], indirect=True)
def test_a_queue_of_ones_own_with_a_limit_and_dead_letters_is_used_as_it_is(
    each_rabbitmq: RabbitMQ, unique: str, tmp_path: Path
) -> None:
    queue = {
        "name": f"{unique}::worker",
        "type": "quorum",
        "bind": [unique],
        "dead_letter_exchange": "",
        "dead_letter_routing_key": f"{unique}.dead",
        "arguments": {"x-delivery-limit": 1},
    }
    letters = {
        "url": f"amqp://guest:guest@{each_rabbitmq.host}:{each_rabbitmq.port}/",
        "queue": f"{unique}.dead",
    }

    async def dead() -> None:
        async with bus({"amqp": {"letters": letters}}) as events:
            deliveries = events.consume("letters")
            found = await asyncio.wait_for(anext(deliveries), 30)
            found.ack()
            assert found.envelope.body == b'"deadly"'
            await deliveries.aclose()

    async def declared() -> None:
        async with bus({"amqp": {"letters": letters}}) as events:
            consuming = asyncio.ensure_future(anext(events.consume("letters")))
            await eventually(lambda: each_rabbitmq.has_queue(f"{unique}.dead"), "the queue is there")
            consuming.cancel()
            await asyncio.wait({consuming})

    asyncio.run(declared())
    run(shell_for(tmp_path, each_rabbitmq, unique, queue, 0), 2)
    assert not (tmp_path / "dead.jsonl").exists()
    asyncio.run(dead())


# A worker that is killed while it handles events: nothing of what it had is missing.


EVENTS = 300

WORKER = """
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
    shell.file("plugins/listener/worker.py", WORKER.format(name=unique))
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
