"""The process that buys: python client.py; with --here the shop is in the same process."""

import asyncio
import os
import sys

from shop import OutOfStock, Shop, ShopImpl

from evbus.api import services


async def main() -> None:
    implementations = [ShopImpl] if "--here" in sys.argv else []
    async with services(implementations, settings=os.environ.get("SHOP_SETTINGS", "services.yml")) as running:
        shop = running.proxy(Shop)
        print(await shop.order("pen", count=2))
        print([item.name async for item in shop.catalogue()])
        try:
            await shop.order("ink", count=5)
        except OutOfStock as exc:
            print("out of stock:", exc)


asyncio.run(main())
