"""Failures that a test wants: what fails, how often, and with which error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evbus.engine.core.endpoint import Plugin
from evbus.engine.core.observe import Observer
from evbus.errors import Unavailable
from evbus.types import Envelope

__all__ = ["Failure", "Failures"]


class Failure:
    """A failure that a test wants; :meth:`.Bus.fail` returns it.

    :ivar failed: how often it has happened.
    """

    def __init__(self, what: str, error: Exception, times: int | None, told: Callable[[], None]) -> None:
        self.what = what
        self.error = error
        self.failed = 0
        self._left = times
        self._told = told

    def __repr__(self) -> str:
        left = "for good" if self._left is None else f"{self._left} more"
        return f"<Failure of {self.what}: {self.error!r}, failed={self.failed}, {left}>"

    @property
    def active(self) -> bool:
        """Whether the next attempt will fail."""
        return self._left is None or self._left > 0

    @property
    def lasting(self) -> bool:
        """Whether it fails until it is mended."""
        return self._left is None

    def take(self) -> Exception:
        """Return the error of one attempt."""
        self.failed += 1
        if self._left is not None:
            self._left -= 1
        self._told()
        return self.error

    def mend(self) -> None:
        """Let nothing fail any more."""
        self._left = 0
        self._told()


class Failures(Observer):
    """All failures that were asked for.

    :param told: is told when one has happened.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        self.all: list[Failure] = []
        self._told = told

    def add(self, kind: str, name: str, error: Exception | None, times: int | None) -> Failure:
        """Let deliveries to a ``destination``, or calls of a ``listener``, fail."""
        if times is not None and (type(times) is not int or times < 1):
            raise ValueError(f"times is how often it fails, 1 or more, or None for good, and not {times!r}")
        if error is None:
            error = Unavailable(f"{name} is down") if kind == "destination" else RuntimeError(f"{name} fails")
        failure = Failure(_what(kind, name), error, times, self._told)
        self.all.append(failure)
        return failure

    def caused(self, problem: BaseException | None) -> bool:
        """Return whether an exception, or what it was raised from, was asked for."""
        while problem is not None:
            if any(failure.error is problem for failure in self.all):
                return True
            problem = problem.__cause__
        return False

    def of_listener(self, name: str) -> Exception | None:
        """Return the error that the next call of a listener raises, counted; None when it goes well."""
        failure = self._of(name, "listener")
        return None if failure is None else failure.take()

    def blocks(self, destination: str, *, for_ever: bool) -> bool:
        """Return whether deliveries to a destination fail, and are tried again, until that is mended.

        :param for_ever: whether it is tried for ever, whatever the error.
        """
        failure = self._of(destination)
        return (
            failure is not None and failure.lasting and (for_ever or isinstance(failure.error, Unavailable))
        )

    def blocks_listener(self, name: str) -> bool:
        """Return whether every call of a listener fails."""
        failure = self._of(name, "listener")
        return failure is not None and failure.lasting

    def _of(self, name: str, kind: str = "destination") -> Failure | None:
        """Return the first failure that is to happen there next."""
        found = (one for one in self.all if one.what == _what(kind, name) and one.active)
        return next(found, None)

    def gate(self, plugin: Plugin) -> Plugin:
        """Return an ingress plugin whose deliveries fail when they are to, before they reach it."""
        gates = {
            "publish": self._publish,
            "publish_batch": self._batch,
            "begin_batch": self._begin,
            "publish_nowait": self._nowait,
        }
        functions = plugin.functions
        gated = {name: gate(functions[name]) for name, gate in gates.items() if name in functions}
        return plugin._replace(functions={**functions, **gated})

    def _publish(self, publish: Callable[..., Any]) -> Callable[..., Any]:
        async def gated(ctx: Any, **event: Any) -> Any:
            failure = self._of(ctx.name)
            if failure is not None:
                raise failure.take()
            return await publish(ctx, **event)

        return gated

    def _batch(self, publish: Callable[..., Any]) -> Callable[..., Any]:
        async def gated(ctx: Any, events: list[Envelope]) -> Any:
            failed = self._errors(ctx.name, len(events))
            well = [event for event, error in zip(events, failed) if error is None]  # noqa: B905 - one each
            outcomes = iter(await publish(ctx, well) if well else ())
            return [next(outcomes) if error is None else error for error in failed]

        return gated

    def _errors(self, destination: str, count: int) -> list[Exception | None]:
        errors: list[Exception | None] = []
        while len(errors) < count:
            failure = self._of(destination)
            errors.append(None if failure is None else failure.take())
            if isinstance(errors[-1], Unavailable):
                # Who is down for one is down for those behind it, which would else overtake it.
                errors += [errors[-1]] * (count - len(errors))
        return errors

    def _begin(self, begin: Callable[..., Any]) -> Callable[..., Any]:
        def gated(ctx: Any, events: list[Envelope]) -> Any:
            return None if self._of(ctx.name) is not None else begin(ctx, events)

        return gated

    def _nowait(self, publish: Callable[..., Any]) -> Callable[..., Any]:
        def gated(ctx: Any, events: list[Envelope]) -> Any:
            failure = self._of(ctx.name)
            if failure is not None:
                raise failure.error  # the lane then tries publish_batch, and there it counts
            return publish(ctx, events)

        return gated


def _what(kind: str, name: str) -> str:
    return f"the {kind} {name!r}"
