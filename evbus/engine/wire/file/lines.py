"""Events as lines of a file: the profile's settings, and the file with its thread."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from evbus.engine.codec import jsonl
from evbus.engine.kit.append import AppendFile
from evbus.engine.kit.paths import no_home
from evbus.engine.kit.thread import WorkerThread
from evbus.engine.kit.units import Bytes, Unit, number
from evbus.errors import InvalidPayload, Rejected
from evbus.types import CONTENT_TYPE, Envelope

__all__ = ["FileDestination", "FileProfile", "body_line", "event_line"]

Outcome = Exception | None
_Line = TypeVar("_Line", bytes, str)


class FileProfile(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A profile of the provider ``file``.

    :ivar path: the file; ``~`` is the user's home. Folders that are missing are created.
    :ivar max_size: bytes before the file is renamed to ``<path>.1`` and begun anew; 0 for never.
        Default 104857600 (100 MiB). A line is never split; one longer than this has its own file.
    :ivar keep: renamed files that are kept, ``<path>.1`` being the newest. Default 5; with 0 the
        file's events are deleted when it is full.
    :ivar fsync: ``"never"`` (default): a crash of the process loses nothing that was delivered, a
        power cut may lose the last seconds. ``"batch"``: an event counts as delivered once it is on
        the disk. A number: seconds that an event may wait for the disk after it counts as delivered.
    :ivar mode: permissions of new files, an octal number in quotes. Default ``"0600"``.
    :ivar format: ``"event"`` (default), the line that ``evbus run`` reads; or ``"body"``, the body
        alone, where a body that spans lines is refused unless it is JSON, which is put on one line.
    :ivar routing_key: a template for the routing key, applied by the bus.
    """

    path: str
    max_size: Annotated[Bytes, msgspec.Meta(ge=0)] = 100 * 1024 * 1024
    keep: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    fsync: str | float = "never"
    mode: str | int = "0600"
    format: Literal["event", "body"] = "event"
    routing_key: str | None = None

    def __post_init__(self) -> None:
        self.full_path()
        self.sync_seconds()
        self.mode_bits()

    def full_path(self) -> Path:
        """Return ``path`` made absolute."""
        if not self.path or "\0" in self.path:
            raise ValueError("path is empty or holds a NUL; the name of a file is right")
        if self.path.endswith("/"):
            raise ValueError(f"path {self.path!r} is a folder; the name of a file is right")
        try:
            return Path(self.path).expanduser().absolute()
        except RuntimeError:
            raise ValueError(f"path {self.path!r}: {no_home(self.path)}, or write an absolute path") from None

    def sync_seconds(self) -> float | None:
        """Return ``fsync`` in seconds: None for never, 0 for each batch."""
        if self.fsync in ("never", "batch"):
            return None if self.fsync == "never" else 0.0
        try:
            seconds = float(number(self.fsync, Unit.SECONDS) if isinstance(self.fsync, str) else self.fsync)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise ValueError(f"fsync is {self.fsync!r}; never, batch or a number of seconds is right")
        return seconds

    def mode_bits(self) -> int:
        """Return ``mode`` as a number."""
        if isinstance(self.mode, int) or not re.fullmatch(r"(0|0o)?[0-7]{3}", self.mode):
            raise ValueError(f'mode is {self.mode!r}; an octal number in quotes such as "0640" is right')
        return int(self.mode, 8)


def event_line(event: Envelope) -> bytes:
    """Return the event as ``evbus run`` reads it.

    :raises Rejected: a text in it is no Unicode.
    """
    try:
        return jsonl.encode(event)
    except InvalidPayload as exc:
        raise Rejected(str(exc)) from exc


def body_line(event: Envelope) -> bytes:
    """Return the event's body as one line.

    :raises Rejected: the body spans lines and is no JSON that could be put on one.
    """
    body = event.body
    if b"\n" not in body:
        return body + b"\n"
    content_type = event.headers.get(CONTENT_TYPE, "")
    if jsonl.is_json(content_type):
        try:
            return msgspec.json.format(body, indent=-1) + b"\n"
        except (msgspec.DecodeError, RecursionError):
            pass
    raise Rejected(
        f"a body of type {content_type!a:.80} holds a line break and cannot be one line of the file; "
        "with 'format: event' it can"
    )


def made_of(
    events: Sequence[Envelope], line: Callable[[Envelope], _Line]
) -> tuple[list[Outcome], list[_Line], list[int]]:
    """Return an outcome for each event, the lines of those that can be one, and their places."""
    outcomes: list[Outcome] = [None] * len(events)
    lines, places = [], []
    for place, event in enumerate(events):
        try:
            lines.append(line(event))
        except Rejected as exc:
            outcomes[place] = exc
        else:
            places.append(place)
    return outcomes, lines, places


class FileDestination:
    """The file of one profile, and the thread that writes it, so that a slow disk stalls nobody else."""

    def __init__(self, profile: FileProfile) -> None:
        self._line: Callable[[Envelope], bytes] = event_line if profile.format == "event" else body_line
        self._file = AppendFile(
            profile.full_path(),
            max_size=profile.max_size,
            keep=profile.keep,
            sync=profile.sync_seconds(),
            mode=profile.mode_bits(),
        )
        self._worker = WorkerThread("evbus-file", tick=self._file.tick)

    def __repr__(self) -> str:
        return f"<FileDestination {self._file!r}>"

    async def open(self) -> None:
        """Open the file, so that a path that cannot be written is told before the first event.

        :raises Unavailable: a sentence with the path.
        """
        try:
            await self._worker.run(self._file.open)
        except asyncio.CancelledError:
            self._worker.stop(self._file.close)
            raise
        except Exception:
            await self.close()
            raise

    async def publish(self, events: Sequence[Envelope]) -> list[Outcome]:
        """Append the events with one write; return None or the reason for each, in order.

        Cancelled, the write that has begun goes on in its thread, and the events stand in the file
        although nobody was told: trying again doubles them (at least once).
        """
        return await self._worker.run(self._write, list(events))

    async def close(self) -> None:
        """Write what is waiting, sync it unless fsync is never, and end the thread.

        :raises Unavailable: the last events could not be synced.
        """
        await self._worker.close(self._file.close)

    def _write(self, events: list[Envelope]) -> list[Outcome]:
        outcomes, lines, places = made_of(events, self._line)
        done, problem = self._file.write(lines)
        for place in places[done:]:
            outcomes[place] = problem
        return outcomes
