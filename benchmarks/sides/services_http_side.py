"""The sides aiohttp and FastAPI in the benchmark of services: they serve a port; aiohttp calls both."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import service_common
from aiohttp import web


def serve(port: int) -> None:
    """Serve by aiohttp until the process is ended."""

    async def invoke(request: web.Request) -> web.Response:
        call = await request.json()
        return web.json_response({"result": f"hello {call['args'][0]}", "exception": None})

    app = web.Application()
    app.add_routes([web.post("/invoke", invoke)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def serve_fastapi(port: int) -> None:
    """Serve by FastAPI until the process is ended."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/hello/{name}")
    async def hello(name: str) -> str:
        return f"hello {name}"

    uvicorn.run(app, host="127.0.0.1", port=port, http="httptools", loop="asyncio", access_log=False)


async def call(url: str, case: str, calls: int, in_flight: int) -> None:
    """Measure a case."""
    async with aiohttp.ClientSession() as session:

        async def post() -> object:
            async with session.post(f"{url}/invoke", json={"method": "hello", "args": ["world"]}) as answer:
                return (await answer.json())["result"]

        async def get() -> object:
            async with session.get(f"{url}/hello/world") as answer:
                return await answer.json()

        await service_common.measured(get if case.startswith("rest") else post, calls, in_flight)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "serve":
        serve(int(rest[0]))
    elif what == "serve-fastapi":
        serve_fastapi(int(rest[0]))
    else:
        asyncio.run(call(rest[1], rest[2], int(rest[3]), int(rest[4])))
