"""The registry Consul, over its HTTP API (Catalog, Health and Agent endpoints, version 1).

The API is six requests in JSON, for which the client of the channels does: it reads settings of TLS as they
do, bounds answers, and ends a blocking query at once when it is cancelled. py-consul, the client that is
still released (1.8.0), needs requests, and aiohttp beside it for asyncio; the index of blocking queries and
what has to be registered again it leaves to who calls it.

Entries have the layout of aspyx-service, so that its servers and callers share a Consul with those of evbus:
the id ``host:port:component``, the tag ``component``, and in the metadata ``channels``, such as
``dispatch-json(http://host:port),rest(http://host:port)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.redact import MASK, one_line, problem_text
from evbus.engine.kit.units import Seconds
from evbus.engine.service.declare import ChannelAddress
from evbus.engine.service.health import Health, HealthStatus
from evbus.engine.wire.base.tls import Tls
from evbus.engine.wire.http.pool import Answer, HttpFailure, HttpPool, address_of
from evbus.errors import ServiceCommunicationError, ServiceError

__all__ = ["Check", "Consul", "ConsulSettings", "channels_of", "channels_text"]

log = logging.getLogger("evbus.service")

TAG, CHANNELS = "component", "channels"

#: The least seconds from one answer of a blocking query to the next: some answer at once, again and again.
_LEAST = 0.1
#: Seconds that any other request may take.
_PATIENCE = 10.0
#: Seconds between two attempts to tell Consul of a component.
_PAUSE = (0.5, 10.0)
_MOST = 16 * 1024 * 1024
#: Some address elsewhere, to which nothing is sent (RFC 5737, section 3).
_ELSEWHERE = ("192.0.2.1", 9)

_CHANNEL = re.compile(r"\s*([^(),\s]+)\(([^()\s]+)\)\s*")

_STATUS = {HealthStatus.OK: "passing", HealthStatus.WARNING: "warning", HealthStatus.ERROR: "critical"}


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How Consul knows that a component is there.

    :ivar kind: ``http``: it asks the server for its health; ``ttl``: it is told; ``auto``: the one where
        there is an HTTP server, else the other.
    :ivar interval: seconds between two questions; told nothing for so long, it takes a component for gone.
    :ivar timeout: seconds for an answer.
    :ivar deregister: seconds after which a component that is gone is forgotten: a minute at least.
    :ivar insecure: it does not verify the certificate of the server that it asks.
    """

    kind: Literal["auto", "http", "ttl"] = "auto"
    interval: Seconds = 10.0
    timeout: Seconds = 3.0
    deregister: Seconds = 300.0
    insecure: bool = False

    def __post_init__(self) -> None:
        if not all(0 < one < 1e9 for one in (self.interval, self.timeout, self.deregister)):
            raise ValueError("interval, timeout and deregister are numbers of seconds above 0")


class ConsulSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the registry ``consul`` may be told.

    :ivar url: of an agent.
    :ivar token: of its access control list, sent as ``X-Consul-Token``.
    :ivar datacenter: default: that of the agent.
    :ivar address: the host by which others reach this process; default: that of the server; where it listens
        on all addresses, and where there is none, that of this machine on the way to Consul; with an agent on
        this machine, on the way to others.
    :ivar wait: seconds that a question for changes waits for one.
    """

    url: str = "http://127.0.0.1:8500"
    token: str = ""
    datacenter: str = ""
    address: str = ""
    check: Check = Check()
    wait: Seconds = 60.0
    connect_timeout: Seconds = 5.0
    tls: Tls | None = None

    def __post_init__(self) -> None:
        try:
            address_of(self.url)
        except ValueError as exc:
            raise ValueError(f"url: {exc}") from None
        if not 0 < self.wait <= 600:
            raise ValueError("wait is a number of seconds above 0, and 10m at the most")
        if not 0 < self.connect_timeout < 1e9:
            raise ValueError("connect_timeout is a number of seconds above 0")
        if not all("!" <= one <= "~" for one in self.token):
            raise ValueError("token holds characters that no header can carry")

    def __repr__(self) -> str:
        return f"<ConsulSettings {self.url}{f' token={MASK}' if self.token else ''}>"


class _Registered(NamedTuple):
    """A component of this process as Consul has it."""

    id: str
    body: Mapping[str, Any]
    ttl: bool


class Consul:
    """A Consul, asked through one agent.

    :param health_path: returns the path at which a component tells its health.
    :param status: awaits how this process is.
    """

    def __init__(
        self,
        settings: ConsulSettings,
        health_path: Callable[[str], str],
        status: Callable[[], Awaitable[Health]],
    ) -> None:
        self._settings = settings
        self._health_path = health_path
        self._status = status
        self._address = address_of(settings.url)
        self._pool = HttpPool(
            connections=1000, connect_timeout=settings.connect_timeout, max_answer=_MOST, tls=settings.tls
        )
        self._keeping: dict[str, tuple[_Registered, asyncio.Task[None]]] = {}
        self._warned: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Consul {self._settings.url} {', '.join(self._keeping) or 'nothing is registered'}>"

    # Where others are

    async def watch(self, component: str) -> AsyncGenerator[list[ChannelAddress], None]:
        """Yield the addresses of a component, and again whenever they change; nothing if there is none.

        :raises ServiceError: Consul refuses to tell them.
        :raises ServiceCommunicationError: it is not reached.
        """
        index, before = 0, None
        path, query = f"/v1/health/service/{quote(component, safe='')}", {"passing": "1"}
        while True:
            begun = time.monotonic()
            answer = await self._ask("GET", path, _waiting(query, index, self._settings.wait), index=index)
            found = self._found(component, answer)
            if not found and before is None:
                if component not in await self.components():
                    return
                # One that registers between these two questions has an address, which the first did not tell.
                answer = await self._ask("GET", path, query)
                found = self._found(component, answer)
            if found != before:
                before = found
                yield found
            told = _index_of(answer)
            # Once a snapshot was restored it is lower, and a question for more would wait for nothing.
            index = 0 if told < index else max(told, 1)
            await asyncio.sleep(max(0.0, begun + _LEAST - time.monotonic()))

    async def components(self) -> list[str]:
        """Return the names of all components. Errors as of :meth:`watch`."""
        found = _json(await self._ask("GET", "/v1/catalog/services"), dict)
        return [name for name, tags in found.items() if TAG in (tags or ())]

    def _found(self, component: str, answer: Answer) -> list[ChannelAddress]:
        return [one for each in _json(answer, list) for one in self._read(component, each)]

    def _read(self, component: str, entry: Any) -> list[ChannelAddress]:
        service = entry.get("Service") if isinstance(entry, dict) else None
        if not isinstance(service, dict) or TAG not in (service.get("Tags") or ()):
            return []
        told = (service.get("Meta") or {}).get(CHANNELS, "")
        found = channels_of(told)
        if not found:
            name = one_line(service.get("ID", component), 200)
            if self._warned.get(name) != told:
                self._warned[name] = told
                log.warning(
                    "Consul has an entry %s of the component %s that cannot be used: channels in its "
                    "metadata are %s, and not name(address),...",
                    name,
                    component,
                    one_line(repr(told), 200),
                )
        return found

    # Where this process is

    async def register(self, component: str, addresses: Sequence[ChannelAddress]) -> None:
        """Make known where a component of this process is, and keep that known until it is deregistered.

        :raises ServiceError: Consul refuses it.
        :raises ServiceCommunicationError: it is not reached.
        """
        entry = await self._entry(component, addresses)
        # A check of another kind would stay from what was registered before by the same id.
        if await self._known(entry):
            await self._forget(entry.id)
        await self._tell(entry)
        task = asyncio.create_task(self._keep(component, entry), name=f"evbus-consul-{component}")
        self._keeping[component] = entry, task

    async def deregister(self, component: str) -> None:
        """Make known that a component of this process is gone; untold, Consul finds it out by its check.

        :raises ServiceError: Consul refuses it.
        :raises ServiceCommunicationError: it is not reached.
        """
        entry, task = self._keeping.pop(component)
        task.cancel()
        await asyncio.wait([task])
        await self._forget(entry.id)

    async def close(self) -> None:
        """Ask nothing any more."""
        tasks = [task for _, task in self._keeping.values()]
        self._keeping.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._pool.close()

    async def _entry(self, component: str, addresses: Sequence[ChannelAddress]) -> _Registered:
        own = self._settings.address or await self._own_address()
        reached = [one._replace(uri=_reached(one.uri, own)) for one in addresses]
        at = next((urlsplit(one.uri) for one in reached if one.uri.startswith(("http://", "https://"))), None)
        settings = self._settings.check
        ttl = settings.kind == "ttl" or (settings.kind == "auto" and at is None)
        if at is None and not ttl:
            raise ServiceError(
                f"Consul cannot ask the component {component!r} for its health, as it has no address over "
                "HTTP: set registry.consul.check.kind to ttl, or start an HTTP server"
            )
        host, port = own, 0
        if at is not None:
            host, port = at.hostname or own, at.port or (443 if at.scheme == "https" else 80)
        # Without a port several processes of a machine would have one id.
        place = port or secrets.token_hex(4)
        check: dict[str, Any] = {"DeregisterCriticalServiceAfter": _duration(max(60.0, settings.deregister))}
        if ttl:
            check["TTL"] = _duration(settings.interval)
        else:
            assert at is not None
            check["HTTP"] = f"{at.scheme}://{at.netloc}{self._health_path(component)}"
            check["Interval"] = _duration(settings.interval)
            check["Timeout"] = _duration(settings.timeout)
            check["TLSSkipVerify"] = settings.insecure
        body = {
            "ID": f"{host}:{place}:{component}",
            "Name": component,
            "Address": host,
            "Port": port,
            "Tags": [TAG],
            "Meta": {CHANNELS: channels_text(reached)},
            "Check": check,
        }
        return _Registered(f"{host}:{place}:{component}", body, ttl)

    async def _own_address(self) -> str:
        """Return the address of this machine on the way to Consul; to an agent on it, that to the others."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_DGRAM)
            own = _source_of(found[0][0], found[0][4])
        except OSError as exc:
            raise ServiceCommunicationError(
                f"Consul at {self._settings.url} is not reached: {problem_text(exc)}", handed_over=False
            ) from exc
        if ipaddress.ip_address(own).is_loopback:
            with contextlib.suppress(OSError):  # there is no way to others
                return _source_of(socket.AF_INET, _ELSEWHERE)
        return own

    async def _tell(self, entry: _Registered) -> None:
        # Known as it is now: a check that nobody has made yet is critical.
        status = _STATUS[(await self._status()).status]
        check = {**entry.body["Check"], "Status": status}
        await self._ask("PUT", "/v1/agent/service/register", body={**entry.body, "Check": check})

    async def _forget(self, known_as: str) -> None:
        path = f"/v1/agent/service/deregister/{quote(known_as, safe='')}"
        await self._ask("PUT", path, may=(404,))  # there is none

    async def _keep(self, component: str, entry: _Registered) -> None:
        """Tell Consul how a component is, and of the component again when it has forgotten it."""
        failures, pause = 0, self._settings.check.interval / 3 if entry.ttl else self._settings.check.interval
        while True:
            await asyncio.sleep(backoff(failures, *_PAUSE) if failures else pause)
            try:
                known = await (self._beat(entry) if entry.ttl else self._known(entry))
                if not known:
                    await self._tell(entry)
                    log.warning("Consul had forgotten the component %s, and was told again", component)
            except ServiceError as exc:
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log.log(level, "Consul cannot be told of the component %s: %s", component, exc)
            except Exception:
                failures += 1
                log.exception("Consul cannot be told of the component %s", component)
            else:
                failures = 0

    async def _beat(self, entry: _Registered) -> bool:
        health = await self._status()
        said = "; ".join(
            f"{one.name}: {one.status} {one.details}".rstrip()
            for one in health.results
            if one.status is not HealthStatus.OK
        )
        path = f"/v1/agent/check/update/{quote(f'service:{entry.id}', safe='')}"
        told = {"Status": _STATUS[health.status], "Output": one_line(said, 4000)}
        # 1.8 answers 500 for a check that it does not know, later ones 404.
        answer = await self._ask("PUT", path, body=told, may=(404, 500))
        return answer.status == 200 or await self._known(entry)

    async def _known(self, entry: _Registered) -> bool:
        path = f"/v1/agent/service/{quote(entry.id, safe='')}"
        return (await self._ask("GET", path, may=(404,))).status == 200

    # Requests

    async def _ask(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        index: int = 0,
        may: Collection[int] = (),
    ) -> Answer:
        """Return an answer whose status is 200, or one of those that it ``may`` be.

        :raises ServiceError: it is another one.
        :raises ServiceCommunicationError: there is no answer.
        """
        settings = self._settings
        query = {**({"dc": settings.datacenter} if settings.datacenter else {}), **(query or {})}
        asked = f"{self._address.path}{path}{'?' if query else ''}{urlencode(query)}"
        token = f"x-consul-token: {settings.token}\r\n" if settings.token else ""
        head = f"{verb} {asked} HTTP/1.1\r\nhost: {self._address.authority}\r\n{token}"
        sent = b"" if body is None else msgspec.json.encode(body)
        # Of what it waits for it adds up to a sixteenth, so that not all ask again at once.
        seconds = _PATIENCE + (settings.wait * 17 / 16 if index else 0.0)
        try:
            async with asyncio.timeout(seconds):
                answer = await self._pool.request(self._address, head.encode(), sent)
        except (HttpFailure, TimeoutError) as exc:
            why = exc.reason if isinstance(exc, HttpFailure) else f"there was no answer within {seconds:g} s"
            raise ServiceCommunicationError(f"Consul at {settings.url}: {why}", handed_over=False) from exc
        if answer.status == 200 or answer.status in may:
            return answer
        said = one_line(answer.body.decode("utf-8", "replace").strip() or "nothing", 300)
        if answer.status == 403:
            raise ServiceError(
                f"Consul at {settings.url} does not allow this: {said}; see that registry.consul.token may"
            )
        raise ServiceError(f"Consul at {settings.url} answered {answer.status} to {path}: {said}")


