"""Calls of services over HTTP, as an ASGI application: ``POST /invoke`` in JSON or MessagePack."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from evbus.engine.call.forward import DEADLINE
from evbus.engine.codec.wrapped import essence
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.waiting import rest
from evbus.engine.service.encoding import (
    JSON,
    Encoding,
    Records,
    StreamCut,
    StreamFailed,
    items_of,
    records_of,
)
from evbus.engine.service.failures import MethodFailed, raised, refusal, status_of
from evbus.engine.service.hosted import Hosted, HostedMethod
from evbus.engine.service.method import MethodSpec
from evbus.engine.wire.http.webhook import NEVER_FORWARDED
from evbus.errors import EvbusError, PayloadError, ServiceError, ServiceTimeout

__all__ = ["Dispatch"]

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

log = logging.getLogger("evbus.service")

#: Seconds for a call to come in as a whole; of one with a stream, for what comes before the stream.
PATIENCE = 30.0
#: Headers that are HTTP's own, and no call's. Who calls is for those to ask who look at the request.
_NOT_A_CALLS = frozenset(
    name.encode() for name in NEVER_FORWARDED | {"accept", "content-type", "user-agent", "origin", "referer"}
)
_A_CALL = 'a call is {"method": "component:service:method", "args": [...]}'


class _RefusedRequest(Exception):
    """A request that is no call, or not now.

    :ivar status: of HTTP.
    :ivar error: says why, as it travels.
    """

    def __init__(self, status: int, kind: str, reason: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(reason)
        self.status = status
        self.error = {"type": kind, "reason": reason}
        self.headers = headers


class _Gone(Exception):
    """Nobody waits for the answer any more."""


class _CallHead:
    """What is known of a request before its body: its encoding, headers, and how long there is.

    :ivar streamed: its body is a stream.
    :ivar length: bytes of its body, 0 if that is not said.
    """

    __slots__ = ("encoding", "headers", "length", "seconds", "streamed")

    def __init__(self, scope: Any, encodings: Iterable[Encoding]) -> None:
        content_type, self.length, self.seconds = "", 0, None
        self.headers: dict[str, str] = {}
        for raw, value in scope["headers"]:
            if raw not in _NOT_A_CALLS:
                self._take(raw.decode("latin-1"), value)
            elif raw == b"content-type":
                content_type = value.decode("latin-1")
            elif raw == b"content-length":
                self.length = int(value)  # digits, as the server has looked at it
        for encoding in encodings:
            self.encoding = encoding
            self.streamed = essence(content_type) == encoding.stream
            if self.streamed or encoding.reads(content_type):
                break
        else:
            known = ", ".join(one.type for one in encodings)
            said = (
                f"the content type is {one_line(content_type, 100)!r}"
                if content_type
                else "there is no content type"
            )
            raise _RefusedRequest(415, "UnsupportedMediaType", f"{said}; a call is sent as {known}")
        deadline = self.headers.get(DEADLINE)
        if deadline is not None:
            self.seconds = _left(deadline)

    seconds: float | None

    def _take(self, name: str, value: bytes) -> None:
        text = value.decode("utf-8", "replace")
        before = self.headers.get(name)
        self.headers[name] = text if before is None else f"{before}, {text}"


class Dispatch:
    """The ASGI application that takes calls.

    :param hosted: the implementations.
    :param encodings: what is read and written.
    :param max_body: the most bytes of a call, or of a record of a stream.
    :param concurrency: the most calls at once; a further one is refused with 503.
    :ivar calls: that are under way.
    """

    def __init__(
        self, hosted: Hosted, encodings: Sequence[Encoding], *, max_body: int, concurrency: int
    ) -> None:
        self.calls = 0
        self._hosted = hosted
        self._encodings = tuple(encodings)
        self._max_body = max_body
        self._concurrency = concurrency

    def __repr__(self) -> str:
        return f"<Dispatch {', '.join(one.type for one in self._encodings)}, {self.calls} calls>"

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        self.calls += 1
        encoding = JSON
        try:
            if scope["method"] != "POST":
                raise _RefusedRequest(
                    405, "MethodNotAllowed", "calls are sent with POST", (b"allow", b"POST")
                )
            request = _CallHead(scope, self._encodings)
            encoding = request.encoding
            if self.calls > self._concurrency:
                said = f"{self._concurrency} calls are under way here already; try again later"
                raise _RefusedRequest(503, "Unavailable", said, (b"retry-after", b"1"))
            await self._answer(request, receive, send)
        except _Gone:
            return
        except _RefusedRequest as exc:
            await _send(send, exc.status, encoding, {"error": exc.error}, *exc.headers)
        except asyncio.CancelledError:
            error = {"type": "ServiceError", "reason": "the server stopped before the method had ended"}
            await _send(send, 500, encoding, {"error": error}, (b"connection", b"close"))
        except Exception as exc:
            if not isinstance(exc, EvbusError):
                log.exception("a call could not be answered")
            await _send(send, status_of(exc), encoding, {"error": refusal(exc)})
        finally:
            self.calls -= 1

    async def _answer(self, request: _CallHead, receive: Receive, send: Send) -> None:
        if request.streamed:
            await self._uploaded(request, receive, send)
            return
        body = await self._body(request, receive)
        encoding = request.encoding
        name, args, kwargs = _call_of(encoding.decode(body))
        method = self._hosted.find(name)
        spec = method.spec
        if spec.exact:
            _, args, kwargs = _call_of(encoding.exact(body))
        if _stream_of(spec) is not None:
            said = f"{spec.title} takes a stream: the content type of such a call is {encoding.stream}"
            raise _RefusedRequest(415, "UnsupportedMediaType", said)
        if spec.item is None:
            await _unless_gone(receive, self._called(method, args, kwargs, request, send))
        else:
            await _unless_gone(receive, self._streamed(method, args, kwargs, request, send))

    async def _called(
        self, method: HostedMethod, args: list[Any], kwargs: dict[str, Any], request: _CallHead, send: Send
    ) -> None:
        """Call a method, and answer with what it returns."""
        encoding = request.encoding
        try:
            result = await self._hosted.call(
                method, args, kwargs, headers=request.headers, seconds=request.seconds
            )
            try:
                body = encoding.encode({"result": result, "exception": None})
            except PayloadError as exc:
                raise MethodFailed(exc, method.spec) from exc
        except MethodFailed as exc:
            body = encoding.encode(_failed(exc.error))
        await _respond(send, 200, encoding.type, body)

    async def _streamed(
        self, method: HostedMethod, args: list[Any], kwargs: dict[str, Any], request: _CallHead, send: Send
    ) -> None:
        """Call a method, and answer with what it yields, as fast as it is taken."""
        encoding, begun = request.encoding, False

        def error_of(problem: Exception) -> Mapping[str, Any]:
            if not begun:
                raise problem
            if isinstance(problem, MethodFailed):
                return problem.error
            if not isinstance(problem, EvbusError):
                log.error("a stream could not be sent to its end", exc_info=problem)
            return refusal(problem)

        items = self._hosted.stream(method, args, kwargs, headers=request.headers)
        try:
            async with (
                asyncio.timeout(request.seconds) as deadline,
                aclosing(items),
                aclosing(records_of(items, encoding, error_of)) as records,
            ):
                async for record in records:
                    if not begun:
                        begun = True
                        await _begin(send, 200, encoding.stream)
                    await send({"type": "http.response.body", "body": record, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except MethodFailed as exc:
            await _send(send, 200, encoding, _failed(exc.error))
        except TimeoutError:
            if not deadline.expired():
                raise
            late = ServiceTimeout(f"{method.spec.title} took longer than there was time for it")
            if not begun:
                raise late from None
            last = encoding.record({"end": refusal(late)})
            await send({"type": "http.response.body", "body": last})

    # What comes in.

    async def _body(self, request: _CallHead, receive: Receive) -> bytes:
        """Return the whole body."""
        if request.length > self._max_body:
            raise self._too_large()
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            try:
                async with asyncio.timeout(PATIENCE):
                    body, message = await self._rest_of(body, receive)
            except TimeoutError:
                said = f"the call did not come within {PATIENCE:g} s"
                raise _RefusedRequest(408, "RequestTimeout", said, (b"connection", b"close")) from None
        if message["type"] == "http.disconnect":
            raise _Gone
        if len(body) > self._max_body:
            raise self._too_large()
        return body

    async def _rest_of(self, begin: bytes, receive: Receive) -> tuple[bytes, Any]:
        parts, size = [begin], len(begin)
        while True:
            message = await receive()
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if not message.get("more_body") or size > self._max_body:
                return b"".join(parts), message

    def _too_large(self) -> _RefusedRequest:
        said = f"the call has more than the {self._max_body} bytes that are taken here"
        return _RefusedRequest(413, "PayloadTooLarge", said)

    async def _uploaded(self, request: _CallHead, receive: Receive, send: Send) -> None:
        """Answer a call whose body is a stream: first the call, then the items."""
        encoding, upload = request.encoding, _Upload(receive)
        records = Records(encoding, self._max_body)
        try:
            async with asyncio.timeout(PATIENCE):
                first, begin = await upload.first(records)
        except TimeoutError:
            said = f"the call did not come within {PATIENCE:g} s"
            raise _RefusedRequest(408, "RequestTimeout", said, (b"connection", b"close")) from None
        name, args, kwargs = _call_of(encoding.decode(first))
        method = self._hosted.find(name)
        spec = method.spec
        if spec.exact:
            _, args, kwargs = _call_of(encoding.exact(first))
        decode = encoding.exact if spec.exact else encoding.decode
        _put(spec, args, kwargs, _items(upload.part, records, decode, begin, spec))
        answer = self._called if spec.item is None else self._streamed
        await _unless_gone(upload.gone, answer(method, args, kwargs, request, send))


class _Upload:
    """The body of a request, part by part."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = asyncio.Event()

    async def part(self) -> bytes:
        """Return more of it, ``b""`` after its end."""
        while not self._ended.is_set():
            message = await self._receive()
            if not message.get("more_body"):
                self._ended.set()
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
        raise _RefusedRequest(400, "InvalidPayload", f"the stream has no record; in the first, {_A_CALL}")

    async def gone(self) -> Any:
        """Wait until there is no caller any more. As long as its stream comes, it is there."""
        await self._ended.wait()
        return await self._receive()


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


