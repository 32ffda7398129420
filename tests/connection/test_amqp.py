"""The plugin connection.amqp, on a hub."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.wire.base.supervisor import ConnectionState
from evbus.errors import ConnectFailed, ProfileError
from tests.connection.amqp_kit import WAIT, closed_port, context, new_hub, restored, url


async def test_the_broker_lists_the_connection_by_the_name_of_its_profile(
    broken_rabbitmq: Any, unique: str
) -> None:
    hub, connections = new_hub(), "rabbit_networking:connection_info_all([client_properties])"
    ctx = context(unique, url=broken_rabbitmq.url, client_properties={"department": "shoes"})
    made = await hub.connection.amqp.open(ctx)
    try:
        listed = await asyncio.to_thread(
            broken_rabbitmq.evaluate, f'lists:flatten(io_lib:format("~p", [{connections}]))'
        )
    finally:
        await hub.connection.amqp.close(made)
    assert f"evbus {unique} (" in listed
    assert "shoes" in listed


async def test_other_profiles_and_settings_have_connections_of_their_own(hub: Any, rabbitmq: Any) -> None:
    first = await hub.connection.amqp.open(context(url=rabbitmq.url))
    others = [
        await hub.connection.amqp.open(context("bills", url=rabbitmq.url)),
        await hub.connection.amqp.open(context(url=rabbitmq.url, prefetch=1)),
    ]
    assert len({id(one) for one in (first, *others)}) == 3
    for made in (first, *others):
        await hub.connection.amqp.close(made)


@pytest.mark.parametrize("provider", ["amqp", "rabbitmq", "pika"])
async def test_errors_name_the_profile_as_its_file_does(hub: Any, provider: str) -> None:
    ctx = context("bills", provider, hosts=f"127.0.0.1:{closed_port()}")
    with pytest.raises(ConnectFailed) as caught:
        await hub.connection.amqp.open(ctx)
    assert hub.connection.init.states() == {}
    assert str(caught.value).startswith(f"{provider} profile 'bills': 127.0.0.1:")


async def test_a_profile_of_evbus_pika_connects(hub: Any, rabbitmq: Any) -> None:
    old = {"host": "127.0.0.1", "port": rabbitmq.port, "login": "guest", "password": "guest"}
    made = await hub.connection.amqp.open(context(provider="pika", connection=old))
    assert made.state is ConnectionState.UP
    await hub.connection.amqp.close(made)


async def test_a_file_of_tls_that_is_missing_is_told_before_anything_connects(
    hub: Any, tmp_path: Path
) -> None:
    ctx = context(url="amqps://localhost", tls={"ca_file": str(tmp_path / "ca.pem")})
    with pytest.raises(ProfileError, match=r"^tls.ca_file: .*ca.pem cannot be read: No such file"):
        await hub.connection.amqp.open(ctx)
    assert hub.connection.init.states() == {}


async def test_a_connection_that_is_down_shows_why(hub: Any, rabbitmq: Any, proxy: Any) -> None:
    way = proxy(rabbitmq.port)

    made = await hub.connection.amqp.open(context(url=url(rabbitmq, way.port)))
    way.refuse()
    way.cut()

    async def down() -> None:
        while "nothing listens" not in made.last_error:
            await made.changed()

    await asyncio.wait_for(down(), WAIT)
    state = hub.connection.init.states()["amqp.orders"]
    assert state["state"] in ("down", "connecting")
    assert state["last_error"].startswith(f"127.0.0.1:{way.port}: nothing listens there")
    way.accept()
    await restored(made, 2)
    await hub.connection.amqp.close(made)


def test_each_of_several_loops_in_turn_has_its_own(hub: Any, rabbitmq: Any) -> None:
    async def main() -> None:
        made = await hub.connection.amqp.open(context(url=rabbitmq.url))
        assert made.connects == 1
        await hub.connection.amqp.close(made)

    asyncio.run(main())
    asyncio.run(main())
    assert hub.connection.init.states() == {}
