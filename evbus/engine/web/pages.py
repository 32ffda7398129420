"""What the HTTP server says of itself: the OpenAPI document, the page of it, and health."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from evbus.engine.describe.openapi import RestMethod, document
from evbus.engine.describe.openapi_page import POLICY, page
from evbus.engine.kit.loopback import is_loopback
from evbus.engine.kit.redact import problem_text
from evbus.engine.service.encoding import JSON
from evbus.engine.service.health import HEALTH, Health, HealthCheckManager, HealthStatus, Result
from evbus.engine.service.hosted import Hosted
from evbus.errors import ConfigError, ServiceSignatureError

__all__ = ["DOCS", "LIVE", "OPENAPI", "OWN", "READY", "describing", "from_here", "telling"]

log = logging.getLogger("evbus.service")

OPENAPI, DOCS = "/openapi.json", "/docs"
LIVE, READY = f"{HEALTH}/live", f"{HEALTH}/ready"
#: Paths that are the server's own.
OWN = ("/invoke", OPENAPI, DOCS, HEALTH, LIVE, READY)
#: Headers of requests that somebody has passed on.
_FORWARDED = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})
#: What is told is of now.
_NOW = {"cache-control": "no-store"}

#: What is told of a component: its own health.
Tell = Callable[[], Any]


def describing(
    hosted: Hosted, *, title: str, version: str, asked: Sequence[str] | None = None
) -> list[Route]:
    """Return the routes of the OpenAPI document of the methods that have a path, and of its page.

    :param title: of the API, and so ``version``.
    :param asked: how callers say who they are, as :func:`.document` has it.
    """

    @cache
    def made() -> dict[str, Any]:
        methods = hosted.methods()
        found = [
            RestMethod(one.service, one.spec.route, one.access.anonymous)
            for one in methods
            if one.spec.route is not None
        ]
        return document(found, title=title, version=version, asked=asked)

    async def as_json(request: Request) -> Response:
        return _described(lambda: _json(made()))

    async def as_page(request: Request) -> Response:
        return _described(lambda: HTMLResponse(page(made()), headers={"content-security-policy": POLICY}))

    return [Route(OPENAPI, as_json), Route(DOCS, as_page)]


def telling(
    manager: HealthCheckManager,
    components: Iterable[tuple[str, Tell]] = (),
    *,
    may_know: Callable[[Any], bool] | None = None,
) -> list[Route]:
    """Return the routes of health.

    ``/health`` is the worst of all checks: 200, 429 or 500. ``/health/live`` says that the process answers,
    and runs no check. ``/health/ready`` is 200 as long as no check says ERROR, else 503: a WARNING is no
    reason to send no more calls here.

    :param components: paths at which the health of a component is told, and what tells it.
    :param may_know: returns whether who sends a request, by its scope, may know of each check; default: those
        that send it from this machine, and not through a proxy. Others are told the status.
    :raises ServiceSignatureError: two components have the same path.
    """
    knows = from_here if may_know is None else may_know

    def told(found: Health, request: Request, code: int) -> Response:
        return _json(found.to_dict(details=knows(request.scope)), code)

    async def every(request: Request) -> Response:
        found = await manager.check()
        return told(found, request, found.status.code)

    async def live(request: Request) -> Response:
        return _json({"status": str(HealthStatus.OK)})

    async def ready(request: Request) -> Response:
        found = await manager.check()
        return told(found, request, 503 if found.status is HealthStatus.ERROR else 200)

    def own(tell: Tell) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            found = await _asked(tell)
            return told(found, request, found.status.code)

        return answer

    routes = {LIVE: Route(LIVE, live), READY: Route(READY, ready)}
    for path, tell in components:
        if path in routes or path in (OPENAPI, DOCS, "/invoke"):
            raise ServiceSignatureError(
                f"@health({path!r}): this path is another one's already; choose another for the component"
            )
        routes[path] = Route(path, own(tell))
    routes.setdefault(HEALTH, Route(HEALTH, every))
    return list(routes.values())


def from_here(scope: Any) -> bool:
    """Return whether a request comes from this machine, and not through a proxy on it."""
    client = scope.get("client")
    if not client or any(name in _FORWARDED for name, _ in scope["headers"]):
        return False
    return is_loopback(client[0])


async def _asked(tell: Tell) -> Health:
    """Return what a component says of its health; one that raises is an ERROR."""
    try:
        found = tell()
        if inspect.isawaitable(found):
            found = await found
        if isinstance(found, Health):
            return found
        raise TypeError(f"get_health returns a HealthCheckManager.Health, and not {type(found).__name__}")
    except Exception as exc:
        log.debug("the health of a component could not be told", exc_info=True)
        result = Result("get_health")
        result.set_status(HealthStatus.ERROR, problem_text(exc))
        return Health(results=[result])


def _described(make: Callable[[], Response]) -> Response:
    try:
        return make()
    except ConfigError as exc:
        log.error("there is no OpenAPI document: %s", exc)
        return _json({"error": {"type": "ConfigError", "reason": str(exc)}}, 500)


def _json(value: Any, status: int = 200) -> Response:
    return Response(JSON.encode(value), status, media_type=JSON.type, headers=_NOW)
