"""The options of a hub, with some of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["change"]


def change(the_hub: Any, **options: Any) -> None:
    """Set options of the section ``evbus``; the others stay."""
    known = _plain(the_hub.OPT or {})
    known["evbus"] = {**known.get("evbus", {}), **options}
    the_hub.OPT = the_hub.pop.data.imap(known)


def _plain(value: Any) -> Any:
    # What is immutable already would be taken for a list of its keys.
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, Mapping) else value
