"""What a run found out, and what it reads back from a broker by another way than evbus."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from tests.chaos._events import Event, Tally, tally
from tests.chaos._process import Program
from tests.chaos._transport import Broker, taken
from tests.servers._wait import until

#: Events in flight at once: two of the profile's delivery.batch, at a concurrency of 1; by STOMP one.
WINDOW = 1000


class Run:
    """The figures of a run, and which bars it missed.

    :ivar name: unique, and so a part of every body and of every name on the broker.
    :ivar missed: sentences.
    :ivar slow: those about times; a test that runs beside others does not look at them.
    """

    def __init__(self, bar: str, **settings: Any) -> None:
        self.name = f"chaos-{secrets.token_hex(4)}"
        self.figures: dict[str, Any] = {"bar": bar, **settings}
        self.missed: list[str] = []
        self.slow: list[str] = []

    def note(self, **figures: Any) -> None:
        self.figures.update(figures)

    def hold(self, what: str, value: Any, kept: bool, bar: str) -> None:
        """Note a figure that has to be so."""
        self.figures[what] = value
        if not kept:
            self.missed.append(f"{what} is {value}; the bar: {bar}")

    def most(self, what: str, value: float, bar: float) -> None:
        self.hold(what, value, value <= bar, f"at most {bar:g}")

    def time(self, what: str, value: float, bar: float) -> None:
        """Note a time that has to be so where nothing else keeps the machine busy."""
        self.figures[what] = value
        if value > bar:
            self.slow.append(f"{what} is {value}; the bar: at most {bar:g}")

    def same(self, what: str, value: Any, bar: Any = 0) -> None:
        self.hold(what, value, value == bar, f"exactly {bar}")

    def count(
        self,
        accepted: Iterable[Event],
        bodies: Iterable[bytes],
        *,
        most: int | None = None,
        ordered: bool = True,
        where: str = "",
    ) -> None:
        """Compare what arrived with what was accepted; nothing may be lost, invented, corrupted, reordered.

        :param most: duplicates that there may be; None for any number.
        :param ordered: whether the first of each event is to come in the order of its key.
        :param where: stands before the names of the figures.
        """
        found = tally(self.name, accepted, bodies)._asdict()
        mark = f"{where}_" if where else ""
        exact = {"lost", "invented", "corrupted", *(["reordered"] if ordered else [])}
        for what, value in found.items():
            if what in exact:
                self.same(mark + what, value)
            elif what == "duplicates" and most is not None:
                self.most(mark + what, value, most)
            else:
                self.figures[mark + what] = value

    def line(self) -> str:
        """Return everything as one line of JSON."""
        return json.dumps({**self.figures, "missed": self.missed + self.slow})

    def fresh(self, node: Broker, program: Program, queues: dict[str, str]) -> None:
        """Put one more event and look for it in the emptied queues of these lanes."""
        program.put(1, profile="+".join(queues))
        program.until(lambda: program.settled(*queues), "a fresh event")
        (event,) = program.accepted()[-1:]
        passed = [tally(self.name, [event], taken(node, queue)) == _ONE for queue in queues.values()]
        self.hold("fresh_event", all(passed), all(passed), "a fresh event passes afterwards")

    def quiet(self, program: Program) -> None:
        """See that the program logged no failure but dead letters."""
        lines = [line for line in program.log.splitlines() if " an event is dead " not in line]
        self.same("failures_logged", sum("Traceback" in line or " ERROR " in line for line in lines))


_ONE = Tally(1, 1, 0, 0, 0, 0, 0)


class Listening:
    """Notes in a thread of its own when something listens on a port again."""

    def __init__(self, node: Broker, port: int) -> None:
        self.since = 0.0
        self._address = (node.host, port)
        self._thread = threading.Thread(target=self._watch, name="port", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join()

    def _watch(self) -> None:
        def connect() -> bool:
            socket.create_connection(self._address, 5).close()
            return True

        until(connect, 120, "a broker listening again")
        self.since = time.monotonic()
