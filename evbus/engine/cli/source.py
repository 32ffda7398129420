"""The sources of lines for ``evbus run``: a file, standard input, or a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import IO

import msgspec

from evbus.engine.kit.paths import expanded
from evbus.errors import ConfigError

__all__ = ["Lines", "Splitter", "serve"]

CHUNK = 256 * 1024
#: Chunks read ahead of the bus.
AHEAD = 4
#: Most bytes of one line on a socket when the size of bodies has no bound.
SOCKET_LINE = 1024 * 1024 * 1024
#: Seconds that a client has to take its last answer.
GOODBYE = 1.0


class Splitter:
    """Make lines of chunks.

    :param limit: most bytes of a line; of a longer one only so much is kept as shows that it is longer.
        0 for no limit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that end in ``chunk``, without their line breaks."""
        head, found, tail = chunk.partition(b"\n")
        self._add(head)
        if not found:
            return []
        lines = [b"".join(self._parts), *tail.split(b"\n")]
        self._parts, self._size = [], 0
        self._add(lines.pop())
        return lines

    def _add(self, part: bytes) -> None:
        if self._limit:
            part = part[: self._limit + 1 - self._size]
        if part:
            self._parts.append(part)
            self._size += len(part)

    def rest(self) -> list[bytes]:
        """Return the last line when it has no line break, in a list."""
        return [b"".join(self._parts)] if self._parts else []


class Lines:
    """Lines of a file or of standard input, read ahead by a thread.

    The thread is a daemon: one that waits in ``read`` on a terminal must not keep the process alive.

    :param path: the file; None or ``-`` is standard input.
    :param longest: see :class:`Splitter`.
    :raises ConfigError: the file cannot be opened.
    """

    def __init__(self, path: str | None, longest: int = 0) -> None:
        self._owned = path not in (None, "-")
        self.source = str(path) if self._owned else "standard input"
        self._file = _open(str(path)) if self._owned else _standard_input()
        self._splitter = Splitter(longest)
        self._room = threading.Semaphore(AHEAD)
        self._closing = False

    async def batches(self) -> AsyncGenerator[tuple[int, list[bytes]], None]:
        """Yield lines as they come in: the number of the first, counted from 1, and the lines."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        threading.Thread(target=self._read, args=(loop, chunks), name="evbus input", daemon=True).start()
        number = 1
        try:
            while True:
                chunk = await chunks.get()
                if isinstance(chunk, OSError):
                    raise ConfigError(f"{self.source} cannot be read: {chunk.strerror}")
                lines = self._splitter.feed(chunk) if chunk else self._splitter.rest()
                if lines:
                    yield number, lines
                    number += len(lines)
                self._room.release()
                if not chunk:
                    return
        finally:
            self._closing = True
            self._room.release()

    def _read(self, loop: asyncio.AbstractEventLoop, chunks: asyncio.Queue[bytes | OSError]) -> None:
        descriptor = self._file.fileno()
        chunk: bytes | OSError = b"?"
        while chunk and not isinstance(chunk, OSError):
            self._room.acquire()
            if self._closing:
                break
            try:
                chunk = os.read(descriptor, CHUNK)
            except OSError as exc:
                chunk = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
        if self._owned:
            self._file.close()


def _open(path: str) -> IO[bytes]:
    try:
        return expanded(path, "the input").open("rb", buffering=0)
    except OSError as exc:
        raise ConfigError(f"the input {path} cannot be opened: {exc.strerror}") from None


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise ConfigError("there is no standard input; name a file to read")
    if sys.stdin.isatty():
        sys.stderr.write("evbus: reading lines from the terminal; Ctrl-D ends\n")
    return sys.stdin.buffer


Handler = Callable[[bytes], Awaitable[str]]


async def serve(path: str, handle: Handler, longest: int = 0) -> None:
    """Listen on a Unix socket until cancelled; ``handle`` returns why a line is refused, or ``""``.

    A refused line is answered at once with ``{"line": n, "error": "..."}``. When the client has sent
    everything and shut down its side, or when the bus stops, the last answer is
    ``{"accepted": n, "refused": m}``. The socket has the permissions 0600.

    :param longest: bytes of a line; a longer one is answered and ends the connection. 0 for 1 GiB.
    :raises ConfigError: the path cannot be listened on, or somebody does already.
    """
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            connections.add(task)
            task.add_done_callback(connections.discard)
        await _converse(reader, writer, handle)

    server = await _listen(path, connected, longest or SOCKET_LINE)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        if connections:
            await asyncio.wait(connections)
        _remove(path)


async def _listen(
    path: str,
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    longest: int,
) -> asyncio.Server:
    old = os.umask(0o177)
    try:
        _clear(path)
        return await asyncio.start_unix_server(connected, path, limit=longest)
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        raise ConfigError(f"the socket {path} cannot be listened on: {reason}") from None
    finally:
        os.umask(old)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
    accepted = refused = number = 0

    def answer(**message: object) -> None:
        writer.write(msgspec.json.encode(message) + b"\n")

    try:
        async for text in reader:
            number += 1
            if text.isspace():
                continue
            problem = await handle(text)
            if problem:
                refused += 1
                answer(line=number, error=problem)
                await writer.drain()
            else:
                accepted += 1
        answer(accepted=accepted, refused=refused)
        await writer.drain()
    except asyncio.CancelledError:
        answer(accepted=accepted, refused=refused)
    except ValueError:
        answer(line=number + 1, error="the line is too long; the connection ends")
        answer(accepted=accepted, refused=refused + 1)
    except ConnectionError:
        return  # the client went away; what was accepted stays accepted
    finally:
        writer.close()
        # A client that does not read its answers must not hold up a stop.
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), GOODBYE)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _clear(path: str) -> None:
    """Remove a socket that nobody listens on any more."""
    file = Path(path)
    if not file.is_socket():
        if os.path.lexists(path):
            raise ConfigError(f"the socket {path} cannot be made: there is a file of that name")
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            file.unlink()
            return
    raise ConfigError(f"the socket {path} is in use by another process")
