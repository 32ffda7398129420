"""What is read from files, and read again when they have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from evbus.engine.kit.redact import problem_text
from evbus.errors import EvbusError

__all__ = ["Watched"]

_Value = TypeVar("_Value")


class Watched(Generic[_Value]):
    """A value that is made of files, and made again when one of them has changed.

    One that cannot be made then is told in the log, and the one before it stays: a file may be half written.

    :param load: makes it; what it raises at first is raised to the caller.
    :param log: where to tell that it cannot be made again.
    """

    def __init__(self, files: Sequence[Path], load: Callable[[], _Value], log: logging.Logger) -> None:
        self._files = files
        self._load = load
        self._log = log
        self._stamps = self._look()
        self._value = load()

    def __repr__(self) -> str:
        return f"<Watched {', '.join(map(str, self._files))}>"

    def get(self) -> _Value:
        """Return it, of the files as they are now."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._value = self._load()
            except (OSError, EvbusError) as exc:
                self._log.error("%s cannot be used, what it held before stays: %s", self, problem_text(exc))
        return self._value

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
