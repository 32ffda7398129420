"""kombu over py-amqp: confirms on, one pooled producer, messages taken raw (``on_message``)."""

from __future__ import annotations

from typing import Any

from common import PREFETCH, Clock, body, main
from kombu import Connection, Consumer, Queue


def publish(count: int, url: str, queue: str) -> dict[str, float]:
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(serializer="json")
        producer.publish(body(0), routing_key=queue, delivery_mode=2, mandatory=True)
        clock = Clock()
        for number in range(1, count):
            producer.publish(body(number), routing_key=queue, delivery_mode=2, mandatory=True)
        return clock.result(count - 1)


def consume(count: int, url: str, queue: str) -> dict[str, float]:
    seen = 0

    def handle(message: Any) -> None:
        nonlocal seen
        seen += 1
        message.ack()

    with Connection(url) as connection, connection.channel() as channel:
        source = Queue(queue, channel=channel, no_declare=True)
        consumer = Consumer(channel, [source], on_message=handle, prefetch_count=PREFETCH)
        clock = Clock()
        with consumer:
            while seen < count:
                connection.drain_events(timeout=60)
            return clock.result(count)


if __name__ == "__main__":
    main({"publish-one": publish, "consume": consume})
