"""evbus-pika 5.0.0, unmodified, delivers to a real RabbitMQ node through this bus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.apps.conftest import Apps
from tests.servers._rabbitmq import RabbitMQ

pytestmark = pytest.mark.apps

# Runs in the other environment, as an application written for pop-evbus does.
SCRIPT = """
import asyncio
import json
import sys

import pop.hub


async def main(hub, contexts, profiles):
    await hub.evbus.broker.init()
    listener = asyncio.ensure_future(hub.evbus.init.start(contexts))
    await hub.evbus.init.join()
    for profile in profiles:
        await hub.evbus.broker.put(body={"to": profile}, profile=profile)
    await hub.evbus.init.stop()
    await listener
    lanes = hub.evbus.stats.snapshot()["lanes"]
    print(json.dumps({name: [lane["delivered"], lane["last_error"]] for name, lane in lanes.items()}))


hub = pop.hub.Hub()
hub.pop.sub.add(dyne_name="evbus")
hub.OPT = hub.pop.data.imap({"evbus": {"dead_store": "dead.jsonl"}})
asyncio.run(main(hub, json.loads(sys.argv[1]), sys.argv[2:]))
"""


def deliver(apps: Apps, folder: Path, contexts: dict[str, Any], *profiles: str) -> dict[str, Any]:
    """Put an event for each of ``profiles``; return what each lane delivered, and its last error."""
    script = folder / "deliver.py"
    script.write_text(SCRIPT)
    done = apps.run("python", script, json.dumps(contexts), *profiles, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_delivers_the_events_of_its_profiles(
    apps: Apps, tmp_path: Path, rabbitmq: RabbitMQ, unique: str
) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.declare_exchange(f"{unique}-x", "fanout")
    rabbitmq.bind(f"{unique}-x", unique)
    connection = {"host": rabbitmq.host, "port": rabbitmq.port, "login": "guest", "password": "guest"}
    profiles = [
        {"default": {"connection": {"url": rabbitmq.url}, "routing_key": unique}},
        {"fan": {"connection": connection, "exchange": f"{unique}-x", "routing_key": "any", "timeout": 10}},
    ]
    found = deliver(apps, tmp_path, {"pika": profiles}, "default", "fan", "default")
    assert found == {"pika.pika.default": [2, ""], "pika.pika.fan": [1, ""]}
    payloads = [message["payload"] for message in rabbitmq.take(unique)]
    assert sorted(payloads) == ['{"to":"default"}', '{"to":"default"}', '{"to":"fan"}']


def test_its_profile_works_unchanged_with_ours(
    apps: Apps, tmp_path: Path, rabbitmq: RabbitMQ, unique: str
) -> None:
    """Of the providers that both accept, the one called pika is its own and all others are ours."""
    rabbitmq.declare_queue(unique)
    profile = {"connection": {"url": rabbitmq.url}, "routing_key": unique}
    contexts = {"amqp": {"ours": profile}, "rabbitmq": {"also ours": profile}, "pika": {"theirs": profile}}
    found = deliver(apps, tmp_path, contexts, "ours", "also ours", "theirs")
    assert found == {
        "amqp.amqp.ours": [1, ""],
        "amqp.rabbitmq.also ours": [1, ""],
        "pika.pika.theirs": [1, ""],
    }
    payloads = [message["payload"] for message in rabbitmq.take(unique)]
    assert sorted(payloads) == ['{"to":"also ours"}', '{"to":"ours"}', '{"to":"theirs"}']