def _left(deadline: str) -> float:
    """Return the seconds that are left until a deadline."""
    try:
        left = float(deadline) - time.time()
    except ValueError:
        left = float("nan")
    if not -1e9 < left < 1e9:
        said = f"the header {DEADLINE} holds seconds since 1970, and not {one_line(repr(deadline), 50)}"
        raise _RefusedRequest(400, "InvalidHeader", said)
    return left


def _call_of(value: Any) -> tuple[str, list[Any], dict[str, Any]]:
    """Return the name of a method and its arguments."""
    found = value if type(value) is dict else {}
    name, args, kwargs = found.get("method"), found.get("args", []), found.get("kwargs", {})
    if (
        type(name) is not str
        or type(args) is not list
        or type(kwargs) is not dict
        or not all(map(_text, kwargs))
    ):
        raise _RefusedRequest(400, "InvalidPayload", _A_CALL)
    return name, args, kwargs


def _text(value: Any) -> bool:
    return type(value) is str


def _stream_of(spec: MethodSpec) -> int | None:
    """Return the position of the argument that is a stream."""
    for number, parameter in enumerate(spec.parameters):
        if parameter.item is not None:
            return number
    return None


def _put(spec: MethodSpec, args: list[Any], kwargs: dict[str, Any], items: AsyncGenerator[Any, None]) -> None:
    """Put a stream into its place among the arguments."""
    number = _stream_of(spec)
    if number is None:
        said = f"{spec.title} takes no stream: the content type of such a call is that of a single value"
        raise _RefusedRequest(415, "UnsupportedMediaType", said)
    parameter = spec.parameters[number]
    if parameter.kind is parameter.kind.KEYWORD_ONLY or number >= len(args):
        kwargs[parameter.name] = items
    else:
        args[number] = items


async def _unless_gone(receive: Receive, coroutine: Coroutine[Any, Any, None]) -> None:
    """Await a coroutine, and cancel it when who waits for the answer is gone."""
    # Many methods end at once, and nobody can go meanwhile.
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        await rest(coroutine, awaited)
    except asyncio.CancelledError:
        if gone and not task.uncancel():
            raise _Gone from None
        raise
    finally:
        watcher.cancel()


def _failed(error: Mapping[str, Any]) -> dict[str, Any]:
    return {"result": None, "exception": error["reason"] or error["type"], "error": error}


async def _begin(send: Send, status: int, content_type: str, *headers: tuple[bytes, bytes]) -> None:
    all_headers = [(b"content-type", content_type.encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})


async def _respond(
    send: Send, status: int, content_type: str, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    await _begin(send, status, content_type, (b"content-length", b"%d" % len(body)), *headers)
    await send({"type": "http.response.body", "body": body})


async def _send(
    send: Send, status: int, encoding: Encoding, value: Any, *headers: tuple[bytes, bytes]
) -> None:
    await _respond(send, status, encoding.type, encoding.encode(value), *headers)
