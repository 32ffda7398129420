"""The parts that subcommands which deliver share: events from lines, the ticker, the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from evbus.engine.cli.input import Form, Joiner
from evbus.engine.cli.output import StatusLine, say, tell
from evbus.engine.cli.source import Lines, serve
from evbus.engine.codec import jsonl
from evbus.engine.core.lifecycle.run import Report
from evbus.engine.core.lifecycle.signals import STOPPED
from evbus.engine.core.profiles import changed
from evbus.engine.kit import strictjson
from evbus.engine.kit.redact import one_line, redact, said
from evbus.errors import ConfigError, PayloadError
from evbus.types import CONTENT_TYPE

__all__ = [
    "EXIT",
    "Ended",
    "LineProducer",
    "at_once",
    "empty",
    "ended",
    "event_line",
    "exit_code",
    "made_up",
    "no_profiles",
    "print_body",
    "reader_of",
    "seconds",
    "standard_input",
    "stop_code",
    "tick",
    "together",
    "try_open",
]

#: Seconds between two looks at the internal queues, and at the counters.
TICK = 0.05
SHOW = 0.25
#: Lines that are put before others get their turn.
SLICE = 256
#: Seconds that ``evbus check`` gives each destination.
TRY_TIMEOUT = 10.0


class EXIT:
    """The exit codes."""

    OK = 0
    UNDELIVERED = 1
    MISTAKE = 2
    REFUSED = 3
    STOPPED = STOPPED


class Ended(NamedTuple):
    """The end of a bus: its counters, whether a second signal cut it short, and the report of its stop."""

    snapshot: Mapping[str, Any]
    cut_short: bool
    report: Report


class LineProducer:
    """Puts the events of lines on the bus, and counts what was refused.

    :param put: ``hub.evbus.broker.put``.
    :param max_body: bytes; 0 for no limit.
    :param raw_json: whether JSON is put as it stands in the line, because JSON is what goes out.
    :param form: what a line means.
    """

    def __init__(
        self, put: Callable[..., Any], *, max_body: int, raw_json: bool, form: Form | None = None
    ) -> None:
        self.refused = 0
        self.longest = jsonl.max_line(max_body)
        self._put = put
        self._max_body = max_body
        self._raw_json = raw_json
        form = form or Form()
        self._records = form.records
        self._joiner = None if form.format == "lines" else Joiner(self.longest)

    async def take(self, line: bytes) -> str:
        """Put the event of a line, or its events; return why it was refused, or ``""``."""
        try:
            for record in self._records(line, self._max_body):
                body, headers = self._body(record)
                await self._put(
                    routing_key=record.routing_key, body=body, profile=record.profile, headers=headers
                )
        except PayloadError as exc:
            self.refused += 1
            return one_line(str(exc))
        return ""

    def _body(self, record: jsonl.Record) -> tuple[Any, dict[str, str] | None]:
        """Return the body to put, and the headers: bytes are taken as they are by the bus."""
        headers = record.headers
        if record.raw is None:
            # Without a body there is nothing of that type; the serializer says what it makes of None.
            return None, _without_type(headers)
        if record.body_base64 is not None:
            return record.raw, {CONTENT_TYPE: "application/octet-stream", **headers}
        if not self._raw_json and headers[CONTENT_TYPE] == jsonl.JSON:
            return record.body, _without_type(headers)
        return record.raw, headers

    async def take_all(self, source: str, first: int, lines: Sequence[bytes]) -> None:
        """Put the events of ``lines``, of which the first has the number ``first``; tell what is refused."""
        for number, line in enumerate(lines, first):
            if line and not line.isspace():
                await self._take_whole(
                    source, [(number, line)] if self._joiner is None else self._joiner.add(number, line)
                )
            if not number % SLICE:
                await asyncio.sleep(0)

    async def end(self, source: str) -> None:
        """Tell of JSON that has not ended."""
        if self._joiner is not None:
            await self._take_whole(source, self._joiner.rest())

    async def _take_whole(self, source: str, found: list[tuple[int, bytes]]) -> None:
        for number, text in found:
            problem = await self.take(text)
            if problem:
                tell(f"evbus: {source}:{number}: {problem}")


def _without_type(headers: Mapping[str, str]) -> dict[str, str] | None:
    return {name: value for name, value in headers.items() if name != CONTENT_TYPE} or None


def reader_of(
    path: str | None, socket: str | None, intake: LineProducer
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a function that hands every line of a file, standard input or a socket to ``intake``.

    It reads to the end, or until cancelled.

    :raises ConfigError: the input cannot be opened, or there are two.
    """
    if path and socket:
        raise ConfigError("give either an input file or --socket, not both")
    if socket:
        return lambda: serve(socket, intake.take, intake.longest)
    found = Lines(path, intake.longest)

    async def read() -> None:
        async with contextlib.aclosing(found.batches()) as batches:
            async for first, lines in batches:
                await intake.take_all(found.source, first, lines)
        await intake.end(found.source)

    return read


def exit_code(end: Ended, refused: int = 0) -> int:
    """Return the exit code that the counters ask for."""
    if end.cut_short:
        return EXIT.STOPPED
    lanes = end.snapshot["lanes"].values()
    lost = sum(lane["dead"] + lane["dropped"] + lane["queued"] + lane["in_flight"] for lane in lanes)
    lost += sum(listener["dead"] for listener in end.snapshot["listeners"].values())
    lost += sum(end.report.undelivered.values()) + end.report.lost
    bus = end.snapshot["bus"]
    if lost or bus["unmatched"] or bus["dropped"] or bus["queued"]:
        return EXIT.UNDELIVERED
    return EXIT.REFUSED if refused else EXIT.OK


