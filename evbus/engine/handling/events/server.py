"""The broker of a profile: its address and protocol, without any secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from evbus.engine.wire.amqp import profile as amqp_profile
from evbus.engine.wire.amqp1 import profile
from evbus.engine.wire.base.address import Address
from evbus.engine.wire.file import console, lines
from evbus.engine.wire.http import webhook
from evbus.engine.wire.memory import queues
from evbus.engine.wire.stomp import profile as stomp_profile

__all__ = ["UNKNOWN", "Host", "servers"]

#: Stands for a host that the profile of somebody else's plugin does not tell.
UNKNOWN = "unknown"
_HERE: dict[type, str] = {
    queues.InternalProfile: "within the process",
    lines.FileProfile: "a file of the sender",
    console.ConsoleProfile: "the console of the sender",
}


class Host(NamedTuple):
    """One host of a profile.

    :ivar host: with its port, if it has one.
    :ivar protocol: ``amqp``, ``amqps``, ``amqp1``, ``stomp``, ``stomps``, ``https``, ...
    :ivar version: of the protocol.
    :ivar pathname: the virtual host.
    :ivar login: ``userPassword``, ``X509``, or nothing.
    """

    host: str
    protocol: str
    version: str = ""
    pathname: str = ""
    login: str = ""
    description: str = ""


def servers(provider: str, settings: Any, data: Mapping[str, Any]) -> list[Host]:
    """Return the hosts of a profile.

    :param data: of a plugin that has no type for its settings; nothing but a host is taken of them.
    """
    if isinstance(settings, amqp_profile.Profile):
        where = settings.where()
        return _brokers(where, "amqps" if where.tls else "amqp", "0-9-1", _login(settings.auth, where))
    if isinstance(settings, profile.Profile):
        where = settings.where()
        said = "over TLS" if where.tls else ""
        return _brokers(where, "amqp1", "1.0", _login(settings.auth, where), said)
    if isinstance(settings, stomp_profile.Profile):
        where = settings.where()
        return _brokers(where, "stomps" if where.tls else "stomp", "1.2", _login("plain", where))
    if isinstance(settings, webhook.WebhookProfile):
        # Of the address nothing but the host: the paths of webhooks are secrets, as a rule.
        return [Host(_host_of(settings.url), "https" if settings.url.startswith("https") else "http")]
    if type(settings) in _HERE:
        return [Host("localhost", provider, description=_HERE[type(settings)])]
    return [Host(_host_of(data.get("url")), provider)]


def _brokers(where: Address, protocol: str, version: str, login: str, said: str = "") -> list[Host]:
    pathname = f"/{quote(where.vhost, safe='')}" if where.vhost not in ("", "/") else ""
    return [
        Host(_written(host, port), protocol, version, pathname, login, said) for host, port in where.hosts
    ]


def _login(auth: str, where: Address) -> str:
    if auth == "external":
        return "X509"
    return "userPassword" if auth == "plain" and where.login else ""


def _host_of(url: Any) -> str:
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        return _written(parts.hostname, parts.port) if parts.hostname else UNKNOWN
    except ValueError:
        return UNKNOWN


def _written(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name
