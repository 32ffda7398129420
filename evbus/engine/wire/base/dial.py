"""Open a TCP connection to a host that may have several addresses."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from aiohappyeyeballs import start_connection

__all__ = ["dial"]

#: Seconds that an address may be silent before the next one is tried beside it (RFC 8305, section 5).
NEXT_ADDRESS_AFTER = 0.25

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


async def dial(
    protocol: Callable[[], _Protocol],
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> tuple[asyncio.Transport, _Protocol]:
    """Connect to the first of a host's addresses that answers, and return the transport and its protocol.

    The event loop's own way asks one address after the other, and never comes to the second when the first
    is silent for the whole time that there is; uvloop has no other way.

    :param context: speaks TLS, with the name ``server_name`` (default: the host).
    :raises OSError: the name has no address, or none of them could be reached.
    """
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    reached = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER)
    name = (server_name or host) if context is not None else None
    transport, made = await loop.create_connection(protocol, sock=reached, ssl=context, server_hostname=name)
    return transport, made
