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
    port, settings = int(os.environ.get("SHOP_PORT", "8001")), os.environ.get("SHOP_SETTINGS")
    async with services([ShopImpl], port=port, settings=settings) as running:
        print(f"the shop is open, at port {running.port}", flush=True)
        await stopped.wait()
    print("the shop is closed", flush=True)


asyncio.run(main())
