"""A logging handler that puts records on the bus."""

from __future__ import annotations

import copy
import datetime as dt
import logging
import logging.handlers
import math
import string
from collections.abc import Callable, Mapping
from typing import Any

from evbus.errors import BusForked, EvbusError, SettingsError, nearest

__all__ = ["OPTIONS", "BusHandler", "Putter", "check_options"]

OPTIONS = ("profile", "routing_key")
#: What a template of the routing key may hold.
FIELDS = ("level", "logger", "module")
#: How deep the value of an extra attribute is looked into; what is deeper becomes a text.
DEPTH = 8
#: What every record has, or gets from a formatter; all else is extra.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Putter:
    """A queue for ``logging.handlers.QueueHandler`` whose ``put_nowait`` puts an event.

    :param put_nowait: ``hub.evbus.broker.put_nowait``.
    :param routing_key: of every record; ``{level}`` (in small letters), ``{logger}`` and ``{module}`` in it
        are the record's.
    :raises SettingsError: there is something else in braces.
    """

    def __init__(
        self, put_nowait: Callable[..., Any], *, profile: str = "logger", routing_key: str = "log"
    ) -> None:
        self.profile = profile
        self.routing_key = routing_key
        self.lost = 0
        self._templated = _check_template(routing_key)
        self._told_forked = False
        self._put_nowait = put_nowait

    def put_nowait(self, record: logging.LogRecord) -> None:
        """Put a record as ``{message, module, level, timestamp, logger, time}``.

        ``time`` is RFC 3339 in UTC. A record of an exception has ``exception``, its traceback, as well, and
        one with extra attributes ``extra``. A full or stopped bus costs the event, which is counted in
        ``lost``: the record was already written to the console, and logging must never fail its caller.

        :raises BusForked: this is the child of a fork, for the first time; the handler tells it.
        """
        try:
            self._put_nowait(
                routing_key=self._key(record) if self._templated else self.routing_key,
                profile=self.profile,
                body=_body(record),
            )
        except BusForked:
            self.lost += 1
            if not self._told_forked:
                self._told_forked = True
                raise
        except EvbusError:
            self.lost += 1

    def _key(self, record: logging.LogRecord) -> str:
        level = record.levelname.strip().lower()
        return _text(self.routing_key.format(level=level, logger=record.name, module=record.module))


def _body(record: logging.LogRecord) -> dict[str, Any]:
    body: dict[str, Any] = {
        "message": _text(getattr(record, "message", "") or record.getMessage()),
        "module": _text(record.module),
        "level": record.levelname.strip(),
        "timestamp": str(getattr(record, "asctime", "")).strip(),
        "logger": _text(record.name),
        "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="microseconds"),
    }
    if record.exc_text:
        body["exception"] = _text(record.exc_text)
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if extra:
        body["extra"] = _plain(extra, DEPTH)
    return body


def _plain(value: Any, depth: int) -> Any:
    """Return a value that every serializer takes: what is not plain becomes its text, as in a message."""
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int and value.bit_length() < 64:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if depth and type(value) is dict:
        return {_text(str(key)): _plain(one, depth - 1) for key, one in value.items()}
    if depth and type(value) in (list, tuple):
        return [_plain(one, depth - 1) for one in value]
    return _text(str(value))


def _check_template(template: str) -> bool:
    """Return whether a routing key has fields to fill in."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as exc:
        raise SettingsError(f"log_handler_options: routing_key {template!r}: {exc}") from None
    for name, spec, conversion in parts:
        if name not in FIELDS:
            raise SettingsError(
                f"log_handler_options: routing_key {template!r}: there is no field {name!r}"
                f"{nearest(name or '', FIELDS)}"
            )
        if spec or conversion:
            raise SettingsError(
                f"log_handler_options: routing_key {template!r}: write {{{name}}}, without a format"
            )
    return bool(parts)


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
        if name == "routing_key":
            _check_template(value)


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
        """Return a copy with ``message``, the traceback included, ``exc_text`` and ``asctime``."""
        formatter = self.formatter or logging.Formatter()
        own = copy.copy(record)
        own.message = formatter.format(own)
        own.asctime = formatter.formatTime(own, formatter.datefmt)
        return own
