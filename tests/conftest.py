"""What every test gets: a hub of its own, a check that it leaves nothing behind; and brokers for who asks."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from evbus.engine.core.plugins import installed
from evbus.engine.wire.base import supervisor
from tests.servers import _activemq, _consul, _versions
from tests.servers._activemq import ActiveMQ
from tests.servers._consul import Consul, ConsulDouble
from tests.servers._lender import Lender, borrow
from tests.servers._node import Node
from tests.servers._proxy import Proxy
from tests.servers._rabbitmq import RabbitMQ
from tests.servers._versions import VERSIONS

#: The broker that is no RabbitMQ; `VERSIONS` are the names of those.
ACTIVEMQ = "activemq"
#: The fixtures of brokers that tests break. These tests are kept together, so that few processes start them;
#: most break the installed RabbitMQ, and those of chaos, as long as all the others, are a group of their own.
SPARE = {
    "each_spare_rabbitmq_of_the_run",
    "spare_rabbitmq_of_the_run",
    "spare_activemq_of_the_run",
    "spare",
    "broken_place",
}
LENDER = pytest.StashKey[Lender]()
GRACE = 5.0  # seconds that a thread or a task which was told to end may take to do so
LIMIT = 300.0  # seconds; a test that is a coroutine takes that long only when something is wrong
FDS = Path("/proc/self/fd")
LEAKY = ("socket:", "pipe:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--rabbitmq 4.3``, the version that `rabbitmq` and `broken_rabbitmq` are, and ``--uvloop``."""
    parser.addoption(
        "--rabbitmq",
        choices=VERSIONS,
        help=f"the RabbitMQ of the tests; without it {VERSIONS[0]}, or each",
    )
    parser.addoption("--uvloop", action="store_true", help="run the tests' event loops by uvloop")


def pytest_configure(config: pytest.Config) -> None:
    """With ``--uvloop`` let ``asyncio.run`` and what else makes event loops make those of uvloop."""
    # How long an example takes says how busy the machine is.
    hypothesis.settings.register_profile(
        "evbus", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("evbus")
    if config.getoption("uvloop"):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.run(asyncio.sleep(0))  # the first loop opens a pipe that stays until the process ends


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the collector rest while tests are collected: they stay to the end.

    They are not frozen, as hypothesis looks for what refers to its random numbers among what is collected.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist where the brokers are that it shares with the others."""
    node.workerinput["lender"] = _lender(node.config).place


def _lender(config: pytest.Config) -> Lender:
    """Return what starts the shared brokers, one for all workers; it is made for the first of them."""
    if LENDER not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="evbus-brokers-"))
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
        config.stash[LENDER] = Lender(lambda name: _new(name).start(folder / name))
        config.add_cleanup(config.stash[LENDER].close)
    return config.stash[LENDER]


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, with ``--rabbitmq``, what `each_rabbitmq` and its like would run on other versions.

    Workers of xdist get together what is made once for several tests.
    """
    version = config.getoption("rabbitmq")
    other = [item for item in items if version and _versions_of(item) - {version}]
    if other:
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if item not in set(other)]
    if hasattr(config, "workerinput"):
        for item in items:
            group = _group(item)
            if group:
                item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str:
    """Return what an item shares with others: a broker to break, or what is made once for its module."""
    parameters = {**item.callspec.params} if hasattr(item, "callspec") else {}
    definitions = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    for name in SPARE & set(definitions):
        broker = parameters.get(name, ACTIVEMQ if ACTIVEMQ in name else "")
        if broker in (*VERSIONS[1:], ACTIVEMQ):
            return f"spare {broker}"
        chaos = " chaos" if "chaos" in item.path.parts else ""
        return f"spare {VERSIONS[0]}{chaos}"
    if item.get_closest_marker("apps"):
        return "apps"
    made_once = any(found[-1].scope in ("class", "module", "package") for found in definitions.values())
    return item.nodeid.partition("::")[0] if made_once else ""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in a loop of its own, and fail it when it leaves tasks behind."""
    if not inspect.iscoroutinefunction(inspect.unwrap(pyfuncitem.obj)):
        return None

    async def main() -> None:
        async with asyncio.timeout(LIMIT):
            await test(**arguments)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        pending = (await asyncio.wait(left, timeout=GRACE))[1] if left else set()
        assert not pending, f"tasks are left behind: {pending}"

    test = pyfuncitem.obj
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(main())
    return True


def _versions_of(item: pytest.Item) -> set[Any]:
    parameters = getattr(item, "callspec", None)
    return {
        parameters.params[name]
        for name in ("each_rabbitmq", "each_spare_rabbitmq_of_the_run")
        if parameters and name in parameters.params
    }


def _version(config: pytest.Config) -> str:
    return str(config.getoption("rabbitmq") or VERSIONS[0])


@pytest.fixture
def hub() -> Any:
    """Return a new hub with the bus on it, loaded from this package alone."""
    return installed.new_hub()


@pytest.fixture(autouse=True)
def nobody_comes_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an event that reaches no queue be dead at once, and not when its queue had time to come back.

    Tests of just that set the seconds themselves.
    """
    monkeypatch.setattr(supervisor, "SETTLING", 0.0)


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
    # A dummy stands for a thread that Python did not start, or that ends just now; nobody can wait for it.
    started = [each for each in threading.enumerate() if each not in threads and type(each) is not _Dummy]
    left = [f"thread {thread.name}" for thread in started if not _ends(thread)]
    new = _open_descriptors() - descriptors
    if new:
        gc.collect()  # an exception's traceback may hold what its test has dropped
        new = _open_descriptors() - descriptors
    left += [f"descriptor {number} -> {target}" for number, target in sorted(new)]
    left += [f"child process {pid}" for pid in sorted(_children() - children)]
    if left:
        pytest.fail("the test left behind: " + ", ".join(left), pytrace=False)


