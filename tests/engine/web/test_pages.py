"""The pages of the HTTP server: OpenAPI, its page, and health."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from evbus.engine.service.declare import Service, service, service_spec
from evbus.engine.service.encoding import JSON
from evbus.engine.service.health import Health, HealthCheckManager, HealthStatus, Result
from evbus.engine.service.hosted import Hosted
from evbus.engine.service.rest import post
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.pages import describing, from_here, telling
from evbus.engine.wire.http.pool import Answer, HttpPool, address_of
from evbus.errors import ServiceSignatureError
from tests.engine.describe.test_openapi import Holder
from tests.engine.web.rest_kit import WAIT, Shop, ShopImpl, serving


@contextlib.asynccontextmanager
async def paged(routes: Any) -> AsyncGenerator[str, None]:
    app = WebApp(Dispatch(Hosted(lambda: None), [JSON], max_body=1000, concurrency=10))
    app.add(routes)
    async with serving(app) as server:
        yield server.url


async def read(url: str, path: str) -> Answer:
    pool = HttpPool(connections=1, connect_timeout=WAIT, max_answer=1_000_000)
    try:
        return await pool.request(
            address_of(url), f"GET {path} HTTP/1.1\r\nhost: localhost\r\n".encode(), b""
        )
    finally:
        await pool.close()


def hosting(interface: type, implementation: Any) -> Hosted:
    hosted = Hosted(lambda: None)
    hosted.add("store", service_spec(interface), implementation)
    return hosted


# -- OpenAPI ---------------------------------------------------------------------------------------


async def test_the_document_and_its_page() -> None:
    async with paged(describing(hosting(Shop, ShopImpl()), title="store", version="1")) as url:
        found, seen = await read(url, "/openapi.json"), await read(url, "/docs")
    made = json.loads(found.body)
    OpenAPIV31SpecValidator(made).validate()
    assert "/api/hello/{name}" in made["paths"]
    assert found.content_type == "application/json"
    assert seen.content_type == "text/html"
    assert b"/api/hello/{name}" in seen.body
    assert seen.headers["content-security-policy"].startswith("default-src 'none'")


@service()
class Undescribed(Service):
    @post("/")
    def take(self, item: Holder) -> None: ...


async def test_a_type_that_cannot_be_described_is_told() -> None:
    implementation = type("Impl", (Undescribed,), {})()
    async with paged(describing(hosting(Undescribed, implementation), title="x", version="1")) as url:
        found = await read(url, "/openapi.json")
    assert found.status == 500
    assert json.loads(found.body)["error"]["reason"].startswith(
        "the type of the argument 'item' of Undescribed.take has no JSON Schema: "
    )


# -- health ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def healthy(
    status: HealthStatus = HealthStatus.OK, *components: Any, may_know: Any = None
) -> AsyncGenerator[tuple[str, HealthCheckManager], None]:
    manager = HealthCheckManager()

    async def disk(result: Result) -> None:
        result.set_status(status, "97 % used")

    manager.add_check("disk", disk)
    async with paged(telling(manager, components, may_know=may_know)) as url:
        yield url, manager
    await manager.close()


@pytest.mark.parametrize(
    ("status", "code", "ready"),
    [(HealthStatus.OK, 200, 200), (HealthStatus.WARNING, 429, 200), (HealthStatus.ERROR, 500, 503)],
)
async def test_the_worst_check_is_told(status: HealthStatus, code: int, ready: int) -> None:
    told = {
        "status": str(status),
        "checks": [{"name": "disk", "status": str(status), "details": "97 % used"}],
    }
    async with healthy(status) as (url, _):
        every, whether = await read(url, "/health"), await read(url, "/health/ready")
        live = await read(url, "/health/live")
    assert (every.status, json.loads(every.body)) == (code, told)
    assert (whether.status, json.loads(whether.body)) == (ready, told)
    # Whatever the checks say.
    assert (live.status, json.loads(live.body)) == (200, {"status": "OK"})
    assert {every.headers["cache-control"], live.headers["cache-control"]} == {"no-store"}


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/shop"])
async def test_who_may_not_know_is_told_the_status_alone(path: str) -> None:
    async def own() -> Health:
        return Health(HealthStatus.ERROR)

    async with healthy(HealthStatus.ERROR, ("/shop", own), may_know=lambda scope: False) as (url, _):
        assert json.loads((await read(url, path)).body) == {"status": "ERROR"}


@pytest.mark.parametrize(
    ("client", "header", "local"),
    [
        (("127.0.0.1", 1), b"accept", True),
        (("::1", 1), b"accept", True),
        (("10.0.0.1", 1), b"accept", False),
        (("x", 1), b"accept", False),
        (None, b"accept", False),
        # A proxy on this machine passes on what comes from others.
        (("127.0.0.1", 1), b"x-forwarded-for", False),
        (("127.0.0.1", 1), b"forwarded", False),
    ],
)
def test_who_asks_from_here(client: Any, header: bytes, local: bool) -> None:
    assert from_here({"client": client, "headers": [(b"host", b"x"), (header, b"y")]}) is local


async def test_who_stops_is_not_ready_and_lives() -> None:
    async with healthy() as (url, manager):
        manager.stopping = "it is being stopped"
        assert (await read(url, "/health/ready")).status == 503
        assert (await read(url, "/health")).status == 500
        assert (await read(url, "/health/live")).status == 200


async def test_components_tell_their_own_health() -> None:
    async def good() -> Health:
        return Health(HealthStatus.WARNING)

    def bad() -> Health:
        raise ConnectionError("no database")

    components = [("/shop", good), ("/store/health", bad), ("/none", lambda: None)]
    async with healthy(HealthStatus.OK, *components) as (url, _):
        shop, store = await read(url, "/shop"), await read(url, "/store/health")
        none = await read(url, "/none")
        assert (await read(url, "/health")).status == 200
    assert (shop.status, json.loads(shop.body)) == (429, {"status": "WARNING", "checks": []})
    assert (store.status, json.loads(store.body)["checks"][0]["details"]) == (
        500,
        "ConnectionError: no database",
    )
    assert json.loads(none.body)["checks"][0]["details"] == (
        "TypeError: get_health returns a HealthCheckManager.Health, and not NoneType"
    )


async def test_a_component_may_have_the_path_of_all() -> None:
    async def own() -> Health:
        return Health(HealthStatus.WARNING)

    async with healthy(HealthStatus.OK, ("/health", own)) as (url, _):
        assert (await read(url, "/health")).status == 429
        assert (await read(url, "/health/ready")).status == 200


@pytest.mark.parametrize("path", ["/health/live", "/docs", "/invoke"])
def test_a_component_has_a_path_of_its_own(path: str) -> None:
    with pytest.raises(
        ServiceSignatureError, match=f"@health\\('{path}'\\): this path is another one's already"
    ):
        telling(HealthCheckManager(), [(path, lambda: None)])
