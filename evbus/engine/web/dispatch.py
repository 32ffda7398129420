"""Calls of services over HTTP, as an ASGI application: ``POST /invoke`` in JSON or MessagePack."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from evbus.engine.codec.wrapped import essence
from evbus.engine.service.body import call_in, failed, stream_of
from evbus.engine.service.encoding import (
    JSON,
    Encoding,
    Records,
    StreamCut,
    StreamFailed,
    items_of,
    records_of,
)
from evbus.engine.service.failures import MethodFailed, raised, refusal, status_of, told
from evbus.engine.service.guard import Caller, Guard
from evbus.engine.service.hosted import Hosted, HostedMethod
from evbus.engine.service.method import MethodSpec
from evbus.engine.web.request import (
    LOST,
    PATIENCE,
    Gone,
    Load,
    Receive,
    RefusedRequest,
    RequestHead,
    Send,
    begin,
    body_of,
    caller_of,
    challenge,
    respond,
    unless_gone,
    unsupported,
)
from evbus.errors import EvbusError, InvalidResult, ServiceError, ServiceTimeout

__all__ = ["Dispatch"]

log = logging.getLogger("evbus.service")


class _CallHead(RequestHead):
    """A request whose body is a call in one of some encodings.

    :ivar streamed: its body is a stream.
    :ivar caller: who sends it, None where nobody is asked.
    :ivar lost: set when its connection is lost; None where the server does not tell.
    """

    __slots__ = ("caller", "encoding", "lost", "streamed")

    def __init__(self, scope: Any, encodings: Iterable[Encoding]) -> None:
        super().__init__(scope)
        self.caller: Caller | None = None
        self.lost: asyncio.Event | None = scope.get(LOST)
        content_type = self.content_type
        for encoding in encodings:
            self.encoding = encoding
            self.streamed = essence(content_type) == encoding.stream
            if self.streamed or encoding.reads(content_type):
                break
        else:
            raise unsupported(content_type, [one.type for one in encodings])


class Dispatch:
    """The ASGI application that takes calls.

    :param hosted: the implementations.
    :param encodings: what is read and written.
    :param max_body: the most bytes of a call, or of a record of a stream.
    :param concurrency: the most calls at once; a further one is refused with 503.
    :param guard: says who calls, None where nobody is asked.
    :ivar load: how many calls are under way.
    """

    def __init__(
        self,
        hosted: Hosted,
        encodings: Sequence[Encoding],
        *,
        max_body: int,
        concurrency: int,
        guard: Guard | None = None,
    ) -> None:
        self.load = Load(concurrency)
        self._hosted = hosted
        self._encodings = tuple(encodings)
        self._max_body = max_body
        self._guard = guard

    def __repr__(self) -> str:
        return f"<Dispatch {', '.join(one.type for one in self._encodings)}, {self.load.calls} calls>"

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        self.load.calls += 1
        encoding = JSON
        try:
            if scope["method"] != "POST":
                raise RefusedRequest(405, "MethodNotAllowed", "calls are sent with POST", (b"allow", b"POST"))
            request = _CallHead(scope, self._encodings)
            encoding = request.encoding
            self.load.check()
            if self._guard is not None:
                request.caller = await caller_of(self._guard, scope)
            await self._answer(request, receive, send)
        except Gone:
            return
        except RefusedRequest as exc:
            await _send(send, exc.status, encoding, {"error": exc.error}, *exc.headers)
        except asyncio.CancelledError:
            error = {"type": "ServiceError", "reason": "the server stopped before the method had ended"}
            await _send(send, 500, encoding, {"error": error}, (b"connection", b"close"))
        except Exception as exc:
            if not isinstance(exc, EvbusError):
                log.exception("a call could not be answered")
            await _send(send, status_of(exc), encoding, {"error": refusal(exc)}, *challenge(exc, scope))
        finally:
            self.load.calls -= 1

    async def _answer(self, request: _CallHead, receive: Receive, send: Send) -> None:
        if request.streamed:
            await self._uploaded(request, receive, send)
            return
        body = await body_of(request, receive, self._max_body)
        encoding = request.encoding
        name, args, kwargs = call_in(encoding.decode(body))
        method = self._hosted.find(name, request.caller)
        spec = method.spec
        if spec.exact:
            _, args, kwargs = call_in(encoding.exact(body))
        if stream_of(spec) is not None:
            said = f"{spec.title} takes a stream: the content type of such a call is {encoding.stream}"
            raise RefusedRequest(415, "UnsupportedMediaType", said)
        if spec.item is None:
            await unless_gone(receive, self._called(method, args, kwargs, request, send))
        else:
            await unless_gone(receive, self._streamed(method, args, kwargs, request, send))

    async def _called(
        self, method: HostedMethod, args: list[Any], kwargs: dict[str, Any], request: _CallHead, send: Send
    ) -> None:
        """Call a method, and answer with what it returns."""
        encoding = request.encoding
        try:
            result = await self._hosted.call(
                method,
                args,
                kwargs,
                headers=request.headers,
                seconds=request.seconds,
                caller=request.caller,
            )
            try:
                body = method.spec.results.answer(encoding, result, method.component)
            except InvalidResult as exc:
                raise MethodFailed(exc, method.spec) from exc
        except MethodFailed as exc:
            body = encoding.encode(failed(told(method.spec, exc)))
        await respond(send, 200, encoding.type, body)

    async def _streamed(
        self, method: HostedMethod, args: list[Any], kwargs: dict[str, Any], request: _CallHead, send: Send
    ) -> None:
        """Call a method, and answer with what it yields, as fast as it is taken."""
        encoding, begun = request.encoding, False

        def encode(batch: list[Any]) -> bytes:
            return method.spec.results.items(encoding, batch, method.component)

        def error_of(problem: Exception) -> Mapping[str, Any]:
            if isinstance(problem, InvalidResult):
                problem = MethodFailed(problem, method.spec)
            if not begun:
                raise problem
            return _end_of(method.spec, problem)

        items = self._hosted.stream(method, args, kwargs, headers=request.headers, caller=request.caller)
        try:
            async with (
                asyncio.timeout(request.seconds) as deadline,
                aclosing(items),
                aclosing(records_of(items, encoding, error_of, encode)) as records,
            ):
                async for record in records:
                    if not begun:
                        begun = True
                        await begin(send, 200, encoding.stream)
                    await send({"type": "http.response.body", "body": record, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except MethodFailed as exc:
            await _send(send, 200, encoding, failed(told(method.spec, exc)))
        except asyncio.CancelledError as exc:
            await _cut(send, exc, begun=begun)
        except TimeoutError:
            if not deadline.expired():
                raise
            late = ServiceTimeout(f"{method.spec.title} took longer than there was time for it")
            if not begun:
                raise late from None
            last = encoding.record({"end": refusal(late)})
            await send({"type": "http.response.body", "body": last})

    async def _uploaded(self, request: _CallHead, receive: Receive, send: Send) -> None:
        """Answer a call whose body is a stream: first the call, then the items."""
        encoding, upload = request.encoding, _Upload(receive, request.lost)
        records = Records(encoding, self._max_body)
        try:
            async with asyncio.timeout(PATIENCE):
                first, begin = await upload.first(records)
        except TimeoutError:
            said = f"the call did not come within {PATIENCE:g} s"
            raise RefusedRequest(408, "RequestTimeout", said, (b"connection", b"close")) from None
        name, args, kwargs = call_in(encoding.decode(first))
        method = self._hosted.find(name, request.caller)
        spec = method.spec
        if spec.exact:
            _, args, kwargs = call_in(encoding.exact(first))
        decode = encoding.exact if spec.exact else encoding.decode
        _put(spec, args, kwargs, _items(upload.part, records, decode, begin, spec))
        answer = self._called if spec.item is None else self._streamed
        await unless_gone(upload.gone, answer(method, args, kwargs, request, send))


class _Upload:
    """The body of a request, part by part.

    :param lost: set when its connection is lost; without it, that is seen once the body has been read so far.
    """

    def __init__(self, receive: Receive, lost: asyncio.Event | None) -> None:
        self._receive = receive
        self._ended = asyncio.Event()
        self._lost = lost
        self._watched = False
        self._gone = asyncio.Event()

    async def part(self) -> bytes:
        """Return more of it, ``b""`` after its end."""
        while not self._ended.is_set():
            message = await self._receive()
            if not message.get("more_body"):
                self._ended.set()
            if message["type"] == "http.disconnect" and self._watched:
                # Who watches cancels the method, which need not be told as well that its items are cut.
                await self._gone.wait()
            if message.get("body"):
                found: bytes = message["body"]
                return found
        return b""

    async def first(self, records: Records) -> tuple[bytes, Iterable[bytes]]:
        """Return the first record, and those that came with it."""
        while data := await self.part():
            found = records.feed(data)
            for record in found:
                return record, found
        raise RefusedRequest(400, "InvalidPayload", "the stream has no record; in the first, a call")

    async def gone(self) -> Any:
        """Wait until there is no caller any more."""
        self._watched = True
        if self._lost is not None:
            await self._lost.wait()
            message: Any = {"type": "http.disconnect"}
        else:
            await self._ended.wait()
            message = await self._receive()
        self._gone.set()
        return message


async def _items(
    part: Callable[[], Awaitable[bytes]],
    records: Records,
    decode: Callable[[bytes], Any],
    begin: Iterable[bytes],
    spec: MethodSpec,
) -> AsyncGenerator[Any, None]:
    """Yield the items that a caller sends."""
    try:
        async for item in items_of(part, records, decode, begin):
            yield item
    except StreamFailed as exc:
        raise raised(exc.error, spec) from None
    except StreamCut:
        raise ServiceError(f"{spec.title}: the stream of its caller ended early") from None


def _end_of(spec: MethodSpec, problem: Exception) -> Mapping[str, Any]:
    """Return as it travels what a stream ends with that has begun."""
    if isinstance(problem, MethodFailed):
        return told(spec, problem)
    if not isinstance(problem, EvbusError):
        log.error("a stream could not be sent to its end", exc_info=problem)
    return refusal(problem)


def _put(spec: MethodSpec, args: list[Any], kwargs: dict[str, Any], items: AsyncGenerator[Any, None]) -> None:
    """Put a stream into its place among the arguments."""
    number = stream_of(spec)
    if number is None:
        said = f"{spec.title} takes no stream: the content type of such a call is that of a single value"
        raise RefusedRequest(415, "UnsupportedMediaType", said)
    parameter = spec.parameters[number]
    if parameter.kind is parameter.kind.KEYWORD_ONLY or number >= len(args):
        kwargs[parameter.name] = items
    else:
        args[number] = items


async def _cut(send: Send, cancelled: asyncio.CancelledError, *, begun: bool) -> None:
    """End a stream that is cancelled without its last record: it is seen as one that was cut."""
    if not begun:
        raise cancelled
    await send({"type": "http.response.body", "body": b""})


async def _send(
    send: Send, status: int, encoding: Encoding, value: Any, *headers: tuple[bytes, bytes]
) -> None:
    await respond(send, status, encoding.type, encoding.encode(value), *headers)
