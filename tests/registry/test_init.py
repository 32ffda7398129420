"""Registries of one's own: files in a folder ``registry/``, and what the engine asks of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import ProfileError, ServiceCommunicationError, ServiceError
from tests.evbus.kit import new_hub, write
from tests.evbus.rig import until
from tests.service.test_init import Clock, ClockImpl, TowerImpl

BOARD = """
import asyncio
import msgspec


class Profile(msgspec.Struct, forbid_unknown_fields=True):
    wall: str = "north"


def __init__(hub):
    hub.registry.board.PROFILE = Profile
    hub.registry.SEEN = []


async def open(hub, ctx):
    hub.registry.SEEN.append(("open", ctx.name, ctx.profile.wall))
    return asyncio.Queue()


async def watch(hub, ctx, component):
    hub.registry.NEWS = ctx.state
    while True:
        yield await ctx.state.get()


async def register(hub, ctx, component, addresses):
    hub.registry.SEEN.append(("register", component, [tuple(one) for one in addresses]))


async def deregister(hub, ctx, component):
    hub.registry.SEEN.append(("deregister", component))


async def close(hub, ctx):
    hub.registry.SEEN.append("close")
"""
ECHO = """
import msgspec


class Profile(msgspec.Struct):
    size: int = 1


def __init__(hub):
    hub.channel.echo_it.PROFILE = Profile
    hub.channel.SEEN = []


async def open(hub, ctx):
    hub.channel.SEEN.append(("open", ctx.name, ctx.profile.size))
    return "state"


async def invoke(hub, ctx, call, address):
    hub.channel.SEEN.append((ctx.state, call.name, address))
    return call.spec.read_result(float(len(address)))


async def close(hub, ctx):
    hub.channel.SEEN.append("close")
"""


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    root = write(tmp_path / "plugins", registry__board=BOARD, channel__echo_it=ECHO)
    return new_hub(plugin_dirs=[root])


async def test_a_registry_is_told_what_runs_here_and_tells_where_others_are(hub: Any) -> None:
    hub.service.init.add(TowerImpl, ClockImpl)
    await hub.service.init.start(settings={"registry": {"board": {"wall": "south"}}})
    assert hub.registry.SEEN == [("open", "board", "south"), ("register", "tower", [("pigeon", "roof")])]
    await hub.service.init.stop()
    assert hub.registry.SEEN[2:] == [("deregister", "tower"), "close"]


async def test_addresses_follow_the_registry_and_a_channel_is_opened_once(hub: Any) -> None:
    settings = {"registry": "board", "channels": {"echo-it": {"size": 3, "select": "first"}}}
    await hub.service.init.start(settings=settings)
    clock = hub.service.init.get(Clock)
    told = hub.service.init.report()
    assert (told["registry"], told["channels"][:2]) == ("board", ["local", "echo-it"])
    asking = asyncio.ensure_future(clock.now())
    await until(lambda: "NEWS" in vars(hub.registry))
    hub.registry.NEWS.put_nowait([("carrier", "x"), ("echo-it", "four")])
    assert await asking == 4.0
    hub.registry.NEWS.put_nowait([("echo-it", "seven..")])
    await until(hub.registry.NEWS.empty)
    await asyncio.sleep(0)
    assert await clock.now() == 7.0
    hub.registry.NEWS.put_nowait([("carrier", "x")])
    await until(hub.registry.NEWS.empty)
    await asyncio.sleep(0)
    with pytest.raises(
        ServiceError, match="'tower' can be called over carrier, and this process has echo-it, "
    ):
        await clock.now()
    await hub.service.init.stop()
    assert hub.channel.SEEN == [
        ("open", "echo-it", 3),
        ("state", "tower:clock:now", "four"),
        ("state", "tower:clock:now", "seven.."),
        "close",
    ]
    assert hub.registry.SEEN == [("open", "board", "north"), "close"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"registry": "bord"}, "services: registry: there is no registry 'bord'; did you mean 'board'?"),
        (
            {"registry": {"board": {"wal": 1}}},
            "services: registry.board.wal: there is no such key; did you mean 'wall'?",
        ),
        ({"registry": {"board": 5}}, "services: registry.board: this is a mapping, not int"),
        (
            {"channels": {"echo": {}}},
            "services: channels.echo: there is no channel 'echo'; did you mean 'echo-it'?",
        ),
        (
            {"channels": {"echo-it": {"siz": 1}}},
            "services: channels.echo-it.siz: there is no such key; did you mean 'size'?",
        ),
        (
            {"channels": {"echo-it": {"select": "any"}}},
            "services: channels.echo-it.select: 'any' is none of ",
        ),
        (
            {"channels": {"echo-it": {"in_flight": 0}}},
            "services: channels.echo-it: in_flight must be 1 or more",
        ),
        (
            {"channels": {"echo-it": {"retry": {"attempts": 0}}}},
            "services: channels.echo-it: retry.attempts must be 1 or more: a call has a deadline",
        ),
        (
            {"channels": {"echo-it": {"breaker": {"pause": 0}}}},
            "services: channels.echo-it.breaker: failures is 0 or more, and pause a number of seconds",
        ),
        ({"channels": {"echo-it": 5}}, "services: channels.echo-it: this is a mapping, not int"),
    ],
)
async def test_settings_of_both_are_checked_at_the_start(hub: Any, settings: Any, said: str) -> None:
    with pytest.raises(ProfileError) as problem:
        await hub.service.init.start(settings=settings)
    assert str(problem.value).startswith(said)


async def test_a_broken_registry_or_channel_says_what_is_wrong(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", registry__board="x = 1\n", channel__echo_it="x = 1\n")
    hub = new_hub(plugin_dirs=[root])
    with pytest.raises(
        ProfileError, match=r"registry.board \(.*\): it has no function watch\(hub, ctx, component\)"
    ):
        await hub.service.init.start(settings={"registry": "board"})
    with pytest.raises(
        ProfileError, match=r"channel.echo_it \(.*\): it has no function invoke\(hub, ctx, call, "
    ):
        await hub.service.init.start(settings={"channels": {"echo-it": {}}})


AWAY = """
async def open(hub, ctx):
    if ctx.acct.get("at") == "open":
        raise OSError("nobody listens at http://joe:geheim@board")

async def watch(hub, ctx, component):
    yield []

async def register(hub, ctx, component, addresses):
    raise OSError("nobody listens")
"""


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("open", "the registry board cannot be opened: OSError: nobody listens at http://joe:***@board"),
        ("register", "the registry board does not take the component 'tower': OSError: nobody listens"),
    ],
)
async def test_a_registry_that_is_away_at_the_start_ends_it_in_a_sentence(
    tmp_path: Path, at: str, said: str
) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", registry__board=AWAY)])
    hub.service.init.add(TowerImpl, ClockImpl)
    with pytest.raises(ServiceCommunicationError) as problem:
        await hub.service.init.start(settings={"registry": {"board": {"at": at}}})
    assert str(problem.value) == said
    # What was begun is ended, and it may start without it.
    await hub.service.init.start(settings={})
    await hub.service.init.stop()
