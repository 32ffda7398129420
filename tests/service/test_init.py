"""hub.service: start, stop and what is found where, without another process."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from evbus import session
from evbus.engine.service.declare import (
    AbstractComponent,
    ChannelAddress,
    Component,
    Service,
    component,
    implementation,
    service,
)
from evbus.errors import (
    LocalServiceError,
    PluginError,
    ProfileError,
    ServiceCommunicationError,
    ServiceError,
    ServiceSignatureError,
    SettingsError,
)
from tests.dispatch.rig import until
from tests.engine.service.kit import Item, OutOfStock, Shop, ShopImpl
from tests.evbus.kit import new_hub, package, plugin, states, write

NOT_STARTED = (
    "the services of this hub are not started, or were stopped; await hub.service.init.start() before a "
    "service is called, or call it within `async with services(...)`"
)


@asynccontextmanager
async def started(*implementations: Any, hub: Any = None, **options: Any) -> AsyncIterator[Any]:
    hub = hub or new_hub()
    hub.service.init.add(*implementations)
    await hub.service.init.start(**options)
    try:
        yield hub
    finally:
        await hub.service.init.stop()


async def test_a_service_that_is_implemented_here_is_called_directly() -> None:
    async with started(ShopImpl) as hub:
        shop = hub.service.init.get(Shop)
        assert isinstance(shop, Shop)
        assert not isinstance(shop, ShopImpl)
        assert await shop.order(Item("pen"), note="!") == Item("pen!", 1, [Item("pen")])
        assert shop.price("pen", factor=1) == 3
        assert [item async for item in shop.every(2)] == [Item("0"), Item("1")]
        with pytest.raises(OutOfStock) as problem:
            await shop.fail("stock")
        assert problem.value.left == 3
        # The methods are those of the object itself, which are counted as they run.
        assert type(shop.order.__wrapped__.__self__) is ShopImpl
        assert not hasattr(shop, "public_but_not_declared")
        assert shop is hub.service.init.get(Shop)
        assert repr(shop) == "<Shop over local>"


async def test_nothing_is_called_before_the_start_or_after_the_stop() -> None:
    hub = new_hub()
    shop = hub.service.init.get(Shop)
    assert repr(shop) == "<Shop over the first channel>"
    hub.service.init.add(ShopImpl)

    async def refused() -> None:
        with pytest.raises(LocalServiceError) as problem:
            await shop.find("x")
        assert str(problem.value) == NOT_STARTED
        with pytest.raises(LocalServiceError, match="are not started"):
            shop.price("x")
        with pytest.raises(LocalServiceError, match="are not started"):
            await anext(shop.every(1))

    await refused()
    for _ in range(2):
        async with started(hub=hub):
            assert await shop.find("x") == Item("x")
            with pytest.raises(ServiceError, match="the services of this hub are started already"):
                await hub.service.init.start()
        await refused()
    await hub.service.init.stop()


def test_services_start_again_in_another_loop() -> None:
    hub = new_hub()
    shop = hub.service.init.get(Shop)

    async def once() -> Any:
        async with started(ShopImpl, hub=hub):
            return await shop.find("x")

    assert [asyncio.run(once()) for _ in range(2)] == [Item("x"), Item("x")]


# Components


@service()
class Clock(Service):
    @abstractmethod
    async def now(self) -> float: ...


@implementation()
class ClockImpl(Clock):
    async def now(self) -> float:
        return 5.0


@component("tower", services=[Clock])
class Tower(Component):
    pass


EVENTS: list[Any] = []


@implementation()
class TowerImpl(AbstractComponent, Tower):
    def __init__(self, hub: Any, clock: Clock) -> None:
        self.hub, self.clock = hub, clock

    async def startup(self) -> None:
        EVENTS.append(("up", self.get_status().value, await self.clock.now()))

    def shutdown(self) -> None:
        EVENTS.append(("down", self.get_status().value))

    def get_addresses(self, port: int) -> list[ChannelAddress] | None:
        EVENTS.append(port)
        return [ChannelAddress("pigeon", "roof")]


async def test_a_component_is_started_and_shut_down_and_says_where_it_is() -> None:
    EVENTS.clear()
    async with started(TowerImpl, ClockImpl) as hub:
        assert hub.registry.LOCAL == {"tower": [("pigeon", "roof")]}
        (found,) = hub.service.init.report()["components"]
        assert found == {
            "name": "tower",
            "status": "running",
            "services": ["clock"],
            "addresses": [["pigeon", "roof"]],
        }
    assert hub.registry.LOCAL == {}
    assert EVENTS == [("up", "virgin", 5.0), 0, ("down", "running")]
    assert hub.service.init.report()["components"] == []


async def test_a_start_that_fails_leaves_nothing_behind() -> None:
    EVENTS.clear()

    @component()
    class Broken(Component):
        pass

    @implementation()
    class BrokenImpl(AbstractComponent, Broken):
        async def startup(self) -> None:
            raise OSError("no disk")

    hub = new_hub()
    with pytest.raises(OSError, match="no disk"):
        async with started(TowerImpl, ClockImpl, BrokenImpl, hub=hub):
            pass
    assert [event[0] for event in EVENTS] == ["up", "down"]
    with pytest.raises(LocalServiceError):
        await hub.service.init.get(Clock).now()


async def test_a_shutdown_that_fails_keeps_the_others_from_nothing(caplog: pytest.LogCaptureFixture) -> None:
    @component()
    class Bad(Component):
        pass

    @implementation()
    class BadImpl(AbstractComponent, Bad):
        def shutdown(self) -> None:
            raise OSError("no disk")

    EVENTS.clear()
    async with started(TowerImpl, ClockImpl, BadImpl):
        pass
    assert EVENTS[-1] == ("down", "running")
    assert caplog.messages == ["the component bad could not be shut down"]


async def test_implementations_in_folders_are_started(tmp_path: Path) -> None:
    text = (
        "from evbus.engine.service.declare import implementation\n"
        "from tests.service.test_init import Clock\n\n\n"
        "@implementation()\n"
        "class Sundial(Clock):\n"
        "    async def now(self) -> float:\n"
        "        return 6.0\n"
    )
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", component__sundial=text)])
    async with started(hub=hub):
        assert await hub.service.init.get(Clock).now() == 6.0


async def test_implementations_of_other_packages_join_when_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package(
        tmp_path, "belfry", {"component": ["component"]}, component__sundial=LATE.replace("def", "async def")
    )
    assert states(new_hub(), "component") == {"sundial": "not in use"}
    async with started(hub=new_hub(listen_to=["belfry"])) as hub:
        assert await hub.service.init.get(Clock).now() == 6.0


LATE = """
from evbus.engine.service.declare import implementation
from tests.service.test_init import Clock

