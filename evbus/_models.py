"""pydantic's models and dataclasses, which validate themselves: how they are read.

The values come out of JSON or MessagePack, and evbus has forms of its own there. So pydantic is given the
schema of the class with a step before some of its types, and everything else is as the class has it.
"""

from __future__ import annotations

import contextlib
import decimal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evbus._fit import exact_decimal, rounded
from evbus.strictjson import Number

__all__ = ["is_model", "reads_digits", "validated"]

#: The keys of a part of a schema that hold other parts: one, a list, a mapping, or those in tuples.
_HOLDING = frozenset(
    {
        *("schema", "items_schema", "keys_schema", "values_schema", "choices", "fields", "definitions"),
        *("lax_schema", "strict_schema", "json_schema", "python_schema", "steps", "extras_schema"),
        *("arguments_schema", "var_args_schema", "var_kwargs_schema"),
    }
)
#: What stands for a number in JSON that is read by pydantic: its own numbers are rounded.
_DIGITS = "\0digits"
#: By class, what validates it: values of Python, and JSON.
_validators: dict[type, tuple[Callable[..., Any], Callable[..., Any]]] = {}
#: How many of them are remembered.
KNOWN = 1000


def is_model(kind: Any) -> bool:
    """Return whether a class is a pydantic model or a dataclass of pydantic's."""
    return callable(getattr(kind, "model_validate", None)) or (
        isinstance(kind, type) and "__is_pydantic_dataclass__" in vars(kind)
    )


def schema_of(kind: Any) -> Mapping[str, Any]:
    """Return the schema of a class, which is completed first.

    :raises NameError: one of its annotations means nothing.
    """
    if not getattr(kind, "__pydantic_complete__", True):
        if hasattr(kind, "model_rebuild"):
            kind.model_rebuild()
        else:
            from pydantic.dataclasses import rebuild_dataclass

            rebuild_dataclass(kind)
    found: Mapping[str, Any] = kind.__pydantic_core_schema__
    return found


def _is_named(key: str, inner: Any) -> bool:
    """Say whether what a part of a schema holds are parts by name, as the fields of a model."""
    return key in ("fields", "choices") and isinstance(inner, Mapping)


def parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a schema that are of a type."""
    if isinstance(schema, Mapping):
        if "type" in schema:
            yield schema
        for key in _HOLDING & schema.keys():
            inner = schema[key]
            yield from parts(list(inner.values()) if _is_named(key, inner) else inner)
    elif isinstance(schema, (list, tuple)):
        for each in schema:
            yield from parts(each)


def reads_digits(kind: Any) -> bool:
    """Return whether a class has a Decimal, and so wants to know how numbers were written.

    :raises NameError: one of its annotations means nothing.
    """
    return any(each["type"] == "decimal" for each in parts(schema_of(kind)))


def validated(kind: Any, value: Any) -> Any:
    """Return a ``kind`` made of plain values, by the names of its fields and by the aliases others may know.

    :raises ValueError: they do not fit.
    """
    found = _validators.get(kind)
    if found is None:
        if len(_validators) >= KNOWN:
            _validators.clear()
        found = _validators[kind] = _made(kind)
    of_python, of_json = found
    try:
        return of_python(value, by_alias=True, by_name=True)
    except ValueError:
        # A strict model wants a date, and takes the text of one from JSON alone.
        try:
            return of_json(_as_json(value), by_alias=True, by_name=True)
        except ValueError:
            pass
        raise


def _as_json(value: Any) -> bytes:
    from pydantic_core import to_json

    return to_json(_marked(value), inf_nan_mode="constants", bytes_mode="base64")


def _made(kind: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    from pydantic_core import SchemaValidator

    schema = schema_of(kind)
    if not reads_digits(kind):
        own: SchemaValidator = kind.__pydantic_validator__
        return own.validate_python, own.validate_json

    def made(steps: Mapping[str, Callable[[Any], Any]]) -> SchemaValidator:
        changed = _changed(schema, steps, extra=False)
        try:
            # Not with what was made for the classes within.
            return SchemaValidator(changed, _use_prebuilt=False)
        except TypeError:  # of before pydantic 2.12, which uses nothing that was made before
            return SchemaValidator(changed)

    return made({"decimal": _exact, "float": rounded, "any": rounded}).validate_python, made(
        {"decimal": _from_json, "float": _rounded_from_json, "any": _rounded_from_json}
    ).validate_json


def _changed(schema: Any, steps: Mapping[str, Callable[[Any], Any]], *, extra: bool) -> Any:
    """Return a schema with steps before the types that have one.

    :param extra: the model around it takes fields that it does not know.
    """
    if isinstance(schema, (list, tuple)):
        return type(schema)(_changed(each, steps, extra=extra) for each in schema)
    if not isinstance(schema, Mapping):
        return schema
    kind = schema.get("type")
    if kind == "model":
        extra = (schema.get("config") or {}).get("extra_fields_behavior") == "allow"
    made = dict(schema)
    for key in _HOLDING & schema.keys():
        inner = schema[key]
        if _is_named(key, inner):
            made[key] = {name: _changed(each, steps, extra=extra) for name, each in inner.items()}
        else:
            made[key] = _changed(inner, steps, extra=extra)
    anything = _stepped({"type": "any"}, steps)
    if kind in ("list", "set", "frozenset", "generator"):
        made.setdefault("items_schema", anything)
    elif kind == "dict":
        made.setdefault("values_schema", anything)
    elif kind == "model-fields" and extra:
        made.setdefault("extras_schema", anything)
    return _stepped(made, steps)


def _stepped(schema: dict[str, Any], steps: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    from pydantic_core import core_schema

    step = steps.get(schema.get("type", ""))
    return schema if step is None else dict(core_schema.no_info_before_validator_function(step, schema))


def _exact(value: Any) -> Any:
    return exact_decimal(value) if type(value) is Number else value


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
