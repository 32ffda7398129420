"""The slow, exact way to encode: a body is rebuilt from plain values, and what cannot travel is named.

The C encoders are fast because they stop at the first value that they do not know, without saying where
it is. This walk runs when one of them has stopped, or has written something that has to be put right.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import msgspec

from evbus.engine.codec import shape
from evbus.engine.codec.natural import natural
from evbus.engine.kit.strictjson import MAX_DEPTH
from evbus.errors import PayloadError, PayloadTooDeep, SerializeError

__all__ = ["Normaliser"]

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Normaliser:
    """Rebuilds one body. The encodings differ in keys, numbers and what they carry as it is.

    An instance serves one body: ``trail`` holds the keys (str) and indices (int) that lead to the value
    being looked at. Iterators in the body are consumed once.
    """

    plugin = ""
    #: The encoding carries bytes as they are.
    binary = False

    def __init__(self) -> None:
        self.trail: list[str | int] = []
        self._open: set[int] = set()

    def __call__(self, data: object) -> Any:
        """Return ``data`` rebuilt.

        :raises SerializeError: a value that cannot be encoded, with its path.
        :raises PayloadTooDeep: containers nest deeper than :data:`MAX_DEPTH`.
        """
        try:
            return self.value(data)
        except (PayloadError, MemoryError):
            raise
        except RecursionError as exc:
            raise self.error("it nests too deeply, or turns into itself for ever") from exc
        except Exception as exc:
            # Even isinstance() runs the application's code when a class is a proxy.
            raise self.error(f"looking at it raised {type(exc).__name__}") from exc

    # -- what the encodings decide -------------------------------------------------------------

    def key(self, key: object) -> Any:
        """Return the key of an object as it is written."""
        raise NotImplementedError

    def integer(self, value: int) -> Any:
        """Return an integer as it is written."""
        raise NotImplementedError

    def real(self, value: float) -> Any:
        """Return a float as it is written."""
        raise NotImplementedError

    def native(self, value: object) -> Any:
        """Return the value if the encoding carries it as it is, else None."""
        return None

    def unknown(self, value: object) -> Any:
        """Return the form of a value that has none of its own."""
        what = (
            f"the class {value.__name__}"
            if isinstance(value, type)
            else f"a value of the type {type(value).__name__}"
        )
        raise self.error(
            f"{what} has no plain form; make it a text, a number, a list, a mapping or a dataclass"
        )

    # -- the walk ------------------------------------------------------------------------------

    def value(self, value: object) -> Any:
        """Return any value rebuilt."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, enum.Enum):
            return self.value(value.value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int):
            return self.integer(value)
        if isinstance(value, float):
            return self.real(value)
        if (native := self.native(value)) is not None:
            return native
        if isinstance(value, dict):
            return self.container(value, lambda: self._object(dict.items(value)))
        if isinstance(value, (list, tuple)):
            return self.container(value, lambda: self._array(value))
        return self._other(value)

    def text(self, value: str) -> str:
        """Return a string, which has to be one that UTF-8 can carry."""
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise self.error(f"{_surrogate(exc)}, which UTF-8 cannot carry") from None
        return str.__str__(value)

    def container(self, value: object, build: Callable[[], T]) -> T:
        """Build a container unless it is too deep, or holds itself."""
        if id(value) in self._open:
            raise self.error("a circular reference: the value holds itself")
        if len(self.trail) >= MAX_DEPTH:
            raise PayloadTooDeep(MAX_DEPTH, path=self.path())
        self._open.add(id(value))
        built = build()
        self._open.discard(id(value))
        return built

    def _object(self, items: Iterable[tuple[object, object]]) -> dict[Any, Any]:
        built = {}
        for key, value in self._run("reading a mapping", lambda: list(items)):
            written = self.key(key)
            if written in built:
                self.refuse_key(key, f"two keys are both written as {written!a:.80}")
            self.trail.append(written if isinstance(written, str) else repr(written))
            built[written] = self.value(value)
            self.trail.pop()
        return built

    def _array(self, items: Iterable[object]) -> list[Any]:
        built = []
        for index, value in enumerate(items):
            self.trail.append(index)
            built.append(self.value(value))
            self.trail.pop()
        return built

    def _other(self, value: object) -> Any:
        what = type(value).__name__
        text = self._run(f"reading {what}", lambda: shape.as_text(value))
        if text is not None:
            return text
        record = self._run(f"reading the fields of {what}", lambda: shape.record(value, binary=self.binary))
        if record is not None:
            return self._record(value, record)
        if isinstance(value, (set, frozenset)):
            return self.container(value, lambda: self._array(self._sorted(value)))
        if isinstance(value, Mapping):
            return self.container(value, lambda: self._object(value.items()))
        plain = self._run(f"reading {what}", lambda: natural(value))
        if plain is not msgspec.UNSET:
            return self.value(plain)
        if hasattr(type(value), "__iter__") and not isinstance(value, type):
            return self.container(value, lambda: self._array(self._consume(value, what)))
        return self.unknown(value)

    def _record(self, value: object, record: object) -> Any:
        if isinstance(record, dict):
            return self.container(value, lambda: self._object(record.items()))
        if isinstance(record, list):
            return self.container(value, lambda: self._array(record))
        return self.value(record)  # a pydantic root model may be any value

    def _sorted(self, value: Iterable[Any]) -> list[Any]:
        try:
            return sorted(value)
        except Exception:  # not only of other types: a Decimal that is NaN has no order
            return self._run("sorting a set", lambda: sorted(value, key=repr))

    def _consume(self, value: Any, what: str) -> list[object]:
        return self._run(f"iterating over {what}", lambda: list(value))

    # -- saying what is wrong ------------------------------------------------------------------

    def plain_key(self, key: object) -> Any:
        """Return a key as a text, a number or bytes, ``msgspec.UNSET`` when it is none."""
        text = self._run("reading a key", lambda: shape.as_text(key))
        return text if text is not None else self._run("reading a key", lambda: natural(key))

    def _run(self, doing: str, call: Callable[[], T]) -> T:
        """Call code of the application, and say where it was called when it raises."""
        try:
            return call()
        except (PayloadError, MemoryError, RecursionError):
            raise
        except Exception as exc:
            raise self.error(f"{doing} raised {type(exc).__name__}") from exc

    def path(self) -> str:
        """Return the way to the value being looked at, as in ``$.order.items[3]``."""
        return "$" + "".join(map(_step, self.trail))

    def error(self, reason: str) -> SerializeError:
        """Return the error for the value being looked at."""
        return SerializeError(reason, path=self.path(), plugin=self.plugin)

    def refuse_key(self, key: object, reason: str) -> NoReturn:
        """Raise the error for a key of the object being looked at."""
        try:
            shown = ascii(key)
        except Exception:
            shown = f"of the type {type(key).__name__}"
        raise SerializeError(reason, path=f"{self.path()} key {shown:.80}", plugin=self.plugin)

    def text_key(self, key: str) -> str:
        """Return a key that is a string, which has to be one that UTF-8 can carry."""
        try:
            key.encode()
        except UnicodeEncodeError as exc:
            self.refuse_key(key, f"{_surrogate(exc)}, which UTF-8 cannot carry")
        return str.__str__(key)


def _surrogate(exc: UnicodeEncodeError) -> str:
    return f"a lone surrogate (U+{ord(exc.object[exc.start]):04X} at position {exc.start})"


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _NAME.fullmatch(step) else f"[{json.dumps(step):.80}]"
