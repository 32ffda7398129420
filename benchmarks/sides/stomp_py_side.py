"""stomp.py: STOMP 1.2, heartbeats off, receipts counted in a listener that opens a window of IN_FLIGHT."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import urlsplit

import stomp
from common import IN_FLIGHT, Clock, main, payload


class Receipts(stomp.ConnectionListener):
    """Lets as many frames go as there is place in the window."""

    def __init__(self) -> None:
        self.window = threading.Semaphore(IN_FLIGHT)
        self.error = ""

    def on_receipt(self, frame: Any) -> None:
        """Give a place back; runs in the thread of stomp.py."""
        self.window.release()

    def on_error(self, frame: Any) -> None:
        """Keep what the broker says; the connection ends with it."""
        self.error = f"the broker refused: {frame.headers} {frame.body}"


def send_all(count: int, url: str, queue: str) -> dict[str, float]:
    parts = urlsplit(url)
    connection = stomp.Connection12([(parts.hostname, parts.port)], vhost="/", heartbeats=(0, 0))
    receipts = Receipts()
    connection.set_listener("receipts", receipts)
    connection.connect(parts.username, parts.password, wait=True)
    clock = Clock()
    for number in range(count):
        receipts.window.acquire()
        if receipts.error:
            raise ConnectionError(receipts.error)
        connection.send(
            f"/queue/{queue}",
            payload(number),
            content_type="application/json",
            persistent="true",
            receipt=str(number),
        )
    for _ in range(IN_FLIGHT):
        receipts.window.acquire()
    result = clock.result(count)
    connection.disconnect()
    return result


if __name__ == "__main__":
    main({"stomp": send_all})
