"""A bus for programs without an event loop: threads, forks, the end of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evbus.api import EventListener, SyncBus, event_listener, sync_bus
from evbus.errors import BusStopped, EvbusError, ProfileError, SettingsError, SettleTimeout
from tests.evbus.kit import WAIT
from tests.event.kit import OrderPlaced

ROOT = Path(__file__).parents[3]
INTERNAL = {"internal": {"*": {}}}
THREADS, EACH = 16, 50

APP = """\
import os
import sys
from dataclasses import dataclass

from evbus.api import event, event_listener, sync_bus


@event()
@dataclass
class Placed:
    id: str


def tell(*said):
    os.write(1, (" ".join(map(str, said)) + "\\n").encode())


@event_listener(Placed)
def on(event):
    tell("parent" if os.getpid() == PARENT else "child", "got", event.id)


def later(event):
    tell("parent" if os.getpid() == PARENT else "child", "later", event.id)


PARENT = os.getpid()
events = sync_bus({"internal": {"default": {}}}, listeners=[on])
"""


EARLY = """\
import asyncio

from evbus.types import Delivery, Envelope


def __init__(hub):
    hub.egress.early.READY = True
    hub.egress.early.OTHER = None


async def consume(hub, ctx, subscription):
    if ctx.name == "first":
        subscription.ready()
        yield Delivery(Envelope("default", "OrderPlaced", b'{"id": "early"}'), lambda *_: None, 1)
    while not hub.egress.early.OTHER.is_set():
        await asyncio.sleep(0.001)
    subscription.ready()
    await asyncio.get_running_loop().create_future()
