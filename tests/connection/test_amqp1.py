"""A connection of AMQP 1.0: what goes wrong on the way in, what it notices, and what it leaves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import proton
import pytest

from evbus.errors import ConnectFailed
from tests.connection.amqp1_kit import (
    WAIT,
    Peer,
    context,
    event,
    new_hub,
    opened,
    peer,
    peer_url,
    publish,
    ready,
    url,
)


@pytest.fixture(scope="session", params=["rabbitmq", "rabbitmq4"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def refusal(**data: Any) -> str:
    """Return the sentence with which a connection fails."""

    async def main() -> str:
        hub = new_hub()
        with pytest.raises(ConnectFailed) as caught:
            await asyncio.wait_for(hub.connection.amqp1.open(context(**data)), WAIT)
        assert hub.connection.init.states() == {}
        return str(caught.value)

    said = asyncio.run(main())
    assert said.startswith("amqp1 profile 'orders': ")
    assert "\n" not in said
    assert "hunter22" not in said
    return said


def test_a_login_that_the_broker_does_not_offer_is_told(node: Any) -> None:
    ca = str(node.certificates.ca)
    tls = {"ca_file": ca, "cert_file": str(node.certificates.stranger), "key_file": ""}
    tls["key_file"] = str(node.certificates.stranger_key)
    said = refusal(url=f"amqps://127.0.0.1:{node.tls_port}", tls=tls, auth="external")
    assert "TLS" in said or "certificate" in said


@pytest.mark.parametrize(
    ("hello", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no AMQP 1.0 broker (it said b'HTTP/1.1 400"),
        (b"AMQP\0\0\x09\x01", "its plugin rabbitmq_amqp1_0"),
        (b"", "ended the connection without a word"),
    ],
)
async def test_another_protocol_is_told(hello: bytes, said: str) -> None:
    class Old(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(hello)
            transport.close()

    server = await asyncio.get_running_loop().create_server(Old, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        await new_hub().connection.amqp1.open(context(url=f"amqp://u:p@127.0.0.1:{port}"))
    server.close()
    assert said in str(caught.value)


async def test_a_certificate_logs_in(node: Any, unique: str) -> None:
    node.declare_queue(unique)
    made = node.certificates
    tls = {"ca_file": str(made.ca), "cert_file": str(made.client), "key_file": str(made.client_key)}

    data = {"url": f"amqps://127.0.0.1:{node.tls_port}", "tls": tls, "auth": "external"}
    async with opened(hub := new_hub(), **data) as ctx:
        assert await publish(hub, ctx, event(unique)) == [None]


async def test_a_vhost_is_used(node: Any, unique: str) -> None:
    node.add_vhost(unique)
    node.set_permissions("guest", vhost=unique)

    node.api("PUT", f"queues/{unique}/here", {"durable": True})

    async with opened(hub := new_hub(), url=url(node), vhost=unique) as ctx:
        assert await publish(hub, ctx, event("here")) == [None]
    assert node.queue_depth("here", unique) == 1
    node.delete_vhost(unique)


async def test_heartbeats_are_sent_as_the_peer_wants_them() -> None:
    class Idle(Peer):
        def __init__(self) -> None:
            super().__init__()
            self._engine.idle_timeout = 0.2
            self.beats = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"\0\0\0\x08\x02\0\0\0":
                beaten.release()

    beaten = asyncio.Semaphore(0)

    async with peer(Idle) as port, opened(new_hub(), **peer_url(port)) as ctx:
        for _ in range(3):
            await asyncio.wait_for(beaten.acquire(), WAIT)
        assert ctx.state.connection.connects == 1


async def test_close_says_goodbye_and_a_peer_without_an_answer_does_not_hold_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evbus.engine.wire.base.supervisor.CLOSE_TIMEOUT", 0.1)
    said: list[str] = []

    class Mute(Peer):
        def on_connection_remote_close(self, event: Any) -> None:
            said.append("close")

    async with peer(Mute) as port, opened(new_hub(), **peer_url(port)):
        pass
    assert said == ["close"]


async def test_a_peer_that_closes_with_a_reason_is_quoted_and_connected_again(
    hub: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    peers: list[Peer] = []

    class Leaving(Peer):
        def __init__(self) -> None:
            super().__init__()
            peers.append(self)

        def leave(self) -> None:
            self._connection.condition = proton.Condition("amqp:connection:forced", "going\ndown")
            self._connection.close()
            self.pump()

    async with peer(Leaving) as port, opened(hub, **peer_url(port)) as ctx:
        lost = ctx.state.connection.session.lost
        peers[0].leave()  # type: ignore[attr-defined]
        reason = await asyncio.wait_for(asyncio.shield(lost), WAIT)
        assert "amqp:connection:forced: going" in reason
        await ready(hub, ctx)
        assert ctx.state.connection.connects == 2


async def test_bytes_that_are_no_amqp_end_the_connection_and_nothing_else(hub: Any) -> None:
    class Garbled(Peer):
        def on_link_remote_open(self, event: Any) -> None:
            self.transport.write(b"\0\0\0\x01garbage garbage")

    async with peer(Garbled) as port, opened(hub, **peer_url(port)) as ctx:
        (outcome,) = await publish(hub, ctx, event("k"))
        assert "connection was lost" in str(outcome)


def test_without_the_extra_one_sentence_says_how_to_get_it() -> None:
    program = (
        "import sys, asyncio\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('proton', 'cproton'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, No())\n"
        "import pop.hub\n"
        "from dict_tools.data import NamespaceDict\n"
        "from evbus.engine.wire.amqp1.profile import Profile\n"
        "hub = pop.hub.Hub()\n"
        "for room in ('connection', 'ingress', 'egress'):\n"
        "    hub.pop.sub.add(dyne_name=room, pypath=f'evbus.{room}')\n"
        "ctx = NamespaceDict(name='n', provider='amqp1', profile=Profile(url='amqp://u:p@h'), state=None)\n"
        "async def main():\n"
        "    try:\n"
        "        await hub.ingress.amqp1.open(ctx)\n"
        "    except Exception as exc:\n"
        "        print(f'{type(exc).__name__}: {exc}')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == (
        "MissingExtra: the provider amqp1 (AMQP 1.0) needs the package python-qpid-proton, which is not "
        "installed; install it with: pip install 'evbus-hub[amqp1]'\n"
    )
