"""The headers of events, by the pipeline plugins that set them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.handling.events.reader import NAME, VERSION
from evbus.engine.stages.compress import HEADER as ENCODING
from evbus.engine.stages.sign import ROUTING_KEY, SIGNATURE, SIGNED_AT
from evbus.session import HEADER as SESSION

__all__ = ["headers_of", "shared_headers"]

#: The component that all events share. No class has a name with a dot in it.
COMPONENT = "evbus.headers"

_TEXT = {"type": "string"}
_BY_PLUGIN: dict[str, dict[str, Any]] = {
    "compress": {ENCODING: {**_TEXT, "description": "How the body is compressed: zstd or zlib."}},
    "session": {SESSION: {**_TEXT, "description": "The session, a JSON object of strings."}},
    "sign": {
        SIGNATURE: {**_TEXT, "description": "HMAC-SHA256 of the event, with the id of the key."},
        SIGNED_AT: {**_TEXT, "description": "When it was signed, in seconds since 1970."},
        ROUTING_KEY: {**_TEXT, "description": "The routing key that was signed."},
    },
    "stamp": {
        "ce-specversion": {"const": "1.0", "description": "The version of CloudEvents."},
        "ce-id": {**_TEXT, "description": "The event's id, unique in the world."},
        "ce-source": {**_TEXT, "format": "uri-reference", "description": "Where it comes from."},
        "ce-type": {**_TEXT, "description": "The event's name."},
        "ce-time": {**_TEXT, "format": "date-time", "description": "When it was sent."},
    },
    "trace": {
        "traceparent": {
            **_TEXT,
            "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
            "description": "The trace that it belongs to, as W3C Trace Context has it.",
        },
        "tracestate": {**_TEXT, "description": "What tracing systems add."},
        "baggage": {**_TEXT, "description": "What is handed on along the trace, as W3C Baggage has it."},
    },
}


def shared_headers(pipeline: Sequence[str]) -> dict[str, Any]:
    """Return the component with the headers that the active pipeline plugins set, if they set any."""
    found: dict[str, Any] = {}
    for plugin in pipeline:
        found.update(_BY_PLUGIN.get(plugin, {}))
    properties = {name: found[name] for name in sorted(found)}
    return {COMPONENT: {"type": "object", "properties": properties}} if properties else {}


def headers_of(event: EventSpec, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an event's headers.

    :param shared: what :func:`shared_headers` returned.
    """
    properties: dict[str, Any] = {NAME: {**_TEXT, "const": event.name, "description": "The event's name."}}
    if event.version != 1:
        said = "The version of the event's fields; without this header it is this one."
        properties[VERSION] = {**_TEXT, "default": str(event.version), "description": said}
    own = {"type": "object", "properties": properties, "additionalProperties": _TEXT}
    return {"allOf": [own, *({"$ref": f"#/components/schemas/{name}"} for name in shared)]} if shared else own
