"""Pump deliveries out of a source, and keep it open until everything that came out of it is settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from evbus.errors import BusStopped, PluginError
from evbus.types import Delivery, Origin

__all__ = ["Bridge", "Bridged"]

#: Deliveries that may be unsettled at once: a source may have no bound of its own.
MOST = 10_000
#: Deliveries that are taken before others get their turn: a source may never wait.
SLICE = 256


class Bridged(Delivery):
    """A delivery that a bridge handed on, which counts it until it is settled or dropped."""

    def drop(self) -> None:
        """Forget it, and count it no more."""
        settle, self._settle = self._settle, None
        if settle is not None:
            self._tag.drop()
            settle(self._tag, False, False)


class Bridge:
    """One source on its way into the lanes.

    :param deliveries: the source; closing it gives up what is unsettled.
    :param take: hands a delivery on.
    :param settled: returns when there is nothing to wait for any more, at the latest after some seconds.
    :param most: deliveries that may be unsettled at once. That of a source is for each of its connections:
        what is being sent when one is lost comes again over the next one.
    :param drain: what comes at the end is handed on as well, until the source knows of the end.
    :ivar unsettled: deliveries that were handed on and not settled; after the end, those left to the source.
    """

    def __init__(
        self,
        deliveries: AsyncGenerator[Delivery, None],
        take: Callable[[Delivery], None],
        settled: Callable[[float], Awaitable[None]],
        *,
        most: int = MOST,
        drain: bool = False,
    ) -> None:
        self.unsettled = 0
        self._deliveries = deliveries
        self._take = take
        self._settled = settled
        self._most = most
        self._drain = drain
        self._closing = False
        self._stopped: BusStopped | None = None
        self._origin: Origin | None = None
        self._enough = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Bridge unsettled={self.unsettled}>"

    async def run(self, count: int, patience: float) -> None:
        """Pump until cancelled or, unless it is 0, ``count`` deliveries were taken; then settle them.

        :param patience: most seconds until what is not settled is left to the source.
        :raises BusStopped: the bus takes nothing any more.
        :raises PluginError: the source yields something else than deliveries.
        """
        # In a task of its own: a cancellation would end the source while its deliveries are under way.
        pump = asyncio.ensure_future(self._pump(count))
        enough = asyncio.ensure_future(self._enough.wait())
        try:
            await asyncio.wait({pump, enough}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._closing = True
            if self._origin is not None:
                self._origin.pause()
            try:
                if not pump.done():
                    await self._settle_all(patience)
                    if self._drain and self._origin is not None:
                        # After what is under way: each that is settled may make room for another one.
                        await self._origin.drained()
                        await self._settle_all(patience)
            finally:
                pump.cancel()
                enough.cancel()
                await asyncio.wait({pump, enough})
        if not pump.cancelled():
            pump.result()
        if self._stopped is not None:
            raise self._stopped

    async def _pump(self, count: int) -> None:
        taken = 0
        async with contextlib.aclosing(self._deliveries) as deliveries:
            async for delivery in deliveries:
                if not self._hand_on(delivery):
                    break
                taken += 1
                if taken == count:
                    break
                if self.unsettled >= self._most:
                    self._room.clear()
                    await self._room.wait()
                elif not taken % SLICE:
                    await asyncio.sleep(0)
            self._enough.set()
            # Closed by a cancellation, when what was taken is settled.
            await asyncio.get_running_loop().create_future()

    def _hand_on(self, delivery: Delivery) -> bool:
        if not isinstance(delivery, Delivery):
            raise PluginError(f"consume yielded {type(delivery).__name__}; an evbus.types.Delivery is right")
        origin = self._origin = delivery.origin
        if origin is not None and origin.ended:
            return True  # it comes again
        if self._closing and not self._drain:
            delivery.give_back()
            return False
        self.unsettled += 1
        self._idle.clear()
        try:
            self._take(
                Bridged(
                    delivery.envelope,
                    self._settle,
                    delivery,
                    redelivered=delivery.redelivered,
                    delivery_count=delivery.delivery_count,
                    origin=origin,
                )
            )
        except BusStopped as exc:
            self.unsettled -= 1
            self._stopped = exc
            return False
        return True

    def _settle(self, delivery: Delivery, accepted: bool | None, requeue: bool) -> None:
        if accepted:
            delivery.ack()
        elif accepted is None:
            delivery.give_back()
        else:
            delivery.reject(requeue=requeue)
        self.unsettled -= 1
        if self.unsettled < self._most:
            self._room.set()
        if not self.unsettled:
            self._idle.set()

    async def _settle_all(self, patience: float) -> None:
        if not self.unsettled:
            return
        idle = asyncio.ensure_future(self._idle.wait())
        settled = asyncio.ensure_future(self._settled(patience))
        try:
            # Other sources have deliveries under way too, for which this one need not wait.
            await asyncio.wait({idle, settled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
            settled.cancel()
            await asyncio.wait({idle, settled})
