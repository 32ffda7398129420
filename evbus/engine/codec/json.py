"""JSON: msgspec's C encoder and decoder, with what they leave open decided here.

The common body is encoded by one call and a look at the bytes. When they show that something may need
putting right, the body is walked; when it does, :class:`_JsonNormaliser` rebuilds it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import json
import math
import operator
import uuid
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import msgspec.inspect

from evbus.engine.codec.content import as_bytes, refuse_pickle
from evbus.engine.codec.fit import parts
from evbus.engine.codec.models import is_model, own_json
from evbus.engine.codec.moments import to_the_minute
from evbus.engine.codec.normal import Normaliser
from evbus.engine.kit import strictjson
from evbus.engine.kit.strictjson import MAX_DEPTH
from evbus.errors import InvalidPayload, PayloadError

__all__ = ["apply", "apply_or_repr", "exact_load", "load", "strict_load", "typed"]

_SCALARS = (
    *(msgspec.inspect.StrType, msgspec.inspect.IntType, msgspec.inspect.FloatType, msgspec.inspect.BoolType),
    *(msgspec.inspect.DecimalType, msgspec.inspect.UUIDType, msgspec.inspect.DateTimeType),
    *(msgspec.inspect.DateType, msgspec.inspect.TimeType, msgspec.inspect.TimeDeltaType),
    *(msgspec.inspect.BytesType, msgspec.inspect.EnumType),
)
_TIMED = (msgspec.inspect.DateTimeType, msgspec.inspect.TimeType)
#: Classes whose fields are known, by their identity; what is known of one goes with it. And how to get the
#: values of their fields.
_CLASSES: dict[int, weakref.ref[type]] = {}
_FIELDS: dict[int, Callable[[Any], Iterable[Any]]] = {}
#: Those of them whose fields are single values, as they are declared, and no times: without NaN they need no
#: closer look.
_FLAT: set[int] = set()
#: Those with fields for times, with a date or without, and these.
_FLAT_BUT_TIMES: dict[int, list[str]] = {}

_encode = msgspec.json.Encoder().encode
_HUGE = 10**strictjson.DIGITS

# What msgspec writes as it should be, whatever the value; floats are apart because of NaN, dates with a time
# and times because of their offsets.
_ATOMS: frozenset[type] = frozenset(
    {
        *(str, int, bool, type(None), bytes, bytearray, memoryview, uuid.UUID, decimal.Decimal),
        *(dt.date, dt.timedelta),
    }
)
_ATOMS_AND_FLOAT = _ATOMS | {float}
#: What says of a value whether msgspec writes it as it should be.
_CHECKS: dict[type, Callable[[Any], bool]] = {
    float: math.isfinite,
    dt.datetime: to_the_minute,
    dt.time: to_the_minute,
}
#: In place of the fields of a dataclass of pydantic's, which msgspec does not write as pydantic does.
_ANOTHER_S = (object(),)


def apply(data: Any, normaliser: type[_JsonNormaliser] | None = None) -> bytes:
    """Return ``data`` as compact JSON in UTF-8.

    What ``json.dumps(data, default=..., allow_nan=True)`` of pop-evbus writes and reads back is written
    and reads back the same here: sets as sorted lists (by ``repr`` when they cannot be sorted), other
    iterables as lists, NaN and infinities as ``NaN``, ``Infinity``. On purpose different: dates, times,
    UUIDs, Decimals, enums, bytes, dataclasses, attrs classes and Structs take msgspec's form (ISO 8601,
    base64, objects), pydantic models what :func:`evbus.engine.codec.models.dumped` says, mappings that are
    no dict become objects instead of lists of keys, numbers and texts of other libraries what
    :func:`evbus.engine.codec.natural.natural` says, and there is no ``repr`` of anything.

    :param normaliser: rebuilds what has to be; it may have a form for what has none.
    :raises SerializeError: a value or key that cannot be encoded, or two keys that are written alike, with
        the path.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    """
    try:
        out = _encode(data)
    except MemoryError:
        raise
    except Exception:
        return _model(data) or _slow(data, normaliser)
    # Looking for single bytes is much cheaper than for b"null", which only NaN and None leave behind.
    null = 117 in out and 110 in out and out.find(b"null") >= 0
    kind = type(data)
    if kind is dict:
        # One brace and no bracket is a flat object, and so without sets. Without a sign, or with a colon for
        # each key and no more, it has no offset. Its keys are left to look at.
        if (
            not null
            and 91 not in out
            and out.rfind(b"{") == 0
            and ((45 not in out and 43 not in out) or out.count(b":") == len(data))
        ):
            for key in data:
                if type(key) is not str:
                    break
            else:
                return out
    elif not null and id(kind) in _FLAT:
        return out
    elif not null and (times := _FLAT_BUT_TIMES.get(id(kind))) is not None:
        for name in times:
            if not to_the_minute(getattr(data, name, None)):
                break
        else:
            return out
    try:
        plain = _plain(data, _ATOMS if null else _ATOMS_AND_FLOAT, MAX_DEPTH)
    except AttributeError:
        plain = False  # a field was deleted, or never set
    return out if plain else _model(data) or _slow(data, normaliser)


def apply_or_repr(data: object) -> bytes:
    """Encode like :func:`apply`, and write the ``repr`` of values that it refuses."""
    return apply(data, _ReprNormaliser)


def _plain(value: Any, atoms: frozenset[type], room: int) -> bool:
    """Say whether msgspec writes ``value`` as it should be written, in ``room`` levels at most.

    :param atoms: the types of which every value is written so.
    """
    kind = type(value)
    check = _CHECKS.get(kind)
    if check is not None:
        return check(value)
    children: Iterable[Any]
    fields = _FIELDS.get(id(kind))
    if fields is not None:
        children = fields(value)
    elif kind is list or kind is tuple:
        children = value
    elif isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                return False
        children = dict.values(value)
    elif isinstance(value, enum.Enum):
        return _plain(value.value, atoms, room)
    elif names := getattr(kind, "__struct_fields__", None) or getattr(kind, "__dataclass_fields__", None):
        children = _learn(kind, tuple(names))(value)
    else:
        return kind in atoms
    if room == 0:
        return False
    for child in children:  # noqa: SIM110 - all() takes twice the time
        if type(child) not in atoms and not _plain(child, atoms, room - 1):
            return False
    return True


def _learn(kind: type, names: tuple[str, ...]) -> Callable[[Any], Iterable[Any]]:
    """Return a function that gets the values of an object's fields, and remember it for the class."""
    if is_model(kind):
        return lambda value: _ANOTHER_S
    if len(names) > 1:
        number = id(kind)
        _CLASSES[number] = weakref.ref(kind, functools.partial(_forget, number))
        _FIELDS[number] = operator.attrgetter(*names)
        times = _times_of(kind)
        if times:
            _FLAT_BUT_TIMES[number] = times
        elif times is not None:
            _FLAT.add(number)
    return lambda value: [getattr(value, name, None) for name in names]


