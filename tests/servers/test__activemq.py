from __future__ import annotations

import socket
import ssl

import pytest

from tests.servers._activemq import ActiveMQ
from tests.servers._stomp import Refused, Stomp


def test_depth_is_what_waits_now(activemq: ActiveMQ, unique: str) -> None:
    assert activemq.queue_depth(unique) == 0
    for body in (b"one", b"a\0b"):
        activemq.publish(unique, body)
    assert activemq.queue_depth(unique) == 2
    assert [message.body for message in activemq.take(unique)] == [b"one", b"a\0b"]
    assert activemq.queue_depth(unique) == 0


def test_more_than_a_page_is_browsed(activemq: ActiveMQ, unique: str) -> None:
    with activemq.connect() as connection:
        for number in range(500):
            connection.send(f"/queue/{unique}", b"%d" % number)
    assert [message.body for message in activemq.take(unique)] == [b"%d" % number for number in range(500)]


def test_a_wrong_login_is_refused(activemq: ActiveMQ) -> None:
    with pytest.raises(Refused, match="User name .* or password is invalid"):
        Stomp(activemq.host, activemq.stomp_port, "guest", "wrong")


def test_stomp_speaks_tls(activemq: ActiveMQ) -> None:
    assert activemq.certificates is not None
    context = ssl.create_default_context(cafile=activemq.certificates.ca)
    with (
        socket.create_connection((activemq.host, activemq.stomp_tls_port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert (secure.version() or "").startswith("TLSv1.")


def test_a_killed_broker_comes_back_with_its_messages(broken_activemq: ActiveMQ, unique: str) -> None:
    broken_activemq.publish(unique, b"survivor")
    port = broken_activemq.stomp_port
    broken_activemq.kill()
    assert not broken_activemq.alive
    broken_activemq.restart()
    assert broken_activemq.stomp_port == port
    assert [message.body for message in broken_activemq.take(unique)] == [b"survivor"]


def test_a_frozen_broker_keeps_its_connections(broken_activemq: ActiveMQ, unique: str) -> None:
    with broken_activemq.connect() as connection:
        broken_activemq.freeze()
        assert broken_activemq.alive
        broken_activemq.thaw()
        connection.send(f"/queue/{unique}", b"after")
    assert len(broken_activemq.take(unique)) == 1
