"""Health: checks that an application declares, run all at once, and the worst of what they say."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from evbus.engine.handling.events.threads import Threads
from evbus.engine.kit.names import unique
from evbus.engine.kit.redact import problem_text
from evbus.errors import ServiceSignatureError

__all__ = [
    "HEALTH",
    "LIMIT",
    "Health",
    "HealthCheckManager",
    "HealthStatus",
    "Result",
    "checks_in",
    "endpoint_of",
    "has_checks",
    "health",
    "health_check",
    "health_checks",
    "of_bus",
]

#: The path at which a server tells the health of its process.
HEALTH = "/health"
#: Seconds after which a check that says nothing of its own counts as failed, though it goes on.
LIMIT = 10.0
#: Threads that may go on with checks that took too long; then further ones fail, until one of them ends.
_HANGING = 32

_CHECK, _CHECKS, _ENDPOINT = "__evbus_health_check__", "__evbus_health_checks__", "__evbus_health__"

_Class = TypeVar("_Class", bound=type)
_Function = TypeVar("_Function", bound=Callable[..., Any])

_log = logging.getLogger("evbus.health")


class HealthStatus(Enum):
    """How something is. Of several the worst counts."""

    OK = 1
    WARNING = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name

    @property
    def code(self) -> int:
        """The status of HTTP that stands for it: 200, 429 (as Consul wants it) or 500."""
        return {HealthStatus.OK: 200, HealthStatus.WARNING: 429, HealthStatus.ERROR: 500}[self]


class HealthCheckManager:
    """The checks of a process.

    :param limit: seconds after which a check that is not done counts as failed; the next one that asks waits
        for the same run.
    """

    class Result:
        """What one check says; ``OK`` unless it says something else.

        :ivar details: for who may know.
        """

        def __init__(self, name: str) -> None:
            self.name = name
            self.status = HealthStatus.OK
            self.details = ""

        def __repr__(self) -> str:
            return f"<Result {self.name} {self.status}>"

        def set_status(self, status: HealthStatus, details: str = "") -> None:
            """Say how it is.

            :raises TypeError: ``status`` is no :class:`HealthStatus`.
            """
            if not isinstance(status, HealthStatus):
                raise TypeError(f"a status is one of HealthStatus, and not {status!r}")
            self.status = status
            self.details = str(details)

        def to_dict(self) -> dict[str, str]:
            """Return it as it is told, without details when there are none."""
            found = {"name": self.name, "status": str(self.status)}
            if self.details:
                found["details"] = self.details
            return found

    class Health:
        """What several checks say: the worst, and the result of each."""

        def __init__(
            self, status: HealthStatus = HealthStatus.OK, results: Iterable[HealthCheckManager.Result] = ()
        ) -> None:
            self.results = list(results)
            worst = [status, *(one.status for one in self.results)]
            self.status = max(worst, key=lambda each: each.value)

        def __repr__(self) -> str:
            return f"<Health {self.status} of {len(self.results)}>"

        def to_dict(self, *, details: bool = True) -> dict[str, Any]:
            """Return it as it is told.

            :param details: who asks may know of each check; without, the status is all.
            """
            if not details:
                return {"status": str(self.status)}
            return {"status": str(self.status), "checks": [one.to_dict() for one in self.results]}

    def __init__(self, *, limit: float = LIMIT) -> None:
        self._limit = limit
        self._checks: dict[str, _Check] = {}
        self._threads = Threads(_HANGING, "health checks")
        #: Why it takes nothing new, ``""`` while it does.
        self.stopping = ""

    def __repr__(self) -> str:
        return f"<HealthCheckManager of {', '.join(self._checks) or 'nothing'}>"

    def add(self, checks: Any) -> None:
        """Add the checks of an object of a class with :func:`health_checks`."""
        for says, function in _declared(type(checks)):
            bound = function.__get__(checks)
            self.add_check(says.name, bound, cache=says.cache, fail_if_slower_than=says.limit)

    def add_check(
        self,
        name: str,
        call: Callable[[Result], Any],
        *,
        cache: float = 0.0,
        fail_if_slower_than: float = 0.0,
    ) -> None:
        """Add a function that is told a :class:`Result`; of two with one name the second gets another."""
        name = unique(name, self._checks)
        self._checks[name] = _Check(_Says(name, cache, fail_if_slower_than), call, self._threads)

    async def check(self) -> Health:
        """Run all checks at once, and return what they say."""
        runs = [(one, one.ask()) for one in self._checks.values()]
        tasks = [run for _, run in runs if isinstance(run, asyncio.Future)]
        if tasks:
            await asyncio.wait(tasks, timeout=self._limit)
        results = [self._outcome(one, run) for one, run in runs]
        if self.stopping:
            stop = HealthCheckManager.Result(unique("server", self._checks))
            stop.set_status(HealthStatus.ERROR, self.stopping)
            results.append(stop)
        return HealthCheckManager.Health(results=results)

    def _outcome(self, one: _Check, run: Result | asyncio.Task[Result]) -> Result:
        if isinstance(run, HealthCheckManager.Result):
            return run
        if run.done() and not run.cancelled():
            return run.result()
        result = HealthCheckManager.Result(one.says.name)
        result.set_status(HealthStatus.ERROR, f"not done after {self._limit:g} s")
        return one.told(result)

    async def close(self, seconds: float = 1.0) -> None:
        """End what still runs; what has not ended after ``seconds`` is left alone."""
        tasks = [one.running for one in self._checks.values() if one.running is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        await self._threads.close(seconds)


Health = HealthCheckManager.Health
Result = HealthCheckManager.Result


class _Says(NamedTuple):
    """What a check says of itself.

    :ivar cache: seconds for which a result holds.
    :ivar limit: seconds that it may take, 0 for as many as it wants.
    """

    name: str
    cache: float
    limit: float


class _Check:
    """A check: one run at a time, which all that ask meanwhile wait for."""

    def __init__(self, says: _Says, call: Callable[[Result], Any], threads: Threads) -> None:
        self.says = says
        self.running: asyncio.Task[Result] | None = None
        self._call = call
        self._threads = threads
        self._asynchronous = inspect.iscoroutinefunction(call)
        self._last: Result | None = None
        self._until = -math.inf
        self._status = HealthStatus.OK

    def ask(self) -> Result | asyncio.Task[Result]:
        """Return the result if there is one that holds, else the run that will have one."""
        loop = asyncio.get_running_loop()
        if self._last is not None and loop.time() < self._until:
            return self._last
        if self.running is None:
            self.running = loop.create_task(self._run(), name=f"health check {self.says.name}")
            self.running.add_done_callback(self._ended)
        return self.running

    def _ended(self, _: Any) -> None:
        self.running = None

    async def _run(self) -> Result:
        loop = asyncio.get_running_loop()
        began = loop.time()
        # One that is given up may say something yet, and it is not to be heard.
        result, given = (HealthCheckManager.Result(self.says.name) for _ in range(2))
        limit = self.says.limit
        try:
            async with asyncio.timeout(limit or None):
                if self._asynchronous:
                    await self._call(given)
                else:
                    await self._threads.run(self._call, given)
            result.set_status(given.status, given.details)
        except TimeoutError as exc:
            late = limit and loop.time() - began >= limit
            result.set_status(
                HealthStatus.ERROR, f"not done after {limit:g} s" if late else problem_text(exc)
            )
        except Exception as exc:
            _log.debug("the health check %s failed", self.says.name, exc_info=True)
            result.set_status(HealthStatus.ERROR, problem_text(exc))
        spent = loop.time() - began
        if limit and spent > limit and result.status is HealthStatus.OK:
            result.set_status(HealthStatus.ERROR, f"spent {spent:.3f} s, and may take {limit:g} s")
        self._last, self._until = result, loop.time() + self.says.cache
        return self.told(result)

    def told(self, result: Result) -> Result:
        """Log a result that is another than the last one was."""
        if result.status is not self._status:
            self._status = result.status
            level = logging.INFO if result.status is HealthStatus.OK else logging.WARNING
            _log.log(level, "the health check %s: %s %s", self.says.name, result.status, result.details)
        return result


# -- decorators ------------------------------------------------------------------------------------


def health(endpoint: str) -> Callable[[_Class], _Class]:
    """Say of a component at which path its health is told; what is told is its ``get_health``.

    :raises ServiceSignatureError: it is no path.
    """
    if not str(endpoint).startswith("/"):
        raise ServiceSignatureError(f'write @health("/path"), with a path, and not {endpoint!r}')

    def declare(cls: _Class) -> _Class:
        setattr(cls, _ENDPOINT, endpoint)
        return cls

    return declare


def endpoint_of(component: Any) -> str:
    """Return the path at which a component's health is told, ``""`` if it has none of its own."""
    return str(getattr(component, _ENDPOINT, ""))


