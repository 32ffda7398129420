"""All that the HTTP server of services has: calls, methods that have a path, what describes them, health."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from evbus.engine.service.encoding import JSON, MSGPACK
from evbus.engine.service.health import endpoint_of
from evbus.engine.service.services import Services
from evbus.engine.service.settings import ServerSettings
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.pages import OWN, describing, telling
from evbus.engine.web.rest import Rest
from evbus.engine.web.server import Server
from evbus.version import version

__all__ = ["Site", "built", "served"]


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
    app = built(services, settings)
    return Site(await Server.start(app, settings.host, settings.port), app, services)


def built(services: Services, settings: ServerSettings) -> WebApp:
    """Return the ASGI application of the services of this process, as they are now.

    :raises ServiceSignatureError: two methods have one path, or somebody has one that is the server's.
    """
    hosted = services.hosted
    dispatch = Dispatch(hosted, (JSON, MSGPACK), max_body=settings.max_body, concurrency=settings.concurrency)
    told = list(_told(services))
    taken = [*OWN, *(path for path, _ in told)]
    rest = Rest(hosted, dispatch.load, max_body=settings.max_body, taken=taken)
    app = WebApp(dispatch, rest)
    app.add(describing(hosted, title=", ".join(services.components) or "Services", version=version))
    app.add(telling(services.health, told))
    for path, mounted in services.mounts.items():
        app.mount(path, mounted)
    return app


def _told(services: Services) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the paths at which components tell their health, and what tells it."""
    for component in services.components.values():
        path = endpoint_of(component)
        if path:
            yield path, component.get_health
