"""What the tests of the dispatcher on a hub share: messages, and a started dispatcher."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from tests.evbus.kit import go, new_hub
from tests.evbus.rig import failure

__all__ = ["CreateUser", "Repo", "User", "UserCreated", "UserQuery", "failure", "go", "new_hub", "started"]


@dataclasses.dataclass(frozen=True)
class User:
    name: str


@dataclasses.dataclass(frozen=True)
class CreateUser:
    """A command."""

    name: str = "ann"


@dataclasses.dataclass(frozen=True)
class UserCreated:
    """An event."""

    name: str = "ann"


@dataclasses.dataclass(frozen=True)
class UserQuery:
    """A query."""

    name: str = "ann"


class Repo:
    """What handlers are given."""

    def __init__(self) -> None:
        self.users: list[User] = []
        self.closed = 0

    async def create(self, name: str) -> User:
        self.users.append(User(name))
        return self.users[-1]

    async def aclose(self) -> None:
        self.closed += 1


@contextlib.asynccontextmanager
async def started(hub: Any, **options: Any) -> AsyncIterator[Any]:
    """Start the dispatcher; at the end stop it, so that everything is handled."""
    await hub.dispatch.init.start(**options)
    try:
        yield hub.dispatch
    finally:
        report = await hub.dispatch.init.stop()
        assert report.unhandled == {}
