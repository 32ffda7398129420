"""All that the HTTP server of services has: calls, methods that have a path, and what describes them."""

from __future__ import annotations

from evbus.engine.service.encoding import JSON, MSGPACK
from evbus.engine.service.hosted import Hosted
from evbus.engine.service.settings import ServerSettings
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.pages import OWN, describing
from evbus.engine.web.rest import Rest
from evbus.engine.web.server import Server

__all__ = ["served"]


async def served(hosted: Hosted, settings: ServerSettings) -> Server:
    """Start a server for the implementations of this process.

    :raises ConfigError: others could reach it, and nobody is asked who he is.
    :raises ServiceError: the port is not free.
    """
    dispatch = Dispatch(hosted, (JSON, MSGPACK), max_body=settings.max_body, concurrency=settings.concurrency)
    rest = Rest(hosted, dispatch.load, max_body=settings.max_body, taken=OWN)
    app = WebApp(dispatch, rest)
    app.add(describing(hosted, title="Services", version="1"))
    return await Server.start(app, settings.host, settings.port)
