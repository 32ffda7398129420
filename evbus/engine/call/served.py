"""Finds the handler that a request names, and reads its message from the envelope."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Any

from evbus.engine.call.forward import MESSAGE, decoded
from evbus.engine.codec.resolve import unreadable
from evbus.engine.codec.typed import reader, travels, wants_digits
from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.binding import Binding
from evbus.engine.handling.dispatch.kinds import RequestRouter
from evbus.engine.handling.dispatch.publish import wire_name
from evbus.engine.handling.frame import CURRENT, Invocation
from evbus.engine.kit.redact import one_line
from evbus.errors import HandlerDoesNotExist, HandlerExists, HandlerSignatureError, InvalidPayload
from evbus.types import Envelope

__all__ = ["LONGEST", "LazyMessage", "ServedBinding", "ServedMessages", "name_in"]

#: Most characters of a foreign name that are repeated.
LONGEST = 200


def name_in(envelope: Envelope) -> str:
    """Return the name of the message in an envelope."""
    return envelope.headers.get(MESSAGE) or envelope.routing_key


class LazyMessage:
    """A message that is read when the interceptors have let it through.

    :ivar context: the context within them, None before.
    :ivar message: what was read.
    """

    __slots__ = ("context", "message")

    def __init__(self) -> None:
        self.context: Context | None = None
        self.message: Any = None


class ServedBinding(Binding):
    """A binding as others reach it: called with a :class:`LazyMessage`, it reads the message of its envelope.

    :param kind: the message's class, or a string.
    :ivar router: that of ``bound``.
    :ivar wire_name: what the message is called outside.
    """

    __slots__ = ("_decode", "_exactly", "_read", "bound", "router", "wire_name")

    def __init__(
        self, kind: Any, router: RequestRouter, bound: Binding, decode: Callable[[str, bytes, bool], Any]
    ) -> None:
        super().__init__(bound.message, bound.handler, self._called, bound.name)
        self.message_name = message_name(kind)
        self.leaves, self.alone = bound.leaves, bound.alone
        self.router = router
        self.bound = bound
        self.wire_name = wire_name(kind)
        self._exactly = not isinstance(kind, str) and wants_digits(kind)
        self._read = None if isinstance(kind, str) else reader(kind, digits=self._exactly)
        self._decode = decode

    async def _called(self, lazy: LazyMessage) -> Any:
        frame = CURRENT.get()
        assert frame is not None
        assert frame.envelope is not None
        lazy.context = copy_context()
        lazy.message = self._message(frame.envelope)
        return await self.bound.call(lazy.message)

    def _message(self, envelope: Envelope) -> Any:
        name = name_in(envelope)
        if name != self.wire_name:
            # Or what was signed as one thing would be handled as another.
            raise InvalidPayload(
                f"the request came as {self.wire_name}, and is {one_line(name, LONGEST)} once the pipeline "
                f"plugins have seen it; name it in the header {MESSAGE}"
            )
        if self._read is None:
            return self.wire_name
        return self._read(decoded(self._decode, envelope, exactly=self._exactly))

    async def left(self, result: Any, frame: Invocation) -> list[Any]:
        """Return the events to send after a success."""
        return await self.bound.left(result, frame)

    async def discard(self) -> None:
        """Forget the events of a handler that has failed."""
        await self.bound.discard()


class ServedMessages:
    """The messages that others can have handled here, by their names.

    :param routers: those that have the handlers.
    :param decode: makes plain values of a body: ``(content type, body, exactly)``.
    :raises HandlerSignatureError: one of their classes cannot be read, as a name in it means nothing.
    """

    def __init__(self, routers: tuple[RequestRouter, ...], decode: Callable[[str, bytes, bool], Any]) -> None:
        self._routers = routers
        self._decode = decode
        self._found: dict[str, ServedBinding] = {}
        for kind, _, binding in self._bound():
            _check_names(kind, binding)

    def __repr__(self) -> str:
        return f"<ServedMessages {', '.join(self._found)}>"

    def find(self, name: str) -> ServedBinding:
        """Return the message of a name: one that is bound here, and nothing else.

        :raises HandlerDoesNotExist: no such message is bound.
        :raises HandlerExists: several are.
        """
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._find(name)
        return found

    def _bound(self) -> list[tuple[Any, RequestRouter, Binding]]:
        return [
            (kind, router, binding)
            for router in self._routers
            for binding in router.bindings()
            if binding.handled_here
            for kind in _kinds(binding.message)
        ]

    def _find(self, name: str) -> ServedBinding:
        named = [each for each in self._bound() if wire_name(each[0]) == name]
        exact = [each for each in named if each[0] == each[2].message]
        # A class with slots has a forerunner of the same name, which goes with the next garbage.
        found = exact or list({_full_name(each[0]): each for each in named}.values())
        if len(found) > 1:
            names = ", ".join(sorted(f"{_full_name(kind)} in {router.name}" for kind, router, _ in found))
            raise HandlerExists(f"several messages are called {one_line(name)}: {names}; rename one of them")
        for kind, router, _ in found:
            # The one of the nearest base, which may be in yet another process.
            (nearest_one,) = router.find(kind)
            if nearest_one.handled_here:
                return ServedBinding(kind, router, nearest_one, self._decode)
        # Whoever asks from outside is not told which others there are.
        raise HandlerDoesNotExist(f"there is no handler for {one_line(name, LONGEST)}")


def _check_names(kind: Any, binding: Binding) -> None:
    try:
        if not isinstance(kind, str):
            reader(kind)
    except NameError as exc:
        reason = f"it cannot be served: {unreadable(kind, exc)}"
        raise HandlerSignatureError(reason, message=message_name(kind), handler=binding.name) from None
    except TypeError:
        pass  # said to who asks for it


def _kinds(message: Any) -> Iterator[Any]:
    """Yield a bound message and the classes derived from it, as far as their instances can travel."""
    if isinstance(message, str):
        yield message
    elif travels(message):
        yield message
        for derived in message.__subclasses__():
            yield from _kinds(derived)


def _full_name(message: Any) -> str:
    return f"{getattr(message, '__module__', 'the string')}.{message_name(message)}"
