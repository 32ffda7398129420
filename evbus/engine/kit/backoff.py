"""The pause before something that failed is tried again."""

from __future__ import annotations

import random

__all__ = ["backoff"]


def backoff(failures: int, least: float, most: float) -> float:
    """Return the seconds to wait after ``failures`` (1 or more): full jitter below a doubling bound."""
    return random.uniform(0, min(most, least * 2 ** min(failures - 1, 32)))  # noqa: S311 - no secret