def health_checks() -> Callable[[_Class], _Class]:
    """Say of a class that it has checks: methods with :func:`health_check`.

    :raises ServiceSignatureError: it has none.
    """

    def declare(cls: _Class) -> _Class:
        if not _declared(cls):
            raise ServiceSignatureError(
                f"@health_checks() stands on a class with methods that have @health_check(), not {cls!r}"
            )
        setattr(cls, _CHECKS, True)
        return cls

    return declare


def has_checks(cls: Any) -> bool:
    """Return whether a class itself says that it has checks."""
    return isinstance(cls, type) and _CHECKS in vars(cls)


def checks_in(module: ModuleType) -> list[type]:
    """Return the classes with checks that a module declares itself."""
    return [one for one in vars(module).values() if has_checks(one) and one.__module__ == module.__name__]


def health_check(
    name: str = "", cache: float = 0, fail_if_slower_than: float = 0
) -> Callable[[_Function], _Function]:
    """Say of a method that it is a check: it is told a :class:`Result`, and may be asynchronous.

    :param name: in what is told; default: the method's.
    :param cache: seconds for which a result holds; however many ask at once, it runs once.
    :param fail_if_slower_than: seconds after which it is an ERROR; 0: see :class:`HealthCheckManager`.
    :raises ServiceSignatureError: that cannot be.
    """
    if not isinstance(name, str):
        raise ServiceSignatureError("write @health_check() with its brackets")
    seconds: dict[str, Any] = {"cache": cache, "fail_if_slower_than": fail_if_slower_than}
    for what, value in seconds.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ServiceSignatureError(f"@health_check: {what} is a number of seconds, and not {value!r}")

    def declare(function: _Function) -> _Function:
        title = getattr(function, "__qualname__", repr(function))
        if len(inspect.signature(function).parameters) != 2:
            raise ServiceSignatureError(f"{title} is a health check, and takes the result and no more")
        setattr(function, _CHECK, _Says(name or function.__name__, float(cache), float(fail_if_slower_than)))
        return function

    return declare