"""


def run(folder: Path, text: str) -> list[str]:
    """Run a program to its end, and return what it prints."""
    (folder / "app.py").write_text(APP + text)
    done = subprocess.run(
        # From Python 3.12 on a fork beside threads is warned of, whatever becomes of it.
        [
            sys.executable,
            *("-W", "default::ResourceWarning", "-W", "ignore:This process:DeprecationWarning"),
            "app.py",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "evbus"]


# With a block


def test_events_are_sent_and_handled_before_the_block_ends() -> None:
    got: list[str] = []
    with sync_bus(INTERNAL) as events:
        number = events.subscribe(OrderPlaced, lambda event: got.append(event.id))
        events.send(OrderPlaced("A-1"), headers={"a": "b"})
        events.send_nowait(OrderPlaced("A-2"))
        events.settle(WAIT)
        assert got == ["A-1", "A-2"]
        events.put(body=OrderPlaced("A-3"))
        events.put_nowait(OrderPlaced("A-4"))
        events.settle(WAIT)
        assert events.snapshot()["listeners"][number]["handled"] == 4
        assert events.unsubscribe(number) is True
        events.subscribe("OrderPlaced", lambda event: got.append(event.id))
        events.send(OrderPlaced("A-5"))
    assert got == ["A-1", "A-2", "A-3", "A-4", "A-5"]
    assert events.report.undelivered == {}
    assert threads() == []


def test_profiles_may_be_a_file_and_what_was_put_is_there_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    (tmp_path / "profiles.yml").write_text(f"file: {{default: {{path: {path}}}}}\n")
    with sync_bus(tmp_path / "profiles.yml") as events:
        events.put("orders", {"id": 1})
        events.put_nowait({"id": 2})
    assert [json.loads(line)["body"] for line in path.read_text().splitlines()] == [{"id": 1}, {"id": 2}]


def test_an_error_in_the_block_delivers_and_comes_out() -> None:
    got: list[Any] = []

    def fails() -> None:
        with sync_bus(INTERNAL) as events:
            events.subscribe(OrderPlaced, got.append)
            events.send(OrderPlaced("A-1"))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fails()
    assert got == [OrderPlaced("A-1")]
    assert threads() == []


def test_it_may_be_entered_again_and_is_stopped_between() -> None:
    got: list[str] = []
    events = sync_bus(INTERNAL)
    events.subscribe(OrderPlaced, lambda event: got.append(event.id))
    for number in ("A-1", "A-2"):
        with events:
            events.send(OrderPlaced(number))
        for send in (events.send, events.send_nowait):
            with pytest.raises(BusStopped):
                send(OrderPlaced("late"))
        with pytest.raises(BusStopped):
            events.settle()
        events.close()
    assert got == ["A-1", "A-2"]


def test_what_takes_too_long_is_told() -> None:
    go = threading.Event()
    with sync_bus(INTERNAL) as events:
        events.subscribe(OrderPlaced, lambda event: go.wait(WAIT), name="slow")
        events.send(OrderPlaced("A-1"))
        with pytest.raises(SettleTimeout, match="the listener slow is not done with 1 event"):
            events.settle(0.05)
        go.set()


def test_what_would_wait_for_its_own_loop_is_refused() -> None:
    said: list[str] = []
    with sync_bus(INTERNAL) as events:

        async def on(event: OrderPlaced) -> None:
            try:
                events.send(OrderPlaced("B-1"))
            except RuntimeError as exc:
                said.append(str(exc))
            if event.id == "A-1":
                events.send_nowait(OrderPlaced("A-2"))

        events.subscribe(OrderPlaced, on)
        events.send(OrderPlaced("A-1"))
        events.settle(WAIT)
    assert said == ["this is called in the loop of the bus, which it would wait for; await it there"] * 2


def test_a_plain_listener_may_send_as_it_runs_in_a_thread_of_its_own() -> None:
    got: list[str] = []
    with sync_bus(INTERNAL) as events:

        def on(event: OrderPlaced) -> None:
            got.append(event.id)
            if event.id == "A-1":
                events.send(OrderPlaced("A-2"))

        events.subscribe(OrderPlaced, on)
        events.send(OrderPlaced("A-1"))
    assert got == ["A-1", "A-2"]


# The start


def test_it_starts_with_the_first_call_and_ends_when_it_is_closed() -> None:
    got: list[str] = []

    @event_listener(OrderPlaced)
    def on(event: OrderPlaced) -> None:
        got.append(event.id)

    events = sync_bus(INTERNAL)
    (number,) = events.listen(on)
    assert threads() == []
    assert repr(events) == "<SyncBus new>"
    events.send(OrderPlaced("A-1"))
    assert len(threads()) == 1
    assert repr(events) == "<SyncBus running>"
    events.settle(WAIT)
    assert events.unsubscribe(number) is True
    events.close()
    assert got == ["A-1"]
    assert repr(events) == "<SyncBus closed>"
    assert threads() == []


def test_mistakes_are_raised_in_the_caller_and_leave_no_thread(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'drain_timeout'"):
        sync_bus({}, drain_timeot=3)
    events = sync_bus(tmp_path / "profiles.yml")
    for call in (lambda: events.put(body=1), events.start, lambda: events.put_nowait(body=1)):
        with pytest.raises(ProfileError, match="the file cannot be read"):
            call()
        assert threads() == []
    (tmp_path / "profiles.yml").write_text("nosuch: {default: {}}\n")
    with pytest.raises(ProfileError, match="no ingress plugin accepts the provider 'nosuch'"), events:
        raise AssertionError("it was started")
    assert threads() == []
    (tmp_path / "profiles.yml").write_text("internal: {default: {}}\n")
    with events:
        events.put(body=1)
    assert threads() == []


def test_what_is_subscribed_during_the_start_is_subscribed_in_the_loop(tmp_path: Path) -> None:
    where: list[str] = []
    (tmp_path / "egress").mkdir()
    (tmp_path / "egress" / "early.py").write_text(EARLY)
    profiles = {"internal": {"default": {}}, "early": {"first": {}, "other": {}}}
    begun, other = threading.Event(), threading.Event()
    events = sync_bus(profiles, plugin_dirs=[str(tmp_path)])
    events.hub.egress.early.OTHER = other
    events.subscribe(OrderPlaced, lambda event: begun.set(), profile="first")
    events.subscribe(OrderPlaced, print, profile="other")

    class Late(EventListener[OrderPlaced]):
        def __init__(self) -> None:
            where.append(threading.current_thread().name)

        def on(self, event: OrderPlaced) -> None:
            where.append(event.id)

    def subscribe() -> None:
        events.subscribe(OrderPlaced, Late)

    with ThreadPoolExecutor(2) as pool:
        starting = pool.submit(events.start)
        assert begun.wait(WAIT)
        subscribing = pool.submit(subscribe)
        other.set()
        starting.result(WAIT)
        subscribing.result(WAIT)
    events.send(OrderPlaced("A-1"))
    events.close()
    assert where == ["evbus", "A-1"]


# Threads


def test_many_threads_send_at_once_and_the_first_starts_it() -> None:
    got: list[str] = []
    events = sync_bus(INTERNAL, queue_limit=64)
    events.subscribe(OrderPlaced, lambda event: got.append(event.id))
    together = threading.Barrier(THREADS)

    def work(thread: int) -> None:
        together.wait(WAIT)
        for number in range(EACH):
            events.send(OrderPlaced(f"{thread}-{number}"))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert len(threads()) == 1
    events.settle(WAIT)
    events.close()
    assert Counter(got) == Counter(f"{one}-{number}" for one in range(THREADS) for number in range(EACH))
    for one in range(THREADS):
        own = [each for each in got if each.startswith(f"{one}-")]
        assert own == [f"{one}-{number}" for number in range(EACH)]


def test_what_threads_sent_before_it_was_closed_is_handled_and_the_rest_refused() -> None:
    got: list[str] = []
    sent: list[str] = []
    begun = threading.Event()
    events = sync_bus(INTERNAL)
    events.subscribe(OrderPlaced, lambda event: got.append(event.id))

    def work(thread: int) -> None:
        for number in range(100_000):
            try:
                events.send(OrderPlaced(f"{thread}-{number}"))
            except BusStopped:
                return
            sent.append(f"{thread}-{number}")
            if number == 20:
                begun.set()
        raise AssertionError("it was not closed")

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, thread) for thread in range(4)]
        assert begun.wait(WAIT)
        events.close()
        for one in working:
            one.result(WAIT)
    assert sorted(got) == sorted(sent)
    assert threads() == []


def test_who_wanted_to_start_it_when_it_was_closed_does_not_start_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = sync_bus(INTERNAL)
    there, go, begin = threading.Event(), threading.Event(), events._begin

    def late(*, again: bool) -> None:
        if threading.current_thread() is not threading.main_thread():
            there.set()
            assert go.wait(WAIT)
        begin(again=again)

    monkeypatch.setattr(events, "_begin", late)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(events.send, OrderPlaced("a"))
        assert there.wait(WAIT)
        events.start()
        events.close()
        go.set()
        with pytest.raises(BusStopped):
            sending.result(WAIT)
    assert threads() == []


# Processes


def test_one_that_was_made_before_a_fork_works_in_the_child(tmp_path: Path) -> None:
    # As in a server that loads the application, and then forks its workers.
    said = run(
        tmp_path,
        """
