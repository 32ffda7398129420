"""Brokers that several processes share, as the workers of one test run do."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from types import TracebackType
from typing import Any, Self

from tests.servers._node import Node

LIMIT = 16  # brokers that start at the same time


class Lender:
    """Starts a broker by ``start(name)`` when the first process asks for it; it is closed with the lender.

    `place` says to other processes where to ask, see `borrow`. As a context manager it is closed at the end.
    """

    def __init__(self, start: Callable[[str], Node]) -> None:
        self._start = start
        self._nodes: dict[str, Future[Node]] = {}
        self._pool = ThreadPoolExecutor(LIMIT)
        key = secrets.token_hex()
        self._listener = Listener(family="AF_UNIX", authkey=key.encode())
        self.place = (str(self._listener.address), key)
        self._thread = threading.Thread(target=self._lend, name="lender", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all brokers, the starting ones when they have started. Idempotent."""
        if self._thread.is_alive():
            _ask(self.place, None)
            self._thread.join()
        self._listener.close()
        self._pool.shutdown()
        for node in self._nodes.values():
            if node.exception() is None:
                node.result().close()

    def _lend(self) -> None:
        while True:
            borrower = self._listener.accept()
            name = borrower.recv()
            if name is None:
                borrower.send(None)
                borrower.close()
                return
            if name not in self._nodes:
                self._nodes[name] = self._pool.submit(self._start, name)
            self._nodes[name].add_done_callback(partial(_answer, borrower))


def borrow(place: tuple[str, str], name: str) -> Any:
    """Return the broker of that name, running, from another process: a copy, which must not be closed.

    Raises whatever its start raised there.
    """
    found = _ask(place, name)
    if isinstance(found, BaseException):
        raise found
    return found


def _ask(place: tuple[str, str], name: str | None) -> Any:
    with Client(place[0], authkey=place[1].encode()) as lender:
        lender.send(name)
        return lender.recv()


def _answer(borrower: Connection, node: Future[Node]) -> None:
    borrower.send(node.exception() or node.result())
    borrower.close()
