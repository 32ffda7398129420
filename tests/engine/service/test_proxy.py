"""Proxies: objects of an interface, and nothing more."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evbus.engine.service.declare import Service, service, service_spec
from evbus.engine.service.proxy import bind, made


class Target:
    """Keeps what is called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def invoke(self, spec: Any, args: Any, kwargs: Any) -> Any:
        self.calls.append(("invoke", spec.name, args, kwargs))

    async def stream(self, spec: Any, args: Any, kwargs: Any) -> AsyncIterator[Any]:
        self.calls.append(("stream", spec.name, args, kwargs))
        yield 1

    def wait(self, spec: Any, args: Any, kwargs: Any) -> Any:
        self.calls.append(("wait", spec.name, args, kwargs))

    def __repr__(self) -> str:
        return "to a target"


@service()
class Speaker(Service, ABC):
    """Speaks."""

    def __init__(self) -> None:
        raise AssertionError("a proxy is no implementation, and not made as one")

    @abstractmethod
    async def say(self, text: str, *, loud: bool = False) -> str:
        """Say something."""

    @abstractmethod
    def ask(self, text: str) -> str: ...

    @abstractmethod
    def all(self) -> AsyncIterator[str]: ...

    @abstractmethod
    def _own(self) -> None: ...

    def _helper(self) -> int:
        return 5


SPEC = service_spec(Speaker)


async def test_each_kind_of_method_goes_to_its_target() -> None:
    target = Target()
    speaker = made(SPEC, target)
    await speaker.say("x", loud=True)
    speaker.ask(text="y")
    assert [item async for item in speaker.all()] == [1]
    assert target.calls == [
        ("invoke", "say", ("x",), {"loud": True}),
        ("wait", "ask", (), {"text": "y"}),
        ("stream", "all", (), {}),
    ]


def test_a_proxy_is_of_its_interface_and_looks_like_it() -> None:
    speaker = made(SPEC, Target())
    assert isinstance(speaker, Speaker)
    assert repr(speaker) == "<Speaker to a target>"
    assert type(speaker).__doc__ == "Speaks."
    assert speaker.say.__doc__ == "Say something."
    assert str(inspect.signature(type(speaker).ask)) == "(text: 'str') -> 'str'"
    assert inspect.iscoroutinefunction(speaker.say)
    assert speaker._helper() == 5
    with pytest.raises(AttributeError):
        _ = speaker.shout
    # One class for all of them.
    assert type(made(SPEC, Target())) is type(speaker)


async def test_bound_to_an_object_its_methods_are_those_of_the_object() -> None:
    class Loud(Speaker):
        def __init__(self) -> None:
            pass

        async def say(self, text: str, *, loud: bool = False) -> str:
            return text.upper()

        def ask(self, text: str) -> str:
            return text

        async def all(self) -> AsyncIterator[str]:
            yield "x"

        def _own(self) -> None:
            pass

    target, loud = Target(), Loud()
    speaker = made(SPEC, target)
    bind(speaker, SPEC, {name: getattr(loud, name) for name in SPEC.methods})
    assert await speaker.say("x") == "X"
    assert speaker.say.__self__ is loud
    assert not target.calls
    bind(speaker, SPEC, None)
    speaker.ask("x")
    assert target.calls == [("wait", "ask", ("x",), {})]


def test_an_error_of_the_caller_is_pythons_own() -> None:
    class Deaf(Target):
        def wait(self, spec: Any, args: Any, kwargs: Any) -> Any:
            return spec.arguments(args, kwargs)

    with pytest.raises(TypeError, match=r"Speaker.ask\(\): missing a required argument: 'text'"):
        made(SPEC, Deaf()).ask()
