"""pydantic's models and dataclasses, which validate and write themselves: how they travel.

evbus has forms of its own for bytes and for numbers that are exact. So pydantic is given the schema of the
class with a step at these types, and everything else is as the class has it.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from evbus.engine.codec.fit import exact_decimal, has_keys, rounded
from evbus.engine.codec.moments import to_the_minute, written_exactly
from evbus.engine.kit.strictjson import Number

__all__ = [
    "by_alias",
    "dumped",
    "is_model",
    "keys_of",
    "own_json",
    "own_reader",
    "reads_digits",
    "unfit",
    "validated",
]

#: The keys of a part of a schema that hold other parts: one, a list, a mapping, or those in tuples.
_HOLDING = frozenset(
    {
        *("schema", "items_schema", "keys_schema", "values_schema", "choices", "fields", "definitions"),
        *("lax_schema", "strict_schema", "json_schema", "python_schema", "steps", "extras_schema"),
        *("arguments_schema", "var_args_schema", "var_kwargs_schema"),
    }
)
#: Ways of a field of its own to be written, whose result is not known here.
_OWN_WAYS = frozenset({"function-plain", "to-string", "format"})
#: Types of pydantic's schemas that it writes as JSON as msgspec writes what they become.
_SAME = frozenset(
    {
        *(
            "model",
            "model-fields",
            "model-field",
            "dataclass",
            "dataclass-args",
            "dataclass-field",
            "default",
        ),
        *("nullable", "none", "str", "int", "float", "bool", "decimal", "uuid", "date", "time", "datetime"),
        *("timedelta", "list", "literal", "enum"),
    }
)
#: Those of them that are single values, with the classes of these.
_SINGLE: dict[str, type] = {
    **{each.__name__: each for each in (str, int, float, bool, dt.date, dt.time, dt.datetime, dt.timedelta)},
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
}
_TIMED = (dt.datetime, dt.time)
#: Those of them whose objects have not all as many keys, or that are not asked how many.
_SEVERAL = frozenset({"model", "dataclass", "default", "list"})
#: The most bytes of JSON in which no integer can be longer than readers take.
_LONGEST = 4000
#: What stands for a number in JSON that is read by pydantic: its own numbers are rounded.
_DIGITS = "\0digits"

_Schema = Mapping[str, Any]
#: Returns what a part of a schema is to be; True when its fields are written by a function of the class.
_Change = Callable[[dict[str, Any], bool], dict[str, Any]]


class _Ways(NamedTuple):
    """The validators of a class, for values of Python and of JSON, and its encoder.

    :ivar binary: it has bytes.
    :ivar own: see :func:`own_json`.
    :ivar own_reader: see :func:`own_reader`.
    """

    of_python: Callable[..., Any]
    of_json: Callable[..., Any]
    write: Callable[..., Any]
    binary: bool
    own: Callable[[Any], bytes | None] | None
    own_reader: Callable[[bytes], Any] | None


#: The attribute of a class that keeps them, as long as there is the class.
_WAYS = "__evbus_ways__"


def is_model(kind: Any) -> bool:
    """Return whether a class is a pydantic model or a dataclass of pydantic's."""
    if not isinstance(kind, type):
        return False
    return callable(getattr(kind, "model_validate", None)) or "__is_pydantic_dataclass__" in vars(kind)


def by_alias(kind: Any) -> bool:
    """Return whether the fields of a class, and of those within it, are written by their aliases."""
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    return bool(config.get("serialize_by_alias"))


def keys_of(kind: Any) -> frozenset[str] | None:
    """Return the keys of a class of pydantic's, like :func:`evbus.engine.codec.typed.optional_keys`."""
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    validators = kind.__pydantic_decorators__.model_validators.values()
    if (
        getattr(kind, "__pydantic_root_model__", False)
        or config.get("extra") == "allow"
        or any(each.info.mode != "after" for each in validators)
    ):
        return None
    keys: set[Any] = set()
    for name, field in kind.__pydantic_fields__.items():
        if field.is_required():
            return None
        alias = field.validation_alias
        keys |= {name, field.alias}
        for each in getattr(alias, "choices", [alias]):
            keys.add(getattr(each, "path", [each])[0])
    return frozenset(keys) or None


def reads_digits(kind: Any) -> bool:
    """Return whether a class has a Decimal, and so wants to know how numbers were written.

    :raises NameError: one of its annotations means nothing.
    """
    return _has(_schema_of(kind), "decimal")


