"""The implementations of this process, and the calls of them that come from others."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, NamedTuple, NoReturn

from evbus.engine.handling.dispatch.core import Around
from evbus.engine.handling.events.threads import Threads
from evbus.engine.handling.frame import CURRENT, Invocation, resume
from evbus.engine.handling.within import Limit
from evbus.engine.kit.counted import counted
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.waiting import failure_of, rest, running
from evbus.engine.service.access import Access
from evbus.engine.service.declare import ServiceSpec
from evbus.engine.service.failures import MethodFailed
from evbus.engine.service.guard import Caller, Calling, check, check_known
from evbus.engine.service.method import MethodSpec
from evbus.errors import (
    AuthorizationError,
    EvbusError,
    InvalidResult,
    LocalServiceError,
    Rejected,
    ServiceTimeout,
    Unavailable,
    nearest,
)
from evbus.types import Envelope

__all__ = ["Hosted", "HostedMethod", "uncounted"]

log = logging.getLogger("evbus.service")

#: Plain methods that may run at once, each in a thread.
THREADS = 32


#: Whether what calls belongs to a component, and so ends when that is shut down.
_OWN: ContextVar[bool] = ContextVar("evbus_own", default=False)


@contextmanager
def uncounted() -> Iterator[None]:
    """Let a stop wait for no calls within this process that are made in this block, or in tasks of it."""
    token = _OWN.set(True)
    try:
        yield
    finally:
        _OWN.reset(token)


class HostedMethod(NamedTuple):
    """A method that others can call.

    :ivar component: the name of the component that has its service.
    :ivar implementation: the object; ``function`` is its method.
    :ivar access: who may call it from outside.
    """

    component: str
    service: ServiceSpec
    spec: MethodSpec
    implementation: Any
    function: Callable[..., Any]
    access: Access

    @property
    def name(self) -> str:
        """What it is called on the wire: ``component:service:method``."""
        return f"{self.component}:{self.service.name}:{self.spec.name}"


class Hosted:
    """The implementations of this process.

    :param around: returns the interceptors that are around each call, None where there are none.
    :param threads: plain methods that may run at once; the others wait, within their deadlines.
    :param anonymous: returns whether anybody may call a method, ``component:service:method``, as the settings
        say.
    :ivar active: calls that are under way.
    """

    def __init__(
        self,
        around: Callable[[], Around | None],
        threads: int = THREADS,
        anonymous: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.active = 0
        self._around = around
        self._anonymous = anonymous
        self._methods: dict[str, HostedMethod] = {}
        self._implementations: dict[type, Any] = {}
        self._threads = Threads(threads, "services")
        self._limit = threads
        #: The calls from within this process: the coroutine of each, or a mark of a plain one.
        self._here: dict[object, None] = {}
        self._idle: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._patience: asyncio.Timeout | None = None
        #: Those of them within which a stop was asked for, and which it does not wait for.
        self._asking: frozenset[object] = frozenset()
        self.resume()

    def __repr__(self) -> str:
        state = ", stopping" if self._stopping else ""
        return f"<Hosted {len(self._implementations)} services, {self._left()} calls{state}>"

    def add(self, component: str, service: ServiceSpec, implementation: Any) -> None:
        """Let the methods of a service be called."""
        self._implementations[service.cls] = implementation
        for spec in service.methods.values():
            function = getattr(implementation, spec.name)
            method = HostedMethod(component, service, spec, implementation, function, spec.access)
            if self._anonymous(method.name):
                method = method._replace(access=spec.access._replace(anonymous=True))
            self._methods[method.name] = method

    @property
    def open(self) -> bool:
        """Whether there are methods that anybody may call."""
        return any(method.access.anonymous for method in self._methods.values())

    def implementation(self, interface: type) -> Any:
        """Return what implements an interface here, None for nothing."""
        return self._implementations.get(interface)

    def direct(self, service: ServiceSpec) -> dict[str, Callable[..., Any]]:
        """Return the methods of what implements an interface here, for callers in this process.

        They are counted while they run, but for streams, which end as their readers end them.
        """
        made = self._implementations[service.cls]
        return {name: self._direct(spec, getattr(made, name)) for name, spec in service.methods.items()}

    def _counted_here(
        self, spec: MethodSpec, function: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return an asynchronous method that is counted while it runs."""
        # Known once, as asking for them takes as long as much else of such a call.
        here, is_own = self._here, _OWN.get

        async def called(*args: Any, **kwargs: Any) -> Any:
            if is_own():
                return await function(*args, **kwargs)
            if self._stopping:
                self._refuse_new(spec)
            made = function(*args, **kwargs)
            here[made] = None
            try:
                return await made
            finally:
                del here[made]
                if self._idle is not None:
                    self._look()

        return called

    def _direct(self, spec: MethodSpec, function: Callable[..., Any]) -> Callable[..., Any]:
        here = self._here

        def called_plain(*args: Any, **kwargs: Any) -> Any:
            if self._stopping:
                self._refuse_new(spec)
            mark = object()
            here[mark] = None
            try:
                return function(*args, **kwargs)
            finally:
                del here[mark]
                if self._idle is not None:
                    self._look()

        if spec.item is not None:
            return function
        made = self._counted_here(spec, function) if spec.asynchronous else called_plain
        return functools.wraps(function)(made)

    def _refuse_new(self, spec: MethodSpec) -> None:
        """Refuse a call at the stop, but for those that belong to one that is under way."""
        if not self._within():
            raise LocalServiceError(
                f"{spec.title}: the services here are being stopped, and take no new calls"
            )

    def _within(self) -> frozenset[object]:
        """Return the asynchronous calls from within this process that what runs is called by."""
        # Asked at a stop alone: to note the task of each call would cost more than all else of it.
        above, frame = set(), inspect.currentframe()
        while frame is not None:
            above.add(frame)
            frame = frame.f_back
        return frozenset(one for one in [*self._here] if getattr(one, "cr_frame", None) in above)

    def methods(self) -> Iterator[HostedMethod]:
        """Yield every method, in the order of components and declarations."""
        yield from self._methods.values()

    def find(self, name: str, caller: Caller | None = None) -> HostedMethod:
        """Return the method that is called ``component:service:method``: one that is declared, nothing else.

        :param caller: who asks; nobody that is known is told of no method but those that anybody may call.
        :raises LocalServiceError: there is none. What there is instead stands in the log, for who runs this.
        :raises AuthorizationError: who asks has not said who he is.
        """
        found = self._methods.get(name)
        check_known(caller, None if found is None else found.access)
        if found is None:
            shown = one_line(repr(name), 200)
            log.info("a method was called that there is none of: %s%s", shown, nearest(name, self._methods))
            raise LocalServiceError(f"there is no method {shown}")
        return found

    async def call(
        self,
        method: HostedMethod,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        seconds: float | None,
        caller: Caller | None = None,
    ) -> Any:
        """Call a method and return its result. Cancelled, it is cancelled; a plain one ends in its thread.

        :param args: as they came, plain; of an argument that is a stream, an asynchronous iterator.
        :param headers: what travelled with it; the interceptors see it, and what is called within passes it
            on.
        :param seconds: that are left for it, None for any time.
        :param caller: who calls, as a :class:`.Guard` has said; None where nobody is asked.
        :raises InvalidPayload: the arguments do not fit.
        :raises ServiceTimeout: it took longer.
        :raises AuthorizationError: who calls may not.
        :raises Unavailable: the services are stopping.
        :raises MethodFailed: it was called, and raised something.
        """
        check(caller, method.access, method.spec.title)
        if seconds is not None and seconds <= 0:
            raise ServiceTimeout(f"{method.spec.title}: its deadline was over when it came here")
        request = _Request(method, args, kwargs, headers, seconds)
        with self._counted(), Calling(caller):
            handling, deadline = self._intercepted(request, self._run), None
            try:
                # Much of what is called ends without waiting for anything, and costs no timer.
                try:
                    awaited = handling.send(None)
                except StopIteration as done:
                    return done.value
                limit = request.frame.limit
                async with asyncio.timeout_at(None if limit is None else limit.end) as deadline:
                    return await rest(handling, awaited)
            except BaseException as exc:
                if isinstance(exc, TimeoutError) and deadline is not None and deadline.expired():
                    raise ServiceTimeout(
                        f"{method.spec.title} took longer than the {seconds:.3g} s that were left for it"
                    ) from None
                request.fail(exc)

    async def stream(
        self,
        method: HostedMethod,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        caller: Caller | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield what a method yields; closed, it is closed. Parameters and errors as for :meth:`call`.

        The interceptors are around its beginning, and what they have set is there until its end.
        """
        check(caller, method.access, method.spec.title)
        request = _Request(method, args, kwargs, headers, None)
        with self._counted():
            try:
                with Calling(caller):
                    context: Context = await self._intercepted(request, self._begin)
                async with aclosing(_items(request.items, context)) as items:
                    async for item in items:
                        yield item
            except GeneratorExit:
                raise
            except BaseException as exc:
                request.fail(exc)

    async def call_here(
        self, method: HostedMethod, args: Sequence[Any], kwargs: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Any:
        """Call a method for a caller in this process, with the interceptors around it, and nothing else."""

        async def call() -> Any:
            return await self._intercepted(_Request.here(method, args, kwargs, headers), self._run)

        return await self._counted_here(method.spec, call)()

    async def stream_here(
        self, method: HostedMethod, args: Sequence[Any], kwargs: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncGenerator[Any, None]:
        """Yield what a method yields, as :meth:`call_here` does."""
        request = _Request.here(method, args, kwargs, headers)
        context: Context = await self._intercepted(request, self._begin)
        async with aclosing(_items(request.items, context)) as items:
            async for item in items:
                yield item

    async def _intercepted(self, request: _Request, inner: Callable[[_Request], Awaitable[Any]]) -> Any:
        around = self._around()
        token = CURRENT.set(request.frame)
        try:
            if around is None:
                return await inner(request)
            done: list[Any] = []

            async def handle(envelope: Envelope) -> Any:
                request.frame.envelope = envelope
                done.append(await inner(request))
                return done[-1]

            assert request.frame.envelope is not None
            result = await around(request.frame.envelope, handle)
            if not done:
                raise Rejected(f"{request.method.spec.title}: a pipeline plugin did not hand the call on")
            return result
        finally:
            CURRENT.reset(token)

    async def _run(self, request: _Request) -> Any:
        args, kwargs = request.begin()
        function = request.method.function
        if request.method.spec.asynchronous:
            return await function(*args, **kwargs)
        async with self._free:
            return await self._threads.run(_plain, function, args, kwargs)

    async def _begin(self, request: _Request) -> Context:
        args, kwargs = request.begin()
        made = request.method.function(*args, **kwargs)
        if not hasattr(made, "__aiter__"):
            raise InvalidResult(
                f"{request.method.spec.title} of the component {request.method.component!r} returned "
                f"{type(made).__qualname__}, and its interface declares a stream: an asynchronous iterator"
            )
        request.items = made.__aiter__()
        return copy_context()

    def _counted(self) -> _Counted:
        if self._stopping:
            raise Unavailable("the services here are stopping")
        return _Counted(self)

    def resume(self) -> None:
        """Take calls, in the present loop from now on."""
        self._stopping = False
        self._free = asyncio.Semaphore(self._limit)

    async def close(self, seconds: float) -> int:
        """Take no more calls, and wait until those under way have ended; return how many have not."""
        self._stopping = True
        self._loop, self._idle = asyncio.get_running_loop(), asyncio.Event()
        self._asking = self._within()
        if self._left():
            try:
                async with asyncio.timeout(seconds) as self._patience:
                    await self._idle.wait()
            except TimeoutError:
                left = counted(self._left(), "call of services is", "calls of services are")
                log.warning("%s still under way at the stop", left)
        await self._threads.close(max(0.1, min(seconds, 1.0)))
        return self._left()

    def _left(self) -> int:
        """Return how many calls are under way."""
        return self.active + sum(one not in self._asking for one in [*self._here])

    def _look(self) -> None:
        """Let a close go on when no call is under way any more; from any thread."""
        if self._idle is not None and self._loop is not None and not self._left():
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._idle.set)

    def hurry(self) -> None:
        """Let a close that is under way wait for no call any more."""
        if self._patience is not None:
            with suppress(RuntimeError):  # it waits for none
                self._patience.reschedule(0)

    def left(self) -> None:
        """Count a call that has ended."""
        self.active -= 1
        if self._idle is not None:
            self._look()


class _Counted:
    """A call that is counted as long as it is under way."""

    __slots__ = ("_hosted",)

    def __init__(self, hosted: Hosted) -> None:
        self._hosted = hosted

    def __enter__(self) -> None:
        self._hosted.active += 1

    def __exit__(self, *raised: object) -> None:
        self._hosted.left()


class _Request:
    """A call that came.

    :ivar begun: the method itself was called, so that a failure is one of its own.
    :ivar items: what it yields.
    """

    __slots__ = ("_args", "_kwargs", "_read", "begun", "frame", "items", "method")

    def __init__(
        self,
        method: HostedMethod,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        headers: Mapping[str, str],
        seconds: float | None,
    ) -> None:
        envelope = Envelope("", method.name, b"", dict(headers))
        limit = None if seconds is None else Limit.of(seconds)
        self.method = method
        self.frame = Invocation(None, None, None, envelope, limit)
        self.begun = False
        self.items: Any = None
        self._args = args
        self._kwargs = kwargs
        self._read = True

    @classmethod
    def here(
        cls,
        method: HostedMethod,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> _Request:
        """Return a call from this process: its arguments are what they are, and its time is the caller's."""
        made, above = cls(method, args, kwargs, headers, None), CURRENT.get()
        made._read = False
        made.frame.limit = None if above is None else above.limit
        return made

    def begin(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments to call the method with, which comes next."""
        args, kwargs = self._args, self._kwargs
        if self._read:
            args, kwargs = self.method.spec.read_arguments(args, kwargs)
        self.begun = True
        return args, kwargs

    def fail(self, problem: BaseException) -> NoReturn:
        """Raise what a call ends with that has raised something."""
        failed = failure_of(problem, running())
        if isinstance(failed, EvbusError if not self.begun else AuthorizationError):
            raise failed
        log.debug("%s failed", self.method.spec.title, exc_info=failed)
        raise MethodFailed(failed, self.method.spec) from problem


def _plain(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except (StopIteration, KeyboardInterrupt) as exc:
        # A future cannot hold the one, and the other is the operator's, in the main thread.
        raise RuntimeError(f"the method raised {type(exc).__name__}") from exc


async def _items(items: Any, context: Context) -> AsyncGenerator[Any, None]:
    """Yield what an asynchronous iterator yields, which runs in a context of its own."""
    try:
        while True:
            step = context.run(items.__anext__)
            if not hasattr(step, "send"):
                step = step.__await__()
            try:
                awaited = context.run(step.send, None)
            except StopIteration as done:
                item = done.value
            except StopAsyncIteration:
                return
            else:
                try:
                    item = await resume(context, step, awaited)
                except StopAsyncIteration:
                    return
            yield item
    finally:
        if hasattr(items, "aclose"):
            await items.aclose()
