"""A call of a method on its way to another process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from evbus.engine.call.forward import DEADLINE, TIMEOUT
from evbus.engine.kit.redact import redact
from evbus.engine.service.method import MethodSpec

__all__ = ["Call", "says_who", "timeout_line", "where"]


class Call:
    """A call on its way: what a channel is handed.

    :param seconds: that are left for it.
    :ivar component: the name of the component that has the service; ``service`` is the name of that.
    :ivar spec: the method; ``spec.read_result(plain)`` makes the result, or an item of the stream.
    :ivar args: the arguments as they travel, in their order; of a stream its items do.
    :ivar kwargs: those that have no position.
    :ivar headers: string to string; they travel with it.
    """

    __slots__ = ("_end", "args", "component", "headers", "kwargs", "service", "spec")

    def __init__(
        self,
        component: str,
        service: str,
        spec: MethodSpec,
        args: list[Any],
        kwargs: dict[str, Any],
        seconds: float,
        headers: Mapping[str, str],
    ) -> None:
        self.component = component
        self.service = service
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.headers = dict(headers)
        self._end = time.monotonic() + seconds

    def __repr__(self) -> str:
        return f"<Call {self.name} {self.seconds:.3f} s left>"

    @property
    def name(self) -> str:
        """What it is called on the wire: ``component:service:method``."""
        return f"{self.component}:{self.service}:{self.spec.name}"

    @property
    def seconds(self) -> float:
        """The seconds that are left; 0 or less when its time is up."""
        return self._end - time.monotonic()


def says_who(headers: Mapping[str, str]) -> bool:
    """Return whether headers say who calls."""
    # Asked of every call, which has one header or two.
    for name in headers:  # noqa: SIM110 - a generator takes twice as long
        if len(name) == 13 and name.lower() == "authorization":
            return True
    return False


def timeout_line(call: Call) -> str:
    """Return the header of HTTP with the time that is left for a call; ``""`` where it has no deadline."""
    return f"{TIMEOUT}: {call.seconds:.3f}\r\n" if DEADLINE in call.headers else ""


def where(call: Call, channel: str, address: str) -> str:
    """Say for an error what was called, over which channel, and at which address, without its password."""
    at = f" at {redact(address)}" if address else ""
    return f"{call.spec.title} of the component {call.component!r} over {channel}{at}"
