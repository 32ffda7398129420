"""Calls of a service in another process: addresses, deadlines, attempts, and second requests."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from evbus.engine.call.forward import DEADLINE, passed_on
from evbus.engine.handling.frame import CURRENT
from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.redact import problem_text, redact
from evbus.engine.kit.waiting import failure_of, running
from evbus.engine.service.call import Call, says_who, where
from evbus.engine.service.declare import ServiceSpec
from evbus.engine.service.instance import Instance, Instances
from evbus.engine.service.method import MethodSpec
from evbus.engine.service.settings import ChannelSettings
from evbus.errors import EvbusError, InvalidPayload, ServiceCommunicationError, ServiceError, ServiceTimeout
from evbus.types import Envelope

__all__ = ["ChannelRoute", "OpenChannel", "Remote", "check_token", "headers_of", "token", "within"]

Prepare = Callable[[Envelope], None]

#: The least seconds until a call that waits for an address looks again whether there is one.
_LOOK = 0.02

#: Until when calls may take that are made in a block of :func:`within`.
_END: ContextVar[float | None] = ContextVar("evbus_within", default=None)
#: The token of calls that are made in a block of :func:`token`.
_TOKEN: ContextVar[str | None] = ContextVar("evbus_token", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let calls that are made in this block end ``seconds`` after its beginning, whatever their timeouts are.

    :raises ValueError: they are not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"this is a number of seconds above 0, and not {seconds!r}")
    end, above = time.monotonic() + seconds, _END.get()
    token = _END.set(end if above is None else min(end, above))
    try:
        yield
    finally:
        _END.reset(token)


@contextmanager
def token(value: str) -> Iterator[None]:
    """Let calls that are made in this block say by a bearer token who they are.

    :raises ValueError: it is no token.
    """
    check_token(value)
    before = _TOKEN.set(value)
    try:
        yield
    finally:
        _TOKEN.reset(before)


def check_token(value: Any) -> None:
    """Refuse what can be no token (RFC 6750, section 2.1).

    :raises ValueError: it is none; without it.
    """
    if not isinstance(value, str) or not value or not all("!" <= one <= "~" for one in value):
        raise ValueError("a token is a text of ASCII without blanks, and not empty")


class OpenChannel(NamedTuple):
    """A channel that is open.

    :ivar token: returns the token that calls go with that have none of their own; None for no token.
    :ivar invoke: awaits the result of a call at an address.
    :ivar stream: yields what a call at an address yields; None when the channel has no streams.
    :ivar streaming: the names of the channels that have streams, for who needs one.
    :ivar silent: what else is said of a call that nobody has answered.
    """

    name: str
    settings: ChannelSettings
    invoke: Callable[[Call, str], Awaitable[Any]]
    stream: Callable[[Call, str], AsyncGenerator[Any, None]] | None
    token: Callable[[], str] | None = None
    streaming: Sequence[str] = ()
    silent: str = ""


class ChannelRoute(NamedTuple):
    """A channel to a component, and the component's addresses over it."""

    channel: OpenChannel
    addresses: Instances


def headers_of(name: str, prepare: Prepare | None) -> dict[str, str]:
    """Return the headers that a call goes out with: those of the message within which it is made, and more.

    :param prepare: the interceptors' ``send``.
    """
    frame = CURRENT.get()
    headers = {} if frame is None or frame.envelope is None else passed_on(frame.envelope.headers)
    if prepare is not None:
        envelope = Envelope("", name, b"", headers)
        prepare(envelope)
        headers = envelope.headers
    return headers


