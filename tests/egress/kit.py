"""What tests of several transports ask of deliveries."""

from __future__ import annotations

import asyncio

from evbus.types import Delivery


def watched(delivery: Delivery) -> asyncio.Future[str]:
    """Return what is done when a delivery is gone, with the reason."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    assert delivery.origin is not None
    delivery.origin.watch(lambda origin: ended.set_result(origin.ended))
    return ended
