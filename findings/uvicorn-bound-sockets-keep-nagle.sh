#!/usr/bin/env bash
# asyncio sets TCP_NODELAY on a connection only where its socket says that its protocol is IPPROTO_TCP. A socket that is made
# without one, as by socket.socket(AF_INET) or socket.create_server, says 0, and so do those that it accepts. uvicorn binds such a
# socket itself (Config.bind_socket) for several workers, for reload, and whoever hands it sockets= mostly does: its answers go
# with Nagle's algorithm on then. It writes head and body of an answer one by one, so that the second waits for the client's
# delayed ACK, some 40 ms. The same program with one worker has it off.
#
# Seen with CPython 3.11.7 and uvicorn 0.54.0:
#
#     listens itself: nodelay True
#     bind_socket: nodelay False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install uvicorn==0.54.0
"$work/venv/bin/python" - >"$work/found" <<'END'
import asyncio
import socket

import uvicorn

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})

async def nodelay(bound):
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="error", loop="asyncio", http="h11")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[config.bind_socket()] if bound else None))
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readline()
    (connection,) = server.server_state.connections
    sock = connection.transport.get_extra_info("socket")
    found = bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    writer.close()
    server.should_exit = True
    await serving
    return found

for name, bound in (("listens itself", False), ("bind_socket", True)):
    print(f"{name}: nodelay {asyncio.run(nodelay(bound))}")
END
cat "$work/found"
python3 - "$work/found" <<'END'
import sys

with open(sys.argv[1]) as file:
    found = file.read().splitlines()
assert found == ["listens itself: nodelay True", "bind_socket: nodelay False"], found
END
