"""An OpenAPI 3.1 document of methods that have a path. Sections named here are those of the specification."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Union, get_args, get_origin

from evbus.engine.codec import json
from evbus.engine.describe.docstring import Docstring, read_docstring
from evbus.engine.describe.schema import schemas_of
from evbus.engine.kit.names import unique
from evbus.engine.service.access import Access
from evbus.engine.service.declare import ServiceSpec
from evbus.engine.service.method import EMPTY
from evbus.engine.service.rest import PIECE
from evbus.engine.service.route import Argument, Route

__all__ = ["BEARER", "MUTUAL_TLS", "RestMethod", "document"]

OPENAPI = "3.1.0"
#: The schema of every failure. No class has a name with a dot in it.
_ERROR = "evbus.error"
_JSON = "application/json"
#: How callers say who they are (section 4.8.27).
BEARER, MUTUAL_TLS = "bearerAuth", "mutualTLS"
_SCHEMES = {BEARER: {"type": "http", "scheme": "bearer"}, MUTUAL_TLS: {"type": "mutualTLS"}}
_NONE = type(None)


class RestMethod(NamedTuple):
    """A method that has a path, and the interface that it is of.

    :ivar open_to_all: anybody may call it, as settings say.
    """

    service: ServiceSpec
    route: Route
    open_to_all: bool = False

    @property
    def access(self) -> Access:
        """Who may call it."""
        found = self.route.method.access
        return found._replace(anonymous=True) if self.open_to_all else found


def document(
    found: Iterable[RestMethod],
    *,
    title: str,
    version: str,
    description: str = "",
    server: str = "",
    asked: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the document, plain values in an order that is the same every time.

    :param title: of the API; ``version`` and ``description`` are the API's, too.
    :param asked: how callers say who they are, :data:`BEARER` and :data:`MUTUAL_TLS`, where all are asked;
        None where it is only known of those methods that ask for something.
    :param server: the URL below which the paths are, ``""`` for where the document is.
    :raises ConfigError: a type cannot be described; names the parameter, or the method of the result.
    """
    methods = list(found)
    guarded = [one for one in methods if not one.access.anonymous and (asked or one.access.declared)]
    schemes = tuple(asked or [BEARER]) if guarded else ()
    writer = _Operations(methods, {id(one) for one in guarded}, schemes)
    info = {"title": title, "version": version, **({"description": description} if description else {})}
    tags: dict[str, str] = {}
    for one in methods:
        for tag in _tags(one):
            tags.setdefault(tag, one.service.description if tag == one.service.name else "")
    return {
        "openapi": OPENAPI,
        "info": info,
        **({"servers": [{"url": server}]} if server else {}),
        **({"tags": [_tag(name, text) for name, text in tags.items()]} if tags else {}),
        "paths": writer.paths(),
        "components": {
            "schemas": writer.components(),
            **({"securitySchemes": {name: _SCHEMES[name] for name in schemes}} if schemes else {}),
        },
    }


def _tags(one: RestMethod) -> tuple[str, ...]:
    return one.route.declared.tags or (one.service.name,)


def _tag(name: str, text: str) -> dict[str, str]:
    return {"name": name, **({"description": text} if text else {})}