def channels_text(addresses: Sequence[ChannelAddress]) -> str:
    """Return addresses as the metadata of an entry have them: ``name(address),name(address)``.

    :raises ServiceError: one holds brackets or blanks, which would be read as something else.
    """
    for one in addresses:
        if not _CHANNEL.fullmatch(f"{one.channel}({one.uri})"):
            raise ServiceError(
                f"the address of the channel {one.channel} cannot stand in Consul, as it holds brackets or "
                "blanks"
            )
    return ",".join(f"{one.channel}({one.uri})" for one in addresses)


def channels_of(text: Any) -> list[ChannelAddress]:
    """Return the addresses in the metadata of an entry, none where they are not written as they should be."""
    found: list[ChannelAddress] = []
    position = 0
    while isinstance(text, str) and (match := _CHANNEL.match(text, position)):
        found.append(ChannelAddress(match[1], match[2]))
        position = match.end()
        if position == len(text):
            return found
        if text[position] != ",":
            break
        position += 1
    return []


def _source_of(family: int, where: Any) -> str:
    """Return the address of this machine that something for an address would come from."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(where)  # which sends nothing
        return str(probe.getsockname()[0]).partition("%")[0]


def _reached(uri: str, own: str) -> str:
    """Return an address by which others reach what listens on all addresses of this machine."""
    parts = urlsplit(uri)
    try:
        everywhere = ipaddress.ip_address(parts.hostname or "").is_unspecified
    except ValueError:
        return uri
    if not everywhere:
        return uri
    host = f"[{own}]" if ":" in own else own
    return parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host).geturl()


def _waiting(query: Mapping[str, str], index: int, seconds: float) -> dict[str, str]:
    return {**query, "index": str(index), "wait": _duration(seconds)} if index else dict(query)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"


def _index_of(answer: Answer) -> int:
    found = answer.headers.get("x-consul-index", "")
    return int(found) if found.isascii() and found.isdigit() else 0


def _json(answer: Answer, kind: type) -> Any:
    try:
        found = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = None
    if not isinstance(found, kind):
        raise ServiceCommunicationError(
            "what answers in place of Consul is something else: see registry.consul.url", handed_over=False
        )
    return found
