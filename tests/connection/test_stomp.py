"""A STOMP connection: what goes wrong on the way in, what it notices, and what it leaves."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from evbus.engine.wire.base.supervisor import ConnectionState
from evbus.errors import ConnectFailed
from tests.connection.stomp_kit import (
    WAIT,
    broker,
    context,
    event,
    frame,
    frame_of,
    login,
    new_hub,
    opened,
    publish,
    url,
)


@pytest.fixture(scope="session", params=["rabbitmq", "activemq"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def refusal(**data: Any) -> str:
    """Return the sentence with which a connection fails."""

    async def main() -> str:
        hub = new_hub()
        with pytest.raises(ConnectFailed) as caught:
            await asyncio.wait_for(hub.connection.stomp.open(context(**data)), WAIT)
        assert hub.connection.init.states() == {}
        return str(caught.value)

    said = asyncio.run(main())
    assert said.startswith("stomp profile 'orders': ")
    assert "\n" not in said
    assert "hunter22" not in said
    return said


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_wrong_port_is_told() -> None:
    assert "refused the connection" in refusal(url=f"stomp://127.0.0.1:{closed_port()}")


def test_a_wrong_host_is_told() -> None:
    assert "cannot be resolved" in refusal(url="stomp://nosuchhost.invalid")


def test_a_wrong_login_is_told(node: Any) -> None:
    said = refusal(url=f"stomp://guest:hunter22@127.0.0.1:{node.stomp_port}")
    assert "refused the login as 'guest'" in said


def test_a_login_that_is_missing_is_told_with_where_it_belongs(activemq: Any) -> None:
    said = refusal(url=f"stomp://127.0.0.1:{activemq.stomp_port}")
    assert "wants a login, and none was given: write login and password into the profile" in said


def test_a_wrong_vhost_is_told(rabbitmq: Any) -> None:
    said = refusal(url=url(rabbitmq), vhost="nope")
    assert "refused the vhost 'nope'" in said


def test_tls_towards_a_plain_port_is_told(rabbitmq: Any) -> None:
    assert "leave out tls" in refusal(url=url(rabbitmq), tls=True)


def test_no_tls_towards_a_tls_port_is_told(rabbitmq: Any) -> None:
    assert "set tls: true" in refusal(url=url(rabbitmq, rabbitmq.stomp_tls_port))


def test_another_protocol_is_told(rabbitmq: Any) -> None:
    assert "speaks AMQP" in refusal(url=url(rabbitmq, rabbitmq.port))
    assert "speaks HTTP" in refusal(url=url(rabbitmq, rabbitmq.management_port))


def test_a_certificate_of_a_stranger_is_refused_for_every_host(rabbitmq: Any) -> None:
    hosts = [f"127.0.0.1:{rabbitmq.stomp_tls_port}", f"localhost:{rabbitmq.stomp_tls_port}"]
    assert "certificate was refused" in refusal(hosts=hosts, tls=True)


async def test_tls_works_with_the_authority(node: Any, unique: str) -> None:
    tls = {"ca_file": str(node.certificates.ca)}
    async with opened(hub := new_hub(), url=url(node, node.stomp_tls_port), tls=tls) as ctx:
        assert await publish(hub, ctx, event(unique, b"x" * 300_000), event(unique, b"y")) == [None, None]


async def test_a_login_may_hold_what_stomp_escapes(rabbitmq: Any, unique: str) -> None:
    password = "a:b\\c\nd"
    rabbitmq.add_user(unique, password)
    rabbitmq.set_permissions(unique)

    address = f"stomp://127.0.0.1:{rabbitmq.stomp_port}"
    async with opened(new_hub(), url=address, login=unique, password=password) as ctx:
        assert ctx.state.connection.state is ConnectionState.UP
    rabbitmq.delete_user(unique)


def test_a_silent_host_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> str:
        async with broker(silent) as port:
            with pytest.raises(ConnectFailed) as caught:
                await new_hub().connection.stomp.open(
                    context(url=f"stomp://127.0.0.1:{port}", connect_timeout=0.2)
                )
            return str(caught.value)

    assert "did not answer within 0.2 s (connect_timeout)" in asyncio.run(main())


async def test_an_older_version_is_refused() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await login(reader, writer, version="1.1")
        await reader.read()

    async with broker(old) as port:
        with pytest.raises(ConnectFailed, match="STOMP 1.1 only"):
            await new_hub().connection.stomp.open(context(url=f"stomp://127.0.0.1:{port}"))


async def test_the_next_host_is_tried(rabbitmq: Any) -> None:
    hosts = [f"127.0.0.1:{closed_port()}", f"127.0.0.1:{rabbitmq.stomp_port}"]
    async with opened(new_hub(), hosts=hosts, login="guest", password="guest") as ctx:
        assert ctx.state.connection.state is ConnectionState.UP


async def test_users_of_a_profile_share_the_connection(rabbitmq: Any) -> None:
    hub = new_hub()
    async with opened(hub, url=url(rabbitmq)) as one, opened(hub, url=url(rabbitmq)) as two:
        assert one.state.connection is two.state.connection
        assert hub.connection.init.states()["stomp.orders"]["state"] == "up"
    assert hub.connection.init.states() == {}


async def test_the_password_is_in_no_log(rabbitmq: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rabbitmq.add_user("careful", "hunter22")
    rabbitmq.set_permissions("careful")

    address = f"stomp://careful:hunter22@127.0.0.1:{rabbitmq.stomp_port}"
    async with opened(new_hub(), url=address) as ctx:
        assert "hunter22" not in repr(ctx.state)
    rabbitmq.delete_user("careful")
    assert "hunter22" not in caplog.text


async def test_a_broker_that_falls_silent_is_given_up_and_connected_again(
    rabbitmq: Any, proxy: Any, unique: str
) -> None:
    way = proxy(rabbitmq.stomp_port)

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq, way.port), heartbeat=0.2) as ctx:
        connection = ctx.state.connection
        way.freeze()
        (outcome,) = await publish(hub, ctx, event(unique, b"1"))
        assert "two heartbeats" in str(outcome)
        way.thaw()
        why, back = hub.ingress.stomp.ready(ctx)
        assert "not connected" in why
        await asyncio.wait_for(back, WAIT)
        assert connection.connects == 2
        assert hub.ingress.stomp.ready(ctx) is None
        assert await publish(hub, ctx, event(unique, b"2")) == [None]


async def test_heartbeats_are_sent_as_the_broker_wants_them() -> None:
    beaten = asyncio.Event()

    async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = await login(reader, writer, heart_beat="0,50")
        assert sent["heart-beat"] == "100,100"
        for _ in range(3):
            assert await reader.readexactly(1) == b"\n"
        beaten.set()
        await answered(reader, writer)

    async with (
        broker(listening) as port,
        opened(new_hub(), url=f"stomp://127.0.0.1:{port}", heartbeat=0.1),
    ):
        await asyncio.wait_for(beaten.wait(), WAIT)


async def test_close_says_goodbye_and_a_broker_without_an_answer_does_not_hold_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evbus.engine.wire.base.supervisor.CLOSE_TIMEOUT", 0.1)
    said: list[str] = []

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await login(reader, writer)
        said.append((await frame_of(reader))[0])
        await reader.read()

    async with broker(mute) as port, opened(new_hub(), url=f"stomp://127.0.0.1:{port}"):
        pass
    assert said == ["DISCONNECT"]


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give every frame that wants one its receipt."""
    while True:
        _, headers, _ = await frame_of(reader)
        if "receipt" in headers:
            writer.write(frame("RECEIPT", receipt_id=headers["receipt"]))
