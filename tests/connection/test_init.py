"""The room connection: what is open, for all transports."""

from __future__ import annotations

from typing import Any

import msgspec
from dict_tools.data import NamespaceDict

from evbus.engine.wire.base.supervisor import ConnectionState
from tests.connection.amqp_kit import new_hub
from tests.engine.wire.base.test_supervisor import Transport, connection
from tests.evbus.kit import new_hub as with_a_bus


class Settings(msgspec.Struct):
    url: str = ""


def context(name: str) -> Any:
    return NamespaceDict(name=name, provider="amqp", acct={}, profile=Settings(), state=None)


def test_nothing_is_open_at_first() -> None:
    assert new_hub().connection.init.states() == {}


async def test_what_is_shared_is_made_once_listed_and_released(hub: Any) -> None:
    made = []

    def make() -> Any:
        made.append(connection(Transport()))
        return made[-1]

    one = await hub.connection.init.share("amqp", context("orders"), make)
    two = await hub.connection.init.share("amqp", context("orders"), make)
    other = await hub.connection.init.share("stomp", context("orders"), make)
    assert one is two
    assert other is made[1]
    states = hub.connection.init.states()
    assert sorted(states) == ["amqp.orders", "amqp.orders#2"]
    assert set(states["amqp.orders"]) == {"state", "since", "connects", "blocked", "last_error"}
    for user in (one, two, other):
        await hub.connection.init.release(user)
    assert hub.connection.init.states() == {}
    assert one.state is other.state is ConnectionState.CLOSED


async def test_what_is_open_outlives_that_the_room_is_loaded_again(hub: Any) -> None:
    made = await hub.connection.init.share("amqp", context("orders"), lambda: connection(Transport()))
    shared = hub.connection.SHARED
    hub.pop.sub.add(dyne_name="connection", pypath="evbus.connection", omit_class=True)
    hub.connection.init.states()
    assert hub.connection.SHARED is shared
    await hub.connection.init.release(made)


async def test_hubs_share_nothing() -> None:
    first, second = new_hub(), new_hub()
    made = await first.connection.init.share("amqp", context("a"), lambda: connection(Transport()))
    assert second.connection.init.states() == {}
    await first.connection.init.release(made)


def test_the_snapshot_of_the_bus_lists_the_connections() -> None:
    hub = with_a_bus()
    assert hub.evbus.stats.snapshot()["connections"] == {}
