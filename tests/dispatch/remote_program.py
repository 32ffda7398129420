"""A process of its own that serves: `tests.dispatch.remote_kit.Program` starts and kills it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.dispatch.remote_kit import Get, serving


async def get(query: Get) -> str:
    if query.id == 0:
        print("begun", flush=True)  # noqa: T201 - to whoever started it
        await asyncio.Event().wait()
    return "from the program"


def bind(dispatch: Any) -> None:
    dispatch.queries.bind(Get, get)


async def main() -> None:
    async with serving(json.loads(sys.argv[1]), bind):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
