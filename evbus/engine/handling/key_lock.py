"""Locks of keys: what has the same key is handled one after another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

__all__ = ["KeyLock", "find", "held", "leads_back"]

_Turn = asyncio.Future[None]


#: What comes next though no caller waits. The first is called when it is its turn, which it refuses by
#: returning False; the second when it will never have one.
_Queued = tuple[Callable[[], object], Callable[[], object]]


class _Hold:
    """The turn of one message: it holds the lock of its key.

    :ivar waits: the locks that its handler waits for at present.
    """

    __slots__ = ("waits",)

    def __init__(self) -> None:
        self.waits: list[KeyLock] = []


class KeyLock:
    """The lock of a key, which is there for as long as there is a message with the key.

    :ivar of: the locks that it is one of, by their keys.
    :ivar hold: the turn of the message that holds it.
    :ivar waiting: who comes next: a future of a caller that waits, or a message.
    """

    __slots__ = ("hold", "key", "of", "waiting")

    def __init__(self, locks: dict[Any, KeyLock], key: Any) -> None:
        self.key = key
        self.hold = _Hold()
        self.waiting: deque[_Turn | _Queued] = deque()
        self.of = locks
        locks[key] = self

    def release(self) -> None:
        """End the turn of a message: the next one has it, or the lock is gone."""
        while self.waiting:
            upcoming = self.waiting.popleft()
            if isinstance(upcoming, asyncio.Future):
                if upcoming.done():
                    continue  # its caller was cancelled
                self.hold = _Hold()
                upcoming.set_result(None)
                return
            self.hold = _Hold()
            if upcoming[0]() is not False:
                return
        del self.of[self.key]

    async def acquire(self) -> None:
        """Wait for it, behind those that wait already."""
        turn: _Turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()
            raise

    def drop(self, problem: Callable[[], Exception]) -> None:
        """Give up what waits: callers get a ``problem``, messages are told."""
        while self.waiting:
            waiting = self.waiting.popleft()
            if not isinstance(waiting, asyncio.Future):
                waiting[1]()
            elif not waiting.done():
                waiting.set_exception(problem())


def find(locks: dict[Any, KeyLock], key: Any) -> KeyLock | None:
    """Return the lock of a key, if there is one.

    :raises TypeError: it is not hashable, and so cannot be a key.
    """
    try:
        return locks.get(key)
    except TypeError:
        raise TypeError(
            f"key is something hashable, such as a string or a number, and no {type(key).__name__}"
        ) from None


def held(holds: Any) -> Generator[_Hold, None, None]:
    """Return the holds of a chain: ``(hold, holds above)`` or None."""
    while holds is not None:
        yield holds[0]
        holds = holds[1]


def leads_back(lock: KeyLock, holds: Any) -> bool:
    """Return whether ``lock`` cannot be released before one of ``holds`` has ended.

    :param holds: ``(hold, holds above)`` or None.
    """
    own = {id(hold) for hold in held(holds)}
    seen = set()
    ahead = [lock]
    while ahead:
        hold = ahead.pop().hold
        if id(hold) in own:
            return True
        if id(hold) not in seen:
            seen.add(id(hold))
            ahead += hold.waits
    return False
