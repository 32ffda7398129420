"""What every test gets: a hub of its own, a check that it leaves nothing behind; and brokers for who asks."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pop.hub
import pytest

from tests.servers import _activemq, _rabbitmq, _rabbitmq4
from tests.servers._activemq import ActiveMQ
from tests.servers._proxy import Proxy
from tests.servers._rabbitmq import RabbitMQ
from tests.servers._rabbitmq4 import RabbitMQ4

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


# Servers are started by the first test that asks for one and ended after the last. Fixtures of a session are
# made before those of a test, so `nothing_left_behind` finds them there; and what a test kills and starts
# again is no child of this process.


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """Return a RabbitMQ node with TLS that tests share: use `unique` names, and neither kill nor block it."""
    _need(_rabbitmq.missing())
    with RabbitMQ(tls=True) as node:
        yield node.start(tmp_path_factory.mktemp("rabbitmq"))


@pytest.fixture(scope="session")
def rabbitmq4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ4]:
    """Return a node of RabbitMQ 4 with TLS that tests share: use `unique` names, and neither kill nor block.

    It has to be fetched from Debian's archive. Where it was not, its tests are skipped, in CI as well.
    """
    if _rabbitmq4.missing():
        pytest.skip(_rabbitmq4.missing())
    with RabbitMQ4(tls=True) as node:
        yield node.start(tmp_path_factory.mktemp("rabbitmq4"))


@pytest.fixture(scope="session")
def activemq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActiveMQ]:
    """Return an ActiveMQ broker with TLS that all tests share: use `unique` names, and do not kill it."""
    _need(_activemq.missing())
    with ActiveMQ(tls=True) as node:
        yield node.start(tmp_path_factory.mktemp("activemq"))


@pytest.fixture(scope="session")
def spare_rabbitmq_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """Return the node behind `broken_rabbitmq`; tests ask for that one."""
    _need(_rabbitmq.missing())
    with RabbitMQ(tls=True) as node:
        yield node.start(tmp_path_factory.mktemp("spare-rabbitmq"))


@pytest.fixture(scope="session")
def spare_activemq_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActiveMQ]:
    """Return the broker behind `broken_activemq`; tests ask for that one."""
    _need(_activemq.missing())
    with ActiveMQ(tls=True) as node:
        yield node.start(tmp_path_factory.mktemp("spare-activemq"))


@pytest.fixture
def broken_rabbitmq(spare_rabbitmq_of_the_run: RabbitMQ) -> RabbitMQ:
    """Return a running node to kill, freeze and alarm; what a test does to it is mended before the next."""
    return spare_rabbitmq_of_the_run.mend()


@pytest.fixture
def broken_activemq(spare_activemq_of_the_run: ActiveMQ) -> ActiveMQ:
    """Return a running broker to kill and freeze; what a test does to it is mended before the next."""
    return spare_activemq_of_the_run.mend()


@pytest.fixture
def unique() -> str:
    """Return a name that no other test has, such as test-3f2a9c10."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Return ``proxy(port, target="127.0.0.1", host="127.0.0.1")``, which starts a proxy to a port."""
    with ExitStack() as stack:

        def start(port: int, target: str = "127.0.0.1", *, host: str = "127.0.0.1") -> Proxy:
            return stack.enter_context(Proxy(target, port, host=host))

        yield start


def _need(missing: str) -> None:
    if missing and os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    if missing:
        pytest.skip(missing)
