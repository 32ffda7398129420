"""Typed events by AMQP 1.0. RabbitMQ binds no queue for its clients: somebody else has to, here `prepare`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evbus.errors import ConnectFailed, ProfileError
from tests.event.transports.behaviour import BrokerBehaviour, Inbox, order

EXCHANGE = "amq.topic"


class Amqp1(BrokerBehaviour):
    address: str

    def profiles(self, port: int = 0) -> dict[str, Any]:
        return {
            "amqp1": {
                "default": {
                    "url": f"amqp://guest:guest@{self.node.host}:{port or self.node.port}/",
                    "address": self.address,
                    "reconnect": {"min": 0.01, "max": 0.1},
                }
            }
        }

    def prepare(self, name: str, *groups: str) -> None:
        for group in groups:
            self.node.declare_queue(f"{name}::{group}")
            self.node.bind(EXCHANGE, f"{name}::{group}", name)

    def consumers(self, name: str, group: str) -> int:
        return int(self.node.depth(f"{name}::{group}").consumers)

    async def test_a_queue_that_nobody_made_is_said_at_the_start(self) -> None:
        with pytest.raises(ConnectFailed, match=f"cannot consume .*{self.name}.*inbox.*no queue"):
            async with self.process(Inbox(order(self.name))):
                pass

    async def test_an_address_of_one_name_is_refused_for_a_pattern(self) -> None:
        self.address = f"/exchange/{EXCHANGE}/events"

        with pytest.raises(ProfileError, match="nobody can listen to the pattern"):
            async with self.process(Inbox("order.*")):
                pass


class TestRabbitmq3(Amqp1):
    address = f"/exchange/{EXCHANGE}/{{routing_key}}"

    @pytest.fixture(autouse=True)
    def _broker(self, rabbitmq: Any, proxy: Callable[..., Any]) -> None:
        self.node, self.proxy, self.port = rabbitmq, proxy, rabbitmq.port


class TestRabbitmq4(Amqp1):
    address = f"/exchanges/{EXCHANGE}/{{routing_key}}"

    @pytest.fixture(autouse=True)
    def _broker(self, rabbitmq4: Any, proxy: Callable[..., Any]) -> None:
        self.node, self.proxy, self.port = rabbitmq4, proxy, rabbitmq4.port

    async def test_each_process_gets_a_copy_when_the_listener_or_the_event_says_so(self) -> None:
        """It cannot: RabbitMQ 4 makes no queue for who consumes. That is said at the start."""
        kind = order(self.name)

        with pytest.raises(ProfileError, match="which RabbitMQ 4 makes for no consumer: use the provider"):
            async with self.process(Inbox(kind, per_process=True)):
                pass

    async def test_each_process_gets_a_copy_of_what_matches_a_pattern(self) -> None:
        """Nor of a pattern."""

        with pytest.raises(ProfileError, match="which RabbitMQ 4 makes for no consumer: use the provider"):
            async with self.process(Inbox(f"{self.name}.#", per_process=True)):
                pass
