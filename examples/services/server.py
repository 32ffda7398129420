"""The process of the shop: python server.py"""

import asyncio
import os
import signal

from shop import ShopImpl

from evbus.api import services


async def main() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    settings, profiles = os.environ.get("SHOP_SETTINGS"), os.environ.get("SHOP_PROFILES")
    # What comes over a broker needs no HTTP server.
    port = None if profiles else int(os.environ.get("SHOP_PORT", "8001"))
    async with services([ShopImpl], port=port, settings=settings, profiles=profiles) as running:
        print(f"the shop is open, at port {running.port}" if port else "the shop is open", flush=True)
        await stopped.wait()
    print("the shop is closed", flush=True)


asyncio.run(main())
