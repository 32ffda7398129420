"""``evbus services``: who is where, and how healthy, as a registry and the servers themselves say.

Needs httptools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from evbus.engine.codec import json
from evbus.engine.kit.redact import one_line, redact
from evbus.engine.service.settings import HttpSettings
from evbus.engine.wire.http.pool import HttpFailure, HttpPool, address_of
from evbus.errors import PayloadError, nearest

__all__ = ["AWAY", "Place", "Servers", "changes", "is_down", "places"]

#: In place of a health: it is not reached, and it is not asked, or does not say.
AWAY, UNKNOWN = "away", "-"
_KNOWN = ("OK", "WARNING", "ERROR")
_LONGEST = 300


class Place(NamedTuple):
    """Where a component can be called.

    :ivar channels: over which, there.
    :ivar address: without its password; ``""`` for a component that has none now.
    :ivar health: ``OK``, ``WARNING``, ``ERROR``, ``away``, or ``-`` where nobody says it.
    :ivar reason: why it is not OK.
    """

    component: str
    channels: tuple[str, ...]
    address: str
    health: str = UNKNOWN
    reason: str = ""


def is_down(place: Place) -> bool:
    """Return whether calls of it are likely to fail."""
    return place.health in (AWAY, "ERROR")


class Servers:
    """Asks servers over HTTP how they are.

    :param settings: those of channels over HTTP, by name.
    :param seconds: that each has to answer.
    """

    def __init__(self, settings: Mapping[str, HttpSettings], seconds: float) -> None:
        self._seconds = seconds
        self._pools = {
            name: HttpPool(connections=1, connect_timeout=seconds, max_answer=each.max_answer, tls=each.tls)
            for name, each in settings.items()
        }

    async def aclose(self) -> None:
        """Close the connections to them."""
        for pool in self._pools.values():
            await pool.close()

    async def ask(self, channel: str, address: str) -> tuple[str, str]:
        """Return the health of what a component is served by, and why it is not OK."""
        try:
            where = address_of(address)
        except ValueError as exc:
            return AWAY, str(exc)
        head = f"GET {where.path}/health HTTP/1.1\r\nhost: {where.authority}\r\naccept: application/json\r\n"
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._pools[channel].request(where, head.encode(), b"")
        except TimeoutError:
            return AWAY, f"there was no answer within {self._seconds:g} s"
        except HttpFailure as exc:
            return AWAY, exc.reason
        return _told(answer.status, answer.body)


def _told(status: int, body: bytes) -> tuple[str, str]:
    """Return what an answer says."""
    if status in (401, 403, 404):
        return UNKNOWN, "it does not tell its health here" + (" to everybody" if status != 404 else "")
    try:
        found = json.load(body)
    except PayloadError:
        found = None
    health = found.get("status") if isinstance(found, dict) else None
    if health not in _KNOWN:
        return "ERROR" if status >= 500 else UNKNOWN, f"it answered with the HTTP status {status}"
    assert isinstance(found, dict)
    checks = found.get("checks")
    reasons = [
        f"{one.get('name')}: {one.get('status')} {one.get('details', '')}".rstrip()
        for one in (checks if isinstance(checks, list) else ())
        if isinstance(one, dict) and one.get("status") != "OK"
    ]
    return str(health), one_line("; ".join(reasons), _LONGEST)


async def places(
    known: Mapping[str, Mapping[str, Any]], asking: Servers, http: Mapping[str, bool]
) -> list[Place]:
    """Return the places of components, with their health; all are asked at once.

    :param known: what the report of services has of components elsewhere.
    :param http: the channels that there are; true are those whose addresses have a health.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for component, located in known.items():
        addresses = [(each["address"], channel) for channel, several in located.items() for each in several]
        for address, channel in addresses or [("", "")]:
            found.setdefault((component, address), []).append(channel)
    asked: dict[str, asyncio.Task[tuple[str, str]]] = {}
    async with asyncio.TaskGroup() as group:
        for (_, address), channels in found.items():
            way = next((one for one in channels if http.get(one)), None)
            if way is not None and address not in asked:
                asked[address] = group.create_task(asking.ask(way, address))
    answers = {address: one.result() for address, one in asked.items()}
    return [
        _place(component, address, channels, answers.get(address) or _unasked(channels, http))
        for (component, address), channels in found.items()
    ]


def _unasked(channels: Sequence[str], known: Iterable[str]) -> tuple[str, str]:
    """Return why an address is not asked how it is."""
    strange = [one for one in channels if one not in known]
    return UNKNOWN, f"there is no channel {strange[0]!r} here{nearest(strange[0], known)}" if strange else ""


def _place(component: str, address: str, channels: Sequence[str], answer: tuple[str, str]) -> Place:
    if not address:
        return Place(component, (), "", AWAY, "the registry has no address of it now")
    health, reason = answer
    return Place(component, tuple(channels), redact(address), health, reason)


def changes(before: Iterable[Place], after: Iterable[Place]) -> list[str]:
    """Return a line for each place that is new, gone, or not as healthy as it was, or healthier."""
    old = {(one.component, one.address): one for one in before}
    new = {(one.component, one.address): one for one in after}
    lines = [f"{_called(one)}: gone" for key, one in old.items() if key not in new]
    for key, one in new.items():
        was = old.get(key)
        if was is None or was.health != one.health:
            health = "health not told" if one.health == UNKNOWN else one.health
            since = "" if was is None else f", was {was.health}"
            lines.append(f"{_called(one)}: {health}{since}{f': {one.reason}' if one.reason else ''}")
    return lines


def _called(place: Place) -> str:
    return (
        f"{place.component} at {place.address} over {', '.join(place.channels)}"
        if place.address
        else (place.component)
    )
