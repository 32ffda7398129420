"""SIGINT and SIGTERM for as long as somebody waits for them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from evbus.errors import DispatchError

__all__ = ["Signals"]


class Signals:
    """Has ``on_signal`` called in the loop for each signal, and then puts the handlers back that were there.

    It does not take them from the loop (``loop.add_signal_handler``), which cannot tell what was set before.
    """

    def __init__(self, on_signal: Callable[[], None]) -> None:
        self._on_signal = on_signal
        self._waiting = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise DispatchError(
                "only the main thread can wait for signals; await wait_for_shutdown there, or have another "
                "thread stop this loop's dispatcher with asyncio.run_coroutine_threadsafe(...stop(), loop)"
            )
        self._waiting += 1
        if self._waiting > 1:
            return
        loop = asyncio.get_running_loop()

        def tell(_number: int, _frame: Any) -> None:
            loop.call_soon_threadsafe(self._on_signal)

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, tell)

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting -= 1
        if not self._waiting:
            for number, handler in self._before.items():
                # None is what was not set by Python, and that cannot be set again.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._before.clear()
