"""Just enough STOMP 1.2 to see that a broker lets us in, and to look into a queue from outside."""

from __future__ import annotations

import itertools
import re
import socket
from types import TracebackType
from typing import NamedTuple, Self

LIMIT = 10.0  # seconds for one answer
ESCAPES = {"\\n": "\n", "\\r": "\r", "\\c": ":", "\\\\": "\\"}


class Message(NamedTuple):
    """A frame of the broker: its headers are decoded, its body is not."""

    command: str
    headers: dict[str, str]
    body: bytes


class Refused(OSError):  # an OSError, so that a broker which starts counts as not ready yet
    """The broker answered with ERROR, whose text this is, or closed the connection."""


class Stomp:
    """A connection for one thread. Heartbeats are off."""

    def __init__(self, host: str, port: int, login: str, passcode: str, vhost: str = "/") -> None:
        self._socket = socket.create_connection((host, port), LIMIT)
        self._input = self._socket.makefile("rb")
        self._ids = itertools.count(1)
        try:
            headers = {"accept-version": "1.2", "host": vhost, "login": login, "passcode": passcode}
            self._send("CONNECT", headers)
            self._receive("CONNECTED")
        except BaseException:
            self.close()
            raise

    def send(self, destination: str, body: bytes) -> None:
        """Send a persistent message and wait for its receipt."""
        self._call("SEND", {"destination": destination, "persistent": "true"}, body)

    def browse(self, destination: str) -> list[Message]:
        """Return all messages of a queue and leave them there. ActiveMQ only."""
        number = self._subscribe(destination, browser="true")
        found = []
        while (message := self._receive("MESSAGE")).headers.get("browser") != "end":
            found.append(message)
        self._call("UNSUBSCRIBE", {"id": number})
        return found

    def take(self, destination: str, count: int) -> list[Message]:
        """Wait for so many messages of a queue and take them off it.

        Raises `TimeoutError` when there are fewer; those that came are lost then.
        """
        number = self._subscribe(destination, ack="client-individual")
        found = []
        for _ in range(count):
            found.append(self._receive("MESSAGE"))
            self._send("ACK", {"id": found[-1].headers["ack"]})
        self._send("UNSUBSCRIBE", {"id": number})
        self._call("DISCONNECT", {}, skip=True)
        return found

    def close(self) -> None:
        """Close the socket; nobody is told."""
        self._input.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _subscribe(self, destination: str, **headers: str) -> str:
        number = str(next(self._ids))
        self._send("SUBSCRIBE", {"id": number, "destination": destination, **headers})
        return number

    def _call(self, command: str, headers: dict[str, str], body: bytes = b"", *, skip: bool = False) -> None:
        receipt = f"r{next(self._ids)}"
        self._send(command, {**headers, "receipt": receipt}, body)
        # With `skip`, messages that were on their way already may come before the receipt.
        while (answer := self._receive("RECEIPT", *(["MESSAGE"] if skip else []))).command != "RECEIPT":
            pass
        if answer.headers["receipt-id"] != receipt:
            raise Refused(f"the broker answered {command} with the receipt of something else")

    def _send(self, command: str, headers: dict[str, str], body: bytes = b"") -> None:
        if body:
            headers = {**headers, "content-length": str(len(body))}
        lines = [command, *(f"{key}:{value}" for key, value in headers.items()), "", ""]
        self._socket.sendall("\n".join(lines).encode() + body + b"\0")

    def _receive(self, *expected: str) -> Message:
        command = self._line()
        while command == "":
            command = self._line()  # a newline between frames is a heartbeat
        headers: dict[str, str] = {}
        while line := self._line():
            key, _, value = (_unescape(part) for part in line.partition(":"))
            headers.setdefault(key, value)
        body = self._input.read(int(headers.get("content-length", 0)))
        while (byte := self._input.read(1)) not in (b"\0", b""):
            body += byte
        if command not in expected:
            said = f"{headers.get('message', '')} {body.decode(errors='replace')}".strip()
            raise Refused(f"the broker answered {command}: {said}")
        return Message(command, headers, body)

    def _line(self) -> str:
        line = self._input.readline()
        if not line:
            raise Refused("the broker closed the connection")
        return line.decode().rstrip("\r\n")


def _unescape(text: str) -> str:
    return re.sub(r"\\[nrc\\]", lambda match: ESCAPES[match[0]], text)