def validated(kind: Any, value: Any) -> Any:
    """Return a ``kind`` made of plain values, by the names of its fields and by the aliases others may know.

    :raises ValueError: they do not fit.
    """
    ways = _ways(kind)
    try:
        return ways.of_python(value, by_alias=True, by_name=True)
    except ValueError:
        # A strict model wants a date, and takes the text of one from JSON alone.
        try:
            return ways.of_json(_as_json(value), by_alias=True, by_name=True)
        except ValueError:
            pass
        raise


def dumped(value: Any, *, binary: bool) -> Any:
    """Return the plain values that a model or a dataclass of pydantic's is written as.

    They can be read back: what is computed is left out, and bytes are base64.

    :param binary: bytes stay bytes.
    """
    ways, aliases = _ways(type(value)), by_alias(type(value))
    plain = ways.write(value, mode="json", round_trip=True, by_alias=aliases)
    if binary and ways.binary:
        return _with_bytes(plain, ways.write(value, mode="python", round_trip=True, by_alias=aliases))
    return plain


def own_json(kind: Any) -> Callable[[Any], bytes | None] | None:
    """Return a function that writes a class as JSON in one go, in the bytes of :func:`dumped` and msgspec.

    The function returns None for an object that it is not sure of. There is none when it never is.
    """
    return _ways(kind).own if is_model(kind) and hasattr(kind, "__pydantic_serializer__") else None


def own_reader(kind: Any) -> Callable[[bytes], Any] | None:
    """Return a function that makes an object of JSON in one go, as :func:`validated` does of exact values.

    The function raises ``ValueError`` for all that it is not sure of. There is none when it never is.
    """
    return _ways(kind).own_reader if own_json(kind) else None


def unfit(kind: Any) -> tuple[str, str] | None:
    """Return the path of the first field that is not written so that it can be read again, and why.

    :raises NameError: an annotation of the class means nothing.
    """
    found = _unfit(_schema_of(kind), "", known=False)
    return None if found is None else (found[0].lstrip("."), found[1])


# -- what pydantic is given ------------------------------------------------------------------------


def _ways(kind: Any) -> _Ways:
    found: _Ways | None = vars(kind).get(_WAYS)
    if found is None:
        found = _made(kind)
        # Whatever its metaclass says to attributes.
        type.__setattr__(kind, _WAYS, found)
    return found


def _made(kind: Any) -> _Ways:
    from pydantic_core import SchemaSerializer, SchemaValidator

    schema = _schema_of(kind)
    digits, binary, aliases = _has(schema, "decimal"), _has(schema, "bytes"), by_alias(kind)
    validator: Any = kind.__pydantic_validator__
    of_python, of_json = validator.validate_python, validator.validate_json
    if digits or binary or aliases:
        steps: dict[str, Callable[[Any], Any]] = {"bytes": _unbase64}
        in_json = dict(steps)
        if digits:
            steps.update({"decimal": _exact, "float": rounded, "any": rounded})
            in_json.update({"decimal": _from_json, "float": _rounded_from_json, "any": _rounded_from_json})
        of_python = _built(SchemaValidator, schema, _reading(steps, aliases)).validate_python
        of_json = _built(SchemaValidator, schema, _reading(in_json, aliases)).validate_json
    serializer: Any = kind.__pydantic_serializer__
    if any(_has(schema, each) for each in _WRITTEN):
        serializer = _built(SchemaSerializer, schema, _writing)
    own = _own_json(kind, schema, serializer.to_json, aliases)
    reads = None if own is None or aliases else _own_reader(schema, own)
    return _Ways(of_python, of_json, serializer.to_python, binary, own, reads)


def _own_reader(schema: _Schema, own: Callable[[Any], bytes | None]) -> Callable[[bytes], Any] | None:
    from pydantic_core import SchemaValidator

    for each in _parts(schema):
        config: Any = each.get("config") or {}
        if (
            each.get("custom_init")
            or each.get("coerce_numbers_to_str")
            or config.get("coerce_numbers_to_str")
        ):
            return None
    read = _built(SchemaValidator, schema, _surely).validate_json
    keys = _keys(schema)

    def made(data: bytes) -> Any:
        # An integer may be longer than it is allowed to be.
        if len(data) > _LONGEST:
            raise ValueError
        value = read(data) if keys is not None else read(data, by_alias=True, by_name=True)
        # A key that stands twice shows in their number, and in how the object is written.
        if (keys is None or not has_keys(data, keys)) and own(value) != data:
            raise ValueError
        return value

    return made


