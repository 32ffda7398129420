"""The bound: what a program without any library gets out of the broker."""

from __future__ import annotations

import socket
from contextlib import closing
from urllib.parse import urlsplit

from common import IN_FLIGHT, PREFETCH, Clock, main, payload
from wire import TIMEOUT, Consumer, Publisher, Wire, drive, publish_frames

ACK_EVERY = 100


async def publish(count: int, url: str, queue: str, *, persistent: bool, window: int) -> dict[str, float]:
    with closing(Wire(url)) as wire:
        wire.confirm()
        message = publish_frames(queue, payload(0), persistent=persistent)
        clock = Clock()
        await drive(wire, Publisher(message, count, window))
        return clock.result(count)


async def consume(count: int, url: str, queue: str) -> dict[str, float]:
    with closing(Wire(url)) as wire:
        clock = Clock()
        wire.consume(queue, PREFETCH)
        await drive(wire, Consumer(count, ACK_EVERY))
        return clock.result(count)


def stomp(count: int, url: str, queue: str) -> dict[str, float]:
    """Send the same frame with a receipt asked for, IN_FLIGHT of them unanswered, on a blocking socket."""
    parts = urlsplit(url)
    text = payload(0)
    headers = {
        "destination": f"/queue/{queue}",
        "persistent": "true",
        "receipt": "1",
        "content-type": "application/json",
        "content-length": len(text),
    }
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    send = f"SEND\n{lines}\n".encode() + text + b"\0"
    with socket.create_connection((parts.hostname, parts.port), TIMEOUT) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        login = f"login:{parts.username}\npasscode:{parts.password}"
        server.sendall(f"CONNECT\naccept-version:1.2\nhost:/\n{login}\n\n\0".encode())
        hello = b""
        while b"\0" not in hello:
            hello += server.recv(4096) or b"nothing\0"
        if not hello.startswith(b"CONNECTED"):
            raise ConnectionError(f"the broker refused: {hello!r}")
        clock = Clock()
        sent = received = 0
        while received < count:
            more = min(IN_FLIGHT - (sent - received), count - sent)
            sent += more
            server.sendall(send * more)
            answer = server.recv(262_144)
            if not answer or b"ERROR" in answer:
                raise ConnectionError(f"the broker refused: {answer!r}")
            received += answer.count(b"\0")
        return clock.result(count)


if __name__ == "__main__":
    main(
        {
            "publish-persistent": lambda n, u, q: publish(n, u, q, persistent=True, window=IN_FLIGHT),
            "publish-transient": lambda n, u, q: publish(n, u, q, persistent=False, window=IN_FLIGHT),
            "publish-one": lambda n, u, q: publish(n, u, q, persistent=True, window=1),
            "consume": consume,
            "stomp": stomp,
        }
    )
