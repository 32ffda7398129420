"""Tracks the publishes of a channel until they are confirmed, refused or given up.

Publisher confirms are RabbitMQ's extension of AMQP 0-9-1: every publish of a channel has a number, counted
from 1, and is answered by ``basic.ack`` or ``basic.nack``, alone or up to that number. An unroutable
mandatory publish comes back whole (``basic.return``, reference section 1.8.3.9) before it is confirmed.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.transport import Sink
from evbus.errors import DeliveryError, Rejected
from evbus.types import SharedHeaders

__all__ = ["PENDING", "Batch", "Confirms", "Outcome", "Sent", "read_return"]

_TAG = struct.Struct(">QB")


class _Pending(Exception):
    """Stands for an outcome that is not known yet."""


PENDING = _Pending()
Outcome = BaseException | None


#: What was published: routing key, properties, body. When it comes back, its headers may have another order,
#: and more than they had; brokers let their operators add to them.
Sent = tuple[str, bytes, bytes]


class Batch:
    """Publishes with consecutive numbers.

    :ivar outcomes: one for each: None (confirmed), why not, or ``PENDING``.
    :ivar done: these, once none of them is pending.
    :ivar awaited: whether somebody waits for it, and is told when nothing is confirmed for too long.
    """

    __slots__ = ("_low", "awaited", "done", "first", "left", "outcomes", "sent")

    def __init__(self, first: int, sent: list[Sent], done: asyncio.Future[list[Outcome]]) -> None:
        self.first = first
        self.sent = sent
        self.outcomes: list[Outcome] = [PENDING] * len(sent)
        self.left = len(sent)
        self.done = done
        self.awaited = False
        self._low = 0

    def settle(self, tag: int, refused: Callable[[], Exception] | None, *, multiple: bool) -> None:
        """Note the outcome of one number, or of all up to it: confirmed, or what ``refused`` makes."""
        index = min(tag - self.first, len(self.outcomes) - 1)
        if multiple:
            self._settle_up_to(index, refused)
        else:
            self.set(index, refused and refused())
        self.look()

    def look(self) -> None:
        """Wake the waiter when no event is left."""
        if not self.left and not self.done.done():
            self.done.set_result(self.outcomes)

    def _settle_up_to(self, index: int, refused: Callable[[], Exception] | None) -> None:
        outcomes, low = self.outcomes, self._low
        if refused is None and self.left == len(outcomes) - low and index >= low:
            count = index + 1 - low
            outcomes[low : index + 1] = [None] * count
            self.left -= count
        else:
            # An error to each: one for several would mean that it is not known whose it is.
            for each in range(low, index + 1):
                self.set(each, refused and refused())
        self._low = max(low, index + 1)

    def set(self, index: int, outcome: Outcome) -> None:
        """Note an outcome that is not known yet; what came back keeps that one."""
        if self.outcomes[index] is PENDING:
            self.outcomes[index] = outcome
            self.left -= 1

    def renew(self) -> None:
        """Let the batch be waited for again, after who waited for it was cancelled or gave up."""
        self.awaited = False
        if self.left:
            self.done = asyncio.get_running_loop().create_future()

    def fail(self, problem: BaseException) -> None:
        """Note that no more confirms will come."""
        self.outcomes = [problem if outcome is PENDING else outcome for outcome in self.outcomes]
        self.left = 0
        self.look()


def read_return(payload: bytes) -> tuple[int, str, str, str]:
    """Return the code, the text, the exchange and the routing key of ``basic.return``."""
    (code,) = struct.unpack_from(">H", payload, 4)
    texts, position = [], 6
    for _ in range(3):
        stop = position + 1 + payload[position]
        texts.append(payload[position + 1 : stop].decode("utf-8", "replace"))
        position = stop
    text, exchange, routing_key = texts
    return code, text, exchange, routing_key


class Confirms(Sink):
    """The publishes of one channel; whoever writes them says by its methods what outcomes are.

    :param patience: seconds without any confirm after which those who wait are told.
    :ivar ended: why no more confirms will come.
    :ivar progress: how often something was confirmed.
    """

    def __init__(self, patience: float) -> None:
        super().__init__()
        self.patience = patience
        self.ended: Exception | None = None
        self.progress = 0
        self._loop = asyncio.get_running_loop()
        self._next = 1
        self._batches: deque[Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None
        # The routing key of what is coming back, and the error of that.
        self._returning: tuple[str, Rejected] | None = None
        # What came back and is not confirmed yet.
        self._back: dict[Sent, list[Rejected]] = {}

    @abstractmethod
    def _refused(self) -> Exception:
        """Return the outcome of a ``basic.nack``."""

    @abstractmethod
    def _unroutable(self, code: int, text: str, exchange: str, routing_key: str) -> Rejected:
        """Return the outcome of a ``basic.return``."""

    @abstractmethod
    def _closed(self, code: int, text: str) -> Exception:
        """Return the outcome of what is pending when no more confirms come.

        Why is told by the code and text of ``channel.close``, or 0 and the loss of the connection.
        """

    @abstractmethod
    def silent(self) -> Exception:
        """Return the error of those who wait when nothing was confirmed for too long."""

    def __repr__(self) -> str:
        return f"<Confirms next={self._next} pending={self.pending}>"

    @property
    def pending(self) -> int:
        """The number of publishes that are neither confirmed nor given up."""
        return sum(batch.left for batch in self._batches)

    def add(self, sent: list[Sent]) -> Batch:
        """Note what is about to be written, in this order."""
        batch = Batch(self._next, sent, self._loop.create_future())
        self._next += len(sent)
        self._batches.append(batch)
        return batch

    def watch(self, batch: Batch) -> None:
        """Let who waits for a batch be told when nothing is confirmed for too long.

        One timer for the channel costs less than one for each batch.
        """
        batch.awaited = True
        if self._timer is None:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(self.patience, self._look, self.progress)

    def _look(self, progress: int) -> None:
        self._timer = None
        awaited = [batch for batch in self._batches if batch.awaited and not batch.done.done()]
        if self.progress == progress:
            for batch in awaited:
                batch.done.set_exception(self.silent())
        elif awaited:
            self._look_later()

    def lost(self, reason: str) -> None:
        """The connection is gone: what is pending may have arrived or not."""
        self._end(0, reason)

    def _end(self, code: int, text: str) -> None:
        if self.ended is None:
            self._tell_returned()
            self.ended = self._closed(code, text)
            self._fail(self.ended)
            if self._timer is not None:
                self._timer.cancel()

    def reject(self, unfit: Callable[[bytes], bool], problem: Callable[[], Rejected]) -> None:
        """Give up what is pending and has a body that the broker will never take."""
        for batch in self._batches:
            for index, (_, _, body) in enumerate(batch.sent):
                if unfit(body):
                    batch.set(index, problem())
            batch.look()

    def _fail(self, problem: Exception) -> None:
        for batch in self._batches:
            batch.fail(problem)
        self._batches.clear()

    def _tell_returned(self) -> None:
        """Let what came back be known to have done so, although its confirm will not come."""
        back, self._back = self._back, {}
        pending = Counter(self._pending() if back else ())
        for batch in self._batches if back else ():
            for index, sent in enumerate(batch.sent):
                # Of twins of which not all came back it is not known which did.
                if sent in back and len(back[sent]) >= pending[sent] and batch.outcomes[index] is PENDING:
                    batch.set(index, back[sent][-1])
            batch.look()

    def _pending(self) -> Iterator[Sent]:
        """Yield the publishes that are neither confirmed nor given up."""
        for batch in self._batches:
            for index, sent in enumerate(batch.sent):
                if batch.outcomes[index] is PENDING:
                    yield sent

    def method(self, method: int, payload: bytes) -> bool:
        """Take a confirm, or the beginning of a return; everything else is aio-pika's."""
        if method in (frames.ACK, frames.NACK):
            tag, bits = _TAG.unpack_from(payload, 4)
            self._settle(tag, None if method == frames.ACK else self._refused, multiple=bool(bits & 1))
        elif method == frames.RETURN:
            code, text, exchange, routing_key = read_return(payload)
            self._returning = routing_key, self._unroutable(code, text, exchange, routing_key)
        else:
            if method == frames.CHANNEL_CLOSE:
                self._end(*frames.read_close(payload))
            return False
        return True

    def _settle(self, tag: int, refused: Callable[[], Exception] | None, *, multiple: bool) -> None:
        self.progress += 1
        batches = self._batches
        for batch in batches:
            if batch.first > tag:
                break
            # A tag of 0 would mean all; RabbitMQ does not send it.
            if multiple or tag < batch.first + len(batch.outcomes):
                # What comes back is confirmed by ack: the broker has done with it.
                if self._back and refused is None:
                    self._reject(batch, tag, multiple=multiple)
                batch.settle(tag, refused, multiple=multiple)
        while batches and not batches[0].left:
            batches.popleft()

    def _reject(self, batch: Batch, tag: int, *, multiple: bool) -> None:
        """Note which of the publishes that are being confirmed came back before."""
        last = min(tag - batch.first, len(batch.sent) - 1)
        for index in range(0 if multiple else last, last + 1):
            sent = batch.sent[index]
            if batch.outcomes[index] is PENDING and sent in self._back:
                batch.set(index, self._back[sent].pop())
                if not self._back[sent]:
                    del self._back[sent]

    def message(self, properties: bytes, body: bytes) -> None:
        """Note what came back."""
        returning, self._returning = self._returning, None
        if returning is None:
            return
        key, problem = returning
        sent = self._found(key, properties, body)
        if sent is not None:
            # Twins may be pending; which of them it was is told by its confirm, which comes next.
            self._back.setdefault(sent, []).append(problem)
            return
        # What is pending ends here and is sent again alone; so it is found, or nothing comes back.
        self._tell_returned()
        self._fail(
            DeliveryError(
                "one of the publishes came back, and it cannot be told which: the broker changed it"
            )
        )

    def _found(self, key: str, properties: bytes, body: bytes) -> Sent | None:
        """Return the publish that came back, None when it is not known which.

        No broker changes routing keys and bodies. Of several that have the same, it is the one whose headers
        are most like those that came back.
        """
        best, found, back = 0, None, _headers(properties)
        told = {sent: len(problems) for sent, problems in self._back.items()}
        for sent in self._pending():
            if sent[2] != body or sent[0] != key:
                continue
            if told.get(sent):
                told[sent] -= 1
                continue
            headers = _headers(sent[1])
            if headers == back:
                return sent
            likeness = _likeness(headers, back)
            if found is None or likeness > best:
                best, found = likeness, sent
        return found if found is not None else self._only()

    def _only(self) -> Sent | None:
        """Return the only pending publish, None when there are others or it came back."""
        pending = list(itertools.islice(self._pending(), 2))
        return pending[0] if len(pending) == 1 and not self._back else None


@lru_cache(maxsize=2048)
def _headers(properties: bytes) -> Mapping[str, str]:
    try:
        return frames.properties_of(properties).headers
    except ValueError:
        return SharedHeaders()


def _likeness(sent: Mapping[str, str], back: Mapping[str, str]) -> int:
    """Return how many headers came back as they were sent, less those that did not."""
    return sum(1 if back.get(name) == value else -1 for name, value in sent.items())
