"""Calls of a destination side by side, or one that has it for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["Turns"]

_Made = TypeVar("_Made")


class Turns:
    """Lets workers call a destination at the same time, unless one of them has to be alone.

    What several have in flight when a connection breaks tells nothing about whose fault it was.
    """

    def __init__(self) -> None:
        self._under_way = 0
        self._alone = False
        self._changed = asyncio.Event()

    async def take(self, call: Callable[..., Awaitable[_Made]], *given: object, alone: bool = False) -> _Made:
        """Await ``call(*given)``; with ``alone`` while no other call is under way."""
        while self._alone:
            await self._changed.wait()
        self._alone = alone
        try:
            while alone and self._under_way:
                await self._changed.wait()
            self._under_way += 1
            try:
                return await call(*given)
            finally:
                self._under_way -= 1
        finally:
            if alone:
                self._alone = False
            # All who wait look again.
            self._changed.set()
            self._changed.clear()
