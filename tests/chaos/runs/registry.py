"""Services that are found by Consul: it goes away, and servers fall silent and die."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from evbus.errors import ServiceCommunicationError
from tests.channel.processes import Process, processes
from tests.channel.shop import Shop
from tests.chaos._calls import Calls, Ended
from tests.chaos._process import LIMIT
from tests.chaos._run import Run
from tests.chaos._transport import Broker
from tests.evbus.kit import new_hub
from tests.servers._consul import Consul, ConsulDouble, missing

AGENTS = {"consul": Consul, "double": ConsulDouble}
CHANNEL = "dispatch-msgpack"
#: Seconds for calls that are not about deadlines, and for checks: a busy machine is no reason to fail.
PATIENCE = 30.0
#: Seconds that a call takes which a kill is to meet: every server has some of them under way all the time.
LONG = 0.2


def registry(
    node: Broker | None,
    folder: Path,
    *,
    agent: str = "consul",
    down: float = 30.0,
    ttl: float = 3.0,
    calls: int = 1_000,
    rate: int = 200,
    deadline: float = 1.0,
) -> Run:
    """Consul is down, a server falls silent, one of three is killed: calls go on, end in time, and run once.

    The agent is a ``consul``, or a ``double`` of it; ``down``, ``ttl`` and ``deadline`` are seconds.
    """
    settings = {"agent": agent, "down": down, "ttl": ttl, "calls": calls, "rate": rate, "deadline": deadline}
    run = Run("20: servers that Consul knows", **settings)
    about = {"kind": "http", "interval": 2, "timeout": PATIENCE}
    with _scene(agent, folder / "outage", 2, about) as scene:
        asyncio.run(_outage(run, scene, down, rate))
    with _scene(agent, folder / "silence", 2, {"kind": "ttl", "interval": ttl}) as scene:
        asyncio.run(_silence(run, scene, ttl, rate, deadline))
    with _scene(agent, folder / "death", 3, about) as scene:
        asyncio.run(_death(run, scene, calls, rate, deadline))
    return run


async def _outage(run: Run, scene: Scene, down: float, rate: int) -> None:
    """Consul is killed, and comes back with nothing in it: no call fails, and changes are seen afterwards."""
    consul, (first, second), options = scene
    async with _calling(scene) as hub, Calls(_shop(hub).take, rate, PATIENCE) as made:
        await _until(lambda: len(made.ended) >= rate, "calls")
        await asyncio.to_thread(consul.kill)
        before = len(made.ended)
        await asyncio.sleep(down)
        run.note(outage_calls_meanwhile=len(made.ended) - before)
        await asyncio.to_thread(consul.start)
        back = time.monotonic()
        await _until(lambda: len(consul.entries("shop")) == 2, "servers that register again")
        run.note(outage_registered_again_s=_since(back))
        await asyncio.to_thread(second.end)
        # That one address is left may also be what Consul told before both had registered; a new one is not.
        third = await asyncio.to_thread(Process, second.noted.with_name("third"), options=options)
        scene.servers.append(third)
        await _until(lambda: _known(hub) == {first.url, third.url}, "changes that are seen afterwards")
        run.note(outage_changes_seen_s=_since(back))
        await _until(lambda: len(third.runs()) > 0, "calls of the new server")
    run.note(outage_calls=made.made)
    _compare(run, "outage", made, scene, ())
    run.note(outage_problems=sorted({str(one.problem) for one in made.failed()})[:5])


async def _silence(run: Run, scene: Scene, ttl: float, rate: int, deadline: float) -> None:
    """A server is frozen: when its time to live has passed it gets no calls, and when it goes on it does."""
    second = scene.servers[1]
    # Who leaves an address alone because calls of it fail would hide what the registry does.
    async with (
        _calling(scene, breaker={"failures": 0}) as hub,
        Calls(_shop(hub).take, rate, deadline) as made,
    ):
        await _until(lambda: len(made.ended) >= rate, "calls")
        second.freeze()
        frozen = time.monotonic()
        await _until(lambda: second.url not in _known(hub), "a server that gets no calls")
        gone = time.monotonic()
        run.time("silence_routed_s", round(gone - frozen, 2), ttl + 1)
        sent = made.made
        await _until(lambda: made.ended_below(sent) == sent, "the end of calls that were sent there")
        thawed = time.monotonic()
        second.thaw()
        await _until(lambda: second.url in _known(hub), "a server that is back")
        run.note(silence_back_s=_since(thawed))
        again = len(second.runs())
        await _until(lambda: len(second.runs()) > again + rate / 4, "calls of a server that is back")
    failed = made.failed()
    run.note(silence_calls=made.made)
    run.same("silence_sent_when_it_was_gone", sum(gone < one.begun < thawed for one in failed))
    run.time("silence_late_ms", made.late(), 100)
    _compare(run, "silence", made, scene, [second])


async def _death(run: Run, scene: Scene, calls: int, rate: int, deadline: float) -> None:
    """One of three servers is killed in the middle of calls; of those, every other may be made again."""
    victim = scene.servers[0]
    async with _calling(scene) as hub:
        shop = _shop(hub)

        async def call(number: int) -> int:
            if number == calls // 2:
                victim.kill()
            found: int = await (shop.find(number) if _may_again(number) else shop.pack(number, LONG))
            return found

        made = Calls(call, rate, deadline)
        await made.go(calls)
    run.time("death_late_ms", made.late(), 100)
    run.same("death_failed_that_may_be_made_again", sum(_may_again(one.number) for one in made.failed()))
    _compare(run, "death", made, scene, [victim], _may_again)


def _may_again(number: int) -> bool:
    return bool(number % 2)


def _compare(
    run: Run,
    where: str,
    made: Calls,
    scene: Scene,
    bad: Collection[Process],
    may_again: Callable[[int], bool] = lambda _: False,
) -> None:
    """Compare how calls ended with what the servers noted.

    :param bad: servers of which calls fail; they say so.
    """
    failed = made.failed()
    if bad:
        run.hold(f"{where}_failed", len(failed), len(failed) > 0, "some, or nothing was proved")
        said = [any(_not_known(one, server) for server in bad) for one in failed]
        run.same(f"{where}_failed_otherwise", len(failed) - sum(said))
    else:
        run.same(f"{where}_failed", len(failed))
    ran = sum((one.runs() for one in scene.servers), Counter[int]())
    returned = set(range(made.made)) - {one.number for one in failed}
    run.same(f"{where}_not_run", len(returned - set(ran)))
    run.same(f"{where}_run_twice", sum(ran[number] > 1 for number in ran if not may_again(number)))


def _not_known(ended: Ended, server: Process) -> bool:
    """Return whether a call says that a server may have got it, and what became of it there is not known."""
    problem = ended.problem
    if not isinstance(problem, ServiceCommunicationError):
        return False
    return problem.handed_over and server.url in str(problem)


# Servers, and who calls them


class Scene(NamedTuple):
    """Servers of a shop, and the agent that knows them.

    :ivar servers: those that are ended when the scene is.
    :ivar options: of further ones.
    """

    consul: Consul
    servers: list[Process]
    options: dict[str, Any]


@contextmanager
def _scene(agent: str, folder: Path, count: int, check: dict[str, Any]) -> Generator[Scene]:
    """Start an agent and so many servers, and end them."""
    if AGENTS[agent] is Consul and (absent := missing()):
        raise RuntimeError(f"{absent}; --agent double does without")
    with AGENTS[agent]() as consul:
        consul.start(folder)
        settings = {"registry": {"consul": {"url": consul.url, "check": check}}}
        options = {"port": 0, "settings": settings}
        with processes(folder, count, options) as servers:
            yield Scene(consul, servers, options)


@asynccontextmanager
async def _calling(scene: Scene, **channel: Any) -> AsyncGenerator[Any]:
    """Return a hub that knows the servers."""
    hub: Any = new_hub()
    registry = {"consul": {"url": scene.consul.url}}
    await hub.service.init.start(settings={"registry": registry, "channels": {CHANNEL: channel}})
    try:
        await _shop(hub).pid()
        urls = {one.url for one in scene.servers}
        await _until(lambda: _known(hub) == urls, "the addresses of the servers")
        yield hub
    finally:
        await hub.service.init.stop(PATIENCE)


def _shop(hub: Any) -> Any:
    return hub.service.init.get(Shop, CHANNEL)


def _known(hub: Any) -> set[str]:
    """Return the addresses that calls go to."""
    found = hub.service.init.report()["elsewhere"]["shop"]
    return {one["address"] for one in found.get(CHANNEL, [])}


def _since(moment: float) -> float:
    return round(time.monotonic() - moment, 2)


async def _until(ready: Callable[[], bool], what: str) -> None:
    """Return once something is so.

    :raises TimeoutError: it is not, for long.
    """
    try:
        async with asyncio.timeout(LIMIT):
            while not ready():  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {LIMIT:g} s") from None
