"""Numbers made what the types that a program declares want of them.

The plain values of a JSON text know how each number was written
(:class:`~evbus.engine.kit.strictjson.Number`), as only
the type of a field says whether it is a Decimal, which is exact, or a float, which is rounded. And who has
one type for all numbers, as JavaScript does, writes an integer as a float (in MessagePack from 2**32 on, in
JSON as ``5.0``): JSON Schema calls that an integer, too.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from evbus.engine.kit.strictjson import Number
from evbus.errors import InvalidPayload

__all__ = ["alternatives", "exact_decimal", "fitted", "has_keys", "levels", "parts", "rounded"]


#: Floats from here on stand for several integers each.
_INEXACT = 2**53
#: What a type consists of, beside its fields and what there may be several of.
_INNER = ("type", "item_type", "key_type", "value_type")


def parts(info: Any) -> Iterator[Any]:
    """Yield what msgspec says of a type and of all that it consists of, each once."""
    seen: set[int] = set()
    pending = [info]
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += _inner(each)


def levels(info: Any, within: frozenset[int] = frozenset()) -> float:
    """Return how deep values of a type may nest at the most, counting each step; infinity for any depth."""
    if id(info) in within or isinstance(info, inspect.AnyType):
        return math.inf
    return 1 + max((levels(each, within | {id(info)}) for each in _inner(info)), default=0)


def has_keys(data: bytes, keys: int) -> bool:
    """Say whether a JSON text that has so many keys at least has no more; False where that is not certain."""
    # Colons in texts follow no quote, unless that is written as an escape.
    if data.count(b":") == keys:
        return True
    if data.count(b'":') != keys or 9 in data or 10 in data or 13 in data:
        return False
    return 32 not in data or b" :" not in data


def _inner(info: Any) -> Iterator[Any]:
    yield from (field.type for field in getattr(info, "fields", ()))
    yield from (getattr(info, name) for name in _INNER if hasattr(info, name))
    yield from (*getattr(info, "item_types", ()), *getattr(info, "types", ()))


def rounded(value: Any) -> Any:
    """Return plain values with the numbers in them as floats.

    :raises InvalidPayload: one is out of range.
    """
    kind = type(value)
    if kind is Number:
        if math.isinf(value):
            raise InvalidPayload("a number of the body is out of the range of floats")
        return float(value)
    if kind is dict:
        return {key: rounded(inner) for key, inner in value.items()}
    if kind is list or kind is tuple:
        return [rounded(inner) for inner in value]
    return value


def fitted(info: Any, value: Any) -> Any:
    """Return plain values with each number in them as a Decimal or an integer where the type wants one.

    Others are floats, and so are those that are not whole, or that a float does not hold exactly.

    What goes to a type that msgspec does not know keeps its numbers.

    :param info: what msgspec says of the type.
    :raises InvalidPayload: a number is out of range where none but a float can be.
    """
    kind = type(value)
    types = list(alternatives(info))
    if kind in (Number, dict, list, tuple) and any(isinstance(each, inspect.CustomType) for each in types):
        return value
    if kind is Number:
        exact = any(isinstance(each, inspect.DecimalType) for each in types)
        exact = exact and not any(isinstance(each, inspect.FloatType) for each in types)
        return exact_decimal(value) if exact else _whole(types, rounded(value))
    if kind is float:
        return _whole(types, value)
    if kind is dict:
        return _object(types, value)
    if kind is list or kind is tuple:
        return _array(types, value)
    return value


def _whole(types: list[Any], value: float) -> float | int:
    """Return an integer where one is wanted and no float, and the value is one."""
    if any(isinstance(each, (inspect.FloatType, inspect.AnyType, inspect.DecimalType)) for each in types):
        return value
    wanted = any(isinstance(each, inspect.IntType) for each in types)
    return int(value) if wanted and value.is_integer() and abs(value) < _INEXACT else value


def exact_decimal(number: Number) -> decimal.Decimal:
    """Return a number with all its digits.

    :raises InvalidPayload: its exponent is too large.
    """
    try:
        return decimal.Decimal(number.text)
    except decimal.InvalidOperation:
        raise InvalidPayload("a number of the body is out of the range of Decimals") from None


def alternatives(info: Any) -> Iterator[Any]:
    """Yield the types that a value may have, without the metadata and the unions around them."""
    if isinstance(info, inspect.Metadata):
        yield from alternatives(info.type)
    elif isinstance(info, inspect.UnionType):
        for each in info.types:
            yield from alternatives(each)
    else:
        yield info


def _object(types: list[Any], value: dict[Any, Any]) -> Any:
    """Return an object fitted to the one of the types that it can be."""
    for each in types:
        if hasattr(each, "value_type"):
            return {key: fitted(each.value_type, inner) for key, inner in value.items()}
        if not hasattr(each, "fields") or _is_array(each):
            continue
        tag = getattr(each, "tag", None)
        if tag is None or value.get(each.tag_field) == tag:
            named = {field.encode_name: field.type for field in each.fields}
            return {
                key: fitted(named[key], inner) if key in named else rounded(inner)
                for key, inner in value.items()
            }
    return rounded(value)


def _array(types: list[Any], value: list[Any]) -> Any:
    """Return an array fitted to the one of the types that it can be."""
    for each in types:
        if hasattr(each, "item_type"):
            return [fitted(each.item_type, inner) for inner in value]
        if hasattr(each, "item_types"):
            return _in_order(each.item_types, value)
        if not _is_array(each):
            continue
        inner_types = [field.type for field in each.fields]
        tag = getattr(each, "tag", None)
        if tag is None:
            return _in_order(inner_types, value)
        if value and value[0] == tag:
            return [tag, *_in_order(inner_types, value[1:])]
    return rounded(value)


def _is_array(info: Any) -> bool:
    return isinstance(info, inspect.NamedTupleType) or getattr(info, "array_like", False) is True


def _in_order(types: Any, value: list[Any]) -> list[Any]:
    beyond = [rounded(inner) for inner in value[len(types) :]]
    return [fitted(each, inner) for each, inner in zip(types, value, strict=False)] + beyond
