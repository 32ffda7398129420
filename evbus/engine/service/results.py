"""Results as bytes, which are checked against the type that the interface declares.

They are read again by msgspec, of the bytes that leave, which takes a small part of the time of a call: so
what stands deep within is looked at, too. What msgspec is not sure of is read as the caller reads it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import inspect
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from evbus.engine.codec.models import is_model
from evbus.engine.codec.typed import within
from evbus.engine.service.encoding import JSON, MSGPACK, Encoding
from evbus.errors import InvalidPayload, InvalidResult, PayloadError, SerializeError

__all__ = ["Results"]

#: What is written as what it is, and cannot be anything else.
_PLAIN = frozenset(
    {str, int, bool, bytes, type(None), dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID}
    | {decimal.Decimal}
)
_DECODERS: dict[str, Any] = {JSON.type: msgspec.json.Decoder, MSGPACK.type: msgspec.msgpack.Decoder}


class Results:
    """What a method returns, or yields, on its way out.

    :param title: of the method, ``Shop.order``.
    :param kind: the type that is declared.
    :param read: makes a result of plain values, as the caller does.
    :param exact: it reads numbers that know how they were written.
    """

    def __init__(self, title: str, kind: Any, read: Callable[[Any], Any], *, exact: bool) -> None:
        self._title = title
        self._kind = kind
        self._read = read
        self._exact = exact
        self._sure = _sure(kind)
        self._decoders: dict[tuple[str, str], Callable[[bytes], Any]] = {}

    def __repr__(self) -> str:
        return f"<Results of {self._title}: {_called(self._kind)}>"

    def answer(self, encoding: Encoding, value: Any, component: str) -> bytes:
        """Return a result as the answer to a call.

        :raises InvalidResult: it is not what is declared, or cannot travel.
        """
        data = self._encoded(encoding, {"result": value, "exception": None}, value, component)
        if self._kind is not Any and type(value) not in self._sure:
            self._check(encoding, "result", data, value, component)
        return data

    def body(self, encoding: Encoding, value: Any, component: str) -> bytes:
        """Return a result that is the whole body of an answer. Errors as of :meth:`answer`."""
        data = self._encoded(encoding, value, value, component)
        if self._kind is not Any and type(value) not in self._sure:
            self._check(encoding, "", data, value, component)
        return data

    def items(self, encoding: Encoding, values: list[Any], component: str) -> bytes:
        """Return some items of a stream, as a list. Errors as of :meth:`answer`."""
        data = self._encoded(encoding, values, values, component)
        if self._kind is not Any and not self._sure.issuperset(map(type, values)):
            self._check(encoding, "items", data, values, component)
        return data

    def _encoded(self, encoding: Encoding, whole: Any, value: Any, component: str) -> bytes:
        try:
            return encoding.encode(whole)
        except PayloadError as exc:
            if whole is value and type(value) is list:
                for one in value:  # an item is to blame, or what was returned is a list
                    self._encoded(encoding, {"result": one}, one, component)
            raise self._wrong(value, component, f"which {_cannot(exc)}") from None

    def _check(self, encoding: Encoding, form: str, data: bytes, value: Any, component: str) -> None:
        """Refuse what the caller could not read."""
        decode = self._decoders.get((form, encoding.type)) or self._decoder(form, encoding)
        try:
            decode(data)
        except Exception:
            plain = (encoding.exact if self._exact else encoding.decode)(data)
            if form == "items":
                for one, each in zip(value, plain, strict=True):
                    self._look(each, one, component)
            else:
                self._look(plain["result"] if form else plain, value, component)

    def _look(self, plain: Any, value: Any, component: str) -> None:
        try:
            self._read(plain)
        except InvalidPayload as exc:
            said = f"and its interface declares {_called(self._kind)}: {exc}"
            raise self._wrong(value, component, said) from None

    def _decoder(self, form: str, encoding: Encoding) -> Callable[[bytes], Any]:
        kind: Any = self._kind
        if form == "items":
            kind = types.GenericAlias(list, (kind,))
        elif form == "result":
            kind = msgspec.defstruct("Answer", [("result", kind)])
        made: Callable[[bytes], Any] = _DECODERS[encoding.type](kind, dec_hook=within).decode
        self._decoders[form, encoding.type] = made
        return made

    def _wrong(self, value: Any, component: str, reason: str) -> InvalidResult:
        advice = "; is a return missing?" if value is None else ""
        if inspect.iscoroutine(value):
            value.close()  # or Python would say that it was never awaited, and not where
            advice = "; was it to be awaited?"
        kind = _called(type(value))
        return InvalidResult(
            f"{self._title} of the component {component!r} returned {kind}, {reason}{advice}"
        )


def _sure(kind: Any) -> frozenset[type]:
    """Return the classes whose objects need no look, when a type is declared."""
    if kind is None:
        return frozenset({type(None)})
    if kind is float:
        return frozenset({float, int})
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return frozenset[type]().union(*map(_sure, typing.get_args(kind)))
    if isinstance(kind, type) and (kind in _PLAIN or issubclass(kind, enum.Enum) or is_model(kind)):
        return frozenset({kind})
    return frozenset()


def _cannot(problem: PayloadError) -> str:
    if not isinstance(problem, SerializeError):
        return f"cannot travel: {problem}"
    # Where it is within the result, and not within the answer.
    path = problem.path.replace("$.result", "$", 1)
    return f"cannot be serialized as {problem.plugin}: {problem.reason} - at {path}"


def _called(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