class Remote:
    """A service of a component that is elsewhere.

    :param route: finds the channel and the addresses, when the first call is made and whenever they change.
    :param prepare: returns the interceptors' ``send``, None when there are none.
    :param seconds: returns how long calls may take that say nothing themselves.
    """

    def __init__(
        self,
        component: str,
        service: ServiceSpec,
        route: Callable[[], Coroutine[Any, Any, ChannelRoute]],
        prepare: Callable[[], Prepare | None],
        seconds: Callable[[], float],
    ) -> None:
        self.component = component
        self.service = service
        self._route = route
        self._prepare = prepare
        self._seconds = seconds

    def _call(self, spec: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Return a call with its deadline: the nearest of its own and that of what is being handled here."""
        travels, named = spec.arguments(args, kwargs)
        seconds = spec.options.timeout or self._seconds()
        if (end := _END.get()) is not None:
            seconds = end - time.monotonic()
        frame = CURRENT.get()
        if frame is not None and frame.limit is not None:
            seconds = min(seconds, frame.limit.left())
        name = f"{self.component}:{self.service.name}:{spec.name}"
        if seconds <= 0:
            raise ServiceTimeout(f"{spec.title}: there is no time left for it")
        headers = headers_of(name, self._prepare())
        if (own := _TOKEN.get()) is not None and not says_who(headers):
            headers["authorization"] = f"Bearer {own}"
        if spec.item is None:
            headers[DEADLINE] = f"{time.time() + seconds:.3f}"
        return Call(self.component, self.service.name, spec, travels, named, seconds, headers)

    async def call(self, spec: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a method elsewhere and return its result.

        :raises ServiceTimeout: there was none within the deadline.
        :raises ServiceCommunicationError: it was not reached, or its answer did not come.
        :raises RemoteServiceError: it raised something that the interface does not declare.
        :raises AuthorizationError: it may not be called.
        :raises TypeError: it cannot be called like this.
        """
        call = self._call(spec, args, kwargs)
        seconds, attempts = call.seconds, _Attempts(call)
        try:
            async with asyncio.timeout(seconds) as deadline:
                route = await self._route()
                hedge = spec.options.hedge_after
                if hedge is None or hedge >= seconds:
                    return await attempts.make(route)
                return await _hedged(attempts, route, hedge)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise ServiceTimeout(
                f"{attempts.place()}: there was no answer within the {seconds:.3g} s that it may take"
                f"{attempts.silent}"
            ) from None

    async def stream(
        self, spec: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Yield what a method elsewhere yields. Errors as of :meth:`call`; the time is that for each item."""
        call = self._call(spec, args, kwargs)
        seconds, attempts = call.seconds, _Attempts(call)
        ended = False
        items: AsyncGenerator[Any, None] | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(seconds) as deadline:
                        if items is None:
                            items = attempts.items(await self._route())
                        item = await anext(items)
                except StopAsyncIteration:
                    ended = True
                    return
                except TimeoutError:
                    if not deadline.expired():
                        raise
                    raise ServiceTimeout(
                        f"{attempts.place()}: there was no item within {seconds:.3g} s"
                    ) from None
                yield item
        finally:
            if items is not None and not ended:
                await items.aclose()


class _Attempts:
    """The attempts of one call.

    :ivar tried: the addresses that it was sent to.
    :ivar silent: see :class:`OpenChannel`.
    """

    def __init__(self, call: Call) -> None:
        self.tried: list[Instance] = []
        self.silent = ""
        self._call = call
        self._channel = ""
        # What it was sent of a stream is gone.
        self._again = call.spec.options.idempotent and not any(one.item for one in call.spec.parameters)

    def place(self) -> str:
        """Say what was called, and where at the last."""
        uri = self.tried[-1].uri if self.tried else ""
        return where(self._call, self._channel or "any channel", uri)

    async def make(self, route: ChannelRoute) -> Any:
        """Send the call until there is an answer, or it may not be sent again."""
        failures, retry = 0, route.channel.settings.retry
        self._begin(route.channel)
        while True:
            address = await self._pick(route)
            try:
                return await self._at(address, route.channel)
            except ServiceCommunicationError as exc:
                failures += 1
                if not self._may_again(exc) or (failures >= retry.attempts and not address.soon):
                    raise
                others = any(one not in self.tried and not one.pause for one in route.addresses)
                pause = 0.0 if others else backoff(failures, retry.min, retry.max)
                if pause >= self._call.seconds:
                    raise
            await asyncio.sleep(pause)

    def _begin(self, channel: OpenChannel) -> None:
        if channel.stream is None and self._call.spec.streams:
            can = " or ".join(channel.streaming) or "another one"
            raise ServiceError(
                f"{where(self._call, channel.name, '')}: this channel has no streams; call it over {can}"
            )
        self._channel, self.silent = channel.name, channel.silent
        headers = self._call.headers
        if channel.token is not None and not says_who(headers):
            headers["authorization"] = f"Bearer {channel.token()}"

    def _may_again(self, problem: ServiceCommunicationError) -> bool:
        if isinstance(problem, ServiceTimeout):
            return False
        return self._again or not problem.handed_over

    async def _at(self, address: Instance, channel: OpenChannel) -> Any:
        """Send the call to an address, when it is its turn there."""
        alone = await address.enter()
        try:
            result = await channel.invoke(self._call, address.uri)
        except BaseException as exc:
            problem = self._failed(address, channel, exc)
            if problem is exc:
                raise
            raise problem from exc
        finally:
            address.leave(alone)
        address.worked()
        return result

    async def items(self, route: ChannelRoute) -> AsyncGenerator[Any, None]:
        """Yield the items of a stream; before the first it may be tried elsewhere."""
        channel = route.channel
        self._begin(channel)
        assert channel.stream is not None
        failures = 0
        while True:
            address, begun = await self._pick(route), False
            alone = await address.enter()
            try:
                async with aclosing(channel.stream(self._call, address.uri)) as items:
                    async for item in items:
                        begun = True
                        address.worked()
                        yield item
                return
            except GeneratorExit:
                raise
            except BaseException as exc:
                problem = self._failed(address, channel, exc)
                failures += 1
                again = isinstance(problem, ServiceCommunicationError) and self._may_again(problem)
                if begun or not again or (failures >= channel.settings.retry.attempts and not address.soon):
                    if problem is exc:
                        raise
                    raise problem from exc
            finally:
                address.leave(alone)
            await asyncio.sleep(backoff(failures, channel.settings.retry.min, channel.settings.retry.max))

    def _failed(self, address: Instance, channel: OpenChannel, problem: BaseException) -> Exception:
        """Return what an attempt has failed with, and have the address told."""
        if isinstance(problem, asyncio.CancelledError) and self._call.seconds <= 0:
            address.failed()
        failed = failure_of(problem, running())
        if isinstance(failed, ServiceCommunicationError):
            address.failed(reached=failed.handed_over)
            return failed
        address.worked()
        if isinstance(failed, InvalidPayload):
            # An answer that does not fit its interface.
            return ServiceError(f"{where(self._call, channel.name, address.uri)}: the answer: {failed}")
        if isinstance(failed, EvbusError) or _declared(failed, self._call.spec):
            return failed
        return ServiceCommunicationError(
            f"{where(self._call, channel.name, address.uri)}: {problem_text(failed)}", handed_over=True
        )

    async def _pick(self, route: ChannelRoute) -> Instance:
        """Return the address for an attempt; wait for one that may be back in a moment.

        :raises ServiceCommunicationError: there is none.
        """
        while (address := route.addresses.pick(self.tried)) is None:
            pause = min((one.pause for one in route.addresses if one.soon), default=math.inf)
            if pause >= self._call.seconds:
                raise self._nowhere(route)
            await asyncio.sleep(max(pause, _LOOK))
        self.tried.append(address)
        return address

    def _nowhere(self, route: ChannelRoute) -> ServiceCommunicationError:
        place = where(self._call, route.channel.name, "")
        known = list(route.addresses)
        if not known:
            reason = "it has no address now; see that an instance of it runs, and that the registry knows it"
        else:
            told = (
                f"{redact(one.uri)} failed {one.failures} times in a row, and is tried again in "
                f"{one.pause:.1f} s"
                for one in known[:5]
            )
            reason = f"it is left alone for now, as {', '.join(told)}"
        return ServiceCommunicationError(f"{place}: {reason}", handed_over=False)


async def _hedged(attempts: _Attempts, route: ChannelRoute, after: float) -> Any:
    """Return the first answer of a request, and of a second one that follows ``after`` seconds."""
    tasks = [asyncio.ensure_future(attempts.make(route))]
    try:
        done, _ = await asyncio.wait(tasks, timeout=after)
        if not done:
            tasks.append(asyncio.ensure_future(attempts.make(route)))
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None or not pending:
                    return task.result()
        raise AssertionError  # the last has returned or raised
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _declared(problem: Exception, spec: MethodSpec) -> bool:
    return isinstance(problem, spec.options.raises)
