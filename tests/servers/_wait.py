"""Waiting for a server to be ready."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE = 0.05  # seconds between two looks: a server says by no event of its own that it is ready


def until(ready: Callable[[], bool], timeout: float, what: str) -> None:
    """Return once `ready` returns true; an `OSError` of it counts as not yet.

    Raises `TimeoutError`, naming `what` was waited for and the last error, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    problem: OSError | None = None
    while True:
        try:
            if ready():
                return
            problem = None
        except OSError as exc:
            problem = exc
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s" + (f" ({problem})" if problem else ""))
        time.sleep(PAUSE)