@implementation()
class Sundial(Clock):
    def now(self) -> float:
        return 6.0
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"it has no implementation: a class with @implementation\(\)"),
        (
            LATE,
            r"Sundial.now \(.*sundial.py:7\) is a plain def, and Clock.now is an async def; write it alike",
        ),
    ],
)
async def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, text: str, said: str) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", component__sundial=text)])
    with pytest.raises(PluginError, match=rf"component.sundial \(.*sundial.py.*\): {said}"):
        await hub.service.init.start()
    assert plugin(hub, "sundial", "component").state == "broken"


class Repo:
    pass


async def test_components_take_what_is_provided_and_proxies() -> None:
    @service()
    class Keeping(Service):
        @abstractmethod
        async def kept(self) -> float: ...

    @implementation()
    class Keeper(Keeping):
        def __init__(self, repo: Repo, clock: Clock, size: int = 3) -> None:
            self.repo, self.clock, self.size = repo, clock, size

        async def kept(self) -> float:
            assert isinstance(self.repo, Repo)
            return await self.clock.now() + self.size

    hub = new_hub()
    with pytest.raises(
        ServiceSignatureError, match=r"Keeper \(.*\): nothing is provided for 'repo', a Repo; "
    ):
        async with started(Keeper, ClockImpl, hub=hub):
            pass
    hub.dispatch.init.provide(Repo, Repo())
    async with started(hub=hub):
        assert await hub.service.init.get(Keeping).kept() == 8.0


async def test_handlers_take_proxies_by_the_interface() -> None:
    async with started(ClockImpl) as hub:

        async def handle(message: str, clock: Clock) -> float:
            return await clock.now()

        hub.dispatch.commands.bind("tick", handle)
        await hub.dispatch.init.start()
        assert await hub.dispatch.commands.handle("tick", wait_for_response=True) == 5.0
        await hub.dispatch.init.stop()


# What is refused, each by its sentence