events.subscribe(Placed, later)
for worker in range(2):
    if not os.fork():
        with events:
            events.send(Placed(str(worker)))
        os._exit(0)
    os.wait()
events.send(Placed("mine"))
""",
    )
    # The two listeners of a process run beside one another.
    assert sorted(said[:2]) == ["child got 0", "child later 0"]
    assert sorted(said[2:4]) == ["child got 1", "child later 1"]
    assert sorted(said[4:]) == ["parent got mine", "parent later mine"]


def test_one_that_ran_before_a_fork_works_in_both(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
events.send(Placed("before"))
events.settle(20)
child = os.fork()
if not child:
    assert events.snapshot()["bus"]["accepted"] == 0
    events.send(Placed("one"))
    events.settle(20)
    tell("settled")
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
# The parent's loop is as it was.
events.send(Placed("after"))
events.settle(20)
tell(events.snapshot()["bus"]["accepted"])
""",
    )
    assert said == ["parent got before", "child got one", "settled", "parent got after", "2"]


def test_what_is_left_is_delivered_when_the_process_ends(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
import threading, time

def slow(event):
    time.sleep(0.2)
    tell("slow", event.id)

events.subscribe(Placed, slow)
for number in range(3):
    events.send(Placed(str(number)))
""",
    )
    assert [line for line in said if line.startswith("slow")] == ["slow 0", "slow 1", "slow 2"]


def test_threads_of_the_program_that_go_on_behind_its_main_thread_may_send(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
import threading

def work():
    threading.main_thread().join()
    events.send(Placed("1"))
    events.settle(20)
    events.send(Placed("2"))

# From Python 3.12 on a listener gets no new thread then.
events.send(Placed("0"))
events.settle(20)
threading.Thread(target=work).start()
""",
    )
    assert said == ["parent got 0", "parent got 1", "parent got 2"]


def test_an_interrupted_close_delivers_no_more_and_records_what_is_left(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
import logging
import signal
import threading
import time

def slow(event):
    main = threading.main_thread().ident
    while not events._closed or sys._current_frames()[main].f_code.co_name != "wait":
        time.sleep(0.001)
    if event.id == "3":
        os.kill(PARENT, signal.SIGINT)
    time.sleep(0.05)

logging.disable()

events = sync_bus({"internal": {"default": {}}}, dead_store="dead.jsonl")
events.subscribe(Placed, slow)
for number in range(50):
    events.send(Placed(str(number)))
try:
    events.close()
except KeyboardInterrupt:
    tell("interrupted", sum(events.report.undelivered.values()))
""",
    )
    (line,) = said
    left = int(line.removeprefix("interrupted "))
    assert 40 < left < 50
    assert len((tmp_path / "dead.jsonl").read_text().splitlines()) == left


def test_a_signal_handler_may_send_wherever_its_thread_is(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
import signal
import threading

events = sync_bus({"internal": {"default": {}}})
events.start()
put = 0

def handler(*_):
    global put
    put += 1
    events.put("a", put)

def kick():
    while put < 500:
        os.kill(PARENT, signal.SIGUSR1)
        done.wait(0.0005)

signal.signal(signal.SIGUSR1, handler)
done = threading.Event()
kicking = threading.Thread(target=kick)
kicking.start()
own = 0
while kicking.is_alive():
    events.put("a", "own")
    own += 1
tell(events.snapshot()["bus"]["accepted"] == put + own, put >= 500)
""",
    )
    assert said == ["True True"]


