"""The registry consul, on a real agent and on its double."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.service import consul
from evbus.engine.service.consul import ConsulSettings, channels_of, channels_text
from evbus.engine.service.declare import (
    AbstractComponent,
    ChannelAddress,
    Component,
    Service,
    component,
    implementation,
    service,
)
from evbus.engine.service.health import (
    Health,
    HealthCheckManager,
    HealthStatus,
    health,
    health_check,
    health_checks,
)
from evbus.errors import ProfileError, ServiceCommunicationError, ServiceError, ServiceTimeout
from tests.channel.processes import each, processes
from tests.channel.shop import Shop
from tests.evbus.kit import new_hub
from tests.servers import _consul
from tests.servers._consul import Consul, ConsulDouble
from tests.servers._ports import free_ports

WAIT = 60.0  # seconds
SOON = {"interval": 0.2, "timeout": 3}


@service()
class Bell(Service):
    @abstractmethod
    async def ring(self, times: int) -> str: ...


@component(name="belfry", services=[Bell])
class Belfry(Component): ...


@implementation()
class BellImpl(Bell):
    async def ring(self, times: int) -> str:
        return "dong " * times


@implementation()
@health("/belfry/health")
class BelfryImpl(AbstractComponent, Belfry): ...


def settings(agent: Consul, **more: Any) -> dict[str, Any]:
    return {"registry": {"consul": {"url": agent.url, "wait": 5, **more}}}


@asynccontextmanager
async def serving(agent: Consul, *more: type, port: int | None = 0, **about: Any) -> AsyncIterator[Any]:
    hub = new_hub()
    hub.service.init.add(BellImpl, BelfryImpl, *more)
    await hub.service.init.start(port=port, settings=settings(agent, **about))
    try:
        yield hub
    finally:
        await hub.service.init.stop(5)


@asynccontextmanager
async def calling(agent: Consul, **about: Any) -> AsyncIterator[Any]:
    hub = new_hub()
    await hub.service.init.start(settings=settings(agent, **about))
    try:
        yield hub
    finally:
        await hub.service.init.stop(5)


def bell(hub: Any, channel: str = "") -> Any:
    return hub.service.init.get(Bell, channel)


async def until(ready: Callable[[], Any]) -> Any:
    """Return what is true once it is; what blocks is asked in a thread."""
    async with asyncio.timeout(WAIT):
        while not (found := await asyncio.to_thread(ready)):  # noqa: ASYNC110 - it is told by no event
            await asyncio.sleep(0.02)
        return found


async def entries(agent: Consul, name: str = "belfry") -> list[Any]:
    return await asyncio.to_thread(agent.entries, name)


def known(hub: Any) -> list[str]:
    found = hub.service.init.report()["elsewhere"].get("belfry", {})
    return [one["address"] for one in found.get("dispatch-json", [])]


def port_of(hub: Any) -> int:
    return int(hub.service.init.report()["port"])


async def test_what_runs_here_is_registered_and_others_find_it(each_consul: Consul) -> None:
    async with serving(each_consul) as there:
        url = f"http://127.0.0.1:{port_of(there)}"
        (entry,) = await entries(each_consul)
        service_entry = entry["Service"]
        assert service_entry["ID"] == f"127.0.0.1:{port_of(there)}:belfry"
        assert (service_entry["Address"], service_entry["Port"]) == ("127.0.0.1", port_of(there))
        assert service_entry["Tags"] == ["component"]
        told = f"dispatch-json({url}),dispatch-msgpack({url}),rest({url})"
        assert service_entry["Meta"] == {"channels": told}
        # It is found at once, before its check was made.
        assert [one["Status"] for one in entry["Checks"] if "belfry" in one["CheckID"]] == ["passing"]
        async with calling(each_consul) as here:
            assert await bell(here).ring(2) == "dong dong "
            assert await bell(here, "dispatch-msgpack").ring(1) == "dong "
            await here.service.init.look()
            assert set(here.service.init.report()["elsewhere"]) == {"belfry"}
    assert await entries(each_consul) == []


async def test_consul_asks_the_path_of_the_component_for_its_health(each_consul: Consul) -> None:
    async with serving(each_consul, check=SOON):
        # The catalogue has what a check says minutes later; the agent has it at once.
        def asked() -> Any:
            checks = each_consul.ask("/v1/agent/checks").values()
            return [one for one in checks if "/belfry/health" in one["Output"]]

        (check,) = await until(asked)
        assert check["Status"] == "passing"


async def test_addresses_follow_those_that_come_and_go(each_consul: Consul) -> None:
    async with calling(each_consul) as here:
        with pytest.raises(ServiceError) as problem:
            await bell(here).ring(1)
        assert str(problem.value) == "the registry consul has no component 'belfry'"
        async with serving(each_consul) as first:
            assert await bell(here).ring(1) == "dong "
            async with serving(each_consul) as second:
                both = {f"http://127.0.0.1:{port_of(one)}" for one in (first, second)}
                await until(lambda: set(known(here)) == both)
            await until(lambda: known(here) == [f"http://127.0.0.1:{port_of(first)}"])
            assert await bell(here).ring(1) == "dong "
        await until(lambda: not known(here))
        with pytest.raises(ServiceCommunicationError) as away:
            await bell(here).ring(1)
        assert str(away.value) == (
            "the component 'belfry' has no address now; see that an instance of it runs and is well, and "
            "that the registry consul knows it"
        )


@health_checks()
class Mood:
    status = HealthStatus.OK

    @health_check()
    async def mood(self, result: HealthCheckManager.Result) -> None:
        result.set_status(Mood.status, "it rains" if Mood.status is not HealthStatus.OK else "")


@pytest.mark.parametrize("kind", ["ttl", "http"])
async def test_what_is_not_well_gets_no_calls(
    each_consul: Consul, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What tells it nothing for so long is gone, and a busy machine is no reason for that.
    interval = 3 if kind == "ttl" else 0.2
    check = {**SOON, "kind": kind, "interval": interval}
    async with serving(each_consul, Mood, check=check) as there, calling(each_consul) as here:
        assert await bell(here).ring(1) == "dong "
        for status in (HealthStatus.WARNING, HealthStatus.ERROR):
            monkeypatch.setattr(Mood, "status", status)
            await until(lambda: not known(here))
            if kind == "ttl":
                (entry,) = await entries(each_consul)
                assert f"mood: {status} it rains" in [one["Output"] for one in entry["Checks"]]
            monkeypatch.setattr(Mood, "status", HealthStatus.OK)
            await until(lambda: known(here) == [f"http://127.0.0.1:{port_of(there)}"])


async def test_what_says_nothing_any_more_gets_no_calls(each_consul: Consul) -> None:
    async with serving(each_consul) as there:
        url = f"http://127.0.0.1:{port_of(there)}"
        body = {
            "ID": "1.2.3.4:5:belfry",
            "Name": "belfry",
            "Tags": ["component"],
            "Meta": {"channels": "dispatch-json(http://1.2.3.4:5)"},
            "Check": {"TTL": "1s", "Status": "passing"},
        }
        async with calling(each_consul) as here:
            assert await bell(here).ring(1) == "dong "
            await asyncio.to_thread(each_consul.ask, "/v1/agent/service/register", "PUT", body)
            await until(lambda: len(known(here)) == 2)
            await until(lambda: known(here) == [url])


async def test_what_consul_forgets_it_is_told_again(
    each_consul: Consul, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(each_consul, check=SOON) as there,
        serving(each_consul, check={**SOON, "kind": "ttl", "interval": 1}),
        calling(each_consul) as here,
    ):
        await until(lambda: len(each_consul.entries("belfry")) == 2)
        assert await bell(here).ring(1) == "dong "
        await asyncio.to_thread(each_consul.kill)
        await until(lambda: "what is known of it stays" in caplog.text)
        # It is called as it was known, as long as nobody can be asked.
        for _ in range(10):
            assert await bell(here).ring(1) == "dong "
        assert known(here)
        await asyncio.to_thread(each_consul.start)
        await until(lambda: len(each_consul.entries("belfry")) == 2)
        await until(lambda: f"http://127.0.0.1:{port_of(there)}" in known(here) and len(known(here)) == 2)
        assert await bell(here).ring(1) == "dong "
    messages = [record.getMessage() for record in caplog.records]
    assert "Consul had forgotten the component belfry, and was told again" in messages


async def test_what_registers_between_two_questions_is_found(each_consul: Consul) -> None:
    class Late(consul.Consul):
        async def components(self) -> list[str]:
            body = {"ID": "1", "Name": "late", "Tags": ["component"], "Meta": {"channels": "wire(there)"}}
            await asyncio.to_thread(each_consul.ask, "/v1/agent/service/register", "PUT", body)
            await until(lambda: each_consul.entries("late"))
            return await super().components()

    async def well() -> Health:
        return Health()

    registry = Late(ConsulSettings(url=each_consul.url), lambda _: "/health", well)
    async with aclosing(registry.watch("late")) as told:
        assert await anext(told) == [("wire", "there")]
    await registry.close()


async def test_a_check_of_another_kind_takes_the_place_of_the_one_before(each_consul: Consul) -> None:
    (port,) = free_ports(1)
    body = {
        "ID": f"127.0.0.1:{port}:belfry",
        "Name": "belfry",
        "Tags": ["component"],
        "Check": {"TTL": "30s", "Status": "passing"},
    }
    # As one that was killed leaves it.
    await asyncio.to_thread(each_consul.ask, "/v1/agent/service/register", "PUT", body)
    async with serving(each_consul, port=port, check=SOON):
        await until(
            lambda: any(
                "/belfry/health" in one["Output"] for one in each_consul.ask("/v1/agent/checks").values()
            )
        )


async def test_entries_of_others_and_broken_ones_are_left_out(
    each_consul: Consul, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(each_consul) as there:
        for number, (tags, meta) in enumerate(
            [
                (["component"], {"channels": "dispatch-json http://127.0.0.1:1"}),
                (["component"], {}),
                ([], {"channels": "dispatch-json(http://127.0.0.1:2)"}),
            ]
        ):
            body = {"ID": f"odd-{number}", "Name": "belfry", "Tags": tags, "Meta": meta}
            await asyncio.to_thread(each_consul.ask, "/v1/agent/service/register", "PUT", body)
        async with calling(each_consul) as here:
            for _ in range(5):
                assert await bell(here).ring(1) == "dong "
            assert known(here) == [f"http://127.0.0.1:{port_of(there)}"]
    told = [one.getMessage() for one in caplog.records if "cannot be used" in one.getMessage()]
    said = "Consul has an entry odd-{} of the component belfry that cannot be used: channels in its metadata "
    assert told == [
        said.format(0) + "are 'dispatch-json http://127.0.0.1:1', and not name(address),...",
        said.format(1) + "are '', and not name(address),...",
    ]


async def test_of_three_one_is_killed_in_the_middle_of_calls(each_consul: Consul, tmp_path: Path) -> None:
    told = settings(each_consul, check=SOON)
    with processes(tmp_path, 3, {"port": 0, "settings": told}) as made:
        async with calling(each_consul) as here:
            await until(lambda: len(each_consul.entries("shop")) == 3)
            shop = here.service.init.get(Shop, "dispatch-json")
            done = 0

            async def take(number: int) -> Any:
                nonlocal done
                done += 1
                if done == 100:
                    made[0].kill()
                return await shop.take(number)

            found = await each(take, 600)
            failed = {number: one for number, one in found.items() if isinstance(one, Exception)}
            assert all(
                isinstance(one, ServiceCommunicationError) and one.handed_over for one in failed.values()
            )
            assert len(failed) <= 32  # those that were under way there
            runs = sum((one.runs() for one in made), start=made[0].runs().__class__())
            assert set(runs.values()) <= {1}
            assert set(found) - set(failed) <= set(runs)
            url = made[0].url
            await until(
                lambda: (
                    url
                    not in [
                        one["address"]
                        for one in here.service.init.report()["elsewhere"]["shop"]["dispatch-json"]
                    ]
                )
            )


# What is away or wrong


async def test_an_agent_that_is_away_is_told_in_a_sentence() -> None:
    (port,) = free_ports(1)
    hub = new_hub()
    hub.service.init.add(BellImpl, BelfryImpl)
    about = {"registry": {"consul": {"url": f"http://127.0.0.1:{port}"}}}
    said = f"Consul at http://127.0.0.1:{port}: nothing listens there (connection refused)"
    with pytest.raises(ServiceCommunicationError) as problem:
        await hub.service.init.start(port=0, settings=about)
    assert str(problem.value) == said
    caller = new_hub()
    await caller.service.init.start(settings=about)
    with pytest.raises(ServiceCommunicationError) as problem:
        await bell(caller).ring(1)
    assert str(problem.value) == said
    await caller.service.init.stop()


async def test_an_agent_that_is_frozen_holds_up_neither_calls_nor_a_stop(
    each_consul: Consul, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(each_consul) as there, calling(each_consul) as here, calling(each_consul) as late:
        assert await bell(here).ring(1) == "dong "
        each_consul.freeze()
        try:
            # What is known is called; who has to ask first waits no longer than the call may take.
            assert [await bell(here).ring(1) for _ in range(20)] == ["dong "] * 20
            with late.service.init.within(0.5), pytest.raises(ServiceTimeout, match="there was no answer"):
                await bell(late).ring(1)
            await there.service.init.stop(2)
            said = "the registry consul was not told within 1 s that the component belfry is gone"
            assert [one for one in caplog.messages if "was not told" in one] == [said]
            monkeypatch.setattr(consul, "_PATIENCE", 0.5)
            again = new_hub()
            again.service.init.add(BellImpl, BelfryImpl)
            with pytest.raises(ServiceCommunicationError) as problem:
                await again.service.init.start(port=0, settings=settings(each_consul))
            assert str(problem.value) == f"Consul at {each_consul.url}: there was no answer within 0.5 s"
        finally:
            each_consul.thaw()


TOKEN = "5f9c2c5e-7a61-4b1c-9c55-0d7ad4a0f7b1"


@pytest.mark.parametrize("kind", [Consul, ConsulDouble])
async def test_a_token_is_sent_and_one_that_may_nothing_is_told(
    kind: type[Consul], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if kind is Consul and _consul.missing():
        pytest.skip(_consul.missing())
    with kind(TOKEN) as agent:
        await asyncio.to_thread(agent.start, tmp_path / "consul")
        async with serving(agent, token=TOKEN), calling(agent, token=TOKEN) as here:
            assert await bell(here).ring(1) == "dong "
        for token in ("", TOKEN[:-1] + "2"):
            hub = new_hub()
            hub.service.init.add(BellImpl, BelfryImpl)
            with pytest.raises(ServiceError) as problem:
                await hub.service.init.start(port=0, settings=settings(agent, token=token))
            assert str(problem.value).startswith(f"Consul at {agent.url} does not allow this: ")
            assert str(problem.value).endswith("; see that registry.consul.token may")
            assert TOKEN[:-1] not in f"{problem.value}{caplog.text}"
    assert TOKEN not in repr(ConsulSettings(token=TOKEN))


async def test_something_else_in_its_place_is_told(each_consul: Consul) -> None:
    async with serving(each_consul) as there:
        caller = new_hub()
        url = f"http://127.0.0.1:{port_of(there)}"
        await caller.service.init.start(settings={"registry": {"consul": {"url": url}}})
        with pytest.raises(
            ServiceError, match=f"Consul at {url} answered 404 to /v1/health/service/belfry: "
        ):
            await bell(caller).ring(1)
        await caller.service.init.stop()


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"ur": "x"}, "services: registry.consul.ur: there is no such key; did you mean 'url'?"),
        ({"url": "consul:8500"}, "services: registry.consul: url: it is no URL of HTTP; write it as http://"),
        (
            {"url": "http://joe:geheim@consul"},
            "services: registry.consul: url: it holds a user or a password",
        ),
        ({"check": {"kind": "tcp"}}, "services: registry.consul.check.kind: 'tcp' is none of "),
        (
            {"check": {"interval": 0}},
            "services: registry.consul.check: interval, timeout and deregister are ",
        ),
        (
            {"wait": "1h"},
            "services: registry.consul: wait is a number of seconds above 0, and 10m at the most",
        ),
        (
            {"token": "a b-geheim"},
            "services: registry.consul: token holds characters that no header can carry",
        ),
    ],
)
async def test_settings_are_checked(about: dict[str, Any], said: str) -> None:
    with pytest.raises(ProfileError) as problem:
        await new_hub().service.init.start(settings={"registry": {"consul": about}})
    assert str(problem.value).startswith(said)
    assert "geheim" not in str(problem.value)


async def test_without_an_http_server_consul_is_told(each_consul: Consul) -> None:
    @component(name="pigeons")
    class Pigeons(Component): ...

    @implementation()
    class PigeonsImpl(AbstractComponent, Pigeons):
        def get_addresses(self, port: int) -> list[ChannelAddress]:
            return [ChannelAddress("carrier", "roof")]

    for kind in ("auto", "http"):
        hub = new_hub()
        hub.service.init.add(PigeonsImpl)
        starting = hub.service.init.start(
            settings=settings(each_consul, address="10.1.2.3", check={"kind": kind})
        )
        if kind == "http":
            with pytest.raises(ServiceError, match="set registry.consul.check.kind to ttl, or start an HTTP"):
                await starting
            continue
        await starting
        (entry,) = await entries(each_consul, "pigeons")
        assert entry["Service"]["Meta"] == {"channels": "carrier(roof)"}
        assert entry["Service"]["Address"] == "10.1.2.3"
        await hub.service.init.stop()
        assert await entries(each_consul, "pigeons") == []


async def test_what_listens_on_all_addresses_is_registered_by_one_that_others_reach(
    each_consul: Consul, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {"127.0.0.1": "127.0.0.1", "192.0.2.1": "10.9.8.7"}

    def source_of(family: int, where: Any) -> str:
        if where[0] not in ways:
            raise OSError("there is no way there")
        return ways[where[0]]

    # Which addresses a machine has differs.
    monkeypatch.setattr(consul, "_source_of", source_of)
    registry = consul.Consul(ConsulSettings(url=each_consul.url), lambda _: "/health", Health)
    for host in ("10.9.8.7", "127.0.0.1"):
        entry = await registry._entry("bell", [ChannelAddress("rest", "http://0.0.0.0:8001")])
        assert entry.id == f"{host}:8001:bell"
        assert entry.body["Meta"] == {"channels": f"rest(http://{host}:8001)"}
        assert entry.body["Check"]["HTTP"] == f"http://{host}:8001/health"
        ways.pop("192.0.2.1", None)
    await registry.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a(http://h:1)", [("a", "http://h:1")]),
        ("a(http://h:1),b-c(queue)", [("a", "http://h:1"), ("b-c", "queue")]),
        ("a(http://h:1), b(x)", [("a", "http://h:1"), ("b", "x")]),
        ("", []),
        ("a(http://h:1),", []),
        ("a(http://h:1)b(x)", []),
        ("a(http://h:1", []),
        ("a", []),
        ("a()", []),
        (None, []),
        (5, []),
    ],
)
def test_channels_in_metadata_are_read_as_they_are_written(text: Any, found: list[Any]) -> None:
    assert channels_of(text) == found
    if found and " " not in text:
        assert channels_text([ChannelAddress(*one) for one in found]) == text


def test_an_address_that_would_be_read_as_another_is_refused() -> None:
    with pytest.raises(
        ServiceError, match="channel a cannot stand in Consul, as it holds brackets or blanks"
    ):
        channels_text([ChannelAddress("a", "x),b(y")])
