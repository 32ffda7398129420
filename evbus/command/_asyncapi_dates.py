"""Say in JSON Schemas of msgspec which texts are times: it leaves that out unless a time zone is required."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import inspect

__all__ = ["mark_times"]

_FORMATS = {inspect.DateTimeType: "date-time", inspect.TimeType: "time"}


def mark_times(info: inspect.Type, schema: dict[str, Any], components: Mapping[str, Any]) -> None:
    """Give the texts of a schema that are times their ``format``.

    :param info: what msgspec knows of the type that ``schema`` describes.
    :param components: what ``schema`` refers to; changed as well.
    """
    pending, seen = [(info, schema)], set()
    while pending:
        kind, part = pending.pop()
        if id(kind) in seen and hasattr(kind, "fields"):
            continue
        seen.add(id(kind))
        pending += _inside(kind, _meant(part, components))


def _meant(schema: dict[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    whole = schema.get("allOf", [schema])[0]
    found = components.get(str(whole.get("$ref", "")).rpartition("/")[2], schema)
    return found if isinstance(found, dict) else schema


def _inside(kind: Any, schema: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Mark one schema, and yield those within it with their types."""
    if type(kind) in _FORMATS and schema.get("type") == "string":
        schema.setdefault("format", _FORMATS[type(kind)])
    if isinstance(kind, inspect.Metadata):
        yield kind.type, schema
    for field in getattr(kind, "fields", ()):
        if isinstance(schema.get("properties"), dict):
            yield field.type, schema["properties"][field.encode_name]
    for type_of, key in (("item_type", "items"), ("value_type", "additionalProperties")):
        if hasattr(kind, type_of) and isinstance(schema.get(key), dict):
            yield getattr(kind, type_of), schema[key]
    if isinstance(kind, inspect.TupleType):
        yield from zip(kind.item_types, schema.get("prefixItems", ()), strict=False)
    if isinstance(kind, inspect.UnionType):
        yield from _alternatives(kind, schema)


def _alternatives(kind: inspect.UnionType, schema: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    # A union of msgspec has one that is written as text, one array, and objects that are told apart by tags.
    for part in schema.get("anyOf", ()):
        for each in kind.types:
            if _fits(each, part):
                yield each, part


def _fits(kind: Any, schema: Mapping[str, Any]) -> bool:
    inner = kind.type if isinstance(kind, inspect.Metadata) else kind
    if type(inner) in _FORMATS:
        return schema.get("type") == "string"
    if "$ref" in schema:
        named = getattr(inner, "cls", None)
        return named is not None and str(schema["$ref"]).rpartition("/")[2].endswith(named.__name__)
    if hasattr(inner, "item_type") or isinstance(inner, inspect.TupleType):
        return schema.get("type") == "array"
    return hasattr(inner, "value_type") and schema.get("type") == "object"