@service()
class Other(Service):
    @abstractmethod
    async def call(self, a: int, b: int = 2, *, c: int = 3) -> int: ...


def implementing(function: Any) -> Any:
    return implementation()(type("Impl", (Other,), {"call": function, "__module__": __name__}))


async def _no_default(self: Any, a: int, b: int, *, c: int = 3) -> int: ...
async def _renamed(self: Any, a: int, x: int = 2, *, c: int = 3) -> int: ...
async def _moved(self: Any, b: int = 2, a: int = 1, *, c: int = 3) -> int: ...
async def _more(self: Any, a: int, b: int = 2, *, c: int = 3, d: int) -> int: ...
async def _by_position(self: Any, a: int, b: int = 2, /, *, c: int = 3) -> int: ...
async def _yields(self: Any, a: int, b: int = 2, *, c: int = 3) -> AsyncIterator[int]:
    yield 1


def _plain(self: Any, a: int, b: int = 2, *, c: int = 3) -> int: ...


async def _wider(self: Any, a: int = 0, b: int = 2, d: int = 4, *, c: int = 3, **more: int) -> int: ...
async def _anything(self: Any, *args: Any, **kwargs: Any) -> int: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_no_default, r"has no default for 'b', which is declared with one: Other.call\(a: 'int', b.*"),
        (_renamed, "has no parameter 'b', which is declared: .*"),
        (_moved, "has the parameter 'a' at another place than declared: .*"),
        (_more, "needs 'd', which is not declared: .*"),
        (_by_position, "takes 'a' by position alone, which is not declared so: .*"),
        (_yields, "is an async def with a yield in it, and Other.call is an async def; write it alike"),
        (_plain, "is a plain def, and Other.call is an async def; write it alike"),
    ],
)
def test_another_signature_than_declared_is_refused_with_file_and_line(function: Any, said: str) -> None:
    line = function.__code__.co_firstlineno
    with pytest.raises(ServiceSignatureError, match=rf"^Impl.call \({__file__}:{line}\) {said}$"):
        new_hub().service.init.add(implementing(function))


@pytest.mark.parametrize("function", [_wider, _anything])
def test_an_implementation_may_take_more_than_declared(function: Any) -> None:
    new_hub().service.init.add(implementing(function))


def test_a_missing_method_is_named() -> None:
    @implementation()
    class Empty(Other):
        pass

    with pytest.raises(ServiceSignatureError) as problem:
        new_hub().service.init.add(Empty)
    assert f"Empty ({__file__}:" in str(problem.value)
    assert " has no method call(a: 'int', b: 'int' = 2, *, c: 'int' = 3)" in str(problem.value)
    assert str(problem.value).endswith(", which Other.call is")


def test_two_implementations_are_refused_and_named() -> None:
    @implementation()
    class Second(Clock):
        async def now(self) -> float: ...

    hub = new_hub()
    hub.service.init.add(ClockImpl)
    with pytest.raises(
        ServiceSignatureError,
        match=rf"Clock has two implementations, ClockImpl \({__file__}:\d+\) and .*Second \({__file__}:\d+\)",
    ):
        hub.service.init.add(Second)


async def test_a_component_without_one_of_its_services_is_refused() -> None:
    said = (
        "the component 'tower' lists Clock, and nothing implements it here; write a class that derives from"
    )
    with pytest.raises(ServiceSignatureError, match=said):
        async with started(TowerImpl):
            pass


def test_two_services_of_one_name_in_a_component_are_refused() -> None:
    @service("clock")
    class Sun(Service):
        @abstractmethod
        async def shine(self) -> None: ...

    @implementation()
    class SunImpl(Sun):
        async def shine(self) -> None: ...

    @service("clock")
    class Moon(Service):
        @abstractmethod
        async def shine(self) -> None: ...

    @implementation()
    class MoonImpl(Moon):
        async def shine(self) -> None: ...

    said = r"Sun \(.*\) and .*Moon \(.*\) are both called 'clock' in the component 'clock'; give one of "
    with pytest.raises(ServiceSignatureError, match=said):
        new_hub().service.init.add(SunImpl, MoonImpl)


