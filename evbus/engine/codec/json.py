"""JSON: msgspec's C encoder and decoder, with what they leave open decided here.

The common body is encoded by one call and a look at the bytes. When they show that something may need
putting right, the body is walked; when it does, :class:`_JsonNormaliser` rebuilds it.
"""

from __future__ import annotations

import contextlib
import enum
import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import msgspec.inspect

from evbus.engine.codec.content import as_bytes, refuse_pickle
from evbus.engine.codec.fit import has_keys, levels, parts
from evbus.engine.codec.models import is_model, own_json, own_reader
from evbus.engine.codec.normal import Normaliser
from evbus.engine.codec.plain import ATOMS, ATOMS_AND_FLOAT, Check, check_of, is_plain
from evbus.engine.codec.shape import lacking
from evbus.engine.kit import strictjson
from evbus.engine.kit.strictjson import MAX_DEPTH
from evbus.errors import InvalidPayload, PayloadError

__all__ = ["apply", "apply_or_repr", "exact_load", "load", "own", "typed"]

_SCALARS = (
    *(msgspec.inspect.StrType, msgspec.inspect.IntType, msgspec.inspect.FloatType, msgspec.inspect.BoolType),
    *(msgspec.inspect.DecimalType, msgspec.inspect.UUIDType, msgspec.inspect.DateTimeType),
    *(msgspec.inspect.DateType, msgspec.inspect.TimeType, msgspec.inspect.TimeDeltaType),
    *(msgspec.inspect.BytesType, msgspec.inspect.EnumType),
)
#: Classes of bodies that are nobody's own.
_BUILT_IN = ATOMS_AND_FLOAT | {dict, list, tuple, set, frozenset}
_UNTIMED = {*_SCALARS} - {msgspec.inspect.DateTimeType, msgspec.inspect.TimeType}
_STRANGE = (msgspec.inspect.CustomType, msgspec.inspect.RawType)
_encode = msgspec.json.Encoder().encode
_HUGE = 10**strictjson.DIGITS

#: Where the fields of a class are single values, as declared, and no times: those that an object may
#: lack; with all of them, and without NaN, it needs no closer look. None for others. The class's check.
#: And what writes its objects in one go, or None where that may not be right.
_Ways = tuple[frozenset[str] | None, Check | None, Callable[[Any], bytes | None] | None]
#: The attribute of a class that keeps the class, as those that derive from it have the attribute as well, and
#: its ways.
_KNOWN = "__evbus_json__"
_UNKNOWN: Any = (None, None, None, None)


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
    kind = type(data)
    flat, check, write = None, None, None
    if kind is not dict:
        owner, flat, check, write = getattr(kind, _KNOWN, _UNKNOWN)
        if owner is not kind:
            flat, check, write = _learn(kind)
    out = None
    try:
        if write is not None:
            out = write(data)
        else:
            out = _encode(data)
            # Looking for single bytes is much cheaper than for b"null", which only NaN and None leave behind.
            null = 117 in out and 110 in out and out.find(b"null") >= 0
            if not null:
                if flat is not None:
                    if not flat or flat <= data.__dict__.keys():
                        return out
                elif kind is dict and _is_flat(data, out):
                    return out
            look = is_plain if check is None else check
            if not look(data, ATOMS if null else ATOMS_AND_FLOAT, MAX_DEPTH):
                out = None
    except MemoryError:
        raise
    except Exception:  # there is something that msgspec does not know, or a field is not there
        out = None
    return _slow(data, normaliser) if out is None else out


def _is_flat(data: dict[Any, Any], out: bytes) -> bool:
    """Say whether a body is an object of texts and numbers alone, judged by how it was written."""
    # One brace and no bracket is a flat object, and so without sets. Without a sign, or with a colon for each
    # key and no more, it has no offset.
    if 91 in out or out.rfind(b"{") or ((45 in out or 43 in out) and out.count(b":") != len(data)):
        return False
    for key in data:  # noqa: SIM110 - all() takes twice the time
        if type(key) is not str:
            return False
    return True


def apply_or_repr(data: object) -> bytes:
    """Encode like :func:`apply`, and write the ``repr`` of values that it refuses."""
    return apply(data, _ReprNormaliser)


def _learn(kind: type) -> _Ways:
    """Return how objects of a class are written; keep it with a class that has a way of its own."""
    if kind in _BUILT_IN:
        return None, None, None
    flat: frozenset[str] | None = None
    check, write = check_of(kind), own_json(kind)
    with contextlib.suppress(Exception):  # annotations may be anything, and fail in any way
        fields = msgspec.inspect.type_info(kind).fields  # type: ignore[attr-defined]
        if {type(field.type) for field in fields} <= _UNTIMED and not is_model(kind):
            flat = lacking(kind) if hasattr(kind, "__dataclass_fields__") else frozenset()
    if check is not None or write is not None:
        # Whatever its metaclass says to attributes.
        type.__setattr__(kind, _KNOWN, (kind, flat, check, write))
    return flat, check, write


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
    if is_model(kind):
        return own_reader(kind)
    info = msgspec.inspect.type_info(kind)
    held = list(parts(info))
    if any(isinstance(each, _STRANGE) or is_model(getattr(each, "cls", None)) for each in held):
        return None
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode
    shallow = levels(info) <= MAX_DEPTH

    def read(data: bytes) -> Any:
        # What is written again as it came has no key twice, and nothing else that is refused.
        if shallow or data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
            try:
                value = decode(data)
                if _encode(value) == data:
                    return value
            except RecursionError:
                pass  # of what is skipped
        try:
            strictjson.load(data, allow_nan=True)
        except PayloadError as exc:
            raise ValueError from exc
        return decode(data)

    keys = _keys(info, frozenset())
    if keys is None:
        return read

    def read_at_once(data: bytes) -> Any:
        # Every key is there at least once, or the text does not fit: one that is there twice is one more.
        return decode(data) if data.count(b":") == keys or has_keys(data, keys) else read(data)

    if not any(isinstance(each, msgspec.inspect.DecimalType) for each in held):
        return read_at_once
    # An integer that is too long for others is too long for a Decimal.
    return lambda data: (read_at_once if len(data) <= strictjson.DIGITS else read)(data)


def own(kind: type) -> Callable[[bytes], Any] | None:
    """Return what :func:`typed` returns, for what :func:`apply` wrote, which needs no second look."""
    read = typed(kind)
    return read if read is None or is_model(kind) else msgspec.json.Decoder(kind).decode


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


def _load(data: bytes, *, allow_nan: bool, exactly: bool = False) -> Any:
    raw = data if type(data) is bytes else as_bytes(data)
    try:
        return strictjson.load(raw, allow_nan=allow_nan, exactly=exactly)
    except InvalidPayload:
        refuse_pickle(raw)
        raise
