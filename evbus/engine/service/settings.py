"""The option ``services``: registry, channels and server."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from evbus.engine.core.expand import expanded
from evbus.engine.core.profiles import convert, load_yaml
from evbus.engine.core.settings import Retry, plain
from evbus.engine.kit.units import Bytes, Seconds
from evbus.engine.service.auth import AuthSettings, ServerTls, masked
from evbus.engine.service.declare import ChannelAddress
from evbus.engine.wire.base.tls import Tls
from evbus.errors import ProfileError, nearest

__all__ = [
    "OVER_BROKERS",
    "ChannelSettings",
    "HttpSettings",
    "MessageSettings",
    "ServerSettings",
    "ServiceSettings",
    "channel_settings",
    "read",
    "static_addresses",
]


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When an address is left alone.

    :ivar failures: calls in a row that did not reach it, or got no answer; 0 for never.
    :ivar pause: seconds until one call may try it again.
    """

    failures: int = 5
    pause: Seconds = 5.0

    def __post_init__(self) -> None:
        if self.failures < 0 or not 0 < self.pause < math.inf:
            raise ValueError("failures is 0 or more, and pause a number of seconds above 0")


class ChannelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every channel may be told; a channel has further keys of its own.

    :ivar select: which of several addresses gets a call: each in its turn, the first that works, or the one
        with the fewest calls in flight.
    :ivar in_flight: most calls at once at an address; further ones wait, within their deadlines.
    :ivar retry: of calls that may be made again, and where the request was not handed over.
    :ivar token: what calls say who they are with, unless they have one of their own.
    :ivar token_file: a file that holds it, and is read again when it has changed.
    """

    select: Literal["round_robin", "first", "least_in_flight"] = "round_robin"
    in_flight: int = 1000
    retry: Retry = Retry(attempts=3, min=0.05, max=1.0)
    breaker: Breaker = Breaker()
    token: str = ""
    token_file: str = ""

    def __repr__(self) -> str:
        return masked(self)

    def __post_init__(self) -> None:
        if self.token and self.token_file:
            raise ValueError("either token or token_file says what the token is")
        if not all("!" <= one <= "~" for one in self.token):
            raise ValueError("token is a text of ASCII without blanks")
        if self.in_flight < 1:
            raise ValueError("in_flight must be 1 or more")
        if self.retry.attempts < 1:
            raise ValueError("retry.attempts must be 1 or more: a call has a deadline")


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What channels over HTTP may be told.

    :ivar connections: the most to one address; further calls wait for one, within their deadlines.
    :ivar connect_timeout: seconds for a connection, its TLS handshake included.
    :ivar max_answer: the most bytes of a result, or of a record of a stream.
    :ivar tls: what is trusted and shown where an address is ``https://``.
    :ivar insecure: tokens are sent to other machines over plain HTTP, too, where anybody on the way can read
        them.
    :ivar positional: servers know no arguments by name, as those of aspyx-service: what is given by name
        travels by its position, and the defaults of the interface stand for those before it.
    """

    connections: int = 100
    connect_timeout: Seconds = 5.0
    max_answer: Bytes = 16 * 1024 * 1024
    tls: Tls | None = None
    insecure: bool = False
    positional: bool = False

    def __post_init__(self) -> None:
        if self.connections < 1 or self.max_answer < 1:
            raise ValueError("connections and max_answer must be 1 or more")
        if not 0 < self.connect_timeout < math.inf:
            raise ValueError("connect_timeout is a number of seconds above 0")


class MessageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What channels over a broker may be told, the same for callers and servers.

    :ivar profile: the name of a profile of the bus: which broker, and who logs in there. Where its events go
        says nothing of calls, which have queues of their own.
    :ivar encoding: of calls; what answers them takes both.
    :ivar queue: what the queue of a component is called.
    :ivar concurrency: calls of a component that a process works on at once; further ones wait in the queue.
    :ivar max_body: bytes that a call may have.
    """

    profile: str = "default"
    encoding: Literal["msgpack", "json"] = "msgpack"
    queue: str = "evbus.{channel}.{component}"
    concurrency: int = 100
    max_body: Bytes = 1024 * 1024

    def __post_init__(self) -> None:
        left = self.queue.replace("{component}", "").replace("{channel}", "")
        if "{component}" not in self.queue or set(left) & set("{}*#"):
            raise ValueError(
                "queue names the queue of a component, such as 'shop.{component}'; {component} stands in it"
            )
        if not 1 <= self.concurrency <= 65535 or self.max_body < 1:
            raise ValueError("concurrency is 1 to 65535, and max_body 1 or more")

    def queue_of(self, channel: str, component: str) -> str:
        """Return the name of the queue of a component."""
        return self.queue.replace("{channel}", channel).replace("{component}", component)


#: What is different over a broker. There an address stands for all servers of a component: that some calls
#: fail says nothing of the others.
OVER_BROKERS: Mapping[str, Any] = {"breaker": {"failures": 0}}


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HTTP server.

    :ivar port: 0 for any that is free.
    :ivar max_body: bytes that the body of a request may have.
    :ivar concurrency: requests that are worked on at once; further ones are refused with 503.
    :ivar tls: its certificate; None for plain HTTP.
    :ivar hosts: what the header ``Host`` of requests may say, without a port; ``*.example.org`` for all
        below, ``*`` for anything. Default: where only this machine reaches it, the names of that; else
        anything.
    :ivar insecure: other machines may reach it over plain HTTP, as a proxy before it has TLS.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body: Bytes = 1024 * 1024
    concurrency: int = 1000
    tls: ServerTls | None = None
    hosts: list[str] = []
    insecure: bool = False

    @property
    def url(self) -> str:
        """Where it is: scheme and host."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}"

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError("port is a number from 0 to 65535")
        if self.max_body < 1 or self.concurrency < 1:
            raise ValueError("max_body and concurrency must be 1 or more")


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The option ``services``.

    :ivar registry: where components are: the name of a registry, or a mapping of one name to its settings.
    :ivar channels: settings of channels, by name; those that stand first are preferred to the others.
    :ivar server: None for no HTTP server.
    :ivar threads: plain methods that may run at once.
    :ivar auth: who may call from outside; None where nobody is asked.
    """

    registry: str | dict[str, Any] = "local"
    channels: dict[str, Any] = {}
    server: ServerSettings | None = None
    threads: int = 32
    auth: AuthSettings | None = None

    def __post_init__(self) -> None:
        if isinstance(self.registry, dict) and len(self.registry) != 1:
            raise ValueError("registry is a mapping of one name, such as static, to its settings")
        if self.threads < 1:
            raise ValueError("threads must be 1 or more")

    def served(self, port: int | None, host: str | None) -> ServiceSettings:
        """Return the same with another port and host of the server; a port alone asks for one.

        :raises ProfileError: there is no such port.
        """
        if port is None and (host is None or self.server is None):
            return self
        given = {} if self.server is None else msgspec.to_builtins(self.server)
        given |= {name: value for name, value in (("port", port), ("host", host)) if value is not None}
        return msgspec.structs.replace(self, server=convert(given, ServerSettings, "services", "server"))

    def unserved(self) -> ServiceSettings:
        """Return the same without a server."""
        return msgspec.structs.replace(self, server=None)

    def registry_parts(self) -> tuple[str, Any]:
        """Return the name of the registry, and its settings as they are written."""
        if isinstance(self.registry, str):
            return self.registry, {}
        return next(iter(self.registry.items()))


def read(source: Mapping[str, Any] | str | os.PathLike[str] | None) -> ServiceSettings:
    """Return the settings of a mapping, or of a YAML file.

    :raises ProfileError: names the file, the path of the key, and the nearest valid name.
    """
    if source is None:
        return ServiceSettings()
    if isinstance(source, Mapping):
        data, name = plain(source), "services"
    else:
        data, name = load_yaml(Path(source)), str(source)
    try:
        return convert(expanded(data, os.environ, source=name), ServiceSettings, name, "")
    except ProfileError as exc:
        raise ProfileError(exc.reason, source=name, path=exc.path.lstrip(".")) from None


def channel_settings(
    name: str, data: Any, schema: type[msgspec.Struct] | None
) -> tuple[ChannelSettings, msgspec.Struct | None]:
    """Return what every channel may be told, and what one has of its own, of the settings of a channel.

    :param schema: the type of its own, None when it has none.
    :raises ProfileError: names the path of the key, and the nearest valid name.
    """
    path = f"channels.{name}"
    data = {} if data is None else data
    if not isinstance(data, Mapping):
        raise ProfileError(f"this is a mapping, not {type(data).__name__}", source="services", path=path)
    common = {field.encode_name for field in msgspec.structs.fields(ChannelSettings)}
    own = {field.encode_name for field in msgspec.structs.fields(schema)} if schema is not None else set()
    for key in data:
        if key not in common | own:
            hint = nearest(key, common | own)
            raise ProfileError(f"there is no such key{hint}", source="services", path=f"{path}.{key}")
    shared = {key: value for key, value in data.items() if key in common}
    rest = {key: value for key, value in data.items() if key not in common}
    return (
        convert(shared, ChannelSettings, "services", path),
        None if schema is None else convert(rest, schema, "services", path),
    )


def static_addresses(data: Any, http: Collection[str] = ()) -> dict[str, list[ChannelAddress]]:
    """Return the addresses of components: ``{component: {channel: [address, ...]}}``, or one for a list.

    :param http: the channels whose addresses are those of HTTP.
    :raises ProfileError: it is no such mapping, or an address is none; names the key, and shows no address.
    """
    found: dict[str, list[ChannelAddress]] = {}
    for component, channels in _mapping(data, "registry.static").items():
        path = f"registry.static.{component}"
        found[str(component)] = addresses = []
        for channel, uris in _mapping(channels, path).items():
            for uri in uris if isinstance(uris, (list, tuple)) else [uris]:
                reason = _unusable(uri, http=str(channel) in http)
                if reason:
                    raise ProfileError(reason, source="services", path=f"{path}.{channel}")
                addresses.append(ChannelAddress(str(channel), uri))
    return found


def _unusable(uri: Any, *, http: bool) -> str:
    """Return why something is no address, ``""`` when it may be one; without what may be a password in it."""
    if not isinstance(uri, str) or not uri:
        return f"an address is a text, not {type(uri).__name__}"
    if "://" in uri and not all("!" <= one <= "~" for one in uri):
        return "an address holds no blanks and only ASCII; write other characters percent-encoded, as %20"
    if http:
        try:
            from evbus.engine.wire.http.pool import address_of
        except ModuleNotFoundError:
            return ""  # the extra is missing, which who calls is told
        try:
            address_of(uri)
        except ValueError as exc:
            return f"this is no address of a service: {exc}"
    return ""


def _mapping(data: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ProfileError(
            f"this is a mapping, not {type(data).__name__}: component, then channel, then its addresses",
            source="services",
            path=path,
        )
    return data
