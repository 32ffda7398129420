"""The command ``evbus``: what can be had without importing the rest of it."""

from __future__ import annotations

import gc
import os
import signal
import sys

__all__ = ["main"]

#: The exit code of a command that a signal ended at once.
STOPPED = 130


def main() -> None:
    """Run the command line and exit with its code; see ``evbus --help``."""
    # Until a command begins all that is made stays, and there is nothing to be collected.
    gc.disable()
    # What is imported is Python, and in its midst a KeyboardInterrupt would be a traceback.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(STOPPED))
    from evbus import _program

    signal.signal(signal.SIGINT, before)
    try:
        code = _program.run()
    finally:
        gc.enable()
    sys.exit(code)
