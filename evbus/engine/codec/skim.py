"""Walk over MessagePack bytes without building anything, to see that the lengths in them can be true."""

from __future__ import annotations

from evbus.engine.kit.strictjson import MAX_DEPTH
from evbus.errors import InvalidPayload, PayloadTooDeep

__all__ = ["skim"]

# By first byte (the MessagePack specification, "Formats"): bytes of a fixed-size payload.
_FIXED = dict.fromkeys((0xC0, 0xC2, 0xC3), 0)
_FIXED |= {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
# By first byte: the size of the length that follows, and what else stands before the payload.
_SIZED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_SIZED |= {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
# By first byte: the size of the count that follows, and the items that each counts for.
_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def skim(raw: bytes) -> None:
    """Check that every container can have as many items as it claims, and that they nest 64 deep at most.

    Each item takes a byte at least, so that the items still to come never outnumber the bytes left.
    Takes time in proportion to the items seen, and ends at the first claim that is false.

    :raises InvalidPayload: a length is longer than the body, or a byte stands for nothing.
    :raises PayloadTooDeep: containers nest deeper.
    """
    position, due = 0, 1  # due: items still to come, in all open containers together
    open_: list[int] = []  # what was due besides when each container was opened
    while due:
        items, position = _step(raw, position)
        due -= 1
        if items:
            if len(open_) == MAX_DEPTH:
                raise PayloadTooDeep(MAX_DEPTH)
            open_.append(due)
            due += items
        if due > len(raw) - position:
            raise _invalid(f"it ends early, or the length before byte {position} is too long")
        while open_ and due == open_[-1]:
            open_.pop()


def _step(raw: bytes, position: int) -> tuple[int, int]:
    """Return the number of items that the value at ``position`` opens, and the start of the next value."""
    if position >= len(raw):
        raise _invalid("it ends early")
    first = raw[position]
    position += 1
    if first < 0x80 or first >= 0xE0:
        return 0, position
    if first < 0x90:
        return 2 * (first & 0x0F), position
    if first < 0xA0:
        return first & 0x0F, position
    if first < 0xC0:
        return 0, position + (first & 0x1F)
    if first in _FIXED:
        return 0, position + _FIXED[first]
    if first in _SIZED:
        size, more = _SIZED[first]
        return 0, position + size + more + int.from_bytes(raw[position : position + size], "big")
    if first in _COUNTED:
        size, each = _COUNTED[first]
        return each * int.from_bytes(raw[position : position + size], "big"), position + size
    raise _invalid(f"the byte {first:#x} at {position - 1} stands for nothing")


def _invalid(reason: str) -> InvalidPayload:
    return InvalidPayload(f"the body is not valid MessagePack: {reason}")
