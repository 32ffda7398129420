"""An AsyncAPI 3.0.0 document of a catalogue. Sections named here are those of the specification."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from evbus.engine.describe import asyncapi_calls
from evbus.engine.describe.asyncapi_schema import payloads
from evbus.engine.describe.catalogue import Catalogue, KnownListener, Operation
from evbus.engine.handling.events.channel import servers
from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.handling.events.reader import NAME, VERSION
from evbus.engine.kit.names import unique
from evbus.engine.stages.compress import HEADER as ENCODING
from evbus.engine.stages.sign import ROUTING_KEY, SIGNATURE, SIGNED_AT
from evbus.engine.wire.base.describe import PROCESS
from evbus.session import HEADER as SESSION
from evbus.types import Channel

__all__ = ["document"]

ASYNCAPI = "3.0.0"
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


def document(
    found: Catalogue, *, title: str, version: str, content_type: str, pipeline: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the document, plain values in an order that is the same every time.

    :param title: of the API. ``version`` is the API's, too.
    :param content_type: of the bodies.
    :param pipeline: the names of the active pipeline plugins.

    :raises ConfigError: the fields of an event cannot be described.
    """
    writer = _Writer(found)
    called = asyncapi_calls.calls(found.ways)
    schemas, components = payloads(found.events, asyncapi_calls.kinds(called))
    shared = _shared_headers(pipeline)
    writer.add_servers()
    writer.add_operations()
    writer.add_calls(called, schemas)
    schemes = {name: {"type": name} for name in sorted(writer.logins)}
    parts: dict[str, Any] = {
        "messages": {
            **{writer.messages[event.name]: _message(event, schemas, shared) for event in found.events},
            **writer.calls,
        },
        "schemas": {**shared, **components},
        "securitySchemes": schemes,
    }
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": title, "version": version},
        "defaultContentType": content_type,
        "servers": writer.servers,
        "channels": writer.channels,
        "operations": writer.operations,
        "components": {name: part for name, part in parts.items() if part},
    }


