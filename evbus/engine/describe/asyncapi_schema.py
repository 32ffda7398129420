"""JSON Schemas of events, in the dialect of AsyncAPI 3.0: a superset of JSON Schema draft 07."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from evbus.engine.describe.schema import schemas_of
from evbus.engine.handling.events.declare import EventSpec

__all__ = ["payloads"]

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


def payloads(
    events: Iterable[EventSpec], others: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of each event's payload by the event's name, and the schemas that they refer to.

    They describe what the serializers write. An event without a class has the schema of anything.

    :param others: further types, whose schemas are returned as well, by their names, such as ``method x``.
    :raises ConfigError: a type cannot be described; names the event.
    """
    kinds = {f"event {event.name}": event.cls for event in events if event.cls is not None}
    schemas, components = schemas_of({**kinds, **(others or {})}, "the")
    return (
        {name.removeprefix("event "): _draft7(schema) for name, schema in schemas.items()},
        {name: _draft7(components[name]) for name in sorted(components)},
    )


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
