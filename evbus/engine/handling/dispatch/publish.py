"""Events that go to the bus as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from evbus.engine.codec.typed import travels
from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.binding import Binding
from evbus.errors import HandlerSignatureError

__all__ = ["Publish", "publisher", "wire_name"]

#: Puts an event on the bus: ``(profile, event)``.
Publish = Callable[[str, Any], Awaitable[None]]


def wire_name(message: Any) -> str:
    """Return the name of a message outside of this process: that of its class, or its string."""
    return message if isinstance(message, str) else message.__name__


def publisher(message: Any, profile: Any, publish: Publish) -> Binding:
    """Return a binding that puts an event on the bus.

    :raises HandlerSignatureError: the event cannot travel, or the profile is no name.
    """
    name = message_name(message)
    if not isinstance(profile, str) or not profile:
        raise HandlerSignatureError(
            f"publish_to of {name} is the name of a profile, and not {profile!r}", message=name
        )
    if isinstance(message, type) and message.__module__ != "builtins" and not travels(message):
        raise HandlerSignatureError(
            f"{name} cannot be published to {profile!r}: its instances cannot travel; make it a dataclass, a "
            "msgspec Struct, an attrs class or a pydantic model",
            message=name,
        )

    async def call(event: Any) -> None:
        await publish(profile, event)

    binding = Binding(message, ("publish", profile), call, f"the bus, profile {profile!r}")
    binding.handled_here = False
    return binding
