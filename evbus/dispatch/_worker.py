"""A task that counts who wanted to cancel it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

__all__ = ["Worker"]

if sys.version_info >= (3, 11):
    Worker = asyncio.Task

else:

    class Worker(asyncio.Task[Any]):
        """What the tasks of Python 3.11 can do, for Python 3.10."""

        _asked = 0

        def cancel(self, msg: Any = None) -> bool:
            """Cancel the task, unless it has ended."""
            asked = super().cancel(msg)
            self._asked += asked
            return asked

        def cancelling(self) -> int:
            """Return how many wanted to cancel it."""
            return self._asked

        def uncancel(self) -> int:
            """Take one of them back; return how many are left."""
            self._asked = max(0, self._asked - 1)
            return self._asked
