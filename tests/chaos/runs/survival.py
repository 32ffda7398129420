"""One lane through everything that a broker, its operator and the network may do to it, in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.chaos._process import Program
from tests.chaos._run import WINDOW, Run
from tests.chaos._transport import amqp, taken
from tests.chaos.runs.refusals import bodies_of
from tests.servers._proxy import Proxy
from tests.servers._rabbitmq import RabbitMQ

USER, PASSWORD = "lane", "made-up"
LANE = "default"
ACCIDENTS = (
    "broker_killed",
    "broker_frozen",
    "memory_alarm",
    "permissions_revoked",
    "connection_closed",
    "half_open",
    "exchange_deleted",
    "queue_deleted",
)


def survival(
    node: RabbitMQ,
    folder: Path,
    *,
    events: int = 1_000,
    frozen: float = 60.0,
    heartbeat: float = 5.0,
    only: str = ",".join(ACCIDENTS),
) -> Run:
    """A lane survives each of a list of accidents; what was accepted has arrived or is a dead letter."""
    run = Run("a lane survives", events_for_each=3 * events, heartbeat_s=heartbeat, frozen_s=frozen)
    node.add_user(USER, PASSWORD)
    node.set_permissions(USER)
    with Proxy(node.host, node.port) as proxy:
        profile = {
            **amqp(node, None, port=proxy.port, heartbeat=heartbeat),
            "login": USER,
            "password": PASSWORD,
            "exchange": {"name": run.name, "type": "direct"},
            "queue": {"name": run.name, "bind": "chaos"},
        }
        with Program(folder, run.name, {"amqp": {LANE: profile}}) as program:
            life = _Life(run, node, program, proxy, events, frozen)
            for accident in only.split(","):
                getattr(life, accident)()
            life.count()
            run.fresh(node, program, {LANE: run.name})
            run.same("workers", program.least_workers, 1)
            run.quiet(program)
    return run


class _Life:
    """A lane and the accidents. Each has events before it, in the middle of it, and after it."""

    def __init__(
        self, run: Run, node: RabbitMQ, program: Program, proxy: Proxy, events: int, frozen: float
    ) -> None:
        self.run = run
        self.node = node
        self.program = program
        self.proxy = proxy
        self.events = events
        self.seconds = frozen
        self.arrived: list[bytes] = []

    def _through(self, accident: str, begin: Callable[[], object], end: Callable[[], object]) -> None:
        program = self.program
        program.put(self.events)
        goal = program.delivered(LANE) + 1
        program.until(lambda: program.delivered(LANE) >= goal, f"{accident}: the first confirm")
        begin()
        program.put(self.events)
        program.until(lambda: program.idle, f"{accident}: the puts in the middle")
        end()
        program.put(self.events)
        program.until(lambda: program.settled(LANE), f"{accident}: the deliveries afterwards")
        lane = program.lane(LANE)
        self.run.note(**{accident: {"last_error": lane["last_error"], "dead": lane["dead"]}})

    def _until_refused(self) -> None:
        def said() -> str:
            states = self.program.lane(LANE), self.program.connection(LANE)
            return " ".join(state["last_error"] for state in states)

        self.program.until(lambda: "ACCESS_REFUSED" in said(), "the refusal")

    def broker_killed(self) -> None:
        self.node.sync()
        self._through("broker_killed", self.node.kill, self.node.start)

    def broker_frozen(self) -> None:
        program = self.program

        def thaw() -> None:
            # As long as these are put, the broker stands still.
            program.put(round(self.seconds * 20), rate=20)
            program.until(lambda: program.idle, "the frozen broker's time", 3 * self.seconds + 60)
            self.node.thaw()

        self._through("broker_frozen", self.node.freeze, thaw)

    def memory_alarm(self) -> None:
        def quieten() -> None:
            self.program.until(lambda: self.program.connection(LANE)["blocked"], "the alarm's news")
            self.node.memory_alarm(False)

        self._through("memory_alarm", lambda: self.node.memory_alarm(True), quieten)

    def permissions_revoked(self) -> None:
        def give_back() -> None:
            self._until_refused()
            self.node.set_permissions(USER)

        def revoke() -> None:
            self.node.set_permissions(USER, configure="", write="", read="")
            # The broker asks again only on a new channel, or after a while.
            self.node.close_connections("permissions revoked")

        self._through("permissions_revoked", revoke, give_back)

    def connection_closed(self) -> None:
        before = self.program.connection(LANE)["connects"]
        self._through(
            "connection_closed",
            self.node.close_connections,
            lambda: self.program.until(
                lambda: self.program.connection(LANE)["connects"] > before, "a new connection"
            ),
        )

    def half_open(self) -> None:
        before = self.program.connection(LANE)["connects"]
        self._through(
            "half_open",
            self.proxy.half_open,
            lambda: self.program.until(
                lambda: self.program.connection(LANE)["connects"] > before, "a new connection"
            ),
        )

    def exchange_deleted(self) -> None:
        """It is declared by the profile, and so is there again as soon as somebody publishes."""
        self._through("exchange_deleted", lambda: self.node.delete_exchange(self.run.name), lambda: None)

    def queue_deleted(self) -> None:
        """With what is in it, so that this is taken before."""

        def delete() -> None:
            self.program.until(lambda: self.program.settled(LANE), "everything on the broker")
            self.arrived.extend(taken(self.node, self.run.name))
            self.node.delete_queue(self.run.name)

        self._through("queue_deleted", delete, lambda: None)

    def count(self) -> None:
        """Compare what was accepted with what arrived, and with the dead letters."""
        program, run = self.program, self.run
        program.until(lambda: len(program.dead()) >= program.lane(LANE)["dead"], "the dead store")
        self.arrived += taken(self.node, run.name)
        losses = program.connection(LANE)["connects"] - 1
        run.note(connections_lost=losses, dead=len(program.dead()))
        everything = [*self.arrived, *bodies_of(program.dead())]
        # Dead letters come last here, whenever they died.
        run.count(program.accepted(), everything, most=WINDOW * (losses + 1), ordered=not program.dead())