class _Operations:
    """Writes the operations of methods."""

    def __init__(self, methods: list[RestMethod], guarded: set[int], schemes: Sequence[str]) -> None:
        self._methods = methods
        self._guarded = guarded
        self._schemes = schemes
        kinds: dict[str, Any] = {}
        for one in methods:
            method = one.route.method
            kinds[f"of the result of {method.title}"] = method.result
            for argument in one.route.arguments:
                kind = argument.spec.type
                # None is what is not there.
                kinds[_place(one.route, argument)] = kind if argument.place == "body" else _without_none(kind)
        self._schemas, self._components = schemas_of(kinds, "the type", "validation")

    def components(self) -> dict[str, Any]:
        """Return the schemas that others refer to (section 4.8.7)."""
        return {**{name: self._components[name] for name in sorted(self._components)}, _ERROR: _ERROR_SCHEMA}

    def paths(self) -> dict[str, Any]:
        """Return the operations (section 4.8.8)."""
        paths: dict[str, dict[str, Any]] = {}
        known: dict[str, str] = {}
        ids: set[str] = set()
        for one in self._methods:
            name = unique(f"{one.service.name}.{one.route.method.name}", ids, "-")
            ids.add(name)
            # Two paths that differ in the names of their parameters alone are one (section 4.8.8.1).
            path = known.setdefault(one.route.shape[1], one.route.path)
            names = dict(zip(PIECE.findall(one.route.path), PIECE.findall(path), strict=True))
            paths.setdefault(path, {})[one.route.verb.lower()] = self._operation(name, one, names)
        return paths

    def _operation(self, name: str, one: RestMethod, names: Mapping[str, str]) -> dict[str, Any]:
        route, said = one.route, read_docstring(one.route.method.function.__doc__ or "")
        summary = route.declared.summary or said.summary
        description = route.declared.description or said.description
        made: dict[str, Any] = {
            "operationId": name,
            "tags": list(_tags(one)),
            **({"summary": summary} if summary else {}),
            **({"description": description} if description else {}),
        }
        parameters = [
            self._parameter(route, each, said, names) for each in route.arguments if each.place != "body"
        ]
        if parameters:
            made["parameters"] = parameters
        if route.body is not None:
            made["requestBody"] = self._body(route, route.body, said)
        guarded = id(one) in self._guarded
        if guarded:
            # One of them is enough (section 4.8.30).
            made["security"] = [{name: list(one.access.scopes)} for name in self._schemes]
        made["responses"] = self._responses(route, said, _REFUSALS if guarded else {})
        return made

    def _parameter(
        self, route: Route, argument: Argument, said: Docstring, names: Mapping[str, str]
    ) -> dict[str, Any]:
        schema = self._schemas[_place(route, argument)]
        default = argument.spec.default
        if default is not EMPTY and default is not None:
            schema = {**schema, "default": json.load(json.apply(default))}
        return {
            "name": names[argument.name] if argument.place == "path" else argument.name,
            "in": argument.place,
            **({"required": True} if argument.absent is EMPTY else {}),
            **_said(argument, said),
            "schema": schema,
        }

    def _body(self, route: Route, argument: Argument, said: Docstring) -> dict[str, Any]:
        found = _said(argument, said)
        example = {"example": found.pop("example")} if "example" in found else {}
        schema = self._schemas[_place(route, argument)]
        return {
            **found,
            "required": argument.absent is EMPTY,
            "content": {_JSON: {"schema": schema, **example}},
        }

    def _responses(self, route: Route, said: Docstring, refusals: Mapping[str, str]) -> dict[str, Any]:
        """Return what may come back (section 4.8.16)."""
        schema = self._schemas[f"of the result of {route.method.title}"]
        made: dict[str, Any] = {
            "200": {"description": said.returns or "The result.", "content": {_JSON: {"schema": schema}}}
        }
        failures = {**_FAILURES, **refusals}
        if route.body is not None:
            failures.update(_FAILURES_OF_BODIES)
        for kind, status in route.errors.items():
            text = said.raises.get(kind.__name__, "")
            line = f"{kind.__name__}: {text}" if text else kind.__name__
            known = failures.get(str(status))
            failures[str(status)] = f"{known}\n\n{line}" if known else line
        for code in sorted(failures):
            made[code] = _failure(failures[code])
        made["default"] = _failure("The method failed, or the server did.")
        return made


_REFUSALS = {"401": "Who calls is not known.", "403": "Who calls may not."}
_FAILURES = {"422": "An argument is missing or does not fit."}
_FAILURES_OF_BODIES = {
    "400": "The body is no JSON.",
    "413": "The body is too large.",
    "415": "The body is of another content type.",
}
_ERROR_SCHEMA = {
    "type": "object",
    "description": "What went wrong.",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "type": {"type": "string", "description": "The name of the exception."},
                "reason": {"type": "string", "description": "What it says."},
            },
            "required": ["type", "reason"],
        }
    },
    "required": ["error"],
}


def _failure(text: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{_ERROR}"}
    return {"description": text, "content": {_JSON: {"schema": schema}}}


def _said(argument: Argument, said: Docstring) -> dict[str, Any]:
    """Return the description and the example of a parameter."""
    marker = argument.marker
    text = (marker.description if marker is not None else "") or said.parameters.get(argument.spec.name, "")
    example: Mapping[str, Any] = {}
    if marker is not None and marker.example is not None:
        example = {"example": json.load(json.apply(marker.example))}
    return {**({"description": text} if text else {}), **example}


def _place(route: Route, argument: Argument) -> str:
    return f"of the argument {argument.spec.name!r} of {route.method.title}"


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    rest = tuple(each for each in get_args(kind) if each is not _NONE)
    return Union[rest]  # noqa: UP007 - of what is known only now
