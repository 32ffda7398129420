"""The plugin files of the transports: what they declare, and that nothing is closed twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.transports.kit import new_hub

PROFILES = {
    "amqp": ("Profile", ["amqp", "rabbitmq", "pika"]),
    "amqp1": ("Profile", ["amqp1"]),
    "stomp": ("Profile", ["stomp"]),
    "internal": ("InternalProfile", ["internal"]),
    "webhook": ("WebhookProfile", ["webhook"]),
    "file": ("FileProfile", ["file"]),
    "console": ("ConsoleProfile", ["console"]),
}


@pytest.mark.parametrize("name", PROFILES)
async def test_a_plugin_declares_its_providers_and_profile(name: str) -> None:
    hub = new_hub()
    profile, providers = PROFILES[name]
    plugins = [getattr(room, name, None) for room in (hub.ingress, hub.egress)]
    for plugin in filter(None, plugins):
        assert providers == plugin.ACCT
        assert plugin.PROFILE.__name__ == profile
        assert plugin.PROFILE is hub.ingress[name].PROFILE
    # One way to the broker alone: see the test of profiles of evbus-pika.
    assert getattr(hub.ingress[name], "SOLE", False) is (name == "amqp")


@pytest.mark.parametrize("name", sorted(PROFILES.keys() - {"internal"}))
async def test_close_without_open_is_nothing(name: str) -> None:
    ctx: Any = SimpleNamespace(name="orders", provider=name, acct={}, state=None)
    await new_hub().ingress[name].close(ctx)
