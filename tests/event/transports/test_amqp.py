"""Typed events over RabbitMQ by AMQP 0-9-1: listeners declare and bind their queues themselves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from evbus.engine.kit.topics import matches
from evbus.errors import ConnectFailed, ProfileError
from tests.event.transports.behaviour import BrokerBehaviour, Inbox, order
from tests.ingress.amqp_kit import eventually


class TestAmqp(BrokerBehaviour):
    @pytest.fixture(autouse=True)
    def _broker(self, rabbitmq: Any, proxy: Callable[..., Any]) -> None:
        self.node, self.proxy, self.port = rabbitmq, proxy, rabbitmq.port

    def profiles(self, port: int = 0) -> dict[str, Any]:
        return {
            "amqp": {
                "default": {
                    "url": f"amqp://guest:guest@{self.node.host}:{port or self.node.port}/",
                    "exchange": {"name": f"{self.name}-events", "type": "topic"},
                    "reconnect": {"min": 0.01, "max": 0.1},
                }
            }
        }

    def consumers(self, name: str, group: str) -> int:
        return int(self.node.depth(f"{name}::{group}").consumers)

    async def test_what_is_not_durable_is_a_dead_letter_when_nobody_has_come_back(self) -> None:
        kind = order(self.name)
        inbox = Inbox(kind)
        profiles = self.profiles()
        profiles["amqp"]["default"]["queue"] = {"arguments": {"x-expires": 200}}
        self.profiles = lambda port=0: profiles  # type: ignore[method-assign]
        async with self.process() as sender:
            async with self.process(inbox):
                await sender.event.init.send(kind(1))
                assert await inbox.numbers(1) == [1]
            # Asked over AMQP, the queue would be in use.
            path = f"queues/%2F/{self.name}::inbox"
            await eventually(lambda: not self.node.api("GET", path, missing_ok=True), "the queue is gone")
            await sender.event.init.send(kind(2))
        (record,) = self.dead()
        assert record.body["number"] == 2
        assert record.dead is not None
        assert "leads to no queue" in record.dead["reason"]

    async def test_the_default_exchange_is_refused(self) -> None:
        profiles = self.profiles()
        del profiles["amqp"]["default"]["exchange"]
        self.profiles = lambda port=0: profiles  # type: ignore[method-assign]
        with pytest.raises(ProfileError, match="name one, such as 'exchange:"):
            async with self.process(Inbox(order(self.name))):
                pass

    async def test_a_pattern_needs_an_exchange_of_type_topic(self) -> None:
        self.node.declare_exchange(f"{self.name}-direct", "direct")
        self.node.declare_exchange(f"{self.name}-topic", "topic")
        profiles = self.profiles()
        self.profiles = lambda port=0: profiles  # type: ignore[method-assign]
        said = "a listener to a pattern needs an exchange of type topic, and"
        refused = [
            (
                {"name": f"{self.name}-fan", "type": "fanout"},
                ProfileError,
                f"'{self.name}-fan' is of type fanout",
            ),
            ("amq.direct", ProfileError, "'amq.direct' is of type direct"),
            ("", ProfileError, "the default one takes routing keys as they are"),
            (f"{self.name}-direct", ConnectFailed, f"'{self.name}-direct' is of type direct"),
        ]
        for exchange, kind, reason in refused:
            profiles["amqp"]["default"]["exchange"] = exchange
            with pytest.raises(kind, match=f"{said} {reason}: name one, such as"):
                async with self.process(Inbox(f"{self.name}.*")):
                    pass
        for exchange in (f"{self.name}-topic", "amq.topic"):
            profiles["amqp"]["default"]["exchange"] = exchange
            inbox = Inbox(f"{self.name}.*")
            async with self.process(inbox) as hub:
                await hub.evbus.broker.put(routing_key=f"{self.name}.x", body={"n": 1})
                assert await inbox.next() == {"n": 1}

    async def test_a_pattern_matches_the_same_names_as_in_this_process(self) -> None:
        words = ["", "a", "b"]
        names = [".".join(some) for n in (1, 2, 3) for some in itertools.product(words, repeat=n)]
        patterns = [
            "#",
            "*",
            "a.#",
            "#.a",
            "a.*",
            "*.a",
            "a.#.b",
            "*.#",
            "#.#",
            "a.*.b",
            "#.a.#",
            "*.*",
            "b..#",
        ]
        profiles = self.profiles()
        profiles["amqp"]["default"]["mandatory"] = False
        self.profiles = lambda port=0: profiles  # type: ignore[method-assign]
        inboxes = [Inbox(pattern, name=f"i{number}") for number, pattern in enumerate(patterns)]
        last = Inbox("#", name="last")
        async with self.process(*inboxes, last) as hub:
            for name in names:
                await hub.evbus.broker.put(routing_key=name, body={"name": name})
            while len(last.got) < len(names):
                await last.next()
            expected = [[name for name in names if matches(name, pattern)] for pattern in patterns]
            for inbox, wanted in zip(inboxes, expected, strict=True):
                assert [(await inbox.next())["name"] for _ in wanted] == wanted
        assert [len(inbox.got) for inbox in inboxes] == [len(wanted) for wanted in expected]

    async def test_a_broker_that_dies_is_waited_out(self, broken_rabbitmq: Any) -> None:
        self.node = broken_rabbitmq
        kind = order(self.name, durable=True)

        inbox = Inbox(kind)
        async with self.process() as sender, self.process(inbox):
            await sender.event.init.send(kind(0))
            assert await inbox.numbers(1) == [0]
            await asyncio.to_thread(self.node.sync)
            await asyncio.to_thread(self.node.kill)
            for number in range(1, 10):
                await sender.event.init.send(kind(number))
            await asyncio.to_thread(self.node.start)
            missing = set(range(1, 10))
            while missing:
                # The first may come twice: its acknowledgement may have died with the broker.
                missing.discard((await inbox.next()).number)
        assert not self.dead()