def _declared(cls: type) -> list[tuple[_Says, Any]]:
    """Return the checks of a class, those of the classes that it derives from first."""
    found: dict[str, tuple[_Says, Any]] = {}
    for owner in reversed(cls.__mro__):
        for name, function in vars(owner).items():
            if isinstance(says := getattr(function, _CHECK, None), _Says):
                found[name] = (says, function)
    return list(found.values())


# -- the bus ---------------------------------------------------------------------------------------


def of_bus(snapshot: Mapping[str, Any], result: Result) -> None:
    """Say how a bus is: an ERROR when it ends or has ended, and a WARNING while something of it waits.

    One that was never started is none that anything is sent to.

    :param snapshot: of ``hub.evbus.stats.snapshot()``.
    """
    if snapshot["state"] == "new":
        result.set_status(HealthStatus.OK, "the bus is not started")
        return
    if snapshot["state"] != "running":
        result.set_status(HealthStatus.ERROR, f"the bus is {snapshot['state']}")
        return
    found = [
        f"the connection {name} is down: {one['last_error']}"
        for name, one in snapshot["connections"].items()
        if one["state"] == "down"
    ]
    found += [
        f"the lane {name} waits for its destination: {one['last_error']}"
        for name, one in snapshot["lanes"].items()
        if one["state"] == "waiting"
    ]
    if snapshot["dead_store"]["last_error"]:
        found.append(f"the dead store: {snapshot['dead_store']['last_error']}")
    if found:
        result.set_status(HealthStatus.WARNING, "; ".join(found))
