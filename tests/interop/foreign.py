"""Clients of others that send and receive one message: pika (AMQP 0-9-1), proton (AMQP 1.0), stomp.py."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pika
import proton
import stomp
from proton.utils import BlockingConnection

WAIT = 20.0  # seconds; nothing is waited for that long unless something is wrong


class Message(NamedTuple):
    """What is said of a message in every protocol.

    :ivar headers: with the types that the protocol has.
    :ivar time: seconds since 1970, 0 for none.
    """

    key: str
    body: bytes
    headers: dict[str, Any]
    id: str = ""
    correlation_id: str = ""
    content_type: str = ""
    type: str = ""
    time: int = 0


# AMQP 0-9-1


@contextmanager
def channel(node: Any) -> Iterator[Any]:
    parameters = pika.ConnectionParameters(node.host, node.port, blocked_connection_timeout=WAIT)
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection.channel()
    finally:
        connection.close()


def declare(node: Any, exchange: str, queue: str, key: str) -> None:
    """Declare a topic exchange with a queue that gets what has the key."""
    with channel(node) as amqp:
        amqp.exchange_declare(exchange, "topic", durable=True)
        amqp.queue_declare(queue, durable=True)
        amqp.queue_bind(queue, exchange, key)


def delete(node: Any, exchange: str, *queues: str) -> None:
    with channel(node) as amqp:
        amqp.exchange_delete(exchange)
        for queue in queues:
            amqp.queue_delete(queue)


def send_amqp(node: Any, exchange: str, message: Message) -> None:
    properties = pika.BasicProperties(
        content_type=message.content_type or None,
        headers=message.headers,
        delivery_mode=2,
        correlation_id=message.correlation_id or None,
        message_id=message.id or None,
        timestamp=message.time or None,
        type=message.type or None,
    )
    with channel(node) as amqp:
        amqp.confirm_delivery()
        amqp.basic_publish(exchange, message.key, message.body, properties, mandatory=True)


def receive_amqp(node: Any, queue: str) -> Message:
    with channel(node) as amqp:
        came = amqp.consume(queue, auto_ack=True, inactivity_timeout=WAIT)
        method, properties, body = next(came)
        assert method is not None, f"nothing came from {queue}"
        amqp.cancel()
    return Message(
        method.routing_key,
        body,
        dict(properties.headers or {}),
        properties.message_id or "",
        properties.correlation_id or "",
        properties.content_type or "",
        properties.type or "",
        properties.timestamp or 0,
    )


# AMQP 1.0


@contextmanager
def connection(node: Any) -> Iterator[Any]:
    found = BlockingConnection(f"amqp://guest:guest@{node.host}:{node.port}", timeout=WAIT)
    try:
        yield found
    finally:
        found.close()


def _version(node: Any) -> int:
    return int(node.version[0])


def send_amqp1(node: Any, exchange: str, message: Message, *, inferred: bool = True) -> None:
    """Send a message. Not ``inferred``, its body is a text, and not bytes."""
    sent = proton.Message(
        message.body if inferred else message.body.decode(),
        inferred=inferred,
        durable=True,
        id=message.id or None,
        correlation_id=message.correlation_id or None,
        content_type=message.content_type or None,
        subject=message.key,
        creation_time=message.time or None,
        properties=message.headers,
        annotations={proton.symbol("x-basic-type"): message.type} if message.type else None,
    )
    place = "exchanges" if _version(node) > 3 else "exchange"
    with connection(node) as amqp:
        amqp.create_sender(f"/{place}/{exchange}/{message.key}").send(sent)


def receive_amqp1(node: Any, queue: str) -> Message:
    place = "queues" if _version(node) > 3 else "amq/queue"
    with connection(node) as amqp:
        receiver = amqp.create_receiver(f"/{place}/{queue}", credit=1)
        found = receiver.receive(timeout=WAIT)
        receiver.accept()
    notes = {str(name): value for name, value in (found.annotations or {}).items()}
    headers = {
        **{name: _plain(value) for name, value in (found.properties or {}).items()},
        **{name: _plain(value) for name, value in notes.items() if _is_header(name)},
    }
    return Message(
        found.subject or str(notes.get("x-routing-key", "")),
        bytes(found.body),
        headers,
        found.id or "",
        found.correlation_id or "",
        str(found.content_type) if found.content_type else "",
        str(notes.get("x-basic-type", "") or headers.pop("type", "")),
        int(found.creation_time),
    )


def _is_header(name: str) -> bool:
    return name.startswith("x-") and name not in {"x-exchange", "x-routing-key", "x-basic-type"}


def _plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, proton.timestamp):
        return dt.datetime.fromtimestamp(value / 1000, dt.UTC)
    return value


# STOMP


class _Frames(stomp.ConnectionListener):
    def __init__(self) -> None:
        self.came = threading.Event()
        self.receipt = threading.Event()
        self.frame: Any = None

    def on_message(self, frame: Any) -> None:
        self.frame = frame
        self.came.set()

    def on_error(self, frame: Any) -> None:
        self.frame = frame
        self.came.set()
        self.receipt.set()

    def on_receipt(self, frame: Any) -> None:
        self.receipt.set()


@contextmanager
def stomping(node: Any) -> Iterator[tuple[Any, _Frames]]:
    client = stomp.Connection12([(node.host, node.stomp_port)], vhost="/", auto_decode=False)
    frames = _Frames()
    client.set_listener("", frames)
    client.connect(node.user, node.password, wait=True)
    try:
        yield client, frames
    finally:
        frames.receipt.clear()
        client.disconnect(receipt="bye")
        frames.receipt.wait(WAIT)


def send_stomp(node: Any, destination: str, message: Message) -> None:
    headers = {name: str(value) for name, value in message.headers.items()}
    named = {
        "amqp-message-id": message.id,
        "correlation-id": message.correlation_id,
        "type": message.type,
        "timestamp": str(message.time or ""),
    }
    headers |= {name: value for name, value in named.items() if value}
    with stomping(node) as (client, frames):
        client.send(
            destination,
            message.body,
            content_type=message.content_type or None,
            headers={**headers, "persistent": "true", "receipt": "sent"},
        )
        assert frames.receipt.wait(WAIT)
        assert frames.frame is None, frames.frame


def receive_stomp(node: Any, destination: str) -> Message:
    with stomping(node) as (client, frames):
        client.subscribe(destination, "1", ack="client-individual", headers={"prefetch-count": "1"})
        assert frames.came.wait(WAIT), f"nothing came from {destination}"
        frame = frames.frame
        assert frame.cmd == "MESSAGE", frame
        client.ack(frame.headers["ack"])
    headers = dict(frame.headers)
    named = [
        headers.pop(name, "")
        for name in ("amqp-message-id", "correlation-id", "content-type", "type", "timestamp")
    ]
    key = headers["destination"].rpartition("/")[2]
    body = frame.body if isinstance(frame.body, bytes) else frame.body.encode()
    return Message(key, body, headers, *named[:4], int(named[4] or 0))
