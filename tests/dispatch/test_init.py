"""The dispatcher on the hub: its life, what handlers take, and what runs around them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evbus.api import Factory, Singleton
from evbus.errors import (
    DispatcherNotStarted,
    DispatchError,
    DispatcherStopped,
    DispatchTimeout,
    HandlerSignatureError,
    SettingsError,
)
from tests.dispatch.hub_kit import CreateUser, Repo, UserCreated, UserQuery, failure, go, new_hub, started
from tests.evbus.kit import WAIT, write

ROOT = Path(__file__).parent.parent.parent


async def echo(message: Any) -> Any:
    return message


# Starting and stopping


def test_start_is_a_plain_call_before_any_loop_runs(hub: Any) -> None:
    hub.dispatch.queries.bind(UserQuery, echo)
    hub.dispatch.start()
    assert hub.dispatch.init.running()

    async def main() -> Any:
        try:
            return await hub.dispatch.handle(UserQuery(), wait_for_response=True)
        finally:
            await hub.dispatch.stop()

    assert go(main) == UserQuery()


async def test_what_has_to_be_awaited_is_made_by_an_awaited_start_or_by_the_first_message(hub: Any) -> None:
    made = []

    async def get_repo() -> Repo:
        made.append(Repo())
        return made[-1]

    async def users(query: UserQuery, repo: Repo) -> Repo:
        return repo

    hub.dispatch.queries.bind(UserQuery, users, repo=Singleton["repo":get_repo])

    counts = []
    hub.dispatch.start()
    counts.append(len(made))
    assert await hub.dispatch.handle(UserQuery(), wait_for_response=True) is made[0]
    await hub.dispatch.stop()
    await hub.dispatch.start()
    counts.append(len(made))
    assert await hub.dispatch.handle(UserQuery(), wait_for_response=True) is made[1]
    await hub.dispatch.stop()
    assert counts == [0, 2]
    assert [repo.closed for repo in made] == [1, 1]


async def test_a_dispatcher_that_runs_is_not_started_again_and_stays_as_it_is(hub: Any) -> None:
    async with started(hub, engine_workers=3):
        core = hub.dispatch.DISPATCHER.core
        before = (
            core.send,
            core.around,
            hub.dispatch.ERROR_CALLBACK,
            hub.dispatch.DISPATCHER.events.pool.limit,
        )
        with pytest.raises(DispatchError, match="the dispatcher is started already"):
            hub.dispatch.start(engine_workers=7)
        after = (
            core.send,
            core.around,
            hub.dispatch.ERROR_CALLBACK,
            hub.dispatch.DISPATCHER.events.pool.limit,
        )
        assert before == after
        assert after[-1] == 3


@pytest.mark.parametrize("workers", [-1, 1.5, "3", True])
def test_a_number_of_workers_that_is_none_is_refused_and_nothing_started(hub: Any, workers: Any) -> None:
    sentence = failure(ValueError, hub.dispatch.init.start, workers)
    assert sentence == f"engine_workers is a number of handlers, or 0 for any number, and not {workers!r}"
    assert not hub.dispatch.init.running()


def test_a_bad_option_is_refused_at_start() -> None:
    hub = new_hub(engine_workers=-1)
    assert failure(SettingsError, hub.dispatch.init.start) == (
        "evbus.engine_workers: it must be a number from 0 on"
    )
    hub = new_hub(error_callback_ref="no.such.fn")
    assert failure(SettingsError, hub.dispatch.init.start).startswith(
        "evbus.error_callback_ref: the hub has no function 'no.such.fn'"
    )
    assert not hub.dispatch.init.running()


@pytest.mark.parametrize("function", ["handle", "stop", "start", "wait_for_shutdown"])
def test_the_short_names_are_those_of_init(hub: Any, function: str) -> None:
    assert getattr(hub.dispatch, function) is getattr(hub.dispatch.init, function)


def test_before_the_start_and_after_the_stop_messages_are_refused(hub: Any) -> None:
    hub.dispatch.commands.bind(CreateUser, echo)
    assert failure(DispatcherNotStarted, hub.dispatch.handle, CreateUser()) == (
        "the dispatcher is not started; call hub.dispatch.init.start() first"
    )
    assert failure(DispatcherNotStarted, hub.dispatch.wait_for_shutdown)

    async def main() -> None:
        async with started(hub):
            pass
        with pytest.raises(DispatcherStopped):
            await hub.dispatch.handle(CreateUser())
        async with started(hub):
            assert await hub.dispatch.handle(CreateUser(), wait_for_response=True) == CreateUser()

    go(main)


async def test_stop_handles_what_is_there_and_says_so(hub: Any) -> None:
    seen = []

    async def slowly(event: UserCreated) -> None:
        await asyncio.sleep(0)
        seen.append(event.name)

    hub.dispatch.events.bind(UserCreated, slowly)

    hub.dispatch.start(engine_workers=2)
    for number in range(20):
        await hub.dispatch.handle(UserCreated(str(number)))
    assert str(await hub.dispatch.stop()).startswith("every message was handled (")
    assert sorted(seen, key=int) == [str(number) for number in range(20)]


@pytest.mark.parametrize("by", ["parameter", "option"])
async def test_what_is_not_handled_in_time_is_reported(by: str, caplog: pytest.LogCaptureFixture) -> None:
    hub = new_hub(drain_timeout=0.01 if by == "option" else 1000.0)

    async def for_ever(event: UserCreated) -> None:
        await asyncio.Event().wait()

    hub.dispatch.events.bind(UserCreated, for_ever)

    hub.dispatch.start(engine_workers=1)
    for _ in range(3):
        await hub.dispatch.handle(UserCreated())
    report = await hub.dispatch.stop(*([0.01] if by == "parameter" else []))
    assert report.unhandled == {"UserCreated": 3}
    assert str(report).startswith("not handled when the dispatcher was stopped: ")
    assert str(report) in caplog.text


async def test_the_bus_of_the_api_stops_the_dispatcher_before_itself() -> None:
    from evbus.api import bus

    async with bus({"internal": {"*": {}}}) as events:
        hub = events.hub

        async def store(event: UserCreated) -> None:
            await asyncio.sleep(0)
            await events.put(routing_key="users", body=event.name)

        hub.dispatch.events.bind(UserCreated, store)
        hub.dispatch.start()
        await hub.dispatch.handle(UserCreated())
    assert not hub.dispatch.init.running()
    assert (await hub.ingress.internal.get("users")).get_nowait() == b'"ann"'


PROGRAM = """
import asyncio
import pop.hub

