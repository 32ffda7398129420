"""Classes with fields, and values that are what the fields are declared to be, or not."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
from typing import Any, ClassVar

import msgspec
from hypothesis import strategies as st

#: What no encoder of C knows, and has a form all the same.
THIRD = fractions.Fraction(1, 3)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


class Shade(enum.Enum):
    DARK = "dark"
    MANY = (1, 2)


@dataclasses.dataclass
class Leaf:
    name: str
    size: float = 0.0


class Slotted(msgspec.Struct):
    at: dt.datetime
    tags: tuple[str, ...] = ()


@dataclasses.dataclass
class Tree:
    name: str
    leaves: list[Leaf]
    at: dt.datetime | None
    by_name: dict[str, Leaf | list[int]]
    slotted: Slotted | None = None
    shade: Shade = Shade.DARK
    more: Tree | None = None
    total: decimal.Decimal | float | None = None
    unknown: Missing | None = None  # type: ignore[name-defined] # noqa: F821
    kind: ClassVar[str] = "tree"
    fixed: list[int] = dataclasses.field(default_factory=list, init=False)


@dataclasses.dataclass(slots=True)
class Known:
    """As the annotations of the other cannot be read."""

    name: str
    leaves: list[Leaf]
    at: dt.datetime | None
    by_name: dict[str, Leaf | list[int]]
    slotted: Slotted | None = None
    shade: Shade = Shade.DARK
    more: Known | None = None
    total: decimal.Decimal | float | None = None


MOMENTS = st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.timezones())
LEAVES = st.builds(Leaf, st.text(max_size=3), st.floats())
ODD = st.sampled_from(
    [{2, 1}, {1: 2}, {None: {"b"}}, (1, {3}), Shade.MANY, math.nan, None, THIRD, b"\xff", [[{}]]]
)
FITTING: dict[str, Any] = {
    "name": st.text(max_size=3),
    "leaves": st.lists(LEAVES, max_size=2),
    "at": MOMENTS | st.none(),
    "by_name": st.dictionaries(st.text(max_size=2), LEAVES | st.lists(st.integers(), max_size=2), max_size=2),
    "slotted": st.none() | st.builds(Slotted, MOMENTS, st.tuples(st.text(max_size=2))),
    "shade": st.just(Shade.DARK),
    "total": st.none() | st.decimals() | st.floats(),
}


#: Fields that a :class:`Tree` lacks when msgspec has read it without them.
DEFAULTS = ["slotted", "shade", "more", "total"]


@st.composite
def trees(draw: st.DrawFn, kind: Any, depth: int = 2) -> Any:
    """Draw an object of which some fields are not what they are declared to be, or were not read."""
    values = {name: draw(each) for name, each in FITTING.items()}
    for name in draw(st.lists(st.sampled_from([*FITTING, "more"]), max_size=2)):
        values[name] = draw(ODD | MOMENTS.map(lambda at: at.timetz()) | LEAVES | SCALARS)
    if depth and draw(st.booleans()):
        values.setdefault("more", draw(trees(kind, depth - 1)))
    value = kind(**values)
    for name in draw(st.lists(st.sampled_from(DEFAULTS), max_size=2)) if kind is Tree else ():
        vars(value).pop(name, None)
    return value