def _surely(schema: dict[str, Any], own: bool) -> dict[str, Any]:
    """Have numbers refused that pydantic's JSON does not read as evbus does."""
    from pydantic_core import core_schema

    if schema.get("type") == "float":
        schema["allow_inf_nan"] = False
    if schema.get("type") == "decimal":
        return dict(core_schema.no_info_before_validator_function(_no_float, schema))
    return schema


def _keys(schema: _Schema) -> int | None:
    """Count the keys in the JSON of a class; return None when not all of its objects have as many."""
    kind = schema["type"]
    if kind == "nullable":
        return None if _keys(schema["schema"]) else 0
    if kind == "model" and not schema.get("root_model"):
        return _keys(schema["schema"])
    if kind != "model-fields":
        return None if kind in _SEVERAL else 0
    found = 0
    for field in schema["fields"].values():
        inner = None if "validation_alias" in field else _keys(field["schema"])
        if inner is None:
            return None
        found += 1 + inner
    return found


def _own_json(
    kind: Any, schema: _Schema, write: Callable[..., bytes], aliases: bool
) -> Callable[[Any], bytes | None] | None:
    held = list(_parts(schema))
    if any(each["type"] not in _SAME or "serialization" in each or _is_open(each) for each in held):
        return None
    floats, fields = _has(schema, "float"), tuple(_single_values(schema).items())
    said = {"round_trip": True, "by_alias": aliases}
    # To say what goes without saying takes time.
    unsaid = not aliases and not any(each.get("computed_fields") for each in held)

    def sure(found: bytes) -> bytes | None:
        # Exponents look otherwise, NaN becomes null, and an integer may be longer than readers take.
        unsure = len(found) > _LONGEST or (floats and (b"e+" in found or b"null" in found))
        return None if unsure else found

    def written(value: Any) -> bytes | None:
        try:
            return sure(write(value, warnings="error", **said))
        except Exception:
            return None

    own: Callable[..., bytes] = kind.__pydantic_serializer__.to_json
    times = [name for name, classes in fields if not classes.isdisjoint(_TIMED)]

    def written_at_once(value: Any) -> bytes | None:
        # To look whether each value is what it is declared to be takes less time than to have pydantic do so.
        values = value.__dict__
        for name, classes in fields:
            if type(values.get(name)) not in classes:
                return written(value)
        for name in times:
            if not to_the_minute(values[name]):
                return written(value)
        if len(values) != len(fields):
            return written(value)
        return sure(own(value) if unsaid else own(value, **said))

    return written_at_once if fields else written


def _single_values(schema: _Schema) -> dict[str, set[type]]:
    """Return the fields of a model with the classes of their values, if each is a single one; else none."""
    fields = schema["schema"].get("fields", {}) if schema["type"] == "model" else {}
    found = {name: _classes(field) for name, field in fields.items()}
    return found if all(found.values()) else {}


def _classes(schema: _Schema) -> set[type]:
    """Return the classes of single values, none for any other."""
    kind = schema["type"]
    if kind in ("model-field", "default", "nullable"):
        found = _classes(schema["schema"])
        return found | {type(None)} if found and kind == "nullable" else found
    return {_SINGLE[kind]} if kind in _SINGLE else set()


def _built(make: Any, schema: _Schema, change: _Change) -> Any:
    changed = _changed(schema, change, own=False, extra=False)
    try:
        # Not with what was made before for the classes within.
        return make(changed, _use_prebuilt=False)
    except TypeError:  # of before pydantic 2.12, which uses nothing that was made before
        return make(changed)


def _reading(steps: Mapping[str, Callable[[Any], Any]], aliases: bool) -> _Change:
    """Return a change of schemas that puts a step before the types that have one."""
    from pydantic_core import core_schema

    def stepped(schema: Any) -> dict[str, Any]:
        return dict(core_schema.no_info_before_validator_function(steps[schema["type"]], schema))

    def change(schema: dict[str, Any], own: bool) -> dict[str, Any]:
        kind = schema.get("type", "")
        if "any" in steps:
            anything = stepped({"type": "any"})
            if kind in ("list", "set", "frozenset", "generator"):
                schema.setdefault("items_schema", anything)
            elif kind == "dict":
                schema.setdefault("values_schema", anything)
            elif kind == "model-fields" and schema.pop(_OPEN, False):
                schema.setdefault("extras_schema", anything)
        if aliases and schema.get("serialization_alias"):
            schema["validation_alias"] = _aliases(schema)
        return stepped(schema) if kind in steps and not (own and kind == "bytes") else schema

    return change


