"""Asking by requests, and serving them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from evbus.errors import DeliveryError, Rejected
from evbus.types import Delivery, Envelope
from tests.transports.kit import WAIT, Following, new_hub
from tests.transports.table import Place, Sender

UNKNOWN = "it is not known whether the request was handled"
OWN = ("correlation-id", "reply-to", "expiration")


async def ask(send: Sender, sent: Envelope, timeout: float = WAIT) -> Envelope:
    request = send.kit.ingress(send.hub).request(send.ctx, sent, timeout)
    found: Envelope = await asyncio.wait_for(request, 2 * WAIT)
    return found


def asking(send: Sender, sent: Envelope, timeout: float = WAIT) -> asyncio.Task[Envelope]:
    return asyncio.ensure_future(ask(send, sent, timeout))


def waiting(send: Sender) -> int:
    """Return how many requests wait for their replies."""
    said = repr(getattr(send.ctx.state, "requester", send.ctx.state))
    found = re.search(r"(?:requests|waiting)=(\d+)", said)
    return int(found[1]) if found else 0


def answer_to(request: Envelope, body: bytes, **headers: str) -> Envelope:
    kept = {"correlation-id": request.headers["correlation-id"], **headers}
    return Envelope("server", "", body, kept)


class Server(NamedTuple):
    """A server of requests, which has a connection of its own.

    :ivar following: returns the next request.
    """

    following: Following
    send: Sender

    async def reply(self, request: Envelope, reply: Envelope) -> None:
        """Send a reply to where a request wants it."""
        replying = self.send.kit.ingress(self.send.hub).reply(
            self.send.ctx, request.headers["reply-to"], reply
        )
        await asyncio.wait_for(replying, WAIT)

    async def answer(self, delivery: Delivery, body: bytes = b"") -> None:
        """Reply with a body, or the request's own, and acknowledge the request."""
        request = delivery.envelope
        await self.reply(request, answer_to(request, body or request.body))
        delivery.ack()


@asynccontextmanager
async def serving(place: Place) -> AsyncIterator[Server]:
    hub = new_hub()
    data = {"hub": hub, "first_connect": "wait"}
    async with place.sending(**data) as send, place.consuming(most=1000, **data) as following:
        yield Server(following, send)


@asynccontextmanager
async def echoing(place: Place) -> AsyncIterator[None]:
    """Answer each request with its body, until left; what cannot be answered now is taken again."""

    async def serve() -> None:
        async with serving(place) as server:
            await answer_all(server.following, server.answer)

    async with beside(serve()):
        yield


async def answer_all(
    following: Callable[[], Awaitable[Delivery]], answer: Callable[[Delivery], Awaitable[object]]
) -> None:
    """Answer each request as it comes, for ever; what cannot be answered now is taken again."""
    while True:
        delivery = await following()
        try:
            await answer(delivery)
        except Rejected:
            delivery.ack()
        except DeliveryError:
            delivery.reject(requeue=True)


@asynccontextmanager
async def beside(served: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine until left; what it raises meanwhile is raised then."""
    task = asyncio.ensure_future(served)
    try:
        yield
    finally:
        # Before Python 3.12 wait_for() forgets a cancellation that comes together with its result.
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=5)
        if not task.cancelled():
            task.result()
