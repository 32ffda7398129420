"""Calls and results as bytes, in JSON and in MessagePack, and streams of items in records.

A stream is a row of records. Each holds a list of items, as many as were there at once; the last is a map
with the key ``end``, whose value is null, or the error that the stream ended with. So a stream that is cut is
seen. In JSON a record is a line; in MessagePack it stands in a bin 32: its end is known before it is read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, NamedTuple

from evbus.engine.codec import json as _json
from evbus.engine.codec import msgpack as _msgpack
from evbus.engine.codec.wrapped import essence
from evbus.engine.kit.waiting import rest
from evbus.errors import InvalidPayload

__all__ = ["JSON", "MSGPACK", "Encoding", "Records", "StreamCut", "StreamFailed", "items_of", "records_of"]

#: Bytes that a record has at most, about; one item alone may have more.
_RECORD = 32 * 1024
#: Items that a record has at most.
_ITEMS = 1024
_BIN32 = b"\xc6"


class Encoding(NamedTuple):
    """How calls travel.

    :ivar type: the content type of calls and results.
    :ivar stream: the content type of a row of records.
    :ivar encode: makes bytes of a value.
    :ivar decode: makes a plain value of bytes.
    :ivar exact: the same; the numbers in it know how they were written.
    :ivar lines: records end with a line break; else they are bin 32.
    """

    type: str
    stream: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    exact: Callable[[bytes], Any]
    lines: bool

    def record(self, value: Any) -> bytes:
        """Return a record."""
        return self.framed(self.encode(value))

    def framed(self, data: bytes) -> bytes:
        """Return a record of what is encoded already."""
        return data + b"\n" if self.lines else b"%s%s%s" % (_BIN32, len(data).to_bytes(4, "big"), data)

    def reads(self, content_type: str) -> bool:
        """Return whether a body of this content type is a call or a result; parameters do not matter."""
        return content_type == self.type or essence(content_type) in _ALIKE[self.type]


JSON = Encoding(
    "application/json", "application/jsonl", _json.apply, _json.load, _json.exact_load, lines=True
)
MSGPACK = Encoding(
    "application/msgpack",
    "application/vnd.evbus.msgpack-records",
    _msgpack.apply,
    _msgpack.load,
    _msgpack.load,
    lines=False,
)
_ALIKE = {
    JSON.type: frozenset({JSON.type, "text/json"}),
    MSGPACK.type: frozenset({MSGPACK.type, "application/x-msgpack", "application/vnd.msgpack"}),
}


class StreamFailed(Exception):
    """The other end says that a stream ended with an error.

    :ivar error: as :class:`evbus.engine.service.failures.MethodFailed` has it.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("reason", ""))
        self.error = error


class StreamCut(Exception):
    """A stream ended without its last record."""


