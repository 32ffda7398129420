"""Texts that a protocol cannot carry."""

from __future__ import annotations

import re

__all__ = ["unfit"]

_UNFIT = re.compile("[\x00\ud800-\udfff]")


def unfit(text: str) -> bool:
    """Return whether a text holds a NUL, which ends texts in C and in STOMP, or is no UTF-8."""
    return _UNFIT.search(text) is not None
