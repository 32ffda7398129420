"""A logging handler that puts records on the bus."""

from __future__ import annotations

import copy
import logging
import logging.handlers
from collections.abc import Callable, Mapping
from typing import Any

from evbus.errors import BusForked, EvbusError, SettingsError, nearest

__all__ = ["OPTIONS", "BusHandler", "Putter", "check_options"]

OPTIONS = ("profile", "routing_key")


class Putter:
    """What ``logging.handlers.QueueHandler`` takes for a queue: ``put_nowait`` puts an event.

    :param put_nowait: ``hub.evbus.broker.put_nowait``.
    """

    def __init__(
        self, put_nowait: Callable[..., Any], *, profile: str = "logger", routing_key: str = "log"
    ) -> None:
        self.profile = profile
        self.routing_key = routing_key
        self.lost = 0
        self._told_forked = False
        self._put_nowait = put_nowait

    def put_nowait(self, record: logging.LogRecord) -> None:
        """Put a record as ``{message, module, level, timestamp}``.

        A full or stopped bus costs the event, which is counted in ``lost``: the record was already
        written to the console, and logging must never fail its caller.

        :raises BusForked: this is the child of a fork, for the first time; the handler tells it.
        """
        try:
            self._put_nowait(
                routing_key=self.routing_key,
                profile=self.profile,
                body={
                    "message": _text(getattr(record, "message", "") or record.getMessage()),
                    "module": record.module,
                    "level": record.levelname.strip(),
                    "timestamp": str(getattr(record, "asctime", "")).strip(),
                },
            )
        except BusForked:
            self.lost += 1
            if not self._told_forked:
                self._told_forked = True
                raise
        except EvbusError:
            self.lost += 1


def _text(message: str) -> str:
    """Return a message that UTF-8 can carry: paths may hold bytes that are no text."""
    return message.encode("utf-8", "backslashreplace").decode("utf-8")


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of ``log_handler_options``.

    :raises SettingsError: one that there is none of, or that is no string.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise SettingsError(f"log_handler_options: there is no option {name!r}{nearest(name, OPTIONS)}")
        if not isinstance(value, str):
            raise SettingsError(f"log_handler_options: {name} is a string, not {value!r}")


class BusHandler(logging.handlers.QueueHandler):
    """Format records with their time and put them on the bus.

    Records of evbus itself are left out: a destination that fails would otherwise log an event about
    each failure, for itself.
    """

    def __init__(self, putter: Putter, formatter: logging.Formatter) -> None:
        super().__init__(putter)  # type: ignore[arg-type]
        self.setFormatter(formatter)
        self.addFilter(lambda record: record.name != "evbus" and not record.name.startswith("evbus."))

    def handle(self, record: logging.LogRecord) -> Any:
        """Emit the record without the handler's lock, which putting needs no more than a queue does.

        With it, a thread that logs and one that loads the plugins could wait for each other.
        """
        passed: Any = self.filter(record)  # from Python 3.12 on it may be another record
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a copy with ``message``, the traceback included, and ``asctime``."""
        formatter = self.formatter or logging.Formatter()
        own = copy.copy(record)
        own.message = formatter.format(own)
        own.asctime = formatter.formatTime(own, formatter.datefmt)
        return own