def stop_code(end: Ended) -> int:
    """Return the exit code of what runs until it is stopped: whether the stop left anything."""
    if end.cut_short:
        return EXIT.STOPPED
    return EXIT.UNDELIVERED if end.report.undelivered or end.report.lost else EXIT.OK


async def tick(
    snapshot: Callable[[], Mapping[str, Any]],
    status: StatusLine,
    empty: Callable[[], None],
    look: Callable[[Mapping[str, Any]], None],
) -> None:
    """Show the status, empty the internal queues and let ``look`` see the counters, until cancelled."""
    shown = time.monotonic()
    before = 0
    while True:
        await asyncio.sleep(TICK)
        empty()
        now = time.monotonic()
        if now - shown >= SHOW:
            state = snapshot()
            look(state)
            delivered = sum(lane["delivered"] for lane in state["lanes"].values())
            status.show(state, (delivered - before) / (now - shown))
            before, shown = delivered, now


def empty(
    queues: Mapping[str | None, asyncio.Queue[bytes]], show: Callable[[str, bytes], None] | None
) -> None:
    """Take everything off the internal queues, which nobody else reads here; ``show`` gets it if given."""
    some = False
    for key, queue in list(queues.items()):
        while not queue.empty():
            body = queue.get_nowait()
            if show is not None:
                show(key or "", body)
                some = True
    if some and sys.stdout is not None:
        sys.stdout.flush()


def print_body(routing_key: str, body: bytes) -> None:
    """Print a body on standard output, behind its routing key."""
    text = one_line(body.decode("utf-8", "backslashreplace"), limit=max(len(body) * 10, 500))
    say(f"{one_line(routing_key)} {text}\n" if routing_key else f"{text}\n")


async def together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all of ``work``; the failure of one cancels the others, which end in their time."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, wait for its end, and raise what made it fail before."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def made_up(count: int, rate: float) -> AsyncIterator[dict[str, Any]]:
    """Yield ``count`` made-up bodies (0: for ever) at ``rate`` a second (0: at once)."""
    begun = time.monotonic()
    number = 0
    while not count or number < count:
        data = f"{random.randrange(10_000_000):07d}"  # noqa: S311 - no secret
        yield {"number": number, "timestamp": time.time(), "data": data}
        number += 1
        pause = begun + number / rate - time.monotonic() if rate else 0
        if pause > 0 and number != count:
            await asyncio.sleep(pause)
        elif not number % SLICE:
            await asyncio.sleep(0)


async def try_open(lane: Any) -> str:
    """Open and close a destination; return why it cannot be opened, or ``""``."""
    try:
        await lane.sender.open(TRY_TIMEOUT)
    except Exception as exc:
        return said(exc, lane.secrets)
    waiting = lane.sender.not_ready()
    if waiting is not None and asyncio.iscoroutine(waiting[1]):
        waiting[1].close()  # nobody is going to await it
    await lane.sender.close(TRY_TIMEOUT)
    return one_line(redact(waiting[0], lane.secrets)) if waiting is not None else ""


def at_once(contexts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profiles with none that waits for a destination which is down."""

    def impatient(data: Any) -> Any:
        waits = isinstance(data, Mapping) and data.get("first_connect") == "wait"
        return {**data, "first_connect": "fail"} if waits else data

    return changed(contexts, impatient)


def no_profiles(profile: str) -> ConfigError:
    """Return the error of a command that needs profiles and got none.

    :param profile: what ``--profile`` names.
    """
    if profile.endswith((".yml", ".yaml")):
        return ConfigError(f"no profiles: --profile names one of them, and --profiles {profile} their file")
    return ConfigError(
        "no profiles: name a file with --profiles, in the option evbus.profiles of a configuration file, "
        "or in the environment variable EVBUS_PROFILES"
    )


def event_line(options: Mapping[str, Any], body: str) -> bytes:
    """Return the event that the options of ``evbus put`` describe, as ``evbus run`` would read it.

    :raises ConfigError: the body is no JSON (with a hint for bare words), or a header has no ``=``.
    :raises PayloadError: it is JSON that the bus does not take; says at which line and column of the body.
    """
    headers = {}
    for option in options.get("header") or ():
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise ConfigError(f"--header {option!r}: a header is given as name=value")
        headers[name] = value
    try:
        encoded = body.encode()
        msgspec.json.decode(encoded)
    except UnicodeEncodeError:
        raise ConfigError("the event is not text in UTF-8") from None
    except msgspec.DecodeError as exc:
        raise ConfigError(f"the body is not JSON ({exc}); a text needs quotes: '\"some text\"'") from None
    # Before it is part of a line, in which it has another place.
    strictjson.load(encoded)
    try:
        return msgspec.json.encode(
            {
                "routing_key": options.get("routing_key") or "",
                "profile": options.get("profile") or "default",
                "headers": headers,
                # Without line breaks, as a line has it; numbers stay as they are written.
                "body": msgspec.Raw(msgspec.json.format(encoded, indent=-1)),
            }
        )
    except UnicodeEncodeError:
        raise ConfigError("the event is not text in UTF-8") from None


def seconds(given: float | None, default: float | None) -> float | None:
    """Return what ``--timeout`` says.

    :raises ConfigError: it is no number above 0.
    """
    if given is not None and not 0 < given < math.inf:
        raise ConfigError(f"--timeout {given:g}: this is a number of seconds above 0")
    return default if given is None else given


def standard_input() -> str:
    """Return all that standard input holds, as text.

    :raises ConfigError: there is none, or it is not UTF-8.
    """
    if sys.stdin is None:
        raise ConfigError("there is no standard input to read the body from")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise ConfigError("the body on standard input is not text in UTF-8") from None