_Dummy = threading._DummyThread  # type: ignore[attr-defined]


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


class RabbitMQs:
    """Nodes with TLS, each started when it is asked for the first time."""

    def __init__(self, start: Callable[[str], RabbitMQ]) -> None:
        self._start = start
        self._nodes: dict[str, RabbitMQ] = {}

    def __call__(self, version: str) -> RabbitMQ:
        """Return the node of one of `VERSIONS`. Skips the test, with the reason, where it cannot be had."""
        if version not in self._nodes:
            missing = _versions.missing(version)
            if version == VERSIONS[0]:
                _need(missing)
            elif missing:
                pytest.skip(missing)  # in CI too: it is fetched, which not every machine can do
            self._nodes[version] = self._start(version)
        return self._nodes[version]


@pytest.fixture(scope="session")
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Return ``own_node(name)``, which starts a broker that is closed at the end of the session."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(_new(name)).start(tmp_path_factory.mktemp(f"{name}-"))


@pytest.fixture(scope="session")
def shared_node(pytestconfig: pytest.Config, own_node: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return ``shared_node(name)``, a broker that all workers of a test run share."""
    lender = getattr(pytestconfig, "workerinput", {}).get("lender")
    return partial(borrow, lender) if lender else own_node


@pytest.fixture(scope="session")
def rabbitmqs(shared_node: Callable[[str], Any]) -> RabbitMQs:
    """Return ``rabbitmqs(version)``, nodes that tests share: use `unique` names, neither kill nor block."""
    return RabbitMQs(shared_node)


@pytest.fixture(scope="session")
def spare_rabbitmqs(own_node: Callable[[str], Any]) -> RabbitMQs:
    """Return the nodes behind `broken_rabbitmq` and `each_broken_rabbitmq`; tests ask for those."""
    return RabbitMQs(own_node)


@pytest.fixture(scope="session")
def spare_rabbitmq_of_the_run(spare_rabbitmqs: RabbitMQs, pytestconfig: pytest.Config) -> RabbitMQ:
    """Return the node behind `broken_rabbitmq`; tests ask for that one."""
    return spare_rabbitmqs(_version(pytestconfig))


@pytest.fixture(scope="session", params=("3.10", "4.0", "4.3"))
def each_spare_rabbitmq_of_the_run(request: pytest.FixtureRequest, spare_rabbitmqs: RabbitMQs) -> RabbitMQ:
    """Return the nodes behind `each_broken_rabbitmq`; tests ask for that one."""
    return spare_rabbitmqs(request.param)


@pytest.fixture(scope="session")
def rabbitmq(rabbitmqs: RabbitMQs, pytestconfig: pytest.Config) -> RabbitMQ:
    """Return the RabbitMQ that the option ``--rabbitmq`` names, 3.10 by default (see `rabbitmqs`)."""
    return rabbitmqs(_version(pytestconfig))


@pytest.fixture(scope="session")
def rabbitmq310(rabbitmqs: RabbitMQs) -> RabbitMQ:
    """Return a RabbitMQ 3.10, the installed one, for what is about that version (see `rabbitmqs`)."""
    return rabbitmqs("3.10")


@pytest.fixture(scope="session")
def rabbitmq4(rabbitmqs: RabbitMQs) -> RabbitMQ:
    """Return a RabbitMQ 4.0, for what is about that version (see `rabbitmqs`)."""
    return rabbitmqs("4.0")


@pytest.fixture(scope="session")
def rabbitmq43(rabbitmqs: RabbitMQs) -> RabbitMQ:
    """Return a RabbitMQ 4.3, for what is about that version (see `rabbitmqs`)."""
    return rabbitmqs("4.3")


@pytest.fixture(scope="session", params=VERSIONS)
def each_rabbitmq(request: pytest.FixtureRequest, rabbitmqs: RabbitMQs) -> RabbitMQ:
    """Return one RabbitMQ after another: the test runs once with each of `VERSIONS`.

    Fewer: ``@pytest.mark.parametrize("each_rabbitmq", ["4.0", "4.3"], indirect=True)``.
    """
    return rabbitmqs(request.param)


@pytest.fixture(scope="session")
def activemq(shared_node: Callable[[str], Any]) -> ActiveMQ:
    """Return an ActiveMQ broker with TLS that all tests share: use `unique` names, and do not kill it."""
    _need(_activemq.missing())
    return shared_node(ACTIVEMQ)


@pytest.fixture(scope="session")
def spare_activemq_of_the_run(own_node: Callable[[str], Any]) -> ActiveMQ:
    """Return the broker behind `broken_activemq`; tests ask for that one."""
    _need(_activemq.missing())
    return own_node(ACTIVEMQ)


@pytest.fixture
def broken_rabbitmq(spare_rabbitmq_of_the_run: RabbitMQ) -> RabbitMQ:
    """Return a running node to kill, freeze and alarm; what a test does to it is mended before the next."""
    return spare_rabbitmq_of_the_run.mend()


@pytest.fixture
def each_broken_rabbitmq(each_spare_rabbitmq_of_the_run: RabbitMQ) -> RabbitMQ:
    """Return nodes of 3.10, 4.0 and 4.3, one after another, to kill, freeze and alarm."""
    return each_spare_rabbitmq_of_the_run.mend()


@pytest.fixture
def broken_activemq(spare_activemq_of_the_run: ActiveMQ) -> ActiveMQ:
    """Return a running broker to kill and freeze; what a test does to it is mended before the next."""
    return spare_activemq_of_the_run.mend()


@pytest.fixture(params=(Consul, ConsulDouble), ids=("consul", "double"))
def each_consul(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Consul]:
    """Return a running agent of Consul, and then its double, for one test alone."""
    missing = "" if request.param is ConsulDouble else _consul.missing()
    if missing:
        pytest.skip(missing)  # in CI too: it is fetched, which not every machine can do
    with request.param() as agent:
        yield agent.start(tmp_path / "consul")


@pytest.fixture(scope="session")
def uvloop_runner() -> Callable[[], asyncio.Runner]:
    """Return what makes a runner of uvloop's event loop, for tests of what evbus does under another loop."""
    import uvloop

    uvloop.new_event_loop().close()  # the first one opens a pipe that stays until the process ends
    return partial(asyncio.Runner, loop_factory=uvloop.new_event_loop)


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


def _new(name: str) -> Node:
    return ActiveMQ(tls=True) if name == ACTIVEMQ else _versions.new(name, tls=True)


def _need(missing: str) -> None:
    if missing and os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    if missing:
        pytest.skip(missing)
