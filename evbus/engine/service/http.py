"""Calls over HTTP, on the caller's side: the channels ``dispatch-json`` and ``dispatch-msgpack``.

Needs httptools.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from evbus.engine.kit.loopback import is_loopback
from evbus.engine.kit.redact import one_line, text_of
from evbus.engine.service.body import bytes_of, error_in, items_as, stream_of
from evbus.engine.service.call import Call, says_who, timeout_line, where
from evbus.engine.service.encoding import (
    Encoding,
    Records,
    StreamCut,
    StreamFailed,
    items_of,
    records_of,
)
from evbus.engine.service.failures import raised, refused
from evbus.engine.service.settings import HttpSettings
from evbus.engine.wire.http.pool import (
    Answer,
    Exchange,
    HttpAddress,
    HttpFailure,
    HttpPool,
    address_of,
    header_lines,
)
from evbus.errors import PayloadError, ServiceCommunicationError, ServiceError

__all__ = ["HttpCaller"]


class HttpCaller:
    """Makes calls by ``POST /invoke``.

    :param channel: its name, for errors.
    :ivar pool: its connections.
    :raises ProfileError: a file of ``tls`` is not usable.
    """

    def __init__(self, channel: str, encoding: Encoding, settings: HttpSettings) -> None:
        self.channel = channel
        self._encoding = encoding
        self._limit = settings.max_answer
        self._insecure = settings.insecure
        self._positional = settings.positional
        self.pool = HttpPool(
            connections=settings.connections,
            connect_timeout=settings.connect_timeout,
            max_answer=settings.max_answer,
            tls=settings.tls,
        )
        self._heads: dict[str, tuple[HttpAddress, bytes, bytes]] = {}

    def __repr__(self) -> str:
        return f"<HttpCaller {self.channel} {self.pool!r}>"

    async def close(self) -> None:
        """Close its connections; calls that are under way fail."""
        await self.pool.close()

    async def invoke(self, call: Call, address: str) -> Any:
        """Make a call and return its result; cancelled, it closes its connection.

        :raises ServiceCommunicationError: it got no answer.
        :raises RemoteServiceError: the method failed; of what the interface declares, that itself.
        """
        where_to, head, _ = self._head(call, address)
        self.check_token(call, address, where_to)
        if call.spec.streams and _stream_of(call) is not None:
            async with self._exchanging(call, address) as exchange:
                answer = await exchange.head()
                return self._result(call, address, answer, await _all(exchange, self._limit))
        try:
            answer = await self.pool.request(where_to, _with(head, call), self._body(call))
        except HttpFailure as exc:
            raise self.failure(call, address, exc) from exc
        return self._result(call, address, answer, answer.body)

    async def stream(self, call: Call, address: str) -> AsyncGenerator[Any, None]:
        """Yield what a method yields; closed, it closes its connection. Errors as for :meth:`invoke`."""
        async with self._exchanging(call, address) as exchange:
            answer = await exchange.head()
            if answer.content_type != self._encoding.stream:
                self._result(call, address, answer, await _all(exchange, self._limit))
                raise self.strange(call, address, answer)
            decode = self._encoding.exact if call.spec.exact else self._encoding.decode
            records = Records(self._encoding, self._limit)
            read = call.spec.read_result
            try:
                async for item in items_of(exchange.part, records, decode):
                    yield read(item)
            except PayloadError as exc:
                said = f"{where(call, self.channel, address)}: an item does not fit the interface: {exc}"
                raise ServiceError(said) from exc
            except StreamFailed as exc:
                raise raised(exc.error, call.spec) from None
            except StreamCut:
                raise HttpFailure("the stream ended without its end", handed_over=True) from None
            await exchange.part()

    @contextlib.asynccontextmanager
    async def _exchanging(self, call: Call, address: str) -> AsyncGenerator[Exchange, None]:
        """Begin a call of which the arguments or the results are a stream."""
        where_to, head, streaming = self._head(call, address)
        self.check_token(call, address, where_to)
        number = _stream_of(call)
        sending: asyncio.Task[None] | None = None
        try:
            if number is None:
                exchange = self.pool.exchange(where_to, _with(head, call), self._body(call))
            else:
                first, name, items = self._begin(call, number)
                exchange = self.pool.exchange(where_to, _with(streaming, call))
            async with exchange:
                if number is not None:
                    sending = asyncio.create_task(self._send(exchange, call, first, name, items))
                try:
                    yield exchange
                finally:
                    if sending is not None:
                        sending.cancel()
                        await asyncio.wait([sending])
        except HttpFailure as exc:
            raise self.failure(call, address, exc) from exc

    def _begin(self, call: Call, number: int) -> tuple[bytes, str, Any]:
        """Return the first record of a call with a stream, the name of that argument, and its items.

        :raises PayloadError: an argument cannot travel, or the stream is none.
        """
        args, kwargs = self._arguments(call)
        args, kwargs = list(args), dict(kwargs)
        name = call.spec.parameters[number].name
        items = kwargs[name] if name in kwargs else args[number]
        if not hasattr(items, "__aiter__"):
            raise PayloadError(
                f"{call.spec.title}: the argument {name!r} is a stream: an asynchronous iterator, such as an "
                f"async def with a yield in it returns, and not {type(items).__qualname__}"
            )
        if name in kwargs:
            kwargs[name] = None
        else:
            args[number] = None
        return self._encoding.framed(bytes_of(self._encoding, call, args, kwargs)), name, items

    async def _send(self, exchange: Exchange, call: Call, first: bytes, name: str, items: Any) -> None:
        """Send a call, and the items of its stream, as fast as they are taken."""
        encoding = self._encoding
        with contextlib.suppress(HttpFailure):  # who awaits the answer is told
            await exchange.send(first)
            sent = records_of(aiter(items), encoding, _error_of, items_as(encoding, call.spec, name))
            async with contextlib.aclosing(sent) as records:
                async for record in records:
                    await exchange.send(record)
            await exchange.end()

    def address(self, call: Call, address: str) -> HttpAddress:
        """Return what an address stands for.

        :raises ServiceCommunicationError: it is none.
        """
        try:
            return address_of(address)
        except ValueError as exc:
            said = f"{where(call, self.channel, address)}: {exc}"
            raise ServiceCommunicationError(said, handed_over=False) from None

    def _head(self, call: Call, address: str) -> tuple[HttpAddress, bytes, bytes]:
        """Return what an address stands for, and the first lines of requests to it: of calls, of streams."""
        found = self._heads.get(address)
        if found is None:
            where_to = self.address(call, address)
            first = f"POST {where_to.path}/invoke HTTP/1.1\r\nhost: {where_to.authority}\r\ncontent-type: "
            accept = f"\r\naccept: {self._encoding.type}, {self._encoding.stream}\r\n"
            kinds = [
                (first + kind + accept).encode() for kind in (self._encoding.type, self._encoding.stream)
            ]
            found = self._heads[address] = (where_to, kinds[0], kinds[1])
        return found

    def check_token(self, call: Call, address: str, where_to: HttpAddress) -> None:
        """Refuse to send a token where anybody on the way could read it.

        :raises ServiceError: it would be.
        """
        if where_to.secure or self._insecure or not says_who(call.headers):
            return
        if not is_loopback(where_to.host):
            raise ServiceError(
                f"{where(call, self.channel, address)}: its token is not sent to another machine over plain "
                "HTTP, where anybody on the way can read it; use https, or say insecure: true of the channel"
            )

    def _body(self, call: Call) -> bytes:
        return bytes_of(self._encoding, call, *self._arguments(call))

    def _arguments(self, call: Call) -> tuple[list[Any], dict[str, Any]]:
        if self._positional and call.kwargs:
            return call.spec.by_position(call.args, call.kwargs)
        return call.args, call.kwargs

    def _result(self, call: Call, address: str, answer: Answer, body: bytes) -> Any:
        """Return the result that an answer holds.

        :raises RemoteServiceError: the method failed.
        :raises ServiceError: the request was refused, it was not a service that answered, or the answer does
            not fit.
        """
        encoding, spec = self._encoding, call.spec
        content_type = answer.headers.get("content-type", "")
        found: Any = None
        if encoding.reads(content_type):
            found = self.decoded(call, address, encoding, body)
        if answer.status != 200:
            error = found.get("error") if isinstance(found, dict) else None
            if not isinstance(error, dict):
                if answer.status in (404, 405):
                    raise self.strange(call, address, answer, begun=False)
                error = {}
            raise refused(call, self.channel, address, answer.status, error)
        if answer.content_type == encoding.stream:
            said = "it yields a stream, which the interface here does not say"
            raise ServiceError(f"{where(call, self.channel, address)}: {said}")
        if not isinstance(found, dict) or "result" not in found:
            raise self.strange(call, address, answer)
        if (error := error_in(found)) is not None:
            raise raised(error, spec)
        return self.read(call, address, found["result"])

    def decoded(self, call: Call, address: str, encoding: Encoding, body: bytes) -> Any:
        """Return the plain values of an answer.

        :raises ServiceError: it cannot be read.
        """
        try:
            return (encoding.exact if call.spec.exact else encoding.decode)(body)
        except PayloadError as exc:
            said = f"{where(call, self.channel, address)}: its answer cannot be read: {exc}"
            raise ServiceError(said) from exc

    def read(self, call: Call, address: str, plain: Any) -> Any:
        """Return a result, or an item of a stream, of plain values.

        :raises ServiceError: it does not fit.
        """
        try:
            return call.spec.read_result(plain)
        except PayloadError as exc:
            said = f"{where(call, self.channel, address)}: its result does not fit the interface: {exc}"
            raise ServiceError(said) from exc

    def strange(
        self, call: Call, address: str, answer: Answer, *, begun: bool = True
    ) -> ServiceCommunicationError:
        """Return what to raise for an answer that is none to a call.

        :param begun: the call may have been, so that it is not made again elsewhere.
        """
        kind = one_line(answer.headers.get("content-type", "no content type"), 100)
        return ServiceCommunicationError(
            f"{where(call, self.channel, address)}: what answers there is no service: it answered "
            f"{answer.status} with {kind}; is this the address of the component?",
            handed_over=begun,
        )

    def failure(self, call: Call, address: str, problem: HttpFailure) -> ServiceCommunicationError:
        """Return what to raise for a call that got no answer."""
        advice = ""
        if problem.too_large:
            advice = f"; raise max_answer of the channel {self.channel}, or return less"
        said = f"{where(call, self.channel, address)}: {problem.reason}{advice}"
        return ServiceCommunicationError(said, handed_over=problem.handed_over)


def _stream_of(call: Call) -> int | None:
    """Return the position of the argument that is a stream, None where it is not given."""
    number = stream_of(call.spec)
    if number is None or number < len(call.args) or call.spec.parameters[number].name in call.kwargs:
        return number
    return None


def _with(head: bytes, call: Call) -> bytes:
    """Return the head of a request, with the headers of a call as far as HTTP can carry them."""
    return b"%b%b%b" % (head, timeout_line(call).encode(), header_lines(call.headers)[0])


def _error_of(problem: Exception) -> dict[str, Any]:
    """Return as it travels why a stream of arguments ended."""
    return {"type": type(problem).__name__, "reason": text_of(problem)}


async def _all(exchange: Exchange, limit: int) -> bytes:
    """Return the whole body of an answer."""
    parts, size = [], 0
    while part := await exchange.part():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise HttpFailure(f"its answer is larger than {limit} bytes", handed_over=True, too_large=True)
    return b"".join(parts)
