"""Profiles for tests: without pauses between attempts, and on memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evbus.engine.core.profiles import MATCH_PLUGIN, changed, providers
from evbus.testing._watch import PAUSES

__all__ = ["in_memory", "names", "without_pauses"]


def in_memory(profiles: Mapping[str, Any]) -> dict[str, Any]:
    """Return profiles of the same names that deliver within the process, whatever their providers are.

    The keys ``delivery`` stay, as does a ``routing_key`` that is a plain template. Of several providers
    with a profile of one name there is one.

    :raises ProfileError: they are no profiles.
    """
    found: dict[str, Any] = {}
    for _, name, _, info in providers(profiles, source="profiles"):
        data = info if isinstance(info, Mapping) else {}
        found.setdefault(name, {key: data[key] for key in ("delivery", "routing_key") if key in data})
    kept = {MATCH_PLUGIN: profiles[MATCH_PLUGIN]} if MATCH_PLUGIN in profiles else {}
    return {**kept, "internal": found}


def names(profiles: Mapping[str, Any]) -> list[str]:
    """Return the names of the profiles."""
    return [name for _, name, _, _ in providers(profiles, source="profiles")]


def without_pauses(profiles: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same profiles, whose lanes try again at once."""
    return changed(profiles, _hasty)


def _hasty(data: Any) -> Any:
    if data is not None and not isinstance(data, Mapping):
        return data
    delivery = (data or {}).get("delivery") or {}
    retry = (delivery.get("retry") or {}) if isinstance(delivery, Mapping) else None
    if not isinstance(retry, Mapping):
        return data
    return {**(data or {}), "delivery": {**delivery, "retry": {**retry, **PAUSES}}}
