"""What the HTTP server serves: calls, routes, and mounted applications. An ASGI application itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount

from evbus.engine.service.encoding import JSON
from evbus.engine.service.failures import refusal, status_of
from evbus.engine.service.guard import NOBODY, Calling, Guard, check_known
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.hosts import Hosts
from evbus.engine.web.request import Receive, RefusedRequest, Send, caller_of, challenge, respond
from evbus.engine.web.rest import Rest
from evbus.errors import EvbusError

__all__ = ["WebApp"]

INVOKE = "/invoke"


class WebApp:
    """An ASGI application: ``POST /invoke``, methods that have a path, and what is added.

    Others can mount it (``app.mount("/services", web_app)`` of Starlette and FastAPI), and it can mount them.

    :param dispatch: answers calls.
    :param rest: answers those of methods that have a path, None for no such calls.
    :param guard: says who asks for what is added, None where nobody is asked.
    :param public: returns whether anybody may ask for a path of that.
    :param hosts: what the header ``Host`` may say; empty for anything.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        rest: Rest | None = None,
        *,
        guard: Guard | None = None,
        public: Callable[[str], bool] = lambda path: False,
        hosts: Iterable[str] = (),
    ) -> None:
        self._dispatch = dispatch
        self._guard = guard
        self._public = public
        self._hosts = Hosts(hosts) if hosts else None
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
            if self._hosts is not None and not self._hosts.has(scope):
                await _misdirected(send)
                return
            path = _path(scope)
            if path == INVOKE:
                await self._dispatch(scope, receive, send)
                return
            rest = self._rest
            found = None if rest is None else rest.find(scope)
            if rest is not None and found is not None:
                await rest.answer(found, scope, receive, send)
                return
            if self._guard is not None:
                await self._guarded(self._guard, path, scope, receive, send)
                return
        await self._starlette(scope, receive, send)

    async def _guarded(self, guard: Guard, path: str, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request for what is added, once it is known who sends it."""
        public = self._public(path)
        try:
            caller = await caller_of(guard, scope)
            if not public:
                check_known(caller, None)
        except (RefusedRequest, EvbusError) as exc:
            if not public:
                status = exc.status if isinstance(exc, RefusedRequest) else status_of(exc)
                error = exc.error if isinstance(exc, RefusedRequest) else refusal(exc)
                body = JSON.encode({"error": error})
                await respond(send, status, JSON.type, body, *challenge(exc, scope))
                return
            caller = NOBODY
        with Calling(caller):
            await self._starlette(scope, receive, send)


async def _misdirected(send: Send) -> None:
    """Say that the request is for another server (RFC 9110, section 15.5.20)."""
    said = "this server is not called what the header Host says; the setting server.hosts has its names"
    body = JSON.encode({"error": {"type": "MisdirectedRequest", "reason": said}})
    await respond(send, 421, JSON.type, body)


async def _nothing(scope: Any, receive: Receive, send: Send) -> None:
    """Say that nothing is there."""
    error = {"type": "NotFound", "reason": "there is nothing at this path"}
    await respond(send, 404, JSON.type, JSON.encode({"error": error}))


def _path(scope: Any) -> str:
    """Return the path below where this is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path
