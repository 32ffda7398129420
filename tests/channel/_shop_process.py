"""A process that serves the shop: prints its port, 0 without one, notes calls, and ends with its input."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from evbus.engine.service.declare import implementation
from tests.channel.shop import Shop
from tests.evbus.kit import new_hub


def main(file: str, options: str) -> None:
    noted = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @implementation()
    class ShopImpl(Shop):
        async def take(self, number: int) -> int:
            return await self.pack(number, 0.002)

        async def pack(self, number: int, seconds: float) -> int:
            os.write(noted, b"%d\n" % number)
            await asyncio.sleep(seconds)
            return number

        async def find(self, number: int) -> int:
            return await self.take(number)

        async def pid(self) -> int:
            return os.getpid()

    async def run() -> None:
        hub: Any = new_hub()
        hub.service.init.add(ShopImpl)
        await hub.service.init.start(**json.loads(options))
        sys.stdout.write(f"{hub.service.init.report()['port'] or 0}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        await hub.service.init.stop()

    asyncio.run(run())


if __name__ == "__main__":
    main(*sys.argv[1:])