def _aliases(field: _Schema) -> list[Any]:
    """Return the ways to the value of a field, the one it is written by among them."""
    known: Any = field.get("validation_alias") or []
    if isinstance(known, str):
        known = [[known]]
    elif known and not isinstance(known[0], list):
        known = [known]
    written = [field["serialization_alias"]]
    return [*known] if written in known else [*known, written]


def _writing(schema: dict[str, Any], own: bool) -> dict[str, Any]:
    """Have values written as evbus does."""
    from pydantic_core import core_schema

    step = _WRITTEN.get(schema.get("type", ""))
    if step is not None and not own and "serialization" not in schema:
        schema["serialization"] = core_schema.plain_serializer_function_ser_schema(
            step, when_used="json-unless-none"
        )
    return schema


#: Marks the fields of a model that takes others as well, until its schema is made.
_OPEN = "evbus-open"


def _changed(schema: Any, change: _Change, *, own: bool, extra: bool) -> Any:
    """Return a schema whose parts are changed, those within first.

    :param own: what it stands in is written by a function of the class.
    :param extra: the model that it stands in takes fields that it does not know.
    """
    if isinstance(schema, (list, tuple)):
        return type(schema)(_changed(each, change, own=own, extra=extra) for each in schema)
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    own = own or _is_own(schema)
    extra = _is_open(schema) if schema.get("type") == "model" else extra
    for key in _HOLDING & schema.keys():
        inner = schema[key]
        if _is_named(key, inner):
            made[key] = {name: _changed(each, change, own=own, extra=extra) for name, each in inner.items()}
        else:
            made[key] = _changed(inner, change, own=own, extra=extra)
    if "type" not in schema:
        return made
    way = schema.get("serialization")
    if way and "schema" in way:
        # A function around the way that this schema says.
        made["serialization"] = {**way, "schema": _changed(way["schema"], change, own=own, extra=extra)}
    if extra and schema["type"] == "model-fields":
        made[_OPEN] = True
    made = change(made, own)
    made.pop(_OPEN, None)
    return made


# -- looking at a schema ---------------------------------------------------------------------------


def _schema_of(kind: Any) -> _Schema:
    if not getattr(kind, "__pydantic_complete__", True):
        if hasattr(kind, "model_rebuild"):
            kind.model_rebuild()
        else:
            from pydantic.dataclasses import rebuild_dataclass

            rebuild_dataclass(kind)
    found: _Schema = getattr(kind, "__pydantic_core_schema__", {})
    return found


def _is_named(key: str, inner: Any) -> bool:
    """Say whether what a part of a schema holds are parts by name, as the fields of a model."""
    return key in ("fields", "choices") and isinstance(inner, Mapping)


def _parts(schema: Any) -> Iterator[_Schema]:
    """Yield the parts of a schema."""
    if isinstance(schema, Mapping):
        if "type" in schema:
            yield schema
        for key in _HOLDING & schema.keys():
            inner = schema[key]
            yield from _parts(list(inner.values()) if _is_named(key, inner) else inner)
    elif isinstance(schema, (list, tuple)):
        for each in schema:
            yield from _parts(each)


def _has(schema: _Schema, kind: str) -> bool:
    return any(each["type"] == kind for each in _parts(schema))


def _is_open(schema: _Schema) -> bool:
    return (schema.get("config") or {}).get("extra_fields_behavior") == "allow"


def _is_own(schema: _Schema) -> bool:
    return (schema.get("serialization") or {}).get("type") in _OWN_WAYS


