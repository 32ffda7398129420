"""``hub.evbus.rpc``: links over the profiles of a bus."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import ConfigError, ProfileError
from evbus.types import Envelope
from tests.evbus.kit import WAIT, new_hub, running, write

#: An ingress plugin that answers a request with what it says, in capital letters.
CAPITALS = """
from evbus.types import Envelope

def __init__(hub):
    hub.ingress.capitals.ACCT = ["capitals"]
    hub.ingress.CALLS = []

async def open_(hub, ctx):
    hub.ingress.CALLS.append("open")
    return "state"

async def close_(hub, ctx):
    hub.ingress.CALLS.append("close")

async def publish(hub, ctx, body):
    pass

async def request(hub, ctx, event, timeout):
    return Envelope(ctx.name, "", event.body.upper(), {"state": ctx.state})

async def reply(hub, ctx, address, event):
    hub.ingress.CALLS.append((address, event.body))

__func_alias__ = {"open_": "open", "close_": "close"}
"""

PROFILES = {"capitals": {"here": {"routing_key": "x"}}, "internal": {"default": {}}}
EVENT = Envelope("here", "key", b"word", {})


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    return new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__capitals=CAPITALS)])


async def asked(link: Any) -> Envelope:
    try:
        await link.reply("there", EVENT)
        found: Envelope = await link.request(EVENT, WAIT)
        return found
    finally:
        await link.close()


async def test_a_link_over_a_profile_of_the_bus_asks_and_answers(hub: Any) -> None:
    async with running(hub, PROFILES):
        hub.ingress.CALLS.clear()  # the lane has its own
        reply = await asked(hub.evbus.rpc.link("here"))
    assert (reply.body, reply.headers) == (b"WORD", {"state": "state"})
    assert hub.ingress.CALLS[:3] == ["open", ("there", b"word"), "close"]


def test_the_bus_need_not_run_when_profiles_are_given(hub: Any) -> None:
    link = hub.evbus.rpc.link("capitals.here", PROFILES, replies=True)
    assert asyncio.run(asked(link)).body == b"WORD"


def test_a_profile_that_has_no_way_back_or_is_not_there_is_told(hub: Any) -> None:
    with pytest.raises(ProfileError, match="the plugin 'internal' cannot bring replies back; those that can"):
        hub.evbus.rpc.link("default", PROFILES)
    with pytest.raises(ProfileError, match="there is no profile 'hare' for requests; did you mean 'here'?"):
        hub.evbus.rpc.link("hare", PROFILES)


def test_a_bus_that_was_not_started_has_no_profiles(hub: Any) -> None:
    with pytest.raises(ConfigError, match="the bus has no profiles yet: start it first"):
        hub.evbus.rpc.link("here")
