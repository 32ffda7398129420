"""JSON Schemas of events, in the dialect of AsyncAPI 3.0: a superset of JSON Schema draft 07."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from evbus.engine.codec.models import by_alias, is_model
from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.kit.names import unique
from evbus.engine.kit.redact import one_line
from evbus.errors import ConfigError

__all__ = ["payloads"]

_REF = "#/components/schemas/"
_MAPS = ("properties", "patternProperties", "definitions", "$defs")
_LISTS = ("allOf", "anyOf", "oneOf")
#: Keys whose value is one schema, or true or false.
_ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
)


def payloads(events: Iterable[EventSpec]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of each event's payload by the event's name, and the schemas that they refer to.

    They describe what the serializers write. An event without a class has the schema of anything.

    :raises ConfigError: a type cannot be described; names the event.
    """
    known = [event for event in events if event.cls is not None]
    models = [event for event in known if is_model(event.cls)]
    plain = [event for event in known if event not in models]
    schemas, components = _of_msgspec(plain)
    for aliases in (False, True):
        found = _of_pydantic([each for each in models if by_alias(each.cls) is aliases], aliases=aliases)
        _join(schemas, components, *found)
    return (
        {name: _draft7(schema) for name, schema in schemas.items()},
        {name: _draft7(components[name]) for name in sorted(components)},
    )


def _of_msgspec(events: list[EventSpec]) -> tuple[dict[str, Any], dict[str, Any]]:
    for event in events:
        _describe(event, partial(msgspec.json.schema, event.cls))
    found, components = msgspec.json.schema_components(
        [event.cls for event in events], ref_template=_REF + "{name}"
    )
    for schema in components.values():
        text = inspect.cleandoc(schema.get("description", ""))
        schema["description"] = text
        # For a dataclass without a docstring Python makes one up.
        if not text or text.startswith(f"{schema.get('title')}("):
            del schema["description"]
    return {event.name: schema for event, schema in zip(events, found, strict=True)}, dict(components)


def _of_pydantic(events: list[EventSpec], *, aliases: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schemas of models.

    :param aliases: their fields are written by their aliases.
    """
    if not events:
        return {}, {}
    from pydantic.json_schema import GenerateJsonSchema, models_json_schema

    class _AsWritten(GenerateJsonSchema):
        """Describes what :func:`.dumped` writes: bytes in base64, nothing computed."""

        def model_fields_schema(self, schema: Any) -> Any:
            return super().model_fields_schema(_uncomputed(schema))

        def dataclass_args_schema(self, schema: Any) -> Any:
            return super().dataclass_args_schema(_uncomputed(schema))

        def datetime_schema(self, schema: Any) -> Any:
            return _moment(schema, super().datetime_schema(schema))

        def time_schema(self, schema: Any) -> Any:
            return _moment(schema, super().time_schema(schema))

        def bytes_schema(self, schema: Any) -> Any:
            return {"type": "string", "contentEncoding": "base64"}

    def describe(models: list[Any]) -> Any:
        return models_json_schema(
            [(model, "serialization") for model in models],
            by_alias=aliases,
            ref_template=_REF + "{model}",
            schema_generator=_AsWritten,
        )

    for event in events:
        _describe(event, partial(describe, [event.cls]))
    found, top = describe([event.cls for event in events])
    by_model = {model: schema for (model, _), schema in found.items()}
    return {event.name: by_model[event.cls] for event in events}, dict(top.get("$defs", {}))


def _moment(schema: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Leave out the format of a time that may have no offset, as RFC 3339 wants one; msgspec does so, too."""
    if schema.get("tz_constraint") in (None, "naive"):
        found.pop("format", None)
    return found


def _uncomputed(schema: Any) -> Any:
    return {**schema, "computed_fields": []}


def _describe(event: EventSpec, describe: Callable[[], Any]) -> None:
    try:
        describe()
    except Exception as exc:
        reason = one_line(str(exc).partition("\n")[0])
        raise ConfigError(f"the event {event.name} has no JSON Schema: {reason}") from exc


def _join(
    schemas: dict[str, Any], components: dict[str, Any], more: dict[str, Any], parts: dict[str, Any]
) -> None:
    """Add schemas and components; of two components of one name the later gets another."""
    names = {}
    for name in sorted(parts):
        taken = components.get(name)
        names[name] = name if taken is None or _same(taken, parts[name]) else unique(name, components, "-")
        components.setdefault(names[name], parts[name])
    changed = {_REF + old: _REF + new for old, new in names.items()}
    for old, new in names.items():
        if components[new] is parts[old]:
            components[new] = _pointed(parts[old], changed)
    schemas.update({name: _pointed(schema, changed) for name, schema in more.items()})


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two schemas say the same; of an enumeration msgspec leaves out the type."""
    if one == other:
        return True
    left, right = one.get("enum"), other.get("enum")
    return left is not None and right is not None and sorted(map(str, left)) == sorted(map(str, right))


def _pointed(schema: Any, changed: Mapping[str, str]) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: changed.get(value, value)
            if key == "$ref" and isinstance(value, str)
            else _pointed(value, changed)
            for key, value in schema.items()
        }
    return [_pointed(part, changed) for part in schema] if isinstance(schema, list) else schema


def _draft7(schema: Any) -> Any:
    """Return a schema of JSON Schema 2020-12, which msgspec and pydantic write, as draft 07 has it."""
    if not isinstance(schema, Mapping):
        return schema
    made = {key: _part(key, value) for key, value in schema.items() if not _dropped(key, value)}
    if "prefixItems" in made:
        rest = made.pop("items", None)
        first = made.pop("prefixItems")
        if first:
            made["items"] = first
            made.update({} if rest is None else {"additionalItems": rest})
    if "$ref" in made and len(made) > 1:
        # Draft 07 ignores whatever stands beside a reference.
        made = {"allOf": [{"$ref": made.pop("$ref")}], **made}
    return made


def _part(key: str, value: Any) -> Any:
    if key in _MAPS and isinstance(value, Mapping):
        return {name: _draft7(part) for name, part in value.items()}
    if key in (*_LISTS, "prefixItems"):
        return [_draft7(part) for part in value]
    return _draft7(value) if key in _ONE else value


def _dropped(key: str, value: Any) -> bool:
    if key == "discriminator":
        # OpenAPI's, which is an object; the constants in the alternatives say the same.
        return True
    if key == "format" and value == "duration":
        # That of RFC 3339 has neither fractions nor a sign.
        return True
    return key == "default" and isinstance(value, float) and not math.isfinite(value)