async def test_who_stops_twice_waits_for_the_one_stop() -> None:
    hub, order = new_hub(), list[str]()

    @component()
    class Slow(Component):
        pass

    @implementation()
    class SlowImpl(AbstractComponent, Slow):
        async def shutdown(self) -> None:
            await hub.service.init.stop()  # it is being stopped
            await asyncio.sleep(0.01)
            order.append("down")

    hub.service.init.add(SlowImpl)
    await hub.service.init.start()

    async def stop() -> None:
        await hub.service.init.stop()
        order.append("stopped")

    await asyncio.gather(stop(), stop(), stop())
    assert order == ["down", "stopped", "stopped", "stopped"]


def test_what_is_no_implementation_is_refused() -> None:
    hub = new_hub()
    with pytest.raises(
        ServiceSignatureError, match=r"Clock is no implementation: it has no @implementation\(\)"
    ):
        hub.service.init.add(Clock)
    with pytest.raises(
        ServiceSignatureError, match=r"the module asyncio has no class with @implementation\(\) or "
    ):
        hub.service.init.add(asyncio)


@service()
class Till(Service):
    @abstractmethod
    async def where(self) -> str: ...


@component(services=[Till])
class Berlin(Component): ...


@component(services=[Till])
class Paris(Component): ...


@implementation()
class BerlinImpl(AbstractComponent, Berlin): ...


@implementation()
class ParisImpl(AbstractComponent, Paris): ...


@implementation()
class TillOfBerlin(Till):
    async def where(self) -> str:
        return "berlin"


@implementation()
class TillOfParis(Till):
    async def where(self) -> str:
        return "paris"


async def test_of_several_components_that_have_an_interface_the_caller_says_which() -> None:
    async with (
        started(BerlinImpl, TillOfBerlin, port=0) as berlin,
        started(ParisImpl, TillOfParis, port=0) as paris,
    ):
        ports = {"berlin": berlin, "paris": paris}
        where = {
            name: {"dispatch-json": f"http://127.0.0.1:{hub.service.init.report()['port']}"}
            for name, hub in ports.items()
        }
        async with started(settings={"registry": {"static": where}}) as hub:
            get = hub.service.init.get
            assert await get(Till, component="paris").where() == "paris"
            assert await get(Till, component="berlin").where() == "berlin"
            assert await hub.service.init.call(Till, "where", component="paris") == "paris"
            assert repr(get(Till, component="paris")) == "<Till of paris over the first channel>"
            said = (
                r"Till stands in the components berlin, paris; say which .* get\(Till, component=\"berlin\"\)"
            )
            with pytest.raises(ServiceError, match=said):
                get(Till)
            with pytest.raises(ServiceError, match="has no component 'pariss'; did you mean 'paris'"):
                await get(Till, component="pariss").where()
    settings = {"registry": {"static": {"berlin": {"dispatch-json": "http://127.0.0.1:1"}}}}
    async with started(ParisImpl, TillOfParis, settings=settings) as hub:
        # The one that is here needs no name, and its name means it.
        assert await hub.service.init.get(Till).where() == "paris"
        assert await hub.service.init.get(Till, component="paris").where() == "paris"
        with pytest.raises(ServiceCommunicationError, match="Till.where of the component 'berlin' over"):
            await hub.service.init.get(Till, component="berlin").where()


async def test_which_component_is_not_known_until_the_services_are_started() -> None:
    hub = new_hub()
    till = hub.service.init.get(Till)
    async with started(hub=hub):
        with pytest.raises(ServiceError, match="Till stands in the components berlin, paris"):
            await till.where()


def test_two_components_with_one_interface_are_not_in_one_process() -> None:
    said = "the components 'berlin' and 'paris' both list Till, and both are implemented here"
    with pytest.raises(ServiceSignatureError, match=said):
        new_hub().service.init.add(BerlinImpl, ParisImpl, TillOfBerlin)
    said = "Till stands in the components berlin, paris, and none of them is implemented here"
    with pytest.raises(ServiceSignatureError, match=said):
        new_hub().service.init.add(TillOfBerlin)


def test_an_unknown_channel_is_refused_with_the_nearest_name() -> None:
    hub = new_hub()
    with pytest.raises(ServiceError, match="there is no channel 'locl'; did you mean 'local'?"):
        hub.service.init.get(Clock, channel="locl")
    with pytest.raises(ServiceError, match="there is no channel 'locl'; did you mean 'local'?"):
        hub.service.init.set_preferred_channel("locl")
    with pytest.raises(ServiceSignatureError, match="int is no interface"):
        hub.service.init.get(int)


