"""Numbers in sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, one: str, many: str) -> str:
    """Return ``1 event was`` for (1, "event was", "events were"), and ``2,000 events were`` for 2,000."""
    return f"{count:,} {one if count == 1 else many}"
