"""The plugin of pytest: the fixture ``event_bus``; see :mod:`evbus.testing`.

pytest imports this in every run of every project that has evbus installed, before coverage is measured. So it
imports nothing of evbus, and nothing else that takes time, until a test wants the fixture.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["event_bus", "event_bus_options"]

MARKER = "event_bus"


def pytest_configure(config: pytest.Config) -> None:
    """Let ``--strict-markers`` know the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(profiles, plugin_dirs, ...): what the fixture event_bus hands to evbus.testing.bus",
    )


@pytest.fixture
def event_bus_options() -> dict[str, Any]:
    """Return the arguments of ``evbus.testing.bus``; a project writes its own in a ``conftest.py``.

    ``@pytest.mark.event_bus(profiles=...)`` changes it for one test, one class or one file.
    """
    return {}


@pytest.fixture
def event_bus(request: pytest.FixtureRequest, event_bus_options: dict[str, Any]) -> Iterator[Any]:
    """A real bus in memory for one test: ``testing.Bus``, or ``testing.SyncBus`` for a plain function.

    The bus of an asynchronous test starts and ends with the test, in its loop, whichever plugin runs it;
    without one it is run all the same. What went wrong with the events fails the test.
    """
    from evbus import testing

    options = dict(event_bus_options)
    for marker in reversed(list(request.node.iter_markers(MARKER))):
        if marker.args:
            raise pytest.UsageError(f"write @pytest.mark.{MARKER}(profiles=...), with names")
        options.update(marker.kwargs)
    with testing.prepared(**options) as made:
        if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
            yield from _in_its_loop(request.node, made)
        else:
            yield from _in_a_thread(request.node, testing.SyncBus(made))


@pytest.hookimpl
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an asynchronous test that has the fixture, and that no plugin before this has run."""
    if "event_bus" not in pyfuncitem.funcargs or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    __tracebackhide__ = True
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


def _in_its_loop(node: Any, made: Any) -> Iterator[Any]:
    # A fixture cannot know who will run the test, or in which loop; so the test starts and ends the bus.
    test = node.obj

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        if asyncio._get_running_loop() is None:
            _tell("the bus runs in asyncio, and this test in another event loop; run it in asyncio's")
        await made.start()
        try:
            await test(*args, **kwargs)
        except BaseException:
            await made.abandon()
            raise
        wrong = ""
        try:
            await made.finish()
        except AssertionError as exc:
            wrong = str(exc)
        _tell(wrong)

    node.obj = run
    try:
        yield made
    finally:
        node.obj = test


def _in_a_thread(node: Any, made: Any) -> Iterator[Any]:
    made.start()
    running = [made]
    test = getattr(node, "obj", None)

    def run(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        try:
            test(*args, **kwargs)  # type: ignore[misc]
        except BaseException:
            running.pop().abandon()
            raise
        wrong = ""
        try:
            running.pop().finish()
        except AssertionError as exc:
            wrong = str(exc)
        _tell(wrong)

    if callable(test):
        # In the call of the test, so that it is the test that fails, and not the taking down of a fixture.
        node.obj = functools.wraps(test)(run)
    try:
        yield made
    finally:
        if callable(test):
            node.obj = test
        if running:
            running.pop().abandon()


def _tell(wrong: str) -> None:
    """Fail the test by a sentence alone: the place where it is raised says nothing."""
    if wrong:
        pytest.fail(wrong, pytrace=False)