def test_what_is_nearly_right_is_told_with_what_would_be() -> None:
    with pytest.raises(
        ServiceSignatureError, match="Clock is no implementation: .*; it is an interface: hand"
    ):
        new_hub().service.init.add(Clock)
    with pytest.raises(
        ServiceSignatureError, match="ShopImpl is no interface: .*; it implements Shop, which is"
    ):
        new_hub().service.init.get(ShopImpl)

    class Bare(Berlin): ...

    said = "Bare.* has no get_addresses.* shutdown, startup; AbstractComponent, as its first base, has them"
    with pytest.raises(ServiceSignatureError, match=said):
        new_hub().service.init.add(implementation()(Bare))

    @service()
    class Late(Service):
        async def call(self, item: Itme) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(
        ServiceSignatureError, match="the name Itme in an .* program runs; did you mean 'Item'"
    ):
        new_hub().service.init.call(Late, "call")


async def test_what_runs_here_without_a_server_is_not_called_over_http() -> None:
    async with started(ShopImpl) as hub:
        said = "the component 'shop' runs here, and nothing takes calls of it .*: start the services with"
        with pytest.raises(ServiceCommunicationError, match=said):
            await hub.service.init.get(Shop, channel="dispatch-json").find("pen")
    where = {"registry": {"static": {"shop": {"dispatch_json": "http://127.0.0.1:1"}}}}
    async with started(settings=where) as hub:
        with pytest.raises(ServiceError, match="over dispatch_json, and .*; did you mean 'dispatch-json'"):
            await hub.service.init.get(Shop).find("pen")
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'nme'; did you mean 'name'"):
            await hub.service.init.get(Shop).find(nme="pen")


async def test_a_service_that_is_not_here_is_not_called_here() -> None:
    async with started() as hub:
        with pytest.raises(
            LocalServiceError, match="Clock is not implemented in this process; start its impl"
        ):
            await hub.service.init.get(Clock, channel="local").now()
        with pytest.raises(
            ServiceError, match="no component 'tower'; it knows those of this process alone: start"
        ):
            await hub.service.init.get(Clock).now()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"registy": "local"}, "services: registy: there is no such key; did you mean 'registry'?"),
        ({"registry": "consl"}, "services: registry: there is no registry 'consl'; did you mean 'consul'?"),
        ({"registry": {"a": 1, "b": 2}}, "services: registry is a mapping of one name, such as static"),
        ({"registry": {"static": []}}, "services: registry.static: this is a mapping, not list: component, "),
        (
            {"registry": {"static": {"shop": ["http://x"]}}},
            "services: registry.static.shop: this is a mapping, not list: ",
        ),
        (
            {"registry": {"static": {"shop": {"x": [5]}}}},
            "services: registry.static.shop.x: an address is a text, not int",
        ),
        (
            {"registry": {"static": {"shop": {"dispatch-json": ["http://a:1", "shop:8001"]}}}},
            "services: registry.static.shop.dispatch-json: this is no address of a service: it is no ",
        ),
        (
            {"registry": {"static": {"shop": {"rest": "http://joe:geheim@a:1"}}}},
            "services: registry.static.shop.rest: this is no address of a service: it holds a ",
        ),
        (
            {"registry": {"static": {"shop": {"x": "http://joe:ge heim@a:1"}}}},
            "services: registry.static.shop.x: an address holds no blanks and only ASCII; write other ",
        ),
        ({"channels": {"x": {}}}, "services: channels.x: there is no channel 'x'"),
        ({"server": {"port": -1}}, "services: server: port is a number from 0 to 65535"),
        ({"server": {"prot": 1}}, "services: server.prot: there is no such key; did you mean 'port'?"),
        ({"threads": 0}, "services: threads must be 1 or more"),
    ],
)
async def test_settings_that_are_wrong_are_named(settings: Any, said: str) -> None:
    hub = new_hub()
    with pytest.raises(ProfileError) as problem:
        await hub.service.init.start(settings=settings)
    assert str(problem.value).startswith(said)
    assert "heim" not in str(problem.value)
    # And may be mended.
    async with started(ClockImpl, hub=hub):
        pass


@pytest.mark.parametrize("port", [-1, 70_000])
async def test_a_port_that_there_is_none_of_is_refused(port: int) -> None:
    with pytest.raises(ProfileError, match="services: server: port is a number from 0 to 65535"):
        await new_hub().service.init.start(port=port)


