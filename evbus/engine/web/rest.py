"""Methods that have a path, over HTTP: an ASGI application beside the one of ``POST /invoke``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from evbus.engine.call.forward import ERROR, OUTCOME
from evbus.engine.service.encoding import JSON
from evbus.engine.service.failures import MethodFailed, refusal, status_of, tell_undeclared
from evbus.engine.service.guard import Caller, Guard, check_known
from evbus.engine.service.hosted import Hosted, HostedMethod
from evbus.engine.service.method import EMPTY
from evbus.engine.service.rest import status_of as status_of_raised
from evbus.engine.service.route import Route, canonical
from evbus.engine.web.request import (
    Gone,
    Load,
    Receive,
    RefusedRequest,
    RequestHead,
    Send,
    body_of,
    caller_of,
    challenge,
    respond,
    unless_gone,
    unsupported,
)
from evbus.errors import EvbusError, InvalidPayload, InvalidResult, ServiceSignatureError

__all__ = ["Rest", "RestPath"]

log = logging.getLogger("evbus.service")

_FAILED = (OUTCOME.encode(), ERROR.encode())
#: Parameters that a query may have.
_MOST = 1000


class _Hit(NamedTuple):
    method: HostedMethod
    route: Route


class RestPath(NamedTuple):
    """A path that there is.

    :ivar path: as :func:`.canonical` has it.
    :ivar verbs: what stands there for each.
    """

    path: str
    verbs: Mapping[str, _Hit]


class Rest:
    """The ASGI application of the methods that have a path.

    :param hosted: the implementations, as they are now.
    :param load: how many calls are under way, of all ways in.
    :param max_body: the most bytes of a body.
    :param taken: paths that are the server's own.
    :param guard: says who calls, None where nobody is asked.
    :raises ServiceSignatureError: two methods have the same path, or one that is taken.
    """

    def __init__(
        self,
        hosted: Hosted,
        load: Load,
        *,
        max_body: int,
        taken: Iterable[str] = (),
        guard: Guard | None = None,
    ) -> None:
        self._hosted = hosted
        self._load = load
        self._max_body = max_body
        self._guard = guard
        self._literal: dict[str, dict[str, _Hit]] = {}
        self._templates: dict[str, tuple[Route, dict[str, _Hit]]] = {}
        own = frozenset(taken)
        for method in hosted.methods():
            if method.spec.route is not None:
                self._add(_Hit(method, method.spec.route), own)
        # By the number of parts; of two that fit, the one that begins with more that is no parameter.
        self._patterns: dict[int, list[tuple[Route, dict[str, _Hit]]]] = {}
        for each in sorted(self._templates.values(), key=lambda each: each[0].order):
            self._patterns.setdefault(each[0].path.count("/"), []).append(each)

    def __repr__(self) -> str:
        return f"<Rest {len(self._literal) + len(self._templates)} paths>"

    def _add(self, hit: _Hit, own: frozenset[str]) -> None:
        route = hit.route
        if route.path in own:
            raise ServiceSignatureError(
                f"{route.method.title} has the path {route.path!r}, which is the server's own; choose another"
            )
        if route.literal:
            verbs = self._literal.setdefault(route.literal, {})
        else:
            verbs = self._templates.setdefault(route.shape[1], (route, {}))[1]
        other = verbs.setdefault(route.verb, hit)
        if other is not hit:
            raise ServiceSignatureError(
                f"{other.route.method.title} and {route.method.title} have the same path, {route.verb} "
                f"{route.path!r}; give one of the interfaces another prefix by @rest"
            )

    def find(self, scope: Any) -> RestPath | None:
        """Return what is at the path of a request, None for nothing."""
        path = _path_of(scope)
        if path is None:
            return None
        verbs = self._literal.get(path)
        if verbs is not None:
            return RestPath(path, verbs)
        for route, found in self._patterns.get(path.count("/"), ()):
            if route.pattern.fullmatch(path):
                return RestPath(path, found)
        return None

    async def answer(self, found: RestPath, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        self._load.calls += 1
        try:
            caller = None if self._guard is None else await caller_of(self._guard, scope)
            verb = scope["method"]
            hit = found.verbs.get("GET" if verb == "HEAD" else verb)
            check_known(caller, None if hit is None else hit.method.access)
            if hit is None:
                allowed = ", ".join(sorted(found.verbs))
                raise RefusedRequest(
                    405, "MethodNotAllowed", f"this path takes {allowed}", (b"allow", allowed.encode())
                )
            self._load.check()
            request = RequestHead(scope)
            body = await self._body(hit.route, request, receive)
            await unless_gone(receive, self._called(hit, found.path, scope, request, body, caller, send))
        except Gone:
            return
        except RefusedRequest as exc:
            await _send(send, exc.status, {"error": exc.error}, *exc.headers)
        except asyncio.CancelledError:
            error = {"type": "ServiceError", "reason": "the server stopped before the method had ended"}
            await _send(send, 500, {"error": error}, (b"connection", b"close"))
        except Exception as exc:
            if not isinstance(exc, EvbusError):
                log.exception("a call could not be answered")
            await _send(send, status_of(exc), {"error": refusal(exc)}, *challenge(exc, scope))
        finally:
            self._load.calls -= 1

    async def _body(self, route: Route, request: RequestHead, receive: Receive) -> Any:
        """Return the body as a plain value, :data:`EMPTY` when there is none."""
        data = await body_of(request, receive, self._max_body)
        if route.body is None or (not data and not request.content_type):
            return EMPTY
        if not JSON.reads(request.content_type):
            raise unsupported(request.content_type, [JSON.type])
        return (JSON.exact if route.method.exact else JSON.decode)(data)

    async def _called(
        self,
        hit: _Hit,
        path: str,
        scope: Any,
        request: RequestHead,
        body: Any,
        caller: Caller | None,
        send: Send,
    ) -> None:
        """Call the method, and answer with what it returns."""
        route = hit.route
        try:
            try:
                values = route.read(path, _query_of(scope), _headers_of(route, scope), body)
                result = await self._hosted.call(
                    hit.method,
                    (),
                    values,
                    headers=request.headers,
                    seconds=request.seconds,
                    caller=caller,
                )
            except InvalidPayload as exc:
                raise RefusedRequest(422, "InvalidPayload", str(exc)) from None
            try:
                data = hit.method.spec.results.body(JSON, result, hit.method.component)
            except InvalidResult as exc:
                raise MethodFailed(exc, hit.method.spec) from exc
        except MethodFailed as exc:
            status = status_of_raised(exc.problem, route.errors)
            if status is None:
                tell_undeclared(route.method, exc)
                status = 500
            detail = getattr(exc.problem, "detail", None)
            error = {**exc.error, "reason": detail} if isinstance(detail, str) else exc.error
            await _send(send, status, {"error": error}, _FAILED)
        else:
            await respond(send, 200, JSON.type, data)


async def _send(send: Send, status: int, value: Any, *headers: tuple[bytes, bytes]) -> None:
    await respond(send, status, JSON.type, JSON.encode(value), *headers)


def _path_of(scope: Any) -> str | None:
    """Return the path below where the application is mounted, None for one that is no text."""
    raw = scope.get("raw_path")
    root = scope.get("root_path", "")
    try:
        if raw is None:  # not every server has it, and then a slash within a value ends it
            path = canonical(scope["path"].replace("%", "%25"))
        else:
            path = canonical(raw.decode("ascii").partition("?")[0])
    except (InvalidPayload, UnicodeDecodeError):
        return None
    if root:
        parts = path.split("/")
        path = "/" + "/".join(parts[1 + root.strip("/").count("/") + 1 :])
    return path


def _query_of(scope: Any) -> list[tuple[str, str]]:
    raw = scope.get("query_string", b"")
    if not raw:
        return []
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST)
    except ValueError:
        raise RefusedRequest(
            400, "InvalidPayload", f"the query is no percent-encoded UTF-8 of at most {_MOST} parameters"
        ) from None


def _headers_of(route: Route, scope: Any) -> dict[str, str]:
    """Return the headers that are arguments."""
    if not route.has_headers:
        return {}
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        found[raw.decode("latin-1")] = text
    return found