def _message(event: EventSpec, schemas: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Message Object."""
    text = _doc(event.cls)
    made = {
        "name": event.name,
        "title": event.name,
        **({"summary": text.partition("\n\n")[0].replace("\n", " "), "description": text} if text else {}),
        "headers": _headers_of(event, shared),
        "payload": schemas.get(event.name, {}),
    }
    flags = {"durable": event.durable, "broadcast": event.broadcast}
    said = {name: True for name, is_so in flags.items() if is_so}
    return {**made, **({"x-evbus-event": said} if said else {})}


def _doc(cls: type | None) -> str:
    text = inspect.cleandoc(vars(cls).get("__doc__") or "") if cls is not None else ""
    # Python makes one up for a dataclass.
    return "" if cls is not None and text.startswith(f"{cls.__name__}(") else text


class _Writer:
    """Writes the parts that refer to each other.

    :ivar messages: their ids, by the names of events.
    :ivar logins: the security schemes that are used.
    :ivar calls: the messages of services.
    """

    def __init__(self, found: Catalogue) -> None:
        self.messages: dict[str, str] = {}
        self.servers: dict[str, Any] = {}
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        self.logins: set[str] = set()
        self.calls: dict[str, Any] = {}
        self._found = found
        self._servers: dict[tuple[str, str], list[str]] = {}
        self._channels: dict[tuple[Any, ...], str] = {}
        for event in found.events:
            self.messages[event.name] = _free(event.name, self.messages.values())

    def add_servers(self) -> None:
        """Add a Server Object for each host of each profile."""
        for profile in self._found.profiles:
            hosts = self._servers[profile.provider, profile.name] = []
            for server in servers(profile):
                made: dict[str, Any] = {
                    "host": server.host,
                    "pathname": server.pathname,
                    "protocol": server.protocol,
                    "protocolVersion": server.version,
                    "title": f"{profile.provider}.{profile.name}",
                    "description": server.description,
                }
                if server.login:
                    self.logins.add(server.login)
                    made["security"] = [_ref("components", "securitySchemes", server.login)]
                name = _free(f"{profile.provider}.{profile.name}", self.servers)
                self.servers[name] = {key: value for key, value in made.items() if value}
                hosts.append(name)

    def add_operations(self) -> None:
        """Add an Operation Object for each way of an event, and the Channel Objects of them."""
        sent = [(one.event.name, one) for one in self._found.sent]
        for name, several, going in _named(sent):
            title = f"{going.event.name} to {going.endpoint.full_name}"
            self._add("send", f"send.{name}", several, going, {"title": title})
        received = [
            (f"{one.event.name}.{one.listener.name}", one) for one in self._found.received if one.listener
        ]
        for name, several, coming in _named(received):
            self._receive(f"receive.{name}", several, coming)

    def add_calls(self, found: Sequence[asyncapi_calls.DescribedCall], schemas: Mapping[str, Any]) -> None:
        """Add an Operation Object with a reply for each method of services that is called over a broker."""
        named = [(f"{'receive' if one.here else 'send'}.{one.name}", one) for one in found]
        for name, several, one in _named(named):
            endpoint = one.way.endpoint
            profile = (endpoint.provider, endpoint.name)
            to = Channel(one.way.address, "queue")
            back = Channel(None, "reply")
            where = self._service_channel(profile, f"{'.'.join(profile)}.{one.way.address}", to)
            answers = self._service_channel(profile, f"{'.'.join(profile)}.replies", back)
            asked = self._service_message(where, f"{one.name}.request", asyncapi_calls.request(one, schemas))
            told = self._service_message(answers, f"{one.name}.reply", asyncapi_calls.reply(one, schemas))
            free = _free(f"{name}.{endpoint.full_name}" if several else name, self.operations)
            self.operations[free] = {
                "action": "receive" if one.here else "send",
                "channel": _ref("channels", where),
                "messages": [_ref("channels", where, "messages", asked)],
                "reply": {
                    "address": {"location": "$message.header#/replyTo"},
                    "channel": _ref("channels", answers),
                    "messages": [_ref("channels", answers, "messages", told)],
                },
                **dict(asyncapi_calls.about(one)),
            }

    def _service_channel(self, profile: tuple[str, str], wanted: str, about: Channel) -> str:
        """Return the id of a Channel Object for requests or replies, made if there is none yet."""
        key = (profile, wanted)
        name = self._channels.get(key)
        if name is None:
            name = self._channels[key] = _free(wanted, self.channels)
            self.channels[name] = _channel(about, self._servers[profile])
        return name

    def _service_message(self, channel: str, wanted: str, message: dict[str, Any]) -> str:
        """Return the id of a message in a channel, made if there is none yet."""
        plain = _free(wanted, ())
        if self.calls.get(plain) != message:
            plain = _free(wanted, {*self.calls, *self.messages.values()})
            self.calls[plain] = message
        self.channels[channel]["messages"][plain] = _ref("components", "messages", plain)
        return plain

    def _receive(self, name: str, several: bool, coming: Operation) -> None:
        listener = coming.listener
        assert listener is not None
        about = {
            "title": f"{coming.event.name} to the listener {listener.name}",
            "description": listener.text,
        }
        said = {key: value for key, value in about.items() if value}
        about_listener = {"x-evbus-listener": _about(listener, coming.event)}
        self._add("receive", name, several, coming, {**said, **about_listener})

    def _add(self, action: str, name: str, several: bool, one: Operation, about: Mapping[str, Any]) -> None:
        endpoint = one.endpoint
        channel = self._channel((endpoint.provider, endpoint.name), one.channel, one.event)
        free = _free(f"{name}.{endpoint.full_name}" if several else name, self.operations)
        made = self._operation(action, channel, one.event, one.channel)
        self.operations[free] = {**made, **about}

    def _operation(self, action: str, channel: str, event: EventSpec, about: Channel) -> dict[str, Any]:
        made: dict[str, Any] = {
            "action": action,
            "channel": _ref("channels", channel),
            "messages": [_ref("channels", channel, "messages", self.messages[event.name])],
        }
        if about.operation:
            made["bindings"] = {about.binding: about.operation}
        return made

    def _channel(self, profile: tuple[str, str], about: Channel, event: EventSpec) -> str:
        """Return the id of a Channel Object, made if there is none yet."""
        # Without an address nothing says that two of them are one.
        where = about.address if about.address is not None else (event.name,)
        bound = msgspec.json.encode([about.channel, about.extra], order="deterministic")
        key = (profile, where, bound)
        name = self._channels.get(key)
        if name is None:
            wanted = f"{'.'.join(profile)}.{about.address or event.name}"
            name = self._channels[key] = _free(wanted, self.channels)
            self.channels[name] = _channel(about, self._servers[profile])
        message = self.messages[event.name]
        self.channels[name]["messages"][message] = _ref("components", "messages", message)
        return name


def _channel(about: Channel, hosts: Iterable[str]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "address": about.address,
        "messages": {},
        "servers": [_ref("servers", host) for host in hosts],
    }
    if about.address is not None and PROCESS in about.address:
        said = "Made up by each process for its own copy of the events, and gone with it."
        made["parameters"] = {PROCESS.strip("{}"): {"description": said}}
    if about.channel:
        made["bindings"] = {about.binding: about.channel}
    if about.extra:
        made[f"x-{about.binding}"] = about.extra
    return made


def _about(listener: KnownListener, event: EventSpec) -> dict[str, Any]:
    """Return the extension with the facts that AsyncAPI has no place for."""
    spec = listener.spec
    made: dict[str, Any] = {
        "name": listener.name,
        "group": listener.group,
        "perProcess": listener.per_process(event),
        "plugin": listener.place,
        "concurrency": spec.concurrency,
        "retry": msgspec.to_builtins(spec.retry),
    }
    if spec.batch:
        made["batch"] = spec.batch
    if listener.pattern is not None:
        made["pattern"] = listener.pattern.name
    if isinstance(spec.key, str):
        made["orderedBy"] = spec.key
    if spec.timeout is not None:
        made["timeout"] = spec.timeout
    return made


def _named(found: Sequence[tuple[str, Any]]) -> list[tuple[str, bool, Any]]:
    """Return each with its name, and whether others have the same."""
    times = Counter(name for name, _ in found)
    return [(name, times[name] > 1, one) for name, one in found]


def _free(wanted: str, taken: Container[str]) -> str:
    """Return an id made of the characters that the ids of components may have, and that no other has."""
    plain = re.sub(r"[.-]*[^A-Za-z0-9_.-]+[.-]*", "-", wanted).strip("-.") or "none"
    return unique(plain, taken, "-")


def _ref(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(path)}


def _shared_headers(pipeline: Sequence[str]) -> dict[str, Any]:
    """Return the component with the headers that the active pipeline plugins set, if they set any."""
    found: dict[str, Any] = {}
    for plugin in pipeline:
        found.update(_BY_PLUGIN.get(plugin, {}))
    properties = {name: found[name] for name in sorted(found)}
    return {COMPONENT: {"type": "object", "properties": properties}} if properties else {}


def _headers_of(event: EventSpec, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an event's headers.

    :param shared: what :func:`_shared_headers` returned.
    """
    properties: dict[str, Any] = {NAME: {**_TEXT, "const": event.name, "description": "The event's name."}}
    if event.version != 1:
        said = "The version of the event's fields; without this header it is this one."
        properties[VERSION] = {**_TEXT, "default": str(event.version), "description": said}
    own = {"type": "object", "properties": properties, "additionalProperties": _TEXT}
    return {"allOf": [own, *({"$ref": f"#/components/schemas/{name}"} for name in shared)]} if shared else own
