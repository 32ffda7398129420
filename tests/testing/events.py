"""Events of a shop, for the tests of evbus.testing."""

from __future__ import annotations

from dataclasses import dataclass

from evbus.api import event


@event()
@dataclass
class OrderPlaced:
    order_id: str
    total: float


@event()
@dataclass
class ExpressPlaced(OrderPlaced):
    pass


@event()
@dataclass
class OrderBilled:
    order_id: str


class NoEvent:
    pass
