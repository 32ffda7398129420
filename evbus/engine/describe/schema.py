"""JSON Schemas (2020-12) of types, by msgspec and by pydantic, of what the serializers write."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import msgspec

from evbus.engine.codec.models import by_alias, is_model
from evbus.engine.kit.names import unique
from evbus.engine.kit.redact import one_line
from evbus.errors import ConfigError

__all__ = ["schemas_of"]

_REF = "#/components/schemas/"
#: Stands for the schema of a model until its name is known.
_MODEL = "#/models/"

_Mode = Literal["serialization", "validation"]


def schemas_of(
    kinds: Mapping[str, Any], what: str, mode: _Mode = "serialization"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of each type by the name that it is given, and the schemas that they refer to.

    :param what: the types are of, for errors.
    :param mode: of models: they have the fields that are written, or those that have to come.
    :raises ConfigError: a type cannot be described; names it.
    """
    writer = _SchemaWriter(what, mode)
    schemas, components = writer.of_msgspec(
        {name: kind for name, kind in kinds.items() if not is_model(kind)}
    )
    models = {name: kind for name, kind in kinds.items() if is_model(kind)}
    models.update({f"{_MODEL}{number}": kind for number, kind in enumerate(writer.within)})
    for aliases in (False, True):
        group = {name: kind for name, kind in models.items() if by_alias(kind) is aliases}
        _join(schemas, components, *writer.of_pydantic(group, aliases=aliases))
    if writer.within:
        places = {name: schemas.pop(name)["$ref"] for name in list(schemas) if name.startswith(_MODEL)}
        schemas, components = _pointed(schemas, places), _pointed(components, places)
    return schemas, components


class _SchemaWriter:
    """Describes types.

    :ivar within: models that are parts of types that are none.
    """

    def __init__(self, what: str, mode: _Mode) -> None:
        self.within: list[Any] = []
        self._what = what
        self._mode = mode

    def of_msgspec(self, kinds: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        for name, kind in kinds.items():
            self._describe(name, partial(msgspec.json.schema, kind, schema_hook=self._hook))
        found, components = msgspec.json.schema_components(
            list(kinds.values()), schema_hook=self._hook, ref_template=_REF + "{name}"
        )
        for schema in components.values():
            text = inspect.cleandoc(schema.get("description", ""))
            schema["description"] = text
            # For a dataclass without a docstring Python makes one up.
            if not text or text.startswith(f"{schema.get('title')}("):
                del schema["description"]
        return dict(zip(kinds, found, strict=True)), dict(components)

    def _hook(self, kind: Any) -> dict[str, Any]:
        """Describe what msgspec does not know."""
        if not is_model(kind):
            raise NotImplementedError(f"{getattr(kind, '__qualname__', kind)} is of no type that is known")
        if kind not in self.within:
            self.within.append(kind)
        return {"$ref": f"{_MODEL}{self.within.index(kind)}"}

    def of_pydantic(
        self, kinds: Mapping[str, Any], *, aliases: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the schemas of models.

        :param aliases: their fields are written by their aliases.
        """
        if not kinds:
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
                [(model, self._mode) for model in models],
                by_alias=aliases,
                ref_template=_REF + "{model}",
                schema_generator=_AsWritten,
            )

        for name, kind in kinds.items():
            self._describe(name, partial(describe, [kind]))
        found, top = describe(list(dict.fromkeys(kinds.values())))
        by_model = {model: schema for (model, _), schema in found.items()}
        return {name: by_model[kind] for name, kind in kinds.items()}, dict(top.get("$defs", {}))

    def _describe(self, name: str, describe: Callable[[], Any]) -> None:
        try:
            describe()
        except Exception as exc:
            reason = one_line(str(exc).partition("\n")[0])
            raise ConfigError(f"{self._what} {name} has no JSON Schema: {reason}") from exc


def _moment(schema: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Leave out the format of a time that may have no offset, as RFC 3339 wants one; msgspec does so, too."""
    if schema.get("tz_constraint") in (None, "naive"):
        found.pop("format", None)
    return found


def _uncomputed(schema: Any) -> Any:
    return {**schema, "computed_fields": []}


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
