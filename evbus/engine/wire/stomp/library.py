"""The control frames of stomp.py: those that go (CONNECT, SUBSCRIBE) and those that come (CONNECTED, ERROR).

stomp.py's transport is a thread with a blocking socket: its ``wait_for_connection`` knows no deadline, its
heartbeats end with the first reconnect, a listener that raises ends it, and its debug log shows the password.
So its protocol class is used alone, as its own adapters do it. Importing it asks the name servers for this
host's names, which may take long, unless ``STOMP_SKIP_HOSTNAME_SCAN`` is set: import this file in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stomp.protocol import Protocol12
from stomp.transport import BaseTransport
from stomp.utils import convert_frame, parse_frame

__all__ = ["parse", "protocol"]


class _StompTransport(BaseTransport):  # type: ignore[misc]
    """Hands encoded frames on."""

    def __init__(self, write: Callable[[bytes], None], host: tuple[str, int], vhost: str) -> None:
        super().__init__(auto_decode=False)
        self.current_host_and_port = host
        self.vhost = vhost
        self._write_bytes = write
        self.set_connected(True)

    def transmit(self, frame: Any) -> None:
        # Not the base class's: that one logs the frame, password included.
        self._write_bytes(b"".join(convert_frame(frame)))


class _Protocol(Protocol12):  # type: ignore[misc]
    """stomp.py's own connections mix this in from a base class that brings the socket."""

    def set_receipt(self, receipt_id: str, value: str | None) -> None:
        self.transport.set_receipt(receipt_id, value)


def protocol(write: Callable[[bytes], None], host: tuple[str, int], vhost: str) -> Protocol12:
    """Return stomp.py's protocol for STOMP 1.2, which writes by ``write``."""
    return _Protocol(_StompTransport(write, host, vhost))


def parse(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return the command, headers and body of a whole frame, but for its last byte.

    What a MESSAGE may bring it cannot read: bytes in headers, as RabbitMQ 3 puts them there.
    """
    found = parse_frame(data)
    return found.cmd, found.headers, found.body
