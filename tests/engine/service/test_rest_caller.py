"""The channel `rest` calls a server that is somebody else's."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from evbus.engine.service.declare import Service, rest, service
from evbus.engine.service.rest import Header, QueryParam, delete, get, post
from evbus.errors import (
    AuthorizationError,
    RemoteServiceError,
    ServiceCommunicationError,
    ServiceError,
    ServiceTimeout,
)
from tests.engine.web.rest_kit import called, serving


class NoSuchItem(Exception):
    """What a 404 of the others stands for."""


@dataclass
class Found:
    name: str
    since: dt.date | None = None


@service()
@rest("/v1", errors={NoSuchItem: 404})
class Foreign(Service):
    """What somebody else has."""

    @get("/items/{name}")
    async def item(self, name: str) -> Found: ...

    @post("/items")
    async def add(
        self,
        found: Found,
        page_size: Annotated[int, QueryParam("page-size")] = 10,
        api_key: Annotated[str, Header("x-api-key")] = "",
    ) -> dict[str, Any]: ...

    @delete("/items/{name}")
    async def remove(self, name: str) -> None: ...

    @get("/fail")
    async def fail(self, status: int, body: str = "", kind: str = "application/json") -> None: ...

    @get("/text")
    async def text(self) -> str: ...

    @get("/redirect")
    async def redirect(self) -> str: ...

    @get("/headers")
    async def headers(
        self,
        user_agent: Annotated[str, Header],
        authorization: Annotated[str, Header] = "",
        accept: Annotated[str | None, Header] = None,
    ) -> dict[str, str]: ...


async def item(request: Request) -> Response:
    name = request.path_params["name"]
    if name == "none":
        raise HTTPException(404, "there is no such item")
    return JSONResponse({"name": name, "since": "2026-11-30", "more": 1})


async def add(request: Request) -> Response:
    return JSONResponse(
        {
            "body": await request.json(),
            "query": dict(request.query_params),
            "key": request.headers.get("x-api-key"),
            "type": request.headers["content-type"],
        },
        status_code=201,
        media_type="application/hal+json",
    )


async def remove(request: Request) -> Response:
    return Response(status_code=204)


async def fail(request: Request) -> Response:
    query = request.query_params
    return Response(
        query.get("body", ""), int(query["status"]), media_type=query.get("kind", "application/json")
    )


async def text(request: Request) -> Response:
    return PlainTextResponse("hello")


async def redirect(request: Request) -> Response:
    return RedirectResponse("http://elsewhere.example/")


async def headers(request: Request) -> Response:
    return JSONResponse({name: value for name, value in request.headers.items() if name != "host"})


async def as_json(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return JSONResponse({"detail": problem.detail}, problem.status_code)


APP = Starlette(
    routes=[
        Route("/v1/items/{name}", item),
        Route("/v1/items", add, methods=["POST"]),
        Route("/v1/items/{name}", remove, methods=["DELETE"]),
        Route("/v1/fail", fail),
        Route("/v1/text", text),
        Route("/v1/redirect", redirect),
        Route("/v1/headers", headers),
    ],
    exception_handlers={HTTPException: as_json},
)


@contextlib.asynccontextmanager
async def elsewhere() -> AsyncGenerator[str, None]:
    async with serving(_Theirs()) as server:
        yield server.url


class _Theirs:
    """Their application, for our server to serve."""

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None, None]:
        yield

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await APP(scope, receive, send)


async def ask(url: str, name: str, *args: Any, **kwargs: Any) -> Any:
    return await called(url, name, *args, interface=Foreign, **kwargs)


async def test_results_bodies_queries_and_headers() -> None:
    async with elsewhere() as url:
        assert await ask(url, "item", "a b") == Found("a b", dt.date(2026, 11, 30))
        assert await ask(url, "add", Found("nut"), 5, api_key="secret") == {
            "body": {"name": "nut", "since": None},
            "query": {"page-size": "5"},
            "key": "secret",
            "type": "application/json",
        }
        assert await ask(url, "remove", "nut") is None


async def test_headers_that_are_arguments_are_sent_whatever_they_are() -> None:
    async with elsewhere() as url:
        found = await ask(url, "headers", "mine/1", "Bearer x", "application/problem+json")
        assert {name: found[name] for name in ("user-agent", "authorization", "accept")} == {
            "user-agent": "mine/1",
            "authorization": "Bearer x",
            "accept": "application/problem+json",
        }
        assert (await ask(url, "headers", "mine/1"))["accept"] == "application/json"


async def test_a_status_that_the_interface_declares() -> None:
    async with elsewhere() as url:
        with pytest.raises(NoSuchItem, match="^there is no such item$"):
            await ask(url, "item", "none")


@pytest.mark.parametrize(
    ("status", "body", "kind", "error", "said"),
    [
        (400, '{"detail": "bad"}', "application/json", RemoteServiceError, "HTTP status 400: bad"),
        (
            422,
            '{"detail": [{"loc": ["query", "x"], "msg": "missing"}]}',
            "application/json",
            RemoteServiceError,
            'HTTP status 422: [{"loc":["query","x"],"msg":"missing"}]',
        ),
        (
            409,
            '{"type": "about:blank", "title": "Conflict"}',
            "application/problem+json",
            RemoteServiceError,
            "HTTP status 409: Conflict",
        ),
        (400, "<html>", "text/html", RemoteServiceError, "HTTP status 400"),
        (400, "{", "application/json", RemoteServiceError, "HTTP status 400"),
        (400, "[1]", "application/json", RemoteServiceError, "HTTP status 400"),
        (401, "", "", AuthorizationError, "HTTP status 401"),
        (403, '{"message": "no"}', "application/json", AuthorizationError, "HTTP status 403: no"),
        (429, "", "", ServiceCommunicationError, "HTTP status 429"),
        (500, '{"error": "oops"}', "application/json", ServiceCommunicationError, "HTTP status 500: oops"),
        (503, "", "", ServiceCommunicationError, "HTTP status 503"),
        (504, "", "", ServiceTimeout, "HTTP status 504"),
    ],
)
async def test_other_statuses(status: int, body: str, kind: str, error: type[Exception], said: str) -> None:
    async with elsewhere() as url:
        with pytest.raises(error) as caught:
            await ask(url, "fail", status, body, kind)
    assert type(caught.value) is error
    assert str(caught.value).endswith(f"the server answered with the {said}")
    assert f"Foreign.fail of the component 'store' over rest at {url}" in str(caught.value)
    if isinstance(caught.value, AuthorizationError):
        assert caught.value.known is (status == 403)


@pytest.mark.parametrize("name", ["text", "redirect"])
async def test_what_is_no_answer_to_a_call(name: str) -> None:
    async with elsewhere() as url:
        with pytest.raises((ServiceCommunicationError, RemoteServiceError)) as caught:
            await ask(url, name)
    assert "200 with text/plain" in str(caught.value) or "HTTP status 307" in str(caught.value)


async def test_a_result_that_does_not_fit() -> None:
    async with elsewhere() as url:
        with pytest.raises(ServiceError, match="its result does not fit the interface"):
            await ask(url, "fail", 200, '{"a": 1}')
        with pytest.raises(ServiceError, match="its answer cannot be read"):
            await ask(url, "fail", 200, "{")
