"""Events on a terminal or a pipe: the profile's settings, safe text, and the stream with its thread."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, TextIO

import msgspec

from evbus.engine.kit.thread import WorkerThread
from evbus.engine.wire.file import lines
from evbus.errors import Unavailable
from evbus.types import Envelope

__all__ = ["ConsoleDestination", "ConsoleProfile", "event_line", "may_colour", "printable", "text_line"]

_KEY_COLOUR = "\x1b[36m"
_NO_COLOUR = "\x1b[0m"

# What makes a terminal do something: C0 (escape, newline, backspace), DEL and C1 (a CSI of one
# character), and what reorders or hides text (Unicode TR 36 section 2.10, "Trojan Source").
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


class ConsoleProfile(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A profile of the provider ``console``.

    :ivar stream: ``"stdout"`` (default) or ``"stderr"``.
    :ivar format: ``"line"`` (default), the routing key, a space and the body; or ``"event"``, the
        line that ``evbus run`` reads.
    :ivar routing_key: a template for the routing key, applied by the bus.
    """

    stream: Literal["stdout", "stderr"] = "stdout"
    format: Literal["line", "event"] = "line"
    routing_key: str | None = None


def printable(text: str) -> str:
    r"""Return ``text`` with everything that could drive a terminal spelled out (``\n``, ``\x1b``)."""
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def text_line(event: Envelope, colour: bool) -> str:
    """Return the routing key, a space and the body; bytes that are no UTF-8 are spelled out."""
    body = printable(event.body.decode(errors="backslashreplace"))
    if not event.routing_key:
        return body + "\n"
    key = printable(event.routing_key)
    return f"{_KEY_COLOUR}{key}{_NO_COLOUR} {body}\n" if colour else f"{key} {body}\n"


def event_line(event: Envelope, colour: bool) -> str:
    """Return the line that ``evbus run`` reads, the unsafe characters in it as JSON escapes.

    :raises Rejected: a text in it is no Unicode.
    """
    # Outside of strings JSON is ASCII, and the only control character there may be is the tab.
    return _UNSAFE.sub(_json_escape, lines.event_line(event)[:-1].decode()) + "\n"


def _json_escape(match: re.Match[str]) -> str:
    if match[0] == "\t":
        return " "
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def may_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Say whether to colour: on a terminal only, unless NO_COLOR or TERM=dumb (https://no-color.org)."""
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:
        return False


class ConsoleDestination:
    """Standard output or error, written by a thread: a pipe whose reader sleeps stalls nobody else."""

    def __init__(
        self,
        profile: ConsoleProfile,
        *,
        stream: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        found: TextIO | None = stream or getattr(sys, profile.stream)
        if found is None:
            raise Unavailable(f"the process has no {profile.stream}")
        self._name = profile.stream
        self._stream = found
        self._line = event_line if profile.format == "event" else text_line
        self._colour = may_colour(found, os.environ if environ is None else environ)
        self._fd: int | None = None
        self._ready = False
        self._worker = WorkerThread("evbus-console")

    def __repr__(self) -> str:
        return f"<ConsoleDestination {self._name} {self._worker!r}>"

    async def publish(self, events: Sequence[Envelope]) -> list[lines.Outcome]:
        """Print the events with one write; return None or the reason for each, in order.

        :raises Unavailable: nobody reads the stream any more.
        """
        return await self._worker.run(self._print, list(events))

    async def close(self) -> None:
        """Print what is waiting and end the thread. The stream itself stays open."""
        await self._worker.close(self._release)

    def _print(self, events: list[Envelope]) -> list[lines.Outcome]:
        outcomes, made, _ = lines.made_of(events, partial(self._line, colour=self._colour))
        try:
            self._write("".join(made))
        except BrokenPipeError as exc:
            raise Unavailable(f"nobody reads {self._name} any more: its pipe is closed") from exc
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise Unavailable(f"cannot write to {self._name}: {reason}") from exc
        return outcomes

    def _write(self, text: str) -> None:
        if not self._ready:
            # Here and not in open: it flushes, and that may block.
            self._fd = _duplicate(self._stream)
            self._ready = True
        encoding = self._stream.encoding or "utf-8"
        data = text.encode(encoding, "backslashreplace")
        if self._fd is None:
            self._stream.write(data.decode(encoding))
            self._stream.flush()
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Somebody who shares this terminal or pipe made it non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()

    def _release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _duplicate(stream: Any) -> int | None:
    """Return a descriptor of our own for the stream; None when it is no file, such as a StringIO.

    Writing past the stream's buffer matters: its lock would be held while a pipe blocks, and the
    next ``print`` of the event loop's thread would wait for it.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        stream.flush()
        return os.dup(stream.fileno())
    return None