def _unfit(schema: Any, path: str, *, known: bool) -> tuple[str, str] | None:
    """Return the path of the first field that cannot be written and read again, and why.

    :param known: it is part of a type of pydantic's own, which has a form of its own.
    """
    if isinstance(schema, (list, tuple)):
        found = (
            _unfit(each, f"{path}.{each['name']}" if _is_field(each) else path, known=known)
            for each in schema
        )
        return next((each for each in found if each is not None), None)
    if not isinstance(schema, Mapping):
        return None
    reason = _reason(schema, known=known)
    if reason:
        return path, reason
    if _is_own(schema):
        if not getattr(schema["serialization"].get("function"), "__module__", "").startswith("pydantic."):
            return None  # as the class has it
        known = True
    known = known or schema.get("type") in ("json-or-python", "lax-or-strict")
    for key in _HOLDING & schema.keys():
        inner = schema[key]
        for name, each in inner.items() if _is_named(key, inner) else [("", inner)]:
            bad = _unfit(each, f"{path}.{name}" if key == "fields" and name else path, known=known)
            if bad is not None:
                return bad
    return None


def _reason(schema: _Schema, *, known: bool) -> str:
    """Return the reason why a part of a schema cannot be written and read again, ``""`` when it can."""
    kind = schema.get("type")
    if schema.get("serialization_exclude"):
        return "is left out when the event is written (exclude=True), so that no listener gets it"
    if kind in ("callable", "is-subclass"):
        return "cannot be written down"
    way: Any = (schema.get("serialization") or {}).get("function")
    if getattr(way, "__module__", "") == "pydantic.types" and way.__name__.startswith("_serialize_secret"):
        name = next(
            (each["cls"].__name__ for each in _parts(schema) if each["type"] == "is-instance"), "Secret"
        )
        return f"is a {name}, which is written as asterisks"
    if kind == "is-instance" and not known:
        return f"is a {getattr(schema['cls'], '__name__', schema['cls'])}, which cannot be written down"
    if kind == "model" and schema.get("custom_init") and _has(schema, "bytes"):
        return "has bytes, which its own __init__ would get as base64"
    return ""


def _is_field(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "dataclass-field"


# -- the steps -------------------------------------------------------------------------------------


def _no_float(value: Any) -> Any:
    if type(value) is float:
        raise ValueError("a number that has lost digits")
    return value


def _exact(value: Any) -> Any:
    return exact_decimal(value) if type(value) is Number else value


def _base64(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, (bytes, bytearray)) else value


def _unbase64(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value.translate(_URL_SAFE), validate=True)
    except ValueError:
        raise ValueError("Invalid base64 encoded string") from None


#: What comes before pydantic writes a value of a type.
_WRITTEN: dict[str, Callable[[Any], Any]] = {
    "bytes": _base64,
    "datetime": written_exactly,
    "time": written_exactly,
}

#: The other alphabet of RFC 4648, which pydantic's own base64 has.
_URL_SAFE = str.maketrans("-_", "+/")


def _with_bytes(plain: Any, rich: Any) -> Any:
    """Return plain values with those bytes that stand at the same place in what Python has."""
    if isinstance(rich, (bytes, bytearray)) and isinstance(plain, str):
        return bytes(rich)
    if isinstance(plain, dict) and isinstance(rich, dict) and len(plain) == len(rich):
        return {
            key: _with_bytes(inner, other)
            for (key, inner), other in zip(plain.items(), rich.values(), strict=True)
        }
    if isinstance(plain, list) and isinstance(rich, (list, tuple)) and len(plain) == len(rich):
        return [_with_bytes(inner, other) for inner, other in zip(plain, rich, strict=True)]
    return plain


def _as_json(value: Any) -> bytes:
    from pydantic_core import to_json

    return to_json(_marked(value), inf_nan_mode="constants", bytes_mode="base64")


def _marked(value: Any) -> Any:
    """Return plain values that become JSON, with numbers as texts that say that they are some."""
    kind = type(value)
    if kind is Number:
        return {_DIGITS: value.text}
    if kind is dict:
        return {key: _marked(inner) for key, inner in value.items()}
    return [_marked(inner) for inner in value] if kind is list or kind is tuple else value


def _unmarked(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        if value.keys() == {_DIGITS}:
            return Number(value[_DIGITS])
        return {key: _unmarked(inner) for key, inner in value.items()}
    return [_unmarked(inner) for inner in value] if kind is list else value


def _from_json(value: Any) -> Any:
    value = _unmarked(value)
    if type(value) is int or type(value) is str:
        # Behind a step a strict Decimal takes nothing else.
        with contextlib.suppress(decimal.InvalidOperation):
            return decimal.Decimal(value)
    return _exact(value)


def _rounded_from_json(value: Any) -> Any:
    return rounded(_unmarked(value))
