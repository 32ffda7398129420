"""What every test gets: a hub of its own, and a check that it leaves nothing behind."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pop.hub
import pytest

GRACE = 5.0  # seconds that a thread which was told to end may take to do so
FDS = Path("/proc/self/fd")
LEAKY = ("socket:", "pipe:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]")


@pytest.fixture
def hub() -> Any:
    """Return a new hub with the bus on it, loaded from this package alone."""
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")
    return hub


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    """Take off the handlers that a test put on the root logger, and give back its level."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.fixture(autouse=True)
def nothing_left_behind(root_logger_as_before: None) -> Iterator[None]:
    """Fail a test that leaves a thread, a socket, a pipe, an event loop or a child process behind.

    Tasks need no check of their own: `asyncio.run` ends them with the loop, and a loop that stays open
    shows as its epoll descriptor.
    """
    threads, descriptors, children = set(threading.enumerate()), _open_descriptors(), _children()
    yield
    started = [thread for thread in threading.enumerate() if thread not in threads]
    left = [f"thread {thread.name}" for thread in started if not _ends(thread)]
    new = _open_descriptors() - descriptors
    if new:
        gc.collect()  # an exception's traceback may hold what its test has dropped
        new = _open_descriptors() - descriptors
    left += [f"descriptor {number} -> {target}" for number, target in sorted(new)]
    left += [f"child process {pid}" for pid in sorted(_children() - children)]
    if left:
        pytest.fail("the test left behind: " + ", ".join(left), pytrace=False)


def _ends(thread: threading.Thread) -> bool:
    thread.join(GRACE)
    return not thread.is_alive()


def _open_descriptors() -> set[tuple[int, str]]:
    found = set()
    for entry in FDS.iterdir() if FDS.is_dir() else ():
        try:
            target = os.readlink(entry)  # noqa: PTH115 - pathlib would make a path of "socket:[1]"
        except FileNotFoundError:
            continue  # the descriptor of this very listing
        if target.startswith(LEAKY):
            found.add((int(entry.name), target))
    return found


def _children() -> set[int]:
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(int(pid) for pid in listing.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread has ended meanwhile
    return found
