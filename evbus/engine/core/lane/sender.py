"""Fit the ways a plugin may publish to the one way a lane calls it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from evbus.engine.core.lane.retry import Outcome
from evbus.engine.kit.failure import about, trace
from evbus.engine.kit.redact import problem_text, said
from evbus.engine.kit.waiting import Deadline, call, timeout_of
from evbus.errors import BusFull, DeliveryError, PluginError, Unavailable
from evbus.types import CONTENT_TYPE, Envelope

__all__ = ["Publishing", "Sender", "Turn", "check_publish", "outcomes_of", "takes_text"]

log = logging.getLogger("evbus.sender")

PUBLISH_FORMS = (
    "publish(hub, ctx, routing_key, body), with headers after it if wanted, or publish(hub, ctx, body)"
)
_KNOWN = frozenset(("routing_key", "body", "headers"))

# As annotations are, and as text where a file has them all as text.
_TEXT = (str, "str", str | None, "Optional[str]", "str | None")

Publishing = Coroutine[Any, Any, Sequence[Outcome]]
#: Makes the call of a plugin, or raises.
Turn = Callable[[Callable[[], Publishing]], Publishing]


def check_publish(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names, of ``routing_key``, ``body`` and ``headers``, that a plugin's ``publish`` takes.

    ``function`` is the plain function, with ``hub`` and ``ctx`` in front.

    :raises PluginError: the parameters are none of the forms, or it is not ``async``.
    """
    if not inspect.iscoroutinefunction(function):
        raise PluginError(f"publish must be 'async def'; the forms are {PUBLISH_FORMS}")
    parameters = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in parameters]
    if names[:2] != ["hub", "ctx"]:
        raise PluginError(
            f"publish takes ({', '.join(names)}), but must begin with hub, ctx: {PUBLISH_FORMS}"
        )
    taken: list[str] = []
    for parameter in parameters[2:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            if parameter.kind is parameter.VAR_KEYWORD:
                taken.extend(sorted(_KNOWN - set(taken)))
        elif parameter.name in _KNOWN and parameter.kind is not parameter.POSITIONAL_ONLY:
            taken.append(parameter.name)
        elif parameter.default is parameter.empty:
            raise PluginError(
                f"publish takes the parameter {parameter.name!r}, which the bus does not know; "
                f"the forms are {PUBLISH_FORMS}"
            )
    if "body" not in taken:
        raise PluginError(f"publish takes no parameter 'body'; the forms are {PUBLISH_FORMS}")
    return tuple(taken)


def takes_text(function: Callable[..., Any]) -> bool:
    """Return whether a ``publish`` says that its body is text, as plugins for pop-evbus 4 and 5 do."""
    body = inspect.signature(function).parameters.get("body")
    return body is not None and body.annotation in _TEXT


class Sender:
    """One plugin's publish for one profile, resolved once.

    :param publish: called with ``ctx`` and the parameters that ``takes`` names.
    :param text: its body is text; MessagePack, and what is no UTF-8, stays bytes.
    :param publish_batch: called with ``ctx`` and a list of envelopes, or None.
    :param begin_batch: a plain function that hands over a list of envelopes without waiting, and returns the
        future of what ``publish_batch`` would return, or None and hands over none; or None.
    :param publish_nowait: a plain function that delivers a list of envelopes without waiting, or raises and
        delivers none; or None.
    :param ready: a plain function: None when the destination takes events, else why not and what to await.
    :param opener: makes what the plugin finds in ``ctx.state``, before the first publish.
    :param closer: ends it.
    :param route: makes the envelope that this profile sends, or None when it is sent as it is.
    :param overlap: whether ``publish_batch`` may be called again before it has returned: it hands over its
        events in the order of the calls.
    :param timeout: seconds that one call of the plugin may take, 0 for any time.
    :param secrets: strings of the profile that must not appear in a log line.
    """

    __slots__ = (
        "_batch",
        "_begin",
        "_closed",
        "_closer",
        "_coming",
        "_ctx",
        "_deadline",
        "_nowait",
        "_opened",
        "_opener",
        "_opening",
        "_publish",
        "_ready",
        "_route",
        "_secrets",
        "_takes",
        "_text",
        "batching",
        "begins",
        "crowded",
        "immediate",
        "overlap",
        "timeout",
    )

    def __init__(
        self,
        ctx: Any,
        *,
        publish: Callable[..., Awaitable[Any]],
        takes: Sequence[str],
        text: bool = False,
        publish_batch: Callable[..., Coroutine[Any, Any, Any]] | None = None,
        begin_batch: Callable[..., asyncio.Future[Any] | None] | None = None,
        publish_nowait: Callable[..., Any] | None = None,
        ready: Callable[[Any], tuple[str, Awaitable[None]] | None] | None = None,
        opener: Callable[[Any], Coroutine[Any, Any, Any]] | None = None,
        closer: Callable[[Any], Coroutine[Any, Any, Any]] | None = None,
        route: Callable[[Envelope], Envelope] | None = None,
        overlap: bool = False,
        timeout: float = 0.0,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        self._ctx = ctx
        self._publish = publish
        self._takes = tuple(takes)
        self._text = text
        self._batch = publish_batch
        self._begin = begin_batch
        self._nowait = publish_nowait
        self._ready = ready
        self._opener = opener
        self._closer = closer
        self._opened = opener is None
        self._opening = asyncio.Lock()
        self._coming = 0
        self._closed = False
        self._route = route
        self.batching = publish_batch is not None
        self.begins = begin_batch is not None
        self.immediate = publish_nowait is not None
        self.crowded = False
        self.overlap = overlap and publish_batch is not None
        self.timeout = timeout
        self._deadline = Deadline(timeout)
        self._secrets = secrets

    @property
    def _to_open(self) -> bool:
        """Whether it is closed, or others that found it so are still to go on."""
        return not self._opened or self._coming > 0

    async def open(self, seconds: float) -> None:
        """Let the plugin open its state, for at most ``seconds``; does nothing when it is open."""
        if self._opener is None or not self._to_open:
            return
        # Several may find it closed, and go on in the order in which they did.
        self._coming += 1
        try:
            async with self._opening:
                if self._opened:
                    return
                if self._closed:
                    raise Unavailable("the bus was stopped")
                self._ctx["state"] = await call(self._opener(self._ctx), seconds)
                self._opened = True
        finally:
            self._coming -= 1
        if self._closed:
            # It swallowed the cancellation; nobody else ends what it made.
            await self._end(seconds)

    async def close(self, seconds: float) -> None:
        """Let the plugin close its state, once; what goes wrong is logged."""
        if not self._closed:
            self._closed = True
            await self._end(seconds)

    async def _end(self, seconds: float) -> None:
        self._deadline.close()
        if not self._opened or self._closer is None:
            return
        self._opened = self._opener is None
        try:
            await call(self._closer(self._ctx), seconds)
        except Exception as exc:
            reason = problem_text(exc, self._secrets)
            log.warning("close of an ingress plugin failed: %s%s", reason, about(exc, reason))
            if log.isEnabledFor(logging.DEBUG):
                log.debug("close of an ingress plugin failed\n%s", trace(exc, self._secrets))

    def not_ready(self) -> tuple[str, Awaitable[None]] | None:
        """Return None when events can be sent, else why not, and what to await until they can."""
        if self._ready is None or not self._opened:
            return None
        return self._ready(self._ctx)

    def routing_key(self, event: Envelope) -> str:
        """Return the routing key that an event is sent with."""
        return event.routing_key if self._route is None else self._route(event).routing_key

    def send_nowait(self, events: list[Envelope]) -> int | None:
        """Publish ``events`` at once; return None when that cannot be done and none was published.

        Else return how many others gave way for them; :attr:`crowded` says whether there is no room for them.
        """
        if self._nowait is None or not self._opened:
            return None
        self.crowded = False
        try:
            if self._route is not None:
                events = [self._route(event) for event in events]
            dropped = self._nowait(self._ctx, events)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            # The worker publishes them, and deals with what is wrong.
            self.crowded = isinstance(exc, BusFull)
            return None
        return min(dropped, len(events)) if type(dropped) is int else 0

    def begin(self, events: list[Envelope]) -> asyncio.Future[Any] | None:
        """Hand ``events`` over at once, and return the future of their outcomes, for :func:`outcomes_of`.

        None when that cannot be done without waiting, or goes wrong: nothing was handed over.
        """
        if self._begin is None or self._to_open:
            return None
        try:
            if self._route is not None:
                events = [self._route(event) for event in events]
            answer = self._begin(self._ctx, events)
        except Exception:
            return None  # the worker publishes them, and deals with what is wrong
        if answer is not None:
            self._deadline.watch(answer)
        return answer

    async def send(
        self, events: list[Envelope], task: asyncio.Task[Any] | None = None, turn: Turn | None = None
    ) -> list[Outcome]:
        """Publish ``events`` and return one outcome for each: None, or why it failed.

        A failure of the whole call is every event's outcome. Without ``publish_batch`` the events go
        one by one and the first failure ends the call: the list is then shorter than ``events``.

        :param task: the one that runs, where the caller knows it.
        :param turn: calls ``publish_batch``, which it is given, or raises; in the task that the plugin has.
        """
        if self._to_open:
            try:
                await self.open(self.timeout)
            except Unavailable as exc:
                return [exc] * len(events)
            except Exception as exc:
                problem = Unavailable(said(exc, self._secrets))
                problem.__cause__ = exc
                return [problem] * len(events)
        try:
            if self._route is not None:
                events = [self._route(event) for event in events]
            if self._batch is None:
                return await self._one_by_one(events, task)
            publish = partial(self._in_one, self._batch, events)
            outcomes: list[Outcome] = await self._deadline.call(
                publish() if turn is None else turn(publish), task
            )
        except Exception as exc:
            return [exc] * len(events)
        return outcomes

    async def _in_one(
        self, batch: Callable[..., Coroutine[Any, Any, Any]], events: list[Envelope]
    ) -> list[Outcome]:
        return _checked(await batch(self._ctx, events), len(events))

    async def _one_by_one(self, events: list[Envelope], task: asyncio.Task[Any] | None) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for event in events:
            try:
                await self._deadline.call(self._publish(self._ctx, **self._arguments(event)), task)  # type: ignore[arg-type]
            except Exception as exc:
                outcomes.append(exc)
                break
            outcomes.append(None)
        return outcomes

    def _arguments(self, event: Envelope) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for name in self._takes:
            if name == "headers":
                arguments[name] = dict(event.headers)
            elif name == "body" and self._text:
                arguments[name] = _text_of(event)
            else:
                arguments[name] = getattr(event, name)
        return arguments


def _text_of(event: Envelope) -> str | bytes:
    """Return a body as text; that of MessagePack is none, and was bytes in pop-evbus, too."""
    if event.headers.get(CONTENT_TYPE, "").endswith("msgpack"):
        return event.body
    try:
        return event.body.decode()
    except UnicodeDecodeError:
        return event.body


def outcomes_of(answer: asyncio.Future[Any], count: int) -> Sequence[Outcome]:
    """Return the outcomes of ``count`` events, of a future that is done."""
    try:
        return _checked(answer.result(), count)
    except asyncio.CancelledError as exc:
        return [timeout_of(exc) or DeliveryError("the publish was cancelled")] * count
    except Exception as exc:
        return [exc] * count


def _checked(outcomes: Any, count: int) -> list[Outcome]:
    """Return the outcomes of ``publish_batch``, or an error in place of each that is none."""
    if not isinstance(outcomes, list) or len(outcomes) != count:
        found = f"{len(outcomes)} outcomes" if isinstance(outcomes, list) else repr(type(outcomes).__name__)
        wrong = DeliveryError(f"publish_batch returned {found} for {count} events; one each is right")
        return [wrong] * count
    if outcomes.count(None) == count:
        return outcomes
    return [_outcome(outcome) for outcome in outcomes]


def _outcome(outcome: Any) -> Outcome:
    if outcome is None or isinstance(outcome, BaseException):
        return outcome
    return DeliveryError(f"publish_batch returned {outcome!r} for an event; None or an exception is right")
