from __future__ import annotations

import socket
import ssl
from pathlib import Path

import aio_pika
import pytest

from tests.servers._amqp import Connection, Refused
from tests.servers._rabbitmq import RabbitMQ
from tests.servers._stomp import Refused as StompRefused
from tests.servers._stomp import Stomp


def test_depth_is_what_waits_now(rabbitmq: RabbitMQ, unique: str) -> None:
    assert not rabbitmq.has_queue(unique)
    rabbitmq.declare_queue(unique)
    assert rabbitmq.queue_depth(unique) == 0
    assert all(rabbitmq.publish(unique, text) for text in ("one", "two"))
    assert rabbitmq.depth(unique) == (2, 0)
    assert [message["payload"] for message in rabbitmq.take(unique)] == ["one", "two"]
    assert rabbitmq.queue_depth(unique) == 0
    rabbitmq.delete_queue(unique)
    assert not rabbitmq.has_queue(unique)
    with pytest.raises(Refused, match="404 NOT_FOUND"):
        rabbitmq.queue_depth(unique)


def test_an_exchange_routes_by_its_binding(rabbitmq: RabbitMQ, unique: str) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.declare_exchange(unique, "topic")
    rabbitmq.bind(unique, unique, "orders.*")
    assert rabbitmq.publish("orders.new", "yes", exchange=unique)
    assert not rabbitmq.publish("bills.new", "no", exchange=unique)
    assert rabbitmq.queue_depth(unique) == 1
    rabbitmq.purge_queue(unique)
    assert rabbitmq.queue_depth(unique) == 0
    rabbitmq.delete_exchange(unique)
    rabbitmq.delete_queue(unique)


def test_stomp_and_amqp_share_their_queues(rabbitmq: RabbitMQ, unique: str) -> None:
    with Stomp(rabbitmq.host, rabbitmq.stomp_port, rabbitmq.user, rabbitmq.password) as stomp:
        stomp.send(f"/queue/{unique}", b"by stomp")
        assert rabbitmq.queue_depth(unique) == 1
        (message,) = stomp.take(f"/queue/{unique}", 1)
    assert message.body == b"by stomp"
    rabbitmq.delete_queue(unique)


def test_users_may_do_what_they_are_permitted(rabbitmq: RabbitMQ, unique: str) -> None:
    rabbitmq.add_vhost(unique)
    rabbitmq.declare_queue(unique, vhost=unique)
    rabbitmq.add_user(unique, "secret")
    login = (rabbitmq.host, rabbitmq.port, unique, "secret", unique)
    with pytest.raises(Refused, match="access to vhost"):
        Connection(*login)
    rabbitmq.set_permissions(unique, vhost=unique, configure="", write="", read="")
    Connection(*login).close()
    with pytest.raises(StompRefused, match="Bad CONNECT|Access refused"):
        Stomp(rabbitmq.host, rabbitmq.stomp_port, unique, "wrong", unique)
    rabbitmq.delete_user(unique)
    rabbitmq.delete_vhost(unique)


def test_refusals_of_the_management_interface_are_told(rabbitmq: RabbitMQ, unique: str) -> None:
    with pytest.raises(OSError, match=f"GET queues/%2F/{unique}: 404"):
        rabbitmq.api("GET", f"queues/%2F/{unique}")
    assert rabbitmq.api("GET", f"queues/%2F/{unique}", missing_ok=True) is None


def test_a_node_evaluates_expressions_and_tells_its_complaint(each_rabbitmq: RabbitMQ) -> None:
    assert each_rabbitmq.evaluate("{1 + 1, node()}") == f"{{2, test{each_rabbitmq.port}@localhost}}"
    with pytest.raises(RuntimeError, match=r"^no:such\(\): .*undef"):
        each_rabbitmq.evaluate("no:such()")


async def test_a_client_certificate_logs_in(rabbitmq: RabbitMQ) -> None:
    certificates = rabbitmq.certificates
    assert certificates is not None
    context = ssl.create_default_context(cafile=certificates.ca)
    context.load_cert_chain(certificates.client, certificates.client_key)

    connection = await aio_pika.connect(
        f"amqps://{rabbitmq.host}:{rabbitmq.tls_port}/?auth=EXTERNAL", ssl_context=context
    )
    async with connection:
        await connection.channel()


def test_stomp_speaks_tls(rabbitmq: RabbitMQ) -> None:
    assert rabbitmq.certificates is not None
    assert tls_version(rabbitmq.host, rabbitmq.stomp_tls_port, rabbitmq.certificates.ca).startswith("TLSv1.")


def tls_version(host: str, port: int, authority: Path) -> str:
    context = ssl.create_default_context(cafile=authority)
    with (
        socket.create_connection((host, port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return secure.version() or ""


def test_a_killed_node_comes_back_with_its_messages(each_broken_rabbitmq: RabbitMQ, unique: str) -> None:
    each_broken_rabbitmq.declare_queue(unique)
    each_broken_rabbitmq.publish(unique, "survivor")
    each_broken_rabbitmq.sync()
    pid, url = each_broken_rabbitmq.pid, each_broken_rabbitmq.url
    each_broken_rabbitmq.kill()
    assert not each_broken_rabbitmq.alive
    assert not Path(f"/proc/{pid}/exe").exists()
    with pytest.raises(RuntimeError, match="is down>: start it first"):
        each_broken_rabbitmq.freeze()
    each_broken_rabbitmq.start()
    assert each_broken_rabbitmq.url == url
    assert [message["payload"] for message in each_broken_rabbitmq.take(unique)] == ["survivor"]


def test_a_frozen_node_keeps_its_connections_and_is_silent(broken_rabbitmq: RabbitMQ, unique: str) -> None:
    broken_rabbitmq.declare_queue(unique)
    with Connection(broken_rabbitmq.host, broken_rabbitmq.port, "guest", "guest", "/") as connection:
        broken_rabbitmq.freeze()
        assert broken_rabbitmq.alive
        with socket.create_connection((broken_rabbitmq.host, broken_rabbitmq.port), 10) as late:
            late.sendall(b"AMQP\0\0\x09\x01")
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.recv(1)
        broken_rabbitmq.thaw()
        assert connection.depth(unique) == (0, 0)


def test_mending_ends_an_alarm(broken_rabbitmq: RabbitMQ) -> None:
    broken_rabbitmq.memory_alarm(True)
    assert broken_rabbitmq.alarmed
    broken_rabbitmq.mend()
    assert not broken_rabbitmq.alarmed


def test_an_operator_closes_connections_with_a_reason(broken_rabbitmq: RabbitMQ, unique: str) -> None:
    broken_rabbitmq.declare_queue(unique)
    with Connection(broken_rabbitmq.host, broken_rabbitmq.port, "guest", "guest", "/") as connection:
        assert broken_rabbitmq.close_connections("maintenance") >= 1  # ours; one that ends may still count
        with pytest.raises(Refused, match="320 CONNECTION_FORCED - maintenance"):
            connection.depth(unique)
