"""Run evbus and its peers by turns, and write the tables into docs/benchmarks.rst: `make bench`.

Only ratios from one run count: the same code varies by half between two runs on a shared machine. So the
sides alternate within every round, and the tables show medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

import brokers
import bus
import dispatch
import events
import page
import rounds
from peers import ROOT, say
from rounds import Case, Results

GROUPS = ("bus", "dispatch", "events", "brokers")


def chosen(cases: list[Case], only: list[str], sides: list[str]) -> list[Case]:
    """Return the cases that were asked for, with the sides that were asked for."""
    wanted = [case for case in cases if not only or case.name in only]
    if not sides:
        return wanted
    fewer = [
        case._replace(events={side: events for side, events in case.events.items() if side in sides})
        for case in wanted
    ]
    return [case for case in fewer if case.events]


def asked() -> argparse.Namespace:
    """Return what the command line asks for; ``groups`` is a set then."""
    parser = argparse.ArgumentParser(description="Compare evbus with its peers.")
    parser.add_argument(
        "groups", nargs="*", metavar="bus|dispatch|events|brokers", help="what to measure (all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each case runs on each side (5)")
    parser.add_argument("--only", nargs="*", default=[], help="names of cases; the page is not written then")
    parser.add_argument("--sides", nargs="*", default=[], help="names of sides; the page is not written then")
    parser.add_argument(
        "--amqp", help="amqp://user:password@host:port/ of a RabbitMQ to use instead of our own"
    )
    parser.add_argument("--stomp", help="stomp://user:password@host:port of the same RabbitMQ")
    options = parser.parse_args()
    named = bool(options.groups)
    options.groups = groups = set(options.groups or GROUPS)
    if groups - set(GROUPS):
        parser.error("there are four groups of cases: bus, dispatch, events and brokers")
    if "dispatch" in groups and sys.version_info < dispatch.NEEDS:
        needs = ".".join(map(str, dispatch.NEEDS))
        said = f"the peer of the dispatcher needs Python {needs} or later: make bench PYTHON=..."
        if named:
            parser.error(said)
        say(f"left out: {said}")
        groups.discard("dispatch")
    if bool(options.amqp) != bool(options.stomp):
        parser.error("a broker is named with both --amqp and --stomp")
    return options


def main() -> None:
    options = asked()
    groups = options.groups

    def report(mark: str, table: list[str]) -> None:
        text = "\n".join([page.machine(options.rounds), "", *table])
        print(text)
        if not options.only and not options.sides:
            page.write(mark, text)
            say(f"written to {page.PAGE.relative_to(ROOT)}")

    def of(group: str, cases: list[Case]) -> list[Case]:
        return chosen(cases, options.only, options.sides) if group in groups else []

    through_broker, listened = of("brokers", brokers.CASES), of("events", events.THROUGH_RABBITMQ)
    of_events: Results = {}
    # The broker first: if there is none, nobody waits for that.
    if through_broker or listened:
        given = brokers.Broker(options.amqp, options.stomp) if options.amqp else None
        with contextlib.nullcontext(given) if given else brokers.private_node() as broker:
            found: Results = rounds.run(options.rounds, through_broker, broker.measure)
            of_events |= rounds.run(options.rounds, listened, events.through(broker.amqp))
        if through_broker:
            report(brokers.MARK, brokers.table(found))
    if "bus" in groups:
        found = rounds.run(options.rounds, chosen(bus.CASES, options.only, options.sides), bus.measure)
        report(bus.MARK, bus.table(found))
    if "dispatch" in groups:
        cases = chosen(dispatch.CASES, options.only, options.sides)
        found = rounds.run(options.rounds, cases, dispatch.measure)
        report(dispatch.MARK, dispatch.table(found))
    if "events" in groups:
        cases = chosen(events.cases(), options.only, options.sides)
        of_events |= rounds.run(options.rounds, cases, events.measure)
        report(events.MARK, events.table(of_events))


if __name__ == "__main__":
    main()
