"""Just enough AMQP 0-9-1 to see that a broker lets us in, and how many messages wait in a queue this moment.

The management interface tells only what it has collected a while ago.
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import NamedTuple, Self

Method = tuple[int, int]  # class and method of the protocol
LIMIT = 10.0  # seconds for one answer
START, START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK = (10, 10), (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
CHANNEL_OPEN, CHANNEL_OPEN_OK, DECLARE, DECLARE_OK = (20, 10), (20, 11), (50, 10), (50, 11)
CLOSES = {(10, 50), (20, 40)}


class Depth(NamedTuple):
    """Messages that are ready, without those handed out and not acknowledged; and consumers."""

    messages: int
    consumers: int


class Refused(OSError):  # an OSError, so that a broker which starts counts as not ready yet
    """The broker closed the connection or the channel; the text is the broker's, beginning with its code."""


class Connection:
    """A connection with one open channel, for one thread. Heartbeats are off."""

    def __init__(self, host: str, port: int, user: str, password: str, vhost: str) -> None:
        self._socket = socket.create_connection((host, port), LIMIT)
        try:
            self._input = self._socket.makefile("rb")
            self._socket.sendall(b"AMQP\0\0\x09\x01")
            self._receive(START)
            response = f"\0{user}\0{password}".encode()
            login = _short("PLAIN") + struct.pack(">I", len(response)) + response + _short("en_US")
            self._send(0, START_OK, struct.pack(">I", 0) + login)
            channels, frame_size, _ = struct.unpack_from(">HIH", self._receive(TUNE))
            self._send(0, TUNE_OK, struct.pack(">HIH", channels, frame_size, 0))
            self._call(0, OPEN, _short(vhost) + b"\0\0", OPEN_OK)
            self._call(1, CHANNEL_OPEN, b"\0", CHANNEL_OPEN_OK)
        except BaseException:
            self.close()
            raise

    def depth(self, queue: str) -> Depth:
        """Return what waits in a queue, by declaring it passively. Raises `Refused` if there is none."""
        arguments = b"\0\0" + _short(queue) + b"\x01" + struct.pack(">I", 0)
        answer = self._call(1, DECLARE, arguments, DECLARE_OK)
        return Depth(*struct.unpack_from(">II", answer, 1 + answer[0]))

    def close(self) -> None:
        """Close the socket; nobody is told."""
        if hasattr(self, "_input"):
            self._input.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, channel: int, method: tuple[int, int], arguments: bytes, answer: tuple[int, int]
    ) -> bytes:
        self._send(channel, method, arguments)
        return self._receive(answer)

    def _send(self, channel: int, method: Method, arguments: bytes) -> None:
        payload = struct.pack(">HH", *method) + arguments
        self._socket.sendall(struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce")

    def _receive(self, expected: Method) -> bytes:
        head = self._input.read(7)
        if len(head) < 7:
            raise Refused("the broker closed the connection without a word")
        if head[:4] == b"AMQP":
            raise Refused("the broker speaks another version of AMQP")
        payload = self._input.read(struct.unpack(">I", head[3:])[0] + 1)
        method = struct.unpack_from(">HH", payload)
        if method in CLOSES:
            code, length = struct.unpack_from(">HB", payload, 4)
            raise Refused(f"{code} {payload[7 : 7 + length].decode()}")
        if method != expected:
            raise Refused(f"the broker answered with method {method}, not {expected}")
        return bytes(payload[4:])


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data
