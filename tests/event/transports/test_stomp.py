"""Typed events by STOMP: over topics of RabbitMQ, and over virtual topics of ActiveMQ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.event.transports.behaviour import BrokerBehaviour


class Stomp(BrokerBehaviour):
    """With what differs between the brokers left out.

    A topic tells nobody that it has no subscribers: what is sent while a group was never there is lost.
    """

    destination: str

    def profiles(self, port: int = 0) -> dict[str, Any]:
        node = self.node
        return {
            "stomp": {
                "default": {
                    "url": f"stomp://{node.user}:{node.password}@{node.host}:{port or node.stomp_port}/",
                    "destination": self.destination,
                    "reconnect": {"min": 0.01, "max": 0.1},
                }
            }
        }


class TestRabbitmq(Stomp):
    destination = "/topic/{routing_key}"

    @pytest.fixture(autouse=True)
    def _broker(self, rabbitmq: Any, proxy: Callable[..., Any]) -> None:
        self.node, self.proxy, self.port = rabbitmq, proxy, rabbitmq.stomp_port

    def consumers(self, name: str, group: str) -> int:
        return int(self.node.depth(f"{name}::{group}").consumers)


class TestActivemq(Stomp):
    destination = "/topic/VirtualTopic.{routing_key}"
    # Dots are between the parts of "Consumer.<group>.VirtualTopic.<event>", and a group is one part.
    strange_group = "ä/b :%2C"

    @pytest.fixture(autouse=True)
    def _broker(self, activemq: Any, proxy: Callable[..., Any]) -> None:
        self.node, self.proxy, self.port = activemq, proxy, activemq.stomp_port

    def consumers(self, name: str, group: str) -> None:
        return None
