"""What the HTTP server serves: calls, routes, and mounted applications. An ASGI application itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount

from evbus.engine.service.encoding import JSON
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.request import Receive, Send, respond
from evbus.engine.web.rest import Rest

__all__ = ["WebApp"]

INVOKE = "/invoke"


class WebApp:
    """An ASGI application: ``POST /invoke``, methods that have a path, and what is added.

    Others can mount it (``app.mount("/services", web_app)`` of Starlette and FastAPI), and it can mount them.

    :param dispatch: answers calls.
    :param rest: answers those of methods that have a path, None for no such calls.
    """

    def __init__(self, dispatch: Dispatch, rest: Rest | None = None) -> None:
        self._dispatch = dispatch
        self._rest = rest
        self._starlette = Starlette()
        self._starlette.router.default = _nothing
        self._mounted: list[Any] = []

    def __repr__(self) -> str:
        return f"<WebApp {INVOKE} and {len(self._starlette.router.routes)} routes>"

    def add(self, routes: Iterable[BaseRoute]) -> None:
        """Serve routes of Starlette; of two that fit, the first that was added is taken."""
        self._starlette.router.routes.extend(routes)

    def mount(self, path: str, app: Any) -> None:
        """Serve another ASGI application below a path; :meth:`lifespan` begins and ends it."""
        self.add([Mount(path, app)])
        self._mounted.append(app)

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None, None]:
        """Have mounted applications of Starlette and FastAPI begin and end: their ``lifespan``."""
        async with contextlib.AsyncExitStack() as stack:
            for app in self._mounted:
                router = getattr(app, "router", None)
                if router is not None:
                    await stack.enter_async_context(router.lifespan_context(app))
            yield

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        # Calls go past Starlette's routes, which take as long as many a method.
        if scope["type"] == "http":
            if _path(scope) == INVOKE:
                await self._dispatch(scope, receive, send)
                return
            rest = self._rest
            found = None if rest is None else rest.find(scope)
            if rest is not None and found is not None:
                await rest.answer(found, scope, receive, send)
                return
        await self._starlette(scope, receive, send)


async def _nothing(scope: Any, receive: Receive, send: Send) -> None:
    """Say that nothing is there."""
    error = {"type": "NotFound", "reason": "there is nothing at this path"}
    await respond(send, 404, JSON.type, JSON.encode({"error": error}))


def _path(scope: Any) -> str:
    """Return the path below where this is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path