def test_a_program_without_services_does_not_wait_for_their_imports(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from evbus.engine.core.plugins import installed\n"
        "hub = installed.new_hub()\n"
        "hub.OPT = hub.pop.data.imap({'evbus': {}})\n"
        "hub.evbus.init.settings()\n"
        "print([name for name in sys.modules if name.startswith(('evbus.engine.service.', 'httptools'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['evbus.engine.service.callers']\n"


async def test_settings_may_stand_in_a_file_or_in_the_option(tmp_path: Path) -> None:
    path = tmp_path / "services.yml"
    path.write_text("registry:\n  static:\n    tower: {pigeon: roof}\nthread: 5\n")
    for hub, options in ((new_hub(), {"settings": path}), (new_hub(services=str(path)), {})):
        with pytest.raises(
            ProfileError, match=f"{path}: thread: there is no such key; did you mean 'threads'"
        ):
            await hub.service.init.start(**options)
    hub = new_hub(services={"registry": {"static": {"tower": {"pigeon": "roof"}}}})
    async with started(hub=hub):
        assert hub.service.init.report()["registry"] == "static"
        with pytest.raises(
            ServiceError,
            match="'tower' can be called over pigeon, and this process has amqp, ",
        ):
            await hub.service.init.get(Clock).now()
    with pytest.raises(SettingsError, match="service_timeout: it must be a number above 0"):
        new_hub(service_timeout=0).evbus.init.settings()


# Plain methods, threads and loops


async def test_a_plain_method_may_be_called_from_a_thread() -> None:
    async with started(ShopImpl) as hub:
        shop = hub.service.init.get(Shop)
        assert await asyncio.to_thread(shop.price, "pen") == 6.0


SESSION = """
from evbus import session

def send(hub, envelope):
    if session.text():
        envelope.headers["evbus-session"] = session.text()

async def handle(hub, envelope, call_next):
    hub.pipeline.SEEN = [*vars(hub.pipeline).get("SEEN", []), envelope.routing_key]
    with session.inside(session.read(envelope.headers.get("evbus-session"))):
        return await call_next(envelope)
"""


async def test_interceptors_are_around_local_calls_where_there_are_some(tmp_path: Path) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", pipeline__who=SESSION)])
    async with started(ShopImpl, ClockImpl, hub=hub):
        shop = hub.service.init.get(Shop)
        with session.use(user="joe"):
            assert await shop.find("x") == Item("x")
            assert [item async for item in shop.every(1)] == [Item("0")]
            assert await asyncio.to_thread(shop.price, "pen") == 6.0
        with pytest.raises(OutOfStock):
            await shop.fail("stock")
        with pytest.raises(ServiceError) as problem:
            shop.price("pen")
        assert str(problem.value) == (
            "Shop.price is a plain method, and interceptors are around it: it would hold up the event loop; "
            "declare it with async def, or call it from a thread: await asyncio.to_thread(proxy.price, ...)"
        )
        seen = [f"shop:shop:{name}" for name in ("find", "every", "price", "fail")]
        assert seen == hub.pipeline.SEEN


async def test_a_call_from_another_loop_is_made_in_that_of_the_services(tmp_path: Path) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", pipeline__who=SESSION)])
    async with started(ShopImpl, hub=hub):
        shop = hub.service.init.get(Shop)
        assert await asyncio.to_thread(lambda: asyncio.run(shop.find("x"))) == Item("x")

        async def stream() -> Any:
            return [item async for item in shop.every(1)]

        with pytest.raises(
            ServiceError, match="Shop.every: a stream is read in the event loop that the serv"
        ):
            await asyncio.to_thread(lambda: asyncio.run(stream()))


async def test_a_stop_ends_who_waits_in_a_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", pipeline__who=SESSION)])
    async with started(ShopImpl, hub=hub):
        shop = hub.service.init.get(Shop)
        assert await asyncio.to_thread(shop.price, "pen") == 6.0
    with pytest.raises(LocalServiceError, match="are not started"):
        await asyncio.to_thread(shop.price, "pen")


async def test_services_end_with_the_program_that_started_the_bus() -> None:
    from evbus.api import bus

    EVENTS.clear()
    async with bus({"internal": {"default": {}}}) as events:
        events.hub.service.init.add(TowerImpl, ClockImpl)
        await events.hub.service.init.start()
        clock = events.hub.service.init.get(Clock)
        assert await clock.now() == 5.0
    assert EVENTS[-1] == ("down", "running")
    with pytest.raises(LocalServiceError):
        await clock.now()


async def test_a_method_is_called_by_its_name() -> None:
    async with started(ShopImpl) as hub:
        call = hub.service.init.call
        assert await call(Shop, "order", [Item("pen")], {"note": "!"}) == Item("pen!", 1, [Item("pen")])
        with pytest.raises(ServiceError, match=r"Shop has no method 'ordr'; did you mean 'order'\?"):
            call(Shop, "ordr")
        with pytest.raises(ServiceError, match=r"there is no channel 'rst'; did you mean 'rest'\?"):
            call(Shop, "order", [Item("pen")], channel="rst")


async def test_a_client_starts_nothing_here(tmp_path: Path) -> None:
    write(tmp_path, component__shop=f"{IMPLEMENTED}")
    hub = new_hub(plugin_dirs=[str(tmp_path)])
    settings = {"server": {"port": 0}, "registry": {"static": {"mall": {"rest": "http://127.0.0.1:1"}}}}
    await hub.service.init.start(settings=settings, client=True)
    try:
        report = hub.service.init.report()
        assert (report["port"], report["url"], report["components"], report["elsewhere"]) == (
            None,
            None,
            [],
            {},
        )
        await hub.service.init.look()
        where = hub.service.init.report()["elsewhere"]
        assert where["mall"]["rest"][0]["address"] == "http://127.0.0.1:1"
        assert [plan.name for plan in hub.service.init.planned()] == ["till"]
    finally:
        await hub.service.init.stop()
    with pytest.raises(LocalServiceError, match="the services of this hub are not started"):
        await hub.service.init.look()


@service()
class Kitchen(Service):
    @abstractmethod
    async def cook(self, dish: str) -> str: ...

    @abstractmethod
    async def serve(self, dish: str) -> str: ...

    @abstractmethod
    def wash(self) -> str: ...

    @abstractmethod
    async def close(self) -> str: ...


AROUND = """
async def handle(hub, envelope, call_next):
    return await call_next(envelope)
"""


def kitchen(order: list[str]) -> tuple[Any, Any, Any]:
    """Return classes of a component whose cook waits, and what lets the dish, and the washing, be done."""
    done, washed = asyncio.Event(), threading.Event()

    @component(services=[Kitchen])
    class House(Component): ...

    @implementation()
    class Own(AbstractComponent, House, Kitchen):
        def __init__(self, hub: Any) -> None:
            self.hub = hub

        async def shutdown(self) -> None:
            order.append("shut down")

        async def cook(self, dish: str) -> str:
            order.append("begun")
            await done.wait()
            # What it calls itself belongs to it.
            order.append(await self.hub.service.init.get(Kitchen).serve(dish))
            return dish

        async def serve(self, dish: str) -> str:
            return f"{dish} served"

        def wash(self) -> str:
            order.append("washing")
            assert washed.wait(60)
            order.append("washed")
            return "clean"

        async def close(self) -> str:
            await self.hub.service.init.stop()
            return "closed"

    return Own, done, washed


@pytest.mark.parametrize("intercepted", [False, True])
async def test_a_stop_waits_for_calls_within_the_process_and_takes_no_new_ones(
    intercepted: bool, tmp_path: Path
) -> None:
    order: list[str] = []
    own, done, washed = kitchen(order)
    root = write(tmp_path / "plugins", pipeline__around=AROUND)
    async with started(own, hub=new_hub(plugin_dirs=[root]) if intercepted else None) as hub:
        proxy = hub.service.init.get(Kitchen)
        cooking = asyncio.ensure_future(proxy.cook("soup"))
        washing = asyncio.ensure_future(asyncio.to_thread(proxy.wash))
        await until(lambda: {"begun", "washing"} <= set(order))
        stopping = asyncio.ensure_future(hub.service.init.stop())
        await until(lambda: "stopping" in repr(hub.service.SERVICES.hosted))
        said = "Kitchen.serve: the services here are being stopped, and take no new calls"
        with pytest.raises(LocalServiceError, match=said):
            await proxy.serve("tea")
        assert "shut down" not in order
        washed.set()
        assert await washing == "clean"
        assert "shut down" not in order
        done.set()
        assert await cooking == "soup"
        await stopping
        assert order[-3:] == ["washed", "soup served", "shut down"]
        with pytest.raises(LocalServiceError, match=re.escape(NOT_STARTED)):
            await proxy.serve("tea")


async def test_a_call_within_the_process_that_takes_longer_than_the_stop_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    order: list[str] = []
    own, _, _ = kitchen(order)
    async with started(own) as hub:
        cooking = asyncio.ensure_future(hub.service.init.get(Kitchen).cook("soup"))
        await until(lambda: order)
        await hub.service.init.stop(0)
        assert order == ["begun", "shut down"]
        assert "1 call of services is still under way at the stop" in caplog.messages
        assert hub.service.init.report()["cancelled"] == 1
        cooking.cancel()
        await asyncio.wait([cooking])


@pytest.mark.parametrize("intercepted", [False, True])
async def test_a_call_that_stops_the_services_is_not_waited_for(intercepted: bool, tmp_path: Path) -> None:
    order: list[str] = []
    own, _, _ = kitchen(order)
    root = write(tmp_path / "plugins", pipeline__around=AROUND)
    async with started(own, hub=new_hub(plugin_dirs=[root]) if intercepted else None) as hub:
        assert await asyncio.wait_for(hub.service.init.get(Kitchen).close(), 15) == "closed"
    assert order == ["shut down"]


async def test_what_a_component_calls_until_it_is_shut_down_is_not_waited_for() -> None:
    order: list[str] = []
    own, _, _ = kitchen(order)

    @component()
    class Guest(Component): ...

    @implementation()
    class GuestImpl(AbstractComponent, Guest):
        def __init__(self, kitchen: Kitchen) -> None:
            self.kitchen = kitchen

        async def startup(self) -> None:
            self.eating = asyncio.ensure_future(self.kitchen.cook("soup"))

        async def shutdown(self) -> None:
            self.eating.cancel()
            await asyncio.wait([self.eating])

    async with started(own, GuestImpl) as hub:
        await until(lambda: order)
        await asyncio.wait_for(hub.service.init.stop(), 15)
    assert order == ["begun", "shut down"]


async def test_the_server_of_the_settings_needs_something_to_serve() -> None:
    hub = new_hub()
    settings = {"server": {"port": 0}, "registry": {"static": {"mall": {"rest": "http://127.0.0.1:1"}}}}
    for kwargs, implementations, serves in (
        ({}, [], False),
        ({"port": 0}, [], True),
        ({}, [ShopImpl], True),
    ):
        async with started(*implementations, hub=hub, settings=settings, **kwargs):
            assert (hub.service.init.report()["port"] is not None) is serves
    hub = new_hub()
    hub.service.init.mount("/app", object())
    async with started(hub=hub, settings=settings):
        assert hub.service.init.report()["port"]


async def test_another_default_than_the_interface_has_is_told(caplog: pytest.LogCaptureFixture) -> None:
    @implementation()
    class Other(Shop):
        async def order(self, item: Item, count: int = 5, *, note: str = "") -> Item:
            return Item("x", count)

        def price(self, name: str, /, factor: float = 2.0) -> float: ...  # type: ignore[empty-body]
        async def find(self, name: str) -> Item | None: ...
        async def fail(self, how: str) -> None: ...
        async def every(self, count: int) -> AsyncIterator[Item]:
            yield Item("x")

        async def total(self, items: AsyncIterator[Item]) -> int: ...  # type: ignore[empty-body]

    async with started(Other, port=0) as hub:
        (said,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        assert re.fullmatch(
            r".*Other.order \(.*test_init.py:\d+\) has the default 5 for 'count', and Shop.order "
            r"\(.*kit.py:\d+\) has 1: who leaves it out gets the first, and is told .* write them alike",
            said,
        )
        for channel in ("local", "dispatch-json"):
            assert (await hub.service.init.get(Shop, channel=channel).order(Item("x"))).count == 5


IMPLEMENTED = """
    from evbus.api import Service, implementation, service

    @service()
    class Till(Service):
        async def pay(self) -> None: ...

    @implementation()
    class TillImpl(Till):
        async def pay(self): ...
"""


async def test_the_log_says_where_services_are_served(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "evbus.service")
    async with started(TowerImpl, ClockImpl, port=0) as hub:
        url = f"http://127.0.0.1:{hub.service.init.report()['port']}"
    assert f"services are served at {url}: tower" in [one.getMessage() for one in caplog.records]
