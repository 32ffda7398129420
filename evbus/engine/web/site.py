"""All that the HTTP server of services has: calls, methods that have a path, what describes them, health."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from evbus.engine.describe.openapi import BEARER, MUTUAL_TLS
from evbus.engine.kit.loopback import is_loopback
from evbus.engine.service.auth import AuthSettings
from evbus.engine.service.authenticate import anybody
from evbus.engine.service.encoding import JSON, MSGPACK
from evbus.engine.service.guard import caller
from evbus.engine.service.health import HEALTH, endpoint_of
from evbus.engine.service.services import Services
from evbus.engine.service.settings import ServerSettings
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.hosts import LOCAL_NAMES
from evbus.engine.web.pages import LIVE, OWN, READY, describing, from_here, telling
from evbus.engine.web.rest import Rest
from evbus.engine.web.server import Server
from evbus.engine.web.tls import Certificate
from evbus.errors import ConfigError
from evbus.version import version

__all__ = ["Site", "built", "served"]

log = logging.getLogger("evbus.service")


class Site:
    """A server that runs.

    :ivar app: what it serves, to which more can be added.
    """

    def __init__(self, server: Server, app: WebApp, services: Services) -> None:
        self.app = app
        self.port = server.port
        self.url = server.url
        self._server = server
        self._services = services

    def __repr__(self) -> str:
        return repr(self._server)

    async def stop(self, seconds: float) -> int:
        """Say that it is not ready any more, take no more requests, and end when those under way have.

        Returns how many were cancelled, as they had not ended after ``seconds``.
        """
        self._services.health.stopping = "it is being stopped"
        return await self._server.stop(seconds)

    def hurry(self) -> None:
        """Let a stop that is under way wait for no request any more."""
        self._server.hurry()


async def served(services: Services, settings: ServerSettings) -> Site:
    """Start a server for the services of this process.

    :raises ConfigError: others could reach it, and nobody is asked who he is.
    :raises ServiceSignatureError: two methods have one path, or somebody has one that is the server's.
    :raises ServiceError: the port is not free.
    """
    auth, tls = services.settings.auth, settings.tls
    if auth is not None and auth.certificates and (tls is None or not tls.client_ca_file):
        raise ConfigError("auth.certificates needs server.tls.client_ca_file: whose certificates are they?")
    app = built(services, settings, settings.hosts or _names(settings.host))
    certificate = None if tls is None else Certificate(tls)
    server = await Server.start(
        app,
        settings.host,
        settings.port,
        authenticated=services.guard is not None,
        context=None if certificate is None else certificate.context,
        insecure=settings.insecure,
    )
    if certificate is not None:
        services.health.add_check("certificate", certificate.check, cache=60)
    log.info("services are served at %s: %s", server.url, ", ".join(services.components) or "no components")
    return Site(server, app, services)


def _names(host: str) -> Iterable[str]:
    """Return what a server may be called that listens on a host, nothing for anything."""
    return (*LOCAL_NAMES, f"[{host}]" if ":" in host else host) if is_loopback(host) else ()


def built(services: Services, settings: ServerSettings, hosts: Iterable[str] = ()) -> WebApp:
    """Return the ASGI application of the services of this process, as they are now.

    :param hosts: what the header ``Host`` may say, nothing for anything.
    :raises ServiceSignatureError: two methods have one path, or somebody has one that is the server's.
    """
    hosted, guard = services.hosted, services.guard
    dispatch = Dispatch(
        hosted,
        (JSON, MSGPACK),
        max_body=settings.max_body,
        concurrency=settings.concurrency,
        guard=guard,
    )
    told = list(_told(services))
    taken = [*OWN, *(path for path, _ in told)]
    rest = Rest(hosted, dispatch.load, max_body=settings.max_body, taken=taken, guard=guard)
    auth = services.settings.auth
    anonymous = anybody(() if auth is None else auth.anonymous)
    healths = {HEALTH, LIVE, READY, *(path for path, _ in told)}
    app = WebApp(
        dispatch,
        rest,
        guard=guard,
        public=lambda path: path in healths or anonymous(path),
        hosts=hosts,
    )
    title = ", ".join(services.components) or "Services"
    app.add(describing(hosted, title=title, version=version, asked=_asked(auth)))
    app.add(telling(services.health, told, may_know=_may_know))
    for path, mounted in services.mounts.items():
        app.mount(path, mounted)
    return app


def _asked(auth: AuthSettings | None) -> list[str] | None:
    """Return how callers say who they are, for the document of OpenAPI."""
    if auth is None:
        return None
    tokens = [BEARER] if auth.jwt is not None or auth.tokens else []
    return [*tokens, MUTUAL_TLS] if auth.certificates else tokens


def _may_know(scope: Any) -> bool:
    """Return whether who asks for health may know of each check: from this machine, or known."""
    one = caller()
    return (one is not None and bool(one.name)) or from_here(scope)


def _told(services: Services) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the paths at which components tell their health, and what tells it."""
    for component in services.components.values():
        path = endpoint_of(component)
        if path:
            yield path, component.get_health
