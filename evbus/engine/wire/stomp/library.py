"""The control frames of stomp.py (CONNECT, SUBSCRIBE, ...), written to a transport of our own.

stomp.py's transport is a thread with a blocking socket: its ``wait_for_connection`` knows no deadline, its
heartbeats end with the first reconnect, a listener that raises ends it, and its debug log shows the password.
So its protocol class is used alone, as its own adapters do it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# Without this, importing it asks the name servers for this host's names, which may take long.
_SKIP = "STOMP_SKIP_HOSTNAME_SCAN"
_before = os.environ.get(_SKIP)
os.environ[_SKIP] = "1"
try:
    from stomp.protocol import Protocol12
    from stomp.transport import BaseTransport
    from stomp.utils import convert_frame
finally:
    if _before is None:
        del os.environ[_SKIP]
    else:
        os.environ[_SKIP] = _before

__all__ = ["Protocol", "protocol"]

Protocol = Any


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


def protocol(write: Callable[[bytes], None], host: tuple[str, int], vhost: str) -> Protocol:
    """Return stomp.py's protocol for STOMP 1.2, which writes by ``write`` and beats no heart."""
    return _Protocol(_StompTransport(write, host, vhost), heartbeats=(0, 0))
