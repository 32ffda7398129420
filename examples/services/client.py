"""The process that buys: python client.py; with --here the shop is in the same process.

SHOP_SETTINGS says where the shop is, and SHOP_PROFILES which broker calls go over, if they do.
"""

import asyncio
import os
import sys

from shop import OutOfStock, Shop, ShopImpl

from evbus.api import services
from evbus.errors import ServiceError


async def main() -> None:
    implementations = [ShopImpl] if "--here" in sys.argv else []
    settings, profiles = os.environ.get("SHOP_SETTINGS", "services.yml"), os.environ.get("SHOP_PROFILES")
    async with services(implementations, settings=settings, profiles=profiles) as running:
        shop = running.proxy(Shop)
        print(await shop.order("pen", count=2))
        try:
            print([item.name async for item in shop.catalogue()])
        except ServiceError as exc:  # a stream, which brokers do not carry
            print("no catalogue:", exc)
        try:
            await shop.order("ink", count=5)
        except OutOfStock as exc:
            print("out of stock:", exc)


asyncio.run(main())