def test_what_interrupts_a_wait_cancels_what_is_waited_for(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
import asyncio
import signal
import threading

async def work():
    # Python sees no signal that comes just before a thread begins to wait.
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name != "wait":
        await asyncio.sleep(0)
    await asyncio.sleep(0.2)
    os.kill(PARENT, signal.SIGINT)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        tell("cancelled")

async def cancelled():
    raise asyncio.CancelledError

try:
    events.run(work())
except KeyboardInterrupt:
    tell("interrupted")
try:
    events.run(cancelled())
except asyncio.CancelledError:
    tell("itself")
events.send(Placed("1"))
""",
    )
    assert said == ["cancelled", "interrupted", "itself", "parent got 1"]


def test_listeners_may_send_while_it_is_closed() -> None:
    got: list[str] = []
    go = threading.Event()
    events = sync_bus(INTERNAL)

    def on(event: OrderPlaced) -> None:
        got.append(event.id)
        if event.id == "A-1":
            go.wait(WAIT)
            events.hub.event.send_nowait(OrderPlaced("A-0"))
            events.send(OrderPlaced("A-2"))
            events.send_nowait(OrderPlaced("A-3"))

    events.subscribe(OrderPlaced, on)
    events.send(OrderPlaced("A-1"))
    closing = threading.Thread(target=events.close)
    closing.start()
    while not events._closed:
        pass
    go.set()
    closing.join(WAIT)
    assert got == ["A-1", "A-0", "A-2", "A-3"]


def test_a_listener_does_not_wait_for_its_own_end_and_may_unsubscribe_itself() -> None:
    said: list[str] = []
    with sync_bus(INTERNAL) as events:

        def once(event: OrderPlaced) -> None:
            for wait in (events.settle, events.close):
                with pytest.raises(EvbusError) as caught:
                    wait()
                said.append(str(caught.value))
            assert events.unsubscribe(number) is True
            said.append(event.id)

        number = events.subscribe(OrderPlaced, once)
        events.send(OrderPlaced("A-1"))
        events.settle(WAIT)
        events.subscribe(OrderPlaced, lambda event: said.append(f"other {event.id}"))
        events.send(OrderPlaced("A-2"))
        events.settle(WAIT)
    assert said == [
        *(
            f"listener once-1 waits for its own end: {what}() is for the others"
            for what in ("settle", "close")
        ),
        *("A-1", "other A-2"),
    ]
    assert events.report.undelivered == {}


def test_one_that_an_asynchronous_listener_wants_to_close_goes_on() -> None:
    said: list[str] = []

    async def on(event: OrderPlaced) -> None:
        for call in (events.start, events.close):
            with pytest.raises(RuntimeError, match="this is called in the loop of the bus"):
                call()
        said.append(event.id)

    with sync_bus(INTERNAL) as events:
        events.subscribe(OrderPlaced, on)
        for number in ("A-1", "A-2"):
            events.send(OrderPlaced(number))
            events.settle(WAIT)
    assert said == ["A-1", "A-2"]
    assert threads() == []


def test_an_asynchronous_listener_that_gets_something_during_the_start_may_send(tmp_path: Path) -> None:
    """Which waits for the other listeners meanwhile, and whose lock is held by who starts."""
    got: list[str] = []
    (tmp_path / "egress").mkdir()
    (tmp_path / "egress" / "early.py").write_text(EARLY)
    first, other = {"early": {"first": {}, "other": {}}}, threading.Event()
    events = sync_bus({"internal": {"default": {}}, **first}, plugin_dirs=[str(tmp_path)])

    async def on(event: OrderPlaced) -> None:
        if event.id == "early":
            events.send_nowait(OrderPlaced("A-1"))
            with pytest.raises(RuntimeError, match="this is called in the loop of the bus"):
                events.send(OrderPlaced("A-2"))
            with pytest.raises(RuntimeError, match="this is called in the loop of the bus"):
                events.subscribe(OrderPlaced, print)
            other.set()
        got.append(event.id)

    events.hub.egress.early.OTHER = other
    events.subscribe(OrderPlaced, on, profile="first")
    events.subscribe(OrderPlaced, on, profile="other", name="other")
    events.subscribe(OrderPlaced, on, name="internal")
    with events:
        events.settle(WAIT)
    assert got == ["early", "A-1"]


def test_the_type_is_that_of_a_bus_without_a_loop() -> None:
    assert isinstance(sync_bus(INTERNAL), SyncBus)