def _forget(number: int, _: object) -> None:
    _FLAT.discard(number)
    for known in (_CLASSES, _FIELDS, _FLAT_BUT_TIMES):
        known.pop(number, None)


def _times_of(kind: type) -> list[str] | None:
    """Return the fields for times, with a date or without, of a class of single values; None for others."""
    try:
        fields = msgspec.inspect.type_info(kind).fields  # type: ignore[attr-defined]
    except Exception:  # annotations may be anything, and fail in any way
        return None
    if not all(isinstance(field.type, _SCALARS) for field in fields):
        return None
    return [field.name for field in fields if isinstance(field.type, _TIMED)]


def _model(data: object) -> bytes | None:
    """Encode a model of pydantic's with its own encoder; return None where that may not be right."""
    own = own_json(type(data))
    return None if own is None else own(data)


def _slow(data: object, normaliser: type[_JsonNormaliser] | None = None) -> bytes:
    walk = (normaliser or _JsonNormaliser)()
    built = walk(data)
    if walk.special:
        return json.dumps(built, ensure_ascii=False, separators=(",", ":")).encode()
    return _encode(built)


class _JsonNormaliser(Normaliser):
    """Rebuilds a body for JSON; ``special`` says that it holds NaN or an infinity."""

    plugin = "json"
    special = False

    def integer(self, value: int) -> int:
        if abs(value) >= _HUGE:
            raise self.error(f"an integer of more than {strictjson.DIGITS:,} digits, which no reader takes")
        return int.__add__(value, 0)

    def real(self, value: float) -> float:
        if not math.isfinite(value):
            self.special = True
        return float.__mul__(value, 1.0)

    def key(self, key: object) -> str:
        if isinstance(key, enum.Enum):
            return self.key(key.value)
        if isinstance(key, str):
            return self.text_key(key)
        if key is None or isinstance(key, (bool, float)):
            return json.dumps(key)
        if isinstance(key, int):
            if abs(key) >= _HUGE:
                raise self.error(f"a key that is an integer of more than {strictjson.DIGITS:,} digits")
            return int.__repr__(key)
        plain = self.plain_key(key)
        if plain is msgspec.UNSET:
            self.refuse_key(key, f"a key is a string, a number, a date or a UUID, not {type(key).__name__}")
        return plain if type(plain) is str else self.key(plain)


