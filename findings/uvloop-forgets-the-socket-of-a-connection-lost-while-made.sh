#!/usr/bin/env bash
# uvloop closes the descriptor of a connection and leaves the socket object, that was given to create_connection(sock=...), open, when
# the connection is lost while it is made: when connection_made writes to a peer that has reset it, or aborts. The object owns
# the bare number from then on. When it is collected it closes whatever has the number by that time: another connection, a
# file, the epoll descriptor of a loop.
#
# The loss is worked off before create_connection ties the object to the transport, so nothing unties it. Happy-eyeballs
# clients hand over sockets (aiohappyeyeballs and what is built on it); those whose protocols say the first word meet it when a
# broker or a proxy restarts. asyncio's own loop closes the object. sock.detach() is safe under uvloop as soon as the transport is closing.
#
# Seen with uvloop 0.23.0, after the connection is gone:
#
#     asyncio: the socket object is closed
#     uvloop: the socket object has a number that is closed
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install uvloop==0.23.0
"$work/venv/bin/python" - <<'END'
import asyncio
import os
import socket

import uvloop


class Ends(asyncio.Protocol):
    def connection_made(self, transport):
        transport.abort()


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, server.sockets[0].getsockname())
    await loop.create_connection(Ends, sock=sock)
    await asyncio.sleep(0.1)
    server.close()
    if sock.fileno() == -1:
        return "is closed"
    try:
        os.fstat(sock.fileno())
    except OSError:
        return "has a number that is closed"
    finally:
        sock.detach()
    return "is open"


for name, make, expected in (
    ("asyncio", asyncio.new_event_loop, "is closed"),
    ("uvloop", uvloop.new_event_loop, "has a number that is closed"),
):
    with asyncio.Runner(loop_factory=make) as runner:
        found = runner.run(main())
    print(f"{name}: the socket object {found}")
    assert found == expected, (name, found)
END