hub = pop.hub.Hub()
hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")


@hub.dispatch.events.register("slow")
async def slow():
    print("handling", flush=True)
    await released.wait()
    print("handled", flush=True)


async def main():
    global released
    released = asyncio.Event()
    hub.dispatch.start()
    await hub.dispatch.handle("slow")
    stopping = asyncio.ensure_future(hub.dispatch.wait_for_shutdown())
    while hub.dispatch.init.running():
        await asyncio.sleep(0.001)
    print("stopping", flush=True)
    if {patient}:
        released.set()
    print(sum((await stopping).unhandled.values()))


asyncio.run(main())
"""


def _run(patient: bool, signals: list[signal.Signals]) -> tuple[int, list[str]]:
    """Run the program; send it one signal when it handles something, and the next when it stops."""
    text = PROGRAM.replace("{patient}", str(patient))
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for number in signals:
                said.append(process.stdout.readline().strip())
                process.send_signal(number)
            said += process.stdout.read().split()
            return process.wait(WAIT), said
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_shutdown_and_what_is_there_is_handled(number: signal.Signals) -> None:
    assert _run(True, [number]) == (0, ["handling", "stopping", "handled", "0"])


def test_a_second_signal_waits_for_nothing_more() -> None:
    code, said = _run(False, [signal.SIGTERM, signal.SIGINT])
    assert (code, said[:2], said[-1]) == (0, ["handling", "stopping"], "1")
    assert "handled" not in said


async def test_who_waits_for_shutdown_returns_when_somebody_else_stops(hub: Any) -> None:
    await hub.dispatch.start()
    waiting = asyncio.ensure_future(hub.dispatch.wait_for_shutdown())
    await asyncio.sleep(0)
    await hub.dispatch.stop()
    assert (await waiting).unhandled == {}


# Options


async def test_engine_workers_bounds_each_router_by_option_and_by_parameter() -> None:
    hub = new_hub(engine_workers=2)
    running, most = 0, 0

    async def work(event: UserCreated) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    hub.dispatch.events.bind(UserCreated, work)

    found = []
    for options in ({}, {"engine_workers": 5}, {"engine_workers": 0}):
        most = 0
        async with started(hub, **options):
            for _ in range(20):
                await hub.dispatch.handle(UserCreated())
        found.append(most)
    two, five, many = found
    assert (two, five) == (2, 5)
    assert many > 5


def test_dispatch_backlog_makes_a_sender_wait() -> None:
    hub = new_hub(engine_workers=1, dispatch_backlog=4)

    async def main() -> tuple[int, int]:
        release = asyncio.Event()

        async def work(event: UserCreated) -> None:
            await release.wait()

        hub.dispatch.events.bind(UserCreated, work)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(20):
                await hub.dispatch.handle(UserCreated())
                sent += 1

        async with started(hub):
            sending = asyncio.ensure_future(send())
            for _ in range(50):
                await asyncio.sleep(0)
            before = sent
            release.set()
            await sending
        return before, sent

    before, after = go(main)
    assert 4 <= before <= 6
    assert after == 20


# What handlers take


async def test_a_handler_takes_the_hub_by_its_name(hub: Any) -> None:
    async def users(hub: Any, query: UserQuery) -> Any:
        return hub

    hub.dispatch.queries.bind(UserQuery, users)

    async with started(hub):
        assert (await hub.dispatch.handle(UserQuery(), wait_for_response=True)) is hub


class MemoryRepo(Repo):
    """A repository that is provided for its base."""


@pytest.mark.parametrize(
    "value",
    [MemoryRepo(), Singleton["repo":MemoryRepo], Factory["repo":MemoryRepo]],
    ids=["value", "singleton", "factory"],
)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", [Repo, MemoryRepo])
async def test_what_is_provided_is_taken_by_its_type(hub: Any, value: Any, when: str, kind: type) -> None:
    async def users(query: UserQuery, repo: Repo) -> Repo:
        return repo

    if when == "before":
        hub.dispatch.init.provide(kind, value)
    hub.dispatch.queries.bind(UserQuery, users)
    hub.dispatch.queries.bind("same", users)
    if when == "after":
        hub.dispatch.init.provide(kind, value)

    async with started(hub):
        messages = (UserQuery(), UserQuery(), "same")
        first, again, other = [
            await hub.dispatch.handle(message, wait_for_response=True) for message in messages
        ]
    assert type(first) is MemoryRepo
    assert first is again
    assert (first is other) == (not isinstance(value, Factory))
    assert first.closed == (1 if isinstance(value, (Singleton, Factory)) else 0)


def test_what_nobody_provides_is_told_at_start_and_may_be_provided_then(hub: Any) -> None:
    async def users(query: UserQuery, repo: Repo) -> Repo:
        return repo

    hub.dispatch.queries.bind(UserQuery, users)
    assert failure(HandlerSignatureError, hub.dispatch.init.start) == (
        f"the handler {__name__}.{users.__qualname__} of UserQuery: nothing is provided for 'repo', a Repo; "
        "provide that type before the start, or give it when binding (repo=...), or name the message's "
        "parameter with argname=..."
    )
    assert not hub.dispatch.init.running()
    repo = Repo()
    hub.dispatch.init.provide(Repo, repo)

    async def main() -> Any:
        async with started(hub):
            return await hub.dispatch.handle(UserQuery(), wait_for_response=True)

    assert go(main) is repo


# Sending


async def test_a_timeout_is_an_error_of_the_sender(hub: Any) -> None:
    ended = []

    async def for_ever(command: CreateUser) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(command)

    hub.dispatch.commands.bind(CreateUser, for_ever)

    async with started(hub):
        with pytest.raises(DispatchTimeout, match=r"CreateUser was not handled within 0\.01 s"):
            await hub.dispatch.handle(CreateUser(), wait_for_response=True, timeout=0.01)
        assert ended == [CreateUser()]


async def test_the_same_key_is_handled_in_order(hub: Any) -> None:
    seen: list[str] = []

    async def store(event: UserCreated) -> None:
        for _ in range(3 if event.name == "1" else 1):
            await asyncio.sleep(0)
        seen.append(event.name)

    hub.dispatch.events.bind(UserCreated, store)

    async with started(hub):
        for name in "123":
            await hub.dispatch.handle(UserCreated(name), key="k")
        await hub.dispatch.handle(UserCreated("4"), "k", True)
    assert seen == ["1", "2", "3", "4"]


async def test_the_snapshot_counts(hub: Any) -> None:
    async def fail(command: CreateUser) -> None:
        raise LookupError

    hub.dispatch.commands.bind(CreateUser, fail)
    hub.dispatch.queries.bind(UserQuery, echo)
    assert hub.dispatch.init.snapshot()["state"] == "new"

    async with started(hub):
        await hub.dispatch.handle(UserQuery(), wait_for_response=True)
        with pytest.raises(LookupError):
            await hub.dispatch.handle(CreateUser(), wait_for_response=True)
        await hub.dispatch.events.handle("nobody")
        found = hub.dispatch.init.snapshot()
    idle = {"running": 0, "queued": 0, "keys": 0}
    assert found == {
        "state": "running",
        "events": {"handlers": 0, "handled": 0, "failed": 0, "without_handler": 1, **idle},
        "commands": {"handlers": 1, "handled": 0, "failed": 1, **idle},
        "queries": {"handlers": 1, "handled": 1, "failed": 0, **idle},
    }
    assert hub.dispatch.init.snapshot()["state"] == "stopped"


# Failures that nobody waits for


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_error_callback_is_told_of_what_nobody_waits_for(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = "async " if kind == "async" else ""
    told = f"{prefix}def told(hub, data):\n    vars(hub.evbus).setdefault('TOLD', []).append(data)\n"
    root = write(tmp_path / "plugins", evbus__mine=told)
    hub = new_hub(plugin_dirs=[root], error_callback_ref="evbus.mine.told")

    async def fail(event: UserCreated) -> None:
        raise LookupError("no such user")

    hub.dispatch.events.bind(UserCreated, fail)

    async with started(hub):
        await hub.dispatch.handle(UserCreated("bob"), key=7)
        with pytest.raises(LookupError):
            await hub.dispatch.handle(UserCreated("eve"), wait_for_response=True)
    (data,) = hub.evbus.TOLD
    name = f"{__name__}.{fail.__qualname__}"
    assert repr(data.pop("exception")) == "LookupError('no such user')"
    assert data == {
        "plugin": "dispatch.events",
        "profile": None,
        "body": UserCreated("bob"),
        "context": {"handler": name, "key": 7},
    }
    assert f"events: the handler {name} of UserCreated failed: LookupError: no such user" in caplog.text


async def test_an_error_callback_that_fails_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write(tmp_path / "plugins", evbus__mine="def told(hub, data):\n    raise OSError('full')\n")
    hub = new_hub(plugin_dirs=[root], error_callback_ref="evbus.mine.told")

    async def fail(event: UserCreated) -> None:
        raise LookupError

    hub.dispatch.events.bind(UserCreated, fail)

    async with started(hub):
        await hub.dispatch.handle(UserCreated())
    assert "the function named by error_callback_ref failed" in caplog.text
    assert hub.dispatch.init.snapshot()["events"]["failed"] == 1


async def test_the_error_callback_may_stop_the_dispatcher(tmp_path: Path) -> None:
    text = """
        async def told(hub, data):
            hub.evbus.REPORT = await hub.dispatch.stop()
    """
    root = write(tmp_path / "plugins", evbus__mine=text)
    hub = new_hub(plugin_dirs=[root], error_callback_ref="evbus.mine.told", drain_timeout=1000.0)

    async def fail(event: UserCreated) -> None:
        raise LookupError

    hub.dispatch.events.bind(UserCreated, fail)

    hub.dispatch.start()
    waiting = asyncio.ensure_future(hub.dispatch.wait_for_shutdown())
    await hub.dispatch.handle(UserCreated())
    await waiting
    assert hub.evbus.REPORT.unhandled == {}
    assert not hub.dispatch.init.running()


async def test_a_waiter_who_is_cancelled_leaves_the_dispatcher_and_the_callback_as_they_are(
    tmp_path: Path,
) -> None:
    told = "def told(hub, data):\n    vars(hub.evbus).setdefault('TOLD', []).append(data)\n"
    hub = new_hub(
        plugin_dirs=[write(tmp_path / "plugins", evbus__mine=told)], error_callback_ref="evbus.mine.told"
    )

    async def fail(event: UserCreated) -> None:
        raise LookupError

    hub.dispatch.events.bind(UserCreated, fail)

    async with started(hub):
        waiting = asyncio.ensure_future(hub.dispatch.wait_for_shutdown())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert hub.dispatch.init.running()
        await hub.dispatch.handle(UserCreated())
    assert len(hub.evbus.TOLD) == 1


async def test_a_folder_of_plugins_that_joins_the_dispatcher_takes_nothing_away(
    hub: Any, tmp_path: Path
) -> None:
    hub.dispatch.queries.bind(UserQuery, echo)
    more = "async def ask(hub, name):\n    return await hub.dispatch.handle(name, wait_for_response=True)\n"
    root = write(tmp_path / "plugins", dispatch__more=more)
    hub.OPT = hub.pop.data.imap({"evbus": {"plugin_dirs": [str(root)]}})

    async with started(hub):
        assert await hub.dispatch.more.ask(UserQuery()) == UserQuery()
