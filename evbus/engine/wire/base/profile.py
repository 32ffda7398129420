"""The profile of a broker, whatever its protocol: above all its address and the login."""

from __future__ import annotations

import math
import re
from typing import ClassVar, Literal, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from evbus.engine.kit.units import Seconds
from evbus.engine.wire.base.tls import Tls

__all__ = ["Address", "BrokerProfile", "Pause", "host_and_port", "unfit"]

_UNFIT = re.compile("[\x00\ud800-\udfff]")


def unfit(text: str) -> bool:
    """Return whether a text holds a NUL, which ends texts in C and in STOMP, or is no UTF-8."""
    return _UNFIT.search(text) is not None


class Address(NamedTuple):
    """The hosts and the login of a broker. ``hosts`` are tried in turn, all of them with ``tls``."""

    hosts: tuple[tuple[str, int], ...]
    login: str
    password: str
    vhost: str
    tls: Tls | None

    def __repr__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"<Address {hosts} vhost {self.vhost!r} {'with' if self.tls else 'without'} TLS>"


def host_and_port(text: str, default: int) -> tuple[str, int]:
    """Return an entry of the key ``hosts``: ``host`` or ``host:port``.

    :raises ValueError: it is neither; does not show it, as somebody may have written a password there.
    """
    try:
        parts = urlsplit(f"//{text.strip()}")
        found = parts.hostname, parts.port or default
    except ValueError:
        found = None, 0
    if not found[0] or "@" in text or parts.path:
        raise ValueError("hosts holds an entry that is no 'host' or 'host:port'")
    return found[0], found[1]


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds between two attempts to connect: a random part of a bound that doubles from min to max."""

    min: Seconds = 0.1
    max: Seconds = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.min <= self.max < math.inf:
            raise ValueError("min and max are seconds with 0 < min <= max")


class BrokerProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys that the profiles of all brokers have.

    :ivar url: ``scheme://login:password@host:port/vhost``. Percent-encode what is no plain character; the
        vhost ``/`` is written as nothing or ``%2F``.
    :ivar hosts: ``host`` or ``host:port`` of several brokers, tried in turn; instead of the url's host.
    :ivar login: the user; default: the url's.
    :ivar password: default: the url's.
    :ivar vhost: default: the url's.
    :ivar tls: true, or the keys of :class:`evbus.engine.wire.base.tls.Tls`; a url of TLS means true. It is
        used for every one of ``hosts``.
    :ivar heartbeat: seconds; a broker from which nothing comes for twice as long is given up; 0: never.
    :ivar connect_timeout: seconds until an attempt to connect to one host is given up.
    :ivar first_connect: ``fail`` refuses to start when the first attempt fails; ``wait`` goes on trying.
    :ivar reconnect: see :class:`evbus.engine.wire.base.profile.Pause`.
    :ivar routing_key: a template such as ``orders.{routing_key}``; default: the event's own.
    :ivar headers: added to every event.
    :ivar prefetch: deliveries that may be unsettled at once; default: what their consumer works on at once,
        twice, from 10 to 1,000; 1,000 for a bridge, 100 where that is not known.
    """

    #: How urls begin, and their ports, without TLS and with it; and the vhost where nothing names one.
    SCHEMES: ClassVar[tuple[str, str]]
    PORTS: ClassVar[tuple[int, int]]
    VHOST: ClassVar[str] = "/"
    #: The keys besides ``routing_key`` that are templates of where events go.
    TEMPLATES: ClassVar[tuple[str, ...]] = ()

    url: str | None = None
    hosts: list[str] | str = []
    login: str | None = None
    password: str | None = None
    vhost: str | None = None
    tls: Tls | bool = False
    heartbeat: Seconds = 10.0
    connect_timeout: Seconds = 5.0
    first_connect: Literal["fail", "wait"] = "fail"
    reconnect: Pause = Pause()
    routing_key: str | None = None
    headers: dict[str, str] = {}
    prefetch: int | None = None

    def __repr__(self) -> str:
        # The url, the password and the headers may be secret.
        return f"<profile of {self.where()!r}>"

    def __post_init__(self) -> None:
        self._check_seconds("connect_timeout")
        self._check_number("heartbeat", 0, 65535, of=" of seconds")
        self._check_number("prefetch", 1, 65535)
        self.where()

    def _check_seconds(self, *keys: str, most: float = math.inf) -> None:
        for key in keys:
            value = getattr(self, key)
            if value is not None and not (0 < value <= most and value < math.inf):
                limit = "" if most == math.inf else f", at most {most}"
                raise ValueError(f"{key} is a number of seconds above 0{limit}")

    def _check_number(self, key: str, least: int, most: int, note: str = "", of: str = "") -> None:
        value = getattr(self, key)
        if value is not None and not least <= value <= most:
            raise ValueError(f"{key} is a number{of} from {least} to {most}{note}")

    def _check_texts(self, protocol: str, *keys: str) -> None:
        for key in ("login", "password", "vhost", *keys):
            text = getattr(self, key)
            if text is not None and unfit(text):
                raise ValueError(f"{key} holds a NUL or a lone surrogate, which {protocol} cannot carry")

    def where(self) -> Address:
        """Return the address and the login to connect with.

        :raises ValueError: the url or a host is none; does not hold the password.
        """
        parts = _split(self.url, self.SCHEMES)
        tls = self.tls or parts.scheme == self.SCHEMES[1]
        chosen = Tls() if tls is True else tls or None
        port = self.PORTS[chosen is not None]
        if self.hosts:
            listed = [self.hosts] if isinstance(self.hosts, str) else self.hosts
            hosts = tuple(host_and_port(text, port) for text in listed)
        elif parts.hostname:
            hosts = ((parts.hostname, parts.port or port),)
        else:
            example = f"{self.SCHEMES[0]}://login:password@host:{self.PORTS[0]}/"
            raise ValueError(f"neither url nor hosts is given; write url: {example}")
        return Address(
            hosts,
            self.login if self.login is not None else unquote(parts.username or ""),
            self.password if self.password is not None else unquote(parts.password or ""),
            self.vhost if self.vhost is not None else unquote(parts.path[1:]) or self.VHOST,
            chosen,
        )


def _split(url: str | None, schemes: tuple[str, str]) -> SplitResult:
    plain, secure = schemes
    try:
        parts = urlsplit((url or f"{plain}:").strip())
        _ = parts.port  # a property that raises
    except ValueError:
        raise ValueError("url has no valid host and port; percent-encode @, / and : in a password") from None
    if parts.scheme not in schemes:
        begins = parts.scheme[:20] or "no scheme"
        raise ValueError(f"url begins with {begins!r}; write {plain}:// or {secure}://")
    if parts.query or parts.fragment:
        raise ValueError("url holds a '?' or '#'; percent-encode them in a password; options are keys")
    return parts
