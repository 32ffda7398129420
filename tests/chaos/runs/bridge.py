"""``evbus run --from`` between two queues, while the broker and the bridge itself are killed."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import aio_pika

from tests.chaos._events import KEYS, Event, body_of
from tests.chaos._process import LIMIT, environment
from tests.chaos._run import WINDOW, Run
from tests.chaos._transport import amqp, taken
from tests.servers._rabbitmq import RabbitMQ

PREFETCH = 1000
#: A kill may find so many events that were published and are not acknowledged at their source.
UNSETTLED = WINDOW + PREFETCH


def bridge(
    node: RabbitMQ, folder: Path, *, events: int = 20_000, broker_kills: int = 10, bridge_kills: int = 5
) -> Run:
    """From a queue into another: lost 0, the order of the first copies kept."""
    kills = broker_kills + bridge_kills
    run = Run(
        "bridge: kill -9 of the broker and of evbus run", broker_kills=broker_kills, bridge_kills=bridge_kills
    )
    source, target = f"{run.name}-source", f"{run.name}-target"
    node.declare_queue(source)
    node.declare_queue(target)
    node.sync()
    dice = random.Random(5)  # noqa: S311 - no secret
    whom = ["broker"] * broker_kills + ["bridge"] * bridge_kills
    dice.shuffle(whom)
    sent: list[Event] = []
    hits = 0
    with Bridge(node, folder, source, target) as process:
        for number, victim in enumerate([*whom, ""]):
            share = events * (number + 1) // (kills + 1) - events * number // (kills + 1)
            fresh = [Event(one, one % KEYS) for one in range(len(sent), len(sent) + share)]
            sent += fresh
            process.freeze()
            asyncio.run(fill(node.url, source, (body_of(run.name, *event) for event in fresh)))
            before = node.queue_depth(target)
            process.thaw()
            least = before + (dice.randrange(1, max(2, share // 2)) if victim else share)
            _until(lambda least=least: node.queue_depth(target) >= least, "deliveries", process)
            if victim == "broker":
                node.restart()
            elif victim == "bridge":
                process.kill()
                process.start()
            hits += node.queue_depth(source) > 0 if victim else 0
        _until(lambda: _settled(node, source), "the end of the source", process)
        fresh_one = Event(len(sent), 0)
        sent.append(fresh_one)
        before = node.queue_depth(target)
        asyncio.run(fill(node.url, source, [body_of(run.name, *fresh_one)]))
        _until(lambda: node.queue_depth(target) > before, "a fresh event", process)
        run.same("exit_code", process.stop(), 0)
        run.same("left_at_the_source", node.queue_depth(source))
        arrived = taken(node, target)
        run.note(kills_that_left_something=hits)
        run.count(sent, arrived, most=UNSETTLED * kills)
        passed = arrived[-1:] == [body_of(run.name, *fresh_one)]
        run.hold("fresh_event", passed, passed, "a fresh event passes afterwards")
        run.same("failures_logged", process.log.count("Traceback"))
    return run


class Bridge:
    """The command, in a process of its own."""

    def __init__(self, node: RabbitMQ, folder: Path, source: str, target: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log = folder / "log"
        profiles = {"source": amqp(node, source, prefetch=PREFETCH), "target": amqp(node, target)}
        # JSON is YAML.
        (folder / "profiles.yml").write_text(json.dumps({"amqp": profiles}))
        self._process = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--profiles", "profiles.yml", "--from", "source", "--profile", "target", "--quiet"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "evbus", "run", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment(self._folder),
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self) -> None:
        self._process = self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Let it drain and end; return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(LIMIT)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def _settled(node: RabbitMQ, queue: str) -> bool:
    """Return whether a queue holds nothing any more, neither ready nor handed out."""
    found = node.api("GET", f"queues/%2F/{queue}")
    return bool(found.get("messages") == 0 and found.get("messages_unacknowledged") == 0)


def _until(ready: Callable[[], bool], what: str, bridge: Bridge) -> None:
    """Return once `ready` is true; looks as fast as the broker answers, to hit the middle of something."""
    deadline = time.monotonic() + LIMIT
    while not ready():
        if not bridge.alive:
            raise RuntimeError(f"{what}: the bridge has ended:\n{bridge.log[-3000:]}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {LIMIT:g} s:\n{bridge.log[-3000:]}")


async def fill(url: str, queue: str, bodies: Iterable[bytes]) -> None:
    """Publish to a queue by aio-pika, in order, and return when everything is confirmed."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        exchange = channel.default_exchange
        waiting = [
            asyncio.ensure_future(
                exchange.publish(
                    aio_pika.Message(
                        body, content_type="text/plain", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
                    ),
                    routing_key=queue,
                )
            )
            for body in bodies
        ]
        await asyncio.gather(*waiting)
