"""Connecting: what is wrong is told in one sentence, and all users of a profile share its connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from evbus.engine.wire.base.supervisor import ConnectionState
from evbus.errors import ConnectFailed
from tests.transports.kit import WAIT, closed_port, new_hub
from tests.transports.table import Place

GUEST = {"login": "guest", "password": "guest"}


def frozen(place: Place, proxy: Any) -> dict[str, Any]:
    way = proxy(place.port)
    way.freeze("down")
    return {"url": place.url(way.port), "connect_timeout": 0.2}


def for_another_host(place: Place, proxy: Any) -> dict[str, Any]:
    hosts = [f"127.0.0.2:{proxy(place.tls_port, host='127.0.0.2').port}"]
    return {"hosts": hosts, "tls": {"ca_file": str(place.node.certificates.ca)}, **GUEST}


#: Profiles with which nobody comes in, by the names that the table has for them.
WRONG: dict[str, Callable[[Place, Any], dict[str, Any]]] = {
    "port": lambda place, _: {"url": place.url(closed_port())},
    "host": lambda place, _: {"hosts": ["nosuchhost.invalid"], **GUEST},
    "password": lambda place, _: {"url": place.url(login="guest:hunter22")},
    "vhost": lambda place, _: {"url": place.url(), "vhost": "nope"},
    "tls": lambda place, _: {"url": place.url(), "tls": True},
    "no tls": lambda place, _: {"url": place.url(place.tls_port)},
    "authority": lambda place, _: {
        "hosts": [f"{host}:{place.tls_port}" for host in ("127.0.0.1", "localhost")],
        "tls": True,
        **GUEST,
    },
    "certificate": for_another_host,
    "silence": frozen,
    "no login": lambda place, _: {"url": place.url().replace("guest:guest@", "")},
    "the port of AMQP": lambda place, _: {"url": place.url(place.node.port)},
    "the port of HTTP": lambda place, _: {"url": place.url(place.node.management_port)},
}


@pytest.mark.can(case="refusals")
async def test_what_is_wrong_is_told_in_one_sentence(
    transport: Place, case: tuple[str, str], proxy: Any
) -> None:
    wrong, sentence = case
    hub, provider = new_hub(), transport.kit.provider
    ctx = transport.kit.context(**WRONG[wrong](transport, proxy))
    with pytest.raises(ConnectFailed) as caught:
        await asyncio.wait_for(getattr(hub.connection, provider).open(ctx), WAIT)
    said = str(caught.value)
    assert said.startswith(f"{provider} profile 'orders': ")
    assert sentence in said
    assert "\n" not in said
    assert "hunter22" not in said
    assert hub.connection.init.states() == {}


async def test_tls_works_with_the_authority(transport: Place) -> None:
    transport.declare()
    data = {"url": transport.url(transport.tls_port), "tls": {"ca_file": str(transport.node.certificates.ca)}}
    async with transport.sending(**data) as send:
        assert await send(transport.event(b"x" * 300_000), transport.event(b"y")) == [None, None]
    assert transport.depth() == 2


async def test_the_hosts_are_tried_in_turn(transport: Place) -> None:
    hosts = [f"127.0.0.1:{closed_port()}", "nosuchhost.invalid", f"127.0.0.1:{transport.port}"]
    async with transport.sending(url=None, hosts=hosts, **GUEST) as send:
        assert (send.connection.state, send.connection.connects) == (ConnectionState.UP, 1)


async def test_users_of_a_profile_share_a_connection_and_the_last_one_closes_it(transport: Place) -> None:
    connection = getattr(transport.hub.connection, transport.kit.provider)
    ctx = transport.kit.context(url=transport.url())
    users = await asyncio.gather(*(connection.open(ctx) for _ in range(5)))
    assert len({id(user) for user in users}) == 1
    states = transport.hub.connection.init.states
    state = states()[f"{transport.kit.provider}.orders"]
    assert (state["state"], state["connects"], state["blocked"]) == ("up", 1, "")
    for user in users[1:]:
        await connection.close(user)
        assert users[0].state is ConnectionState.UP
    await connection.close(users[0])
    assert users[0].state is ConnectionState.CLOSED
    assert states() == {}


@pytest.mark.can("listed")
async def test_a_login_may_hold_any_character_and_is_in_no_log(
    transport: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    user, password = transport.key, "hunter22:b\\c@d/e ü\nf"
    transport.node.add_user(user, password)
    transport.node.set_permissions(user)
    host = f"127.0.0.1:{transport.port}"
    async with transport.sending(url=None, hosts=[host], login=user, password=password) as send:
        assert send.connection.state is ConnectionState.UP
        assert "hunter22" not in repr(send.ctx.state)
    transport.node.delete_user(user)
    assert "hunter22" not in caplog.text
