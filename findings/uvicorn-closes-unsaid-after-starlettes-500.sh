#!/usr/bin/env bash
# Starlette (and so FastAPI) answers an exception that nobody handles with 500. The answer says nothing of the connection, so that
# by HTTP/1.1 it stays. Starlette then raises the exception again, for the server to log it, and uvicorn closes the connection
# of an application that raises. A client that keeps connections sends its next request into that one: it fails, although the
# server would have answered it. Some clients send a GET again; a POST fails. A handler for Exception changes the answer only.
# For an application that raises before it answered, uvicorn answers itself, and says `connection: close`.
#
# Seen with CPython 3.11.7, Starlette 1.10.0 and uvicorn 0.54.0, by h11 and by httptools alike:
#
#     bare application: 500, connection: close
#     Starlette: 500, connection: None
#     next request: failed
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install starlette==1.10.0 uvicorn==0.54.0 httptools==0.9.0
"$work/venv/bin/python" - >"$work/found" <<'END'
import asyncio
import http.client

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

async def bare(scope, receive, send):
    raise RuntimeError

async def fail(request):
    raise RuntimeError

def asked(connection):
    try:
        connection.request("POST", "/", b"{}")
        answer = connection.getresponse()
    except ConnectionError:
        return "failed"
    answer.read()
    return f"{answer.status}, connection: {answer.headers['connection']}"

async def found(app, http_plugin, requests):
    config = uvicorn.Config(app, port=0, lifespan="off", log_level=60, loop="asyncio", http=http_plugin)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    connection = http.client.HTTPConnection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1], timeout=10)
    said = []
    for _ in range(requests):
        said.append(await asyncio.to_thread(asked, connection))
        await asyncio.sleep(0.2)  # the close has come
    connection.close()
    server.should_exit = True
    await serving
    return said

for name in ("h11", "httptools"):
    (first,) = asyncio.run(found(bare, name, 1))
    second, third = asyncio.run(found(Starlette(routes=[Route("/", fail, methods=["POST"])]), name, 2))
    print(f"bare application: {first}\nStarlette: {second}\nnext request: {third}")
END
cat "$work/found"
python3 - "$work/found" <<'END'
import sys

with open(sys.argv[1]) as file:
    found = file.read().splitlines()
seen = ["bare application: 500, connection: close", "Starlette: 500, connection: None", "next request: failed"]
assert found == 2 * seen, found
END
