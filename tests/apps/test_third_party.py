"""evbus-pika and evbus-kafka, as they were published for pop-evbus, load and take part in matching."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.apps.conftest import Apps

pytestmark = pytest.mark.apps

# Runs in the other environment. Nothing is opened or delivered: these brokers do not exist.
SCRIPT = """
import json
import pop.hub

CONTEXTS = {
    "pika": [{"default": {"connection": {"url": "amqp://127.0.0.1/"}, "routing_key": "orders"}}],
    "kafka": {"default": {"connection": {"bootstrap_servers": ["127.0.0.1:9092"]}, "topics": ["orders"]}},
    "internal": {"other": {}},
}

hub = pop.hub.Hub()
hub.pop.sub.add(dyne_name="evbus")
find = hub.evbus.init.finder(CONTEXTS)
print(json.dumps({
    "states": {plugin.name: plugin.state for plugin in hub.evbus.init.plugins()["ingress"]},
    "providers": {name: list(hub.ingress[name].ACCT) for name in ("pika", "kafka", "internal")},
    "lanes": [
        str(lane.key) for lane in hub.evbus.init.connect(CONTEXTS) if find("default", lane.key.profile)
    ],
}))
"""


@pytest.fixture
def found(apps: Apps, tmp_path: Path) -> dict[str, Any]:
    script = tmp_path / "look.py"
    script.write_text(SCRIPT)
    done = apps.run("python", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_published_plugins_are_loaded_beside_ours(found: dict[str, Any]) -> None:
    assert found["states"]["pika"] == "loaded"
    assert found["states"]["kafka"] == "loaded"
    assert found["states"]["internal"] == "loaded"


def test_published_plugins_keep_the_providers_that_they_declare(found: dict[str, Any]) -> None:
    assert found["providers"]["pika"] == ["pika", "amqp", "rabbitmq"]
    assert found["providers"]["kafka"] == ["kafka"]


def test_a_matching_event_has_a_lane_to_each_published_plugin(found: dict[str, Any]) -> None:
    assert sorted(found["lanes"]) == ["kafka.kafka.default", "pika.pika.default"]
