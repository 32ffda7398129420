"""Run evbus and its peers by turns, and write the tables into docs/benchmarks.rst: `make bench`.

Only ratios from one run count: the same code varies by half between two runs on a shared machine. So the
sides alternate within every round, and the tables show medians over the rounds. With ``--before COMMIT`` the
other side is an older evbus.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from functools import partial

import brokers
import build
import bus
import dispatch
import events
import page
import rounds
import runtimes
import services
from peers import ROOT, say
from rounds import Case, Results

GROUPS = ("bus", "dispatch", "events", "brokers", "services", "runtimes")


def chosen(cases: list[Case], options: argparse.Namespace) -> list[Case]:
    """Return the cases that were asked for, with the sides that were asked for."""
    wanted = [case for case in cases if not options.only or case.name in options.only]
    if options.before:
        return build.beside(wanted, resolution=options.resolution)
    if not options.sides:
        return wanted
    fewer = [
        case._replace(events={side: events for side, events in case.events.items() if side in options.sides})
        for case in wanted
    ]
    return [case for case in fewer if case.events]


def asked() -> argparse.Namespace:
    """Return what the command line asks for; ``groups`` is a set then."""
    parser = argparse.ArgumentParser(description="Compare evbus with its peers.")
    parser.add_argument("groups", nargs="*", metavar="|".join(GROUPS), help="what to measure (all)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each case runs on each side (5)")
    parser.add_argument("--only", nargs="*", default=[], help="names of cases; the page is not written then")
    parser.add_argument("--sides", nargs="*", default=[], help="names of sides; the page is not written then")
    parser.add_argument(
        "--before", metavar="COMMIT", help="measure the build of this commit instead of the peers; no page"
    )
    parser.add_argument(
        "--resolution", action="store_true", help="with --before: that build also against itself"
    )
    parser.add_argument(
        "--amqp", help="amqp://user:password@host:port/ of a RabbitMQ to use instead of our own"
    )
    parser.add_argument("--stomp", help="stomp://user:password@host:port of the same RabbitMQ")
    options = parser.parse_args()
    named = bool(options.groups)
    options.groups = groups = set(options.groups or GROUPS)
    if groups - set(GROUPS):
        parser.error(f"the groups of cases are {', '.join(GROUPS)}")
    if options.before and named and "runtimes" in groups:
        parser.error("the group runtimes measures this build alone, and none with --before")
    if options.resolution and not options.before:
        parser.error("--resolution is about the build that --before names")
    if options.before:
        options.before = build.choose(options.before)
        groups.discard("runtimes")
    elif "dispatch" in groups and sys.version_info < dispatch.NEEDS:
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

    def report(mark: str, table: Callable[[Results], list[str]], found: Results) -> None:
        lines = [page.machine(options.rounds), "", *(build.table if options.before else table)(found)]
        text = "\n".join(lines)
        print(text, flush=True)
        if not options.only and not options.sides and not options.before:
            page.write(mark, text)
            say(f"written to {page.PAGE.relative_to(ROOT)}")

    def of(group: str, cases: list[Case]) -> list[Case]:
        return chosen(cases, options) if group in groups else []

    through_broker, listened = of("brokers", brokers.CASES), of("events", events.THROUGH_RABBITMQ)
    by_runtime = of("runtimes", runtimes.cases(runtimes.OF_RABBITMQ))
    of_events: Results = {}
    of_runtimes: Results = {}
    # The broker first: if there is none, nobody waits for that.
    if through_broker or listened or by_runtime:
        given = brokers.Broker(options.amqp, options.stomp) if options.amqp else None
        with contextlib.nullcontext(given) if given else brokers.private_node() as broker:
            found: Results = rounds.run(options.rounds, through_broker, broker.measure)
            through = events.through(broker.amqp)
            of_events |= rounds.run(options.rounds, listened, through)
            of_runtimes |= rounds.run(options.rounds, by_runtime, runtimes.on(through))
        if through_broker:
            report(brokers.MARK, brokers.table, found)
    if "bus" in groups:
        found = rounds.run(options.rounds, of("bus", bus.CASES), bus.measure)
        report(bus.MARK, bus.table, found)
    if "dispatch" in groups:
        found = rounds.run(options.rounds, of("dispatch", dispatch.CASES), dispatch.measure)
        report(dispatch.MARK, dispatch.table, found)
    if "events" in groups:
        of_events |= rounds.run(options.rounds, of("events", events.cases()), events.measure)
        report(events.MARK, events.table, of_events)
    if "services" in groups:
        found = rounds.run(options.rounds, of("services", services.CASES), services.measure)
        report(services.MARK, services.table, found)
    if "runtimes" in groups:
        wanted = of("runtimes", runtimes.cases(runtimes.OF_BUS))
        found = rounds.run(options.rounds, wanted, runtimes.on(bus.measure))
        wanted = of("runtimes", runtimes.cases(runtimes.OF_EVENTS))
        of_runtimes |= rounds.run(options.rounds, wanted, runtimes.on(events.measure))
        report(runtimes.MARK, partial(runtimes.table, of_events=of_runtimes), found)


if __name__ == "__main__":
    main()
