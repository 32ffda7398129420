"""Connect to the hosts of a profile by TCP and TLS, and say in one sentence what goes wrong on the way."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohappyeyeballs import start_connection

from evbus.engine.kit.redact import secrets_of
from evbus.engine.kit.waiting import call
from evbus.engine.wire.base.profile import BrokerProfile
from evbus.engine.wire.base.supervisor import Connection, LiveSession
from evbus.engine.wire.base.tls import Tls, client_context, tls_reason
from evbus.errors import Unavailable

__all__ = ["TLS_ALERT", "Way", "attempt", "causes", "connection_of", "dial", "hung_up", "reason", "wants_tls"]

#: Seconds that an address may be silent before the next one is tried beside it (RFC 8305, section 5).
NEXT_ADDRESS_AFTER = 0.25
#: A TLS alert, which is how a TLS port answers what is no TLS (RFC 8446, section 5.1).
TLS_ALERT = b"\x15\x03"

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)
_Session = TypeVar("_Session", bound=LiveSession)


class Way(NamedTuple):
    """One host of a profile, and the TLS to speak with it, if any."""

    host: str
    port: int
    tls: Tls | None = None
    context: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


async def dial(protocol: Callable[[], _Protocol], way: Way) -> tuple[asyncio.Transport, _Protocol]:
    """Connect to the first of a host's addresses that answers, and return the transport and its protocol.

    The event loop's own way asks one address after the other, and never comes to the second when the first
    is silent for the whole time that there is; uvloop has no other way.

    :raises OSError: the name has no address, or none of them could be reached.
    """
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(way.host, way.port, type=socket.SOCK_STREAM)
    reached = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER)
    # Without heartbeats this is the only sign of life that is asked for.
    reached.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    name = ((way.tls and way.tls.server_name) or way.host) if way.context is not None else None
    try:
        transport, made = await loop.create_connection(
            protocol, sock=reached, ssl=way.context, server_hostname=name
        )
    except BaseException:
        _let_go(reached, loop)
        raise
    if transport.is_closing():
        _let_go(reached, loop)
    return transport, made


def _let_go(reached: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
    # uvloop closes a connection by its number, and one that is lost while it is made (by the protocol's first
    # write, say) before it has noted the object, which would later close whatever then has that number.
    if type(loop).__module__.partition(".")[0] == "uvloop":
        reached.detach()


def connection_of(
    profile: BrokerProfile, who: str, make: Callable[[Way], Coroutine[Any, Any, _Session]]
) -> Connection[_Session]:
    """Return the connection of a profile, not yet open.

    :param who: whose it is, for errors and logs.
    :param make: makes a session with one of the profile's hosts.
    :raises ProfileError: a file of ``tls`` is not usable.
    """
    address = profile.where()
    context = client_context(address.tls, who=who) if address.tls is not None else None
    ways = [Way(host, port, address.tls, context) for host, port in address.hosts]
    return Connection(
        who,
        lambda number: make(ways[number % len(ways)]),
        pause=(profile.reconnect.min, profile.reconnect.max),
        wait=profile.first_connect == "wait",
        attempts=len(ways),
        # The default password is no secret, and as a user's name it would be missed in errors.
        secrets=secrets_of(msgspec.to_builtins(profile)) - {"guest"},
    )


async def attempt(
    coroutine: Coroutine[Any, Any, Any],
    seconds: float,
    abort: Callable[[], None],
    why: Callable[[Exception], str],
) -> Any:
    """Await a step of connecting, and drop what there is when it fails or takes longer than ``seconds``.

    :param why: says in a sentence why it failed.
    :raises Unavailable: it failed.
    """
    try:
        return await call(coroutine, seconds)
    except BaseException as exc:
        abort()
        if not isinstance(exc, Exception):
            raise
        raise Unavailable(why(exc)) from exc


def causes(problem: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what led to it; aiormq makes chains that are rings."""
    seen: set[int] = set()
    cause: BaseException | None = problem
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__


def reason(
    problem: BaseException,
    *,
    tls: str = "",
    unresolved: str = "the host name cannot be resolved: ",
    refused: str = (
        "nothing listens there (connection refused); is the broker running, and is this its port?"
    ),
) -> str:
    """Return why a host could not be reached, whatever is to be spoken with it; ``""`` when it was.

    :param tls: stands before what went wrong in the TLS handshake.
    :param unresolved: stands before why the name has no address.
    """
    for cause in causes(problem):
        said = tls_reason(cause)
        if said:
            return tls + said
        if isinstance(cause, socket.gaierror):
            return f"{unresolved}{cause.strerror}"
        if isinstance(cause, ConnectionRefusedError) or _all_refused(cause):
            return refused
    return ""


def _all_refused(problem: BaseException) -> bool:
    """Return whether each of a host's several addresses refused; their errors are joined as text only."""
    errors = str(problem).removeprefix("Multiple exceptions: ").split(", [Errno ")
    refused = f"{errno.ECONNREFUSED}]"
    return isinstance(problem, OSError) and all(
        error.removeprefix("[Errno ").startswith(refused) for error in errors
    )


def wants_tls(scheme: str) -> str:
    """Return the sentence for a server that answered with a TLS alert; ``scheme`` is that of urls of TLS."""
    return f"the server speaks TLS on this port; use {scheme}:// or tls, or name its plain port"


def hung_up(tls: Tls | None, scheme: str) -> str:
    """Return the sentence for a server that has ended the connection before anything came from it."""
    if tls is None:
        return f"the server ended the connection without a word; it may want TLS ({scheme}://) on this port"
    want = "not take the client certificate" if tls.cert_file else "want a client certificate"
    return f"the server ended the connection in the TLS handshake; it may {want}"