class Records:
    """Takes bytes as they come, and gives records.

    :param limit: the most bytes that one may have.
    """

    def __init__(self, encoding: Encoding, limit: int) -> None:
        self._encoding = encoding
        self._limit = limit
        self._rest = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the records that are complete.

        :raises InvalidPayload: one is larger than it may be, or is none.
        """
        self._rest += data
        while True:
            end, begin = self._next()
            if end < 0:
                return
            record = bytes(self._rest[begin:end])
            del self._rest[: end + self._encoding.lines]
            self._seen = 0
            yield record

    def _next(self) -> tuple[int, int]:
        """Return where the next record ends, negative if that is still to come, and where it begins."""
        rest = self._rest
        if self._encoding.lines:
            end = rest.find(b"\n", self._seen)
            self._seen = len(rest)
            size = len(rest) if end < 0 else end
            begin = 0
        else:
            if rest and rest[0] != _BIN32[0]:
                raise InvalidPayload("a record of a stream does not begin as one: it is a bin 32")
            size = int.from_bytes(rest[1:5], "big") if len(rest) >= 5 else 0
            end, begin = (5 + size, 5) if 5 <= len(rest) >= 5 + size else (-1, 0)
        if size > self._limit:
            raise InvalidPayload(f"a record of a stream has more than {self._limit} bytes")
        return end, begin


async def records_of(
    items: AsyncIterator[Any],
    encoding: Encoding,
    error_of: Callable[[Exception], Mapping[str, Any]],
    encode: Callable[[list[Any]], bytes],
) -> AsyncGenerator[bytes, None]:
    """Yield a stream in records, as many items in each as are there at once, then its last record.

    :param error_of: returns an error as it travels, or raises it.
    :param encode: makes bytes of some items, or raises an error when one of them cannot travel.
    """
    batch = _Batch(encoding, encode)
    most = 1
    end: Mapping[str, Any] | None = None
    try:
        while True:
            step: Any = items.__anext__()
            if not hasattr(step, "send"):
                step = step.__await__()
            try:
                awaited = step.send(None)
            except StopIteration as done:
                batch.items.append(done.value)
                if len(batch.items) >= most:
                    record = batch.record()
                    most = min(2 * most, _ITEMS) if 2 * len(record) < _RECORD else max(1, most // 2)
                    yield record
                    await asyncio.sleep(0)  # who has all items at once leaves room for others
                continue
            try:
                if batch.items:
                    yield batch.record()
            except BaseException:
                await _cancelled(step)
                raise
            batch.items.append(await rest(step, awaited))
    except StopAsyncIteration:
        pass
    except Exception as exc:
        end = error_of(exc)
    for record in batch.last(end, error_of):
        yield record


class _Batch:
    """Items of a stream that are still to be sent."""

    __slots__ = ("_encode", "_encoding", "items")

    def __init__(self, encoding: Encoding, encode: Callable[[list[Any]], bytes]) -> None:
        self.items: list[Any] = []
        self._encoding = encoding
        self._encode = encode

    def record(self) -> bytes:
        """Return them as a record; of those of which one cannot travel the first are left, up to that."""
        items, self.items = self.items, []
        try:
            return self._encoding.framed(self._encode(items))
        except Exception:
            self.items = items[: self._travel(items)]
            raise

    def _travel(self, items: list[Any]) -> int:
        for number, item in enumerate(items):
            try:
                self._encode([item])
            except Exception:
                return number
        return 0

    def last(
        self, end: Mapping[str, Any] | None, error_of: Callable[[Exception], Mapping[str, Any]]
    ) -> list[bytes]:
        """Return the last records: what is left, and the end."""
        records = []
        while self.items:
            try:
                records.append(self.record())
            except Exception as exc:
                end = error_of(exc)
        return [*records, self._encoding.record({"end": end})]


async def items_of(
    part: Callable[[], Awaitable[bytes]],
    records: Records,
    decode: Callable[[bytes], Any],
    begin: Iterable[bytes] = (),
) -> AsyncGenerator[Any, None]:
    """Yield the items of a stream, as plain values.

    :param part: returns more bytes of it, ``b""`` when there are none any more.
    :param begin: records that have been read already.
    :raises StreamFailed: it ended with an error.
    :raises StreamCut: it ended without its last record.
    :raises PayloadError: a record is none.
    """
    while True:
        for record in begin:
            value = decode(record)
            if type(value) is list:
                for item in value:
                    yield item
            elif type(value) is dict and "end" in value:
                if value["end"] is not None:
                    raise StreamFailed(value["end"] if isinstance(value["end"], dict) else {})
                return
            else:
                raise InvalidPayload("a record of a stream is neither a list of items nor its end")
        data = await part()
        if not data:
            raise StreamCut
        begin = records.feed(data)


async def _cancelled(step: Any) -> None:
    """Cancel what was begun by hand, and wait for its end."""
    with contextlib.suppress(asyncio.CancelledError, StopIteration, StopAsyncIteration):
        await rest(step, step.throw(asyncio.CancelledError()))
