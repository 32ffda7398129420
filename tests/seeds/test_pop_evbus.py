"""The examples of pop-evbus."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.evbus.kit import bodies, running

# "provider: profile_name: profile_data:"
PROFILES = """
internal:
  default:
      limit: 100
file:
  other:
      path: other.jsonl
"""

BODY = b'{"message":"event content"}'


async def test_asynchronous_put(hub: Any) -> None:
    async def my_func(hub: Any) -> None:
        await hub.evbus.broker.put(
            routing_key="channel", body={"message": "event content"}, profile="default"
        )

    async with running(hub, yaml.safe_load(PROFILES)):
        await my_func(hub)
        assert await bodies(hub, "channel", 1) == [BODY]


async def test_synchronous_put(hub: Any) -> None:
    def my_func(hub: Any) -> None:
        hub.evbus.broker.put_nowait(
            routing_key="channel", body={"message": "event content"}, profile="default"
        )

    async with running(hub, yaml.safe_load(PROFILES)):
        my_func(hub)
        assert await bodies(hub, "channel", 1) == [BODY]


async def test_without_a_profile_the_one_called_default_is_used_and_all_that_match_get_the_event(
    hub: Any,
) -> None:
    contexts = {"internal": [{"default": {}}, {"default": {"routing_key": "copy"}}]}
    async with running(hub, contexts):
        await hub.evbus.broker.put(routing_key="channel", body={"message": "event content"})
        assert await bodies(hub, "channel", 1) == [BODY]
        assert await bodies(hub, "copy", 1) == [BODY]


@pytest.mark.parametrize(
    ("plugin", "body"), [("json", b'"text"'), ("init", b"text"), ("msgpack", b"\xa4text")]
)
async def test_the_serializer_is_the_one_that_the_hub_names(hub: Any, plugin: str, body: bytes) -> None:
    hub.serialize.PLUGIN = plugin
    async with running(hub, {"internal": {"default": {}}}):
        await hub.evbus.broker.put(routing_key="channel", body="text")
        assert await bodies(hub, "channel", 1) == [body]