class _ReprNormaliser(_JsonNormaliser):
    """Writes what has no form as its ``repr``, as pop-evbus did."""

    def unknown(self, value: object) -> str:
        return self.text(self._run(f"repr() of {type(value).__name__}", lambda: repr(value)))


def load(data: bytes) -> Any:
    """Return the value of a JSON text; the literals ``NaN``, ``Infinity`` and ``-Infinity`` are accepted.

    They are because :func:`apply` writes them; :func:`strict_load` refuses them.

    :raises InvalidPayload: see :func:`evbus.engine.kit.strictjson.load`.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    :raises ContentDisallowed: the bytes are a Python pickle.
    """
    return _load(data, allow_nan=True)


def exact_load(data: bytes) -> Any:
    """Decode like :func:`load`, but to numbers that know how they were written.

    Those with a fraction or an exponent are each a :class:`~evbus.engine.kit.strictjson.Number`, of any
    range: for :func:`evbus.engine.codec.typed.reader`.
    """
    return _load(data, allow_nan=True, exactly=True)


def typed(kind: type) -> Callable[[bytes], Any] | None:
    """Return a function that decodes a JSON text to a ``kind`` without plain values in between.

    The function returns what :func:`evbus.engine.codec.typed.reader` makes of :func:`exact_load`. It raises
    ``ValueError`` for all that it is not sure of, which is for those two to read or to refuse. There is none
    for a type with parts that msgspec does not know, or does not make as they make themselves.
    """
    info = msgspec.inspect.type_info(kind)
    held = list(parts(info))
    strange = (msgspec.inspect.CustomType, msgspec.inspect.RawType)
    if any(isinstance(each, strange) or is_model(getattr(each, "cls", None)) for each in held):
        return None
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode

    def read(data: bytes) -> Any:
        try:
            strictjson.load(data, allow_nan=True)
        except PayloadError as exc:
            raise ValueError from exc
        return decode(data)

    keys = _keys(info, frozenset())
    if keys is None:
        return read

    def read_at_once(data: bytes) -> Any:
        # A key that stands twice shows in the number of colons: every key is there at least once, or the text
        # does not fit. Colons in texts follow no quote, unless that is written as an escape.
        if data.count(b":") != keys and (
            data.count(b'":') != keys or b" :" in data or b"\t:" in data or b"\n:" in data or b"\r:" in data
        ):
            return read(data)
        return decode(data)

    if not any(isinstance(each, msgspec.inspect.DecimalType) for each in held):
        return read_at_once
    # An integer that is too long for others is too long for a Decimal.
    return lambda data: (read_at_once if len(data) <= strictjson.DIGITS else read)(data)


def _keys(info: Any, within: frozenset[int]) -> int | None:
    """Count the keys in the JSON of a type; return None when not all of that type have as many."""
    if isinstance(info, _SCALARS):
        return 0
    if not isinstance(info, (msgspec.inspect.DataclassType, msgspec.inspect.StructType)):
        return None
    if id(info) in within:
        return None  # a class that holds itself
    if isinstance(info, msgspec.inspect.StructType) and (info.array_like or info.tag_field is not None):
        return None
    found = len(info.fields)
    for field in info.fields:
        inner = _keys(field.type, within | {id(info)}) if field.required else None
        if inner is None:
            return None
        found += inner
    return found


def strict_load(data: bytes) -> Any:
    """Return the value of a JSON text from outside: as :func:`load`, but NaN and infinities are refused."""
    return _load(data, allow_nan=False)


def _load(data: bytes, *, allow_nan: bool, exactly: bool = False) -> Any:
    raw = data if type(data) is bytes else as_bytes(data)
    try:
        return strictjson.load(raw, allow_nan=allow_nan, exactly=exactly)
    except InvalidPayload:
        refuse_pickle(raw)
        raise
