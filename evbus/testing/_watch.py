"""Look at a bus while it works: what is put, what is handled, and what dies. Nothing of it is replaced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec

from evbus.engine.kit.redact import problem_text
from evbus.testing._failures import Failures
from evbus.testing._sent import Notifier, Read, Recorder
from evbus.types import Envelope

__all__ = ["Dead", "Handled", "Watch"]

#: Seconds between attempts, in place of those that are configured: a test need not wait.
PAUSES = {"min": 0.001, "max": 0.01}


class Handled(NamedTuple):
    """A call of a listener.

    :ivar listener: its name.
    :ivar name: what it listens to, if it was told by a name.
    :ivar event: what it was called with.
    :ivar error: what it raised; None when it went well.
    """

    listener: str
    name: str
    event: Any
    error: BaseException | None


class Dead(NamedTuple):
    """An event that was given up.

    :ivar event: decoded, or None where that cannot be done.
    :ivar name: its routing key.
    :ivar where: ``listener <name>``, ``handler <name>``, or the lane: ``<plugin>.<provider>.<profile>``.
    :ivar reason: in one line.
    :ivar exception: what was raised last.
    :ivar injected: the test wanted it.
    """

    event: Any
    name: str
    profile: str
    headers: dict[str, str]
    where: str
    reason: str
    attempts: int
    exception: BaseException | None
    injected: bool

    def __str__(self) -> str:
        """Say it in a sentence."""
        who = f"the {self.where}" if " " in self.where else f"the lane {self.where}"
        what = self.name or "an event" if self.event is None else repr(self.event)
        after = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{who} gave up {what}{after}: {self.reason}"


class Watch:
    """Notes what happens on a hub, and lets fail what is to fail.

    :param read: makes the event of an envelope.
    """

    def __init__(
        self, the_hub: Any, read: Read, recorder: Recorder, failures: Failures, notifier: Notifier
    ) -> None:
        self.handled: list[Handled] = []
        self.dead: list[Dead] = []
        self._hub = the_hub
        self._read = read
        self._recorder = recorder
        self._failures = failures
        self._notifier = notifier
        self._undo: list[Callable[[], None]] = []

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions that listeners have raised."""
        return [one.error for one in self.handled if one.error is not None]

    def attach(self) -> None:
        """Begin; the plugins of the hub are loaded, and its bus is not started."""
        evbus, event = self._hub.evbus, self._hub.event
        broker, engine, core = evbus.BROKER, evbus.ENGINE, self._hub.dispatch.DISPATCHER.core
        send, configure = broker._send, broker.configure
        settings = evbus.init.settings()

        def configured(settings: Any, send: Callable[[Envelope], None] | None) -> None:
            configure(settings, partial(self._put, send, settings.max_body))

        self._replace(broker, "configure", configured)
        configured(settings, send)
        self._undo.append(lambda: configure(settings, send))
        ingress = evbus.init.ingress
        self._replace(
            evbus.init,
            "ingress",
            lambda: {name: self._failures.gate(plugin) for name, plugin in ingress().items()},
        )
        self._replace(engine, "dead_letter", partial(self._dead_letter, engine.dead_letter))
        self._replace(engine, "give_up", partial(self._give_up, engine.give_up))
        self._replace(event.SUBSCRIPTIONS, "add", partial(self._subscribed, event.SUBSCRIPTIONS.add))
        for entry in event.SUBSCRIPTIONS:
            self._listen(entry.listening)
        self._replace(core, "on_failure", partial(self._failed, core.on_failure))

    def detach(self) -> None:
        """End; the hub is as it was."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, thing: Any, name: str, new: Any) -> None:
        own = vars(thing).get(name, self)
        setattr(thing, name, new)
        self._undo.append(lambda: delattr(thing, name) if own is self else setattr(thing, name, own))

    def _put(self, send: Callable[[Envelope], None] | None, limit: int, envelope: Envelope) -> None:
        body = envelope.body
        if send is not None:
            send(envelope)
        # Messages of the dispatcher come by as well; they have no profile, and are not put on the bus.
        if envelope.profile and (not limit or len(envelope.body) <= limit):
            self._recorder.add(envelope, body)

    def _dead_letter(self, dead_letter: Callable[[Any, list[Any]], None], lane: Any, dead: list[Any]) -> None:
        dead_letter(lane, dead)
        for one in dead:
            self._died(one.event, str(lane.key), lane.reason(one.reason), one.attempts, one.reason)

    def _died(
        self, envelope: Envelope, where: str, reason: str, attempts: int, problem: BaseException | None
    ) -> None:
        try:
            event, _ = self._read(envelope)
        except Exception:
            event = None
        self.dead.append(
            Dead(
                event,
                envelope.routing_key,
                envelope.profile,
                dict(envelope.headers),
                where,
                reason,
                attempts,
                problem,
                self._failures.caused(problem),
            )
        )
        self._notifier.notify()

    def _failed(self, on_failure: Callable[[Any], None] | None, failure: Any) -> None:
        """Note a handler of the dispatcher that failed while nobody waited for it."""
        if on_failure is not None:
            on_failure(failure)
        problem = failure.exception
        self.dead.append(
            Dead(
                failure.message,
                type(failure.message).__name__,
                "",
                {},
                f"handler {failure.handler}",
                problem_text(problem),
                1,
                problem,
                self._failures.caused(problem),
            )
        )
        self._notifier.notify()

    def _subscribed(self, add: Callable[..., Any], spec: Any, listening: Any, *rest: Any) -> Any:
        self._listen(listening)
        return add(spec, listening, *rest)

    def _listen(self, listening: Any) -> None:
        """Note each call of a listener, and do not wait between its attempts."""
        listener, spec = listening.listener, listening.spec
        call = partial(
            self._call_batch if spec.batch else self._call,
            listener.name,
            spec.event if isinstance(spec.event, str) else "",
            listener.call,
        )
        self._replace(listening, "_call", call)
        retry = msgspec.structs.replace(spec.retry, **PAUSES)
        self._replace(listening, "spec", msgspec.structs.replace(spec, retry=retry))

    async def _call(self, listener: str, name: str, call: Callable[..., Any], event: Any, *more: Any) -> Any:
        try:
            error = self._failures.of_listener(listener)
            if error is not None:
                raise error
            result = await call(event, *more)
        except BaseException as exc:
            self.handled.append(Handled(listener, name, event, exc))
            raise
        self.handled.append(Handled(listener, name, event, None))
        self._notifier.notify()
        return result

    async def _call_batch(self, listener: str, name: str, call: Callable[..., Any], events: Any) -> Any:
        problem = None
        try:
            error = self._failures.of_listener(listener)
            if error is not None:
                raise error
            return await call(events)
        except BaseException as exc:
            problem = exc
            raise
        finally:
            self.handled += [Handled(listener, name, event, problem) for event in events]
            self._notifier.notify()

    async def _give_up(
        self, give_up: Callable[..., Any], event: Envelope, where: str, problem: Exception, attempts: int
    ) -> Any:
        reason = problem_text(problem)
        self._died(event, where, reason, attempts, problem)
        return await give_up(event, where, problem, attempts)
