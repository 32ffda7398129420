"""Methods of services that are called over brokers, for AsyncAPI 3.0.0: requests, and their replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from evbus.engine.call.forward import DEADLINE
from evbus.engine.describe.docstring import Docstring, read_docstring
from evbus.engine.describe.services import ServiceWay
from evbus.engine.service.method import MethodSpec

__all__ = ["DescribedCall", "calls", "kinds", "reply", "request"]

_TEXT = {"type": "string"}
_PLACE = "method "


class DescribedCall(NamedTuple):
    """A method, and where it is called."""

    way: ServiceWay
    method: MethodSpec

    @property
    def name(self) -> str:
        """What it is called on the wire: ``component:service:method``."""
        return f"{self.way.service.name}:{self.method.name}"

    @property
    def said(self) -> Docstring:
        """What its docstring says."""
        return read_docstring(self.method.function.__doc__ or "")

    @property
    def here(self) -> bool:
        """Whether this application implements it."""
        return self.way.service.implementation is not None


def calls(ways: Iterable[ServiceWay]) -> list[DescribedCall]:
    """Return each method at each place where it is called."""
    return [DescribedCall(way, method) for way in ways for method in way.service.spec.methods.values()]


def kinds(found: Iterable[DescribedCall]) -> dict[str, Any]:
    """Return the types of parameters and results, of streams those of items, by names for their schemas."""
    made = {}
    for one in found:
        method = one.method
        for each in method.parameters:
            made[_parameter(one, each.name)] = each.type if each.item is None else each.item
        made[_result(one)] = method.result if method.item is None else method.item
    return made


def _parameter(call: DescribedCall, name: str) -> str:
    return f"{_PLACE}{call.name}, its parameter {name},"


def _result(call: DescribedCall) -> str:
    return f"{_PLACE}{call.name}, its result,"


def request(call: DescribedCall, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Message Object of a request."""
    method, said = call.method, call.said
    named = {}
    for one in method.parameters:
        text = said.parameters.get(one.name)
        named[one.name] = _described(schemas[_parameter(call, one.name)], text)
        if one.item is not None:
            named[one.name] = _described({"type": "null"}, "Null: its items follow the request.")
    required = [one.name for one in method.parameters if one.required]
    by_place = [named[one.name] for one in method.positional]
    args: dict[str, Any] = {"type": "array", "description": "Arguments by their places."}
    args |= {"items": by_place, "additionalItems": False} if by_place else {"maxItems": 0}
    kwargs: dict[str, Any] = {
        "type": "object",
        "description": f"Those that args has not, by their names{_needed(required)}.",
        "properties": named,
        "additionalProperties": False,
    }
    return _message(
        call,
        call.name,
        {"method": {"const": call.name}, "args": args, "kwargs": kwargs},
        ["method"],
        {
            "headers": {
                "type": "object",
                "properties": {
                    DEADLINE: {**_TEXT, "description": "Until when it may take, in seconds since 1970."}
                },
                "additionalProperties": _TEXT,
            }
        },
    )


def _needed(names: list[str]) -> str:
    return f"; there have to be {', '.join(names)}" if names else ""


def reply(call: DescribedCall, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Message Object of a reply."""
    result = _described(schemas[_result(call)], call.said.returns)
    if call.method.item is not None:
        result = {"type": "array", "items": result, "description": "Items of the stream."}
    raises = [kind.__name__ for kind in call.method.options.raises]
    properties: dict[str, Any] = {
        "result": {"anyOf": [result, {"type": "null"}]},
        "exception": {"type": ["string", "null"], "description": "The text of what the method raised."},
        "error": {
            "type": "object",
            "description": "What the method raised"
            + (f": {', '.join(raises)}, or others." if raises else "."),
            "properties": {"type": _TEXT, "reason": _TEXT},
            "required": ["type", "reason"],
        },
    }
    return _message(call, f"{call.name} reply", properties, ["result"], {})


def _message(
    call: DescribedCall,
    name: str,
    properties: Mapping[str, Any],
    required: list[str],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    payload = {"type": "object", "properties": dict(properties), "required": required}
    about = {"name": name, "title": name, "contentType": call.way.content_type}
    return {**about, **more, "payload": payload}


def _described(schema: Any, text: str | None) -> Any:
    """Return a schema with a description; draft 07 ignores what stands beside a reference."""
    if not text:
        return schema
    return {"allOf": [schema], "description": text} if "$ref" in schema else {**schema, "description": text}


def about(call: DescribedCall) -> Iterator[tuple[str, Any]]:
    """Yield what an Operation Object says of a method."""
    said, options = call.said, call.method.options
    yield "title", call.name
    if said.summary:
        yield "summary", said.summary
    if said.description:
        yield "description", said.description
    facts: dict[str, Any] = {"component": call.way.service.component, "service": call.way.service.spec.name}
    facts["method"] = call.method.name
    if options.timeout is not None:
        facts["timeout"] = options.timeout
    if options.idempotent:
        facts["idempotent"] = True
    streams = [one.name for one in call.method.parameters if one.item is not None]
    if call.method.item is not None or streams:
        facts["streams"] = [*streams, *(["result"] if call.method.item is not None else [])]
    yield "x-evbus-service", facts
