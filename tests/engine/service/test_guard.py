"""Who calls from outside, and what he may call."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evbus.api import Service, authorize, implementation, service
from evbus.engine.service.declare import service_spec
from evbus.engine.service.guard import NOBODY, Caller, caller
from evbus.engine.service.hosted import Hosted
from evbus.engine.service.implementations import check
from evbus.errors import AuthorizationError, LocalServiceError, ServiceSignatureError

JOE = Caller("joe", frozenset({"vault:read"}))


@authorize("vault:read")
@service()
class Vault(Service):
    @abstractmethod
    async def look(self) -> str: ...

    @authorize("vault:read", "vault:write")
    @abstractmethod
    async def put(self, what: str) -> None: ...

    @authorize()
    @abstractmethod
    def name(self) -> str: ...

    @authorize(anonymous=True)
    @abstractmethod
    async def motto(self) -> str: ...

    @abstractmethod
    def all(self) -> AsyncIterator[str]: ...


@service()
class Plain(Service):
    @abstractmethod
    async def hello(self) -> str: ...


def said() -> str:
    found = caller()
    return "nobody was asked" if found is None else found.name or "nobody"


@implementation()
class VaultImpl(Vault):
    async def look(self) -> str:
        return await asyncio.create_task(self.motto())

    async def put(self, what: str) -> None:
        pass

    def name(self) -> str:
        return said()

    async def motto(self) -> str:
        return said()

    async def all(self) -> AsyncIterator[str]:
        for _ in range(2):
            yield said()


@implementation()
class PlainImpl(Plain):
    async def hello(self) -> str:
        return said()


def hosted(**options: Any) -> Hosted:
    made = Hosted(lambda: None, **options)
    made.add("bank", service_spec(Vault), VaultImpl())
    made.add("bank", service_spec(Plain), PlainImpl())
    return made


async def call(made: Hosted, name: str, *args: Any, caller: Caller | None) -> Any:
    method = made.find(f"bank:{name}", caller)
    if method.spec.item is not None:
        items = made.stream(method, args, {}, headers={}, caller=caller)
        return [item async for item in items]
    return await made.call(method, args, {}, headers={}, seconds=20, caller=caller)


async def test_a_method_sees_who_calls_it_also_in_threads_tasks_and_streams() -> None:
    made = hosted()
    for name in ("vault:look", "vault:name", "vault:motto", "plain:hello"):
        assert await call(made, name, caller=JOE) == "joe"
        assert caller() is None
    assert await call(made, "vault:all", caller=JOE) == ["joe", "joe"]
    assert await call(made, "vault:motto", caller=NOBODY) == "nobody"
    assert await call(made, "plain:hello", caller=None) == "nobody was asked"
    await made.close(5)


async def test_who_calls_here_is_not_asked() -> None:
    made = hosted()
    assert await made.call_here(made.find("bank:vault:look"), (), {}, {}) == "nobody was asked"


async def test_scopes_are_asked_for_by_method_and_by_interface() -> None:
    made = hosted()
    with pytest.raises(AuthorizationError) as caught:
        await call(made, "vault:put", "gold", caller=JOE)
    assert str(caught.value) == "Vault.put asks for the scope vault:write"
    assert caught.value.known
    with pytest.raises(AuthorizationError, match=r"Vault\.all asks for the scope vault:read") as caught:
        await call(made, "vault:all", caller=Caller("ann"))
    assert caught.value.known
    with pytest.raises(AuthorizationError, match="scope vault:read, vault:write"):
        await call(made, "vault:put", "gold", caller=Caller("ann"))
    await call(made, "vault:put", "gold", caller=Caller("ann", frozenset({"vault:write", "vault:read"})))


@pytest.mark.parametrize(
    "name", ["vault:look", "plain:hello", "vault:unknown", "vault:__class__", "vault:_x", ""]
)
async def test_who_is_not_known_learns_nothing_of_methods(name: str) -> None:
    with pytest.raises(AuthorizationError, match="^who calls is not known") as caught:
        hosted().find(f"bank:{name}", NOBODY)
    assert not caught.value.known


@pytest.mark.parametrize("name", ["vault:unknown", "vault:__class__", "vault._x", "vault:motto.__func__"])
async def test_who_is_known_is_told_that_there_is_no_such_method(name: str) -> None:
    with pytest.raises(LocalServiceError, match="there is no method"):
        hosted().find(f"bank:{name}", JOE)


async def test_nobody_may_call_only_what_says_so() -> None:
    made = hosted()
    for name in ("vault:look", "vault:name", "plain:hello"):
        with pytest.raises(AuthorizationError) as caught:
            await made.call(made.find(f"bank:{name}"), (), {}, headers={}, seconds=20, caller=NOBODY)
        assert not caught.value.known
        assert "send a token" in str(caught.value)


async def test_settings_may_let_anybody_call_a_method() -> None:
    made = hosted(anonymous=lambda name: name == "bank:vault:look")
    assert await call(made, "vault:look", caller=NOBODY) == "nobody"
    with pytest.raises(AuthorizationError):
        await call(made, "plain:hello", caller=NOBODY)


async def test_what_asks_for_something_is_closed_where_nobody_is_asked() -> None:
    with pytest.raises(AuthorizationError, match="Vault.look is for callers that are known.*setting auth"):
        await call(hosted(), "vault:look", caller=None)
    with pytest.raises(AuthorizationError, match="setting auth"):
        await call(hosted(), "vault:all", caller=None)
    assert await call(hosted(), "vault:motto", caller=None) == "nobody was asked"


def test_claims_stand_in_no_repr() -> None:
    shown = repr(Caller("joe", frozenset({"b", "a"}), {"mail": "joe@example.org"}))
    assert shown == "<Caller joe, a, b>"
    assert repr(NOBODY) == "<Caller nobody, no scopes>"


def test_authorize_that_says_nothing_sensible_is_refused() -> None:
    with pytest.raises(ServiceSignatureError, match="a scope is a word without spaces.*and not 'a b'"):
        authorize("a b")
    with pytest.raises(ServiceSignatureError, match="nobody who is anonymous has"):
        authorize("a", anonymous=True)
    with pytest.raises(ServiceSignatureError, match="write @authorize\\(\\) with its brackets on .*Bare"):

        @authorize
        class Bare(Service): ...


def test_authorize_below_service_holds_too() -> None:
    @service()
    @authorize("a")
    class Below(Service):
        async def one(self) -> None: ...

    assert service_spec(Below).methods["one"].access.scopes == ("a",)


def test_authorize_on_an_implementation_is_refused_where_it_would_do_nothing() -> None:
    @implementation()
    class OnMethod(Plain):
        @authorize("a")
        async def hello(self) -> str:
            return ""

    with pytest.raises(
        ServiceSignatureError, match=r"hello \(.*has @authorize, which stands on Plain\.hello"
    ):
        check(OnMethod)

    @authorize("a")
    @implementation()
    class OnClass(Plain):
        async def hello(self) -> str:
            return ""

    with pytest.raises(ServiceSignatureError, match="has @authorize, which stands on an interface"):
        check(OnClass)
