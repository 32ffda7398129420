"""``evbus run --from``: from one message system into others."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.command.kit import Shell, wait_for
from tests.servers._rabbitmq import RabbitMQ
from tests.servers._wait import until

#: A source for as long as it is wanted: its lines, then nothing more. What it is told is in ``acks``.
LINES = """
import asyncio
from pathlib import Path
from evbus.types import Delivery, Envelope

async def consume(hub, ctx, subscription):
    settled = Path(ctx.acct.path + ".settled").open("a", buffering=1)
    tell = lambda tag, accepted, requeue: print(tag, accepted, file=settled)
    for number, line in enumerate(Path(ctx.acct.path).read_bytes().splitlines()):
        yield Delivery(Envelope(ctx.name, "line", line), tell, number)
    if not ctx.acct.get("ends"):
        await asyncio.Event().wait()
"""
PRINTS = (
    "import asyncio\nasync def publish(hub, ctx, routing_key, body):\n    print(body.decode(), flush=True)\n"
)
EVENTS = 4_000  # more than are under way at once
HANGS = PRINTS + "    await asyncio.Event().wait()\n"
REJECTS = (
    "from evbus.errors import Rejected\nasync def publish(hub, ctx, body):\n    raise Rejected('not this')\n"
)


@pytest.fixture
def lines(shell: Shell) -> Shell:
    """Return a folder where the profile ``in`` of the plugin ``lines`` yields three lines."""
    shell.file("plugins/egress/lines.py", LINES)
    shell.file("in.txt", "a\nb\nc\n")
    return shell


def profiles(shell: Shell, **providers: Any) -> Path:
    """Write p.yml (JSON is YAML) with ``in``, which is consumed from."""
    contexts = {"lines": {"in": {"path": "in.txt"}}, **providers}
    return shell.file("p.yml", json.dumps(contexts))


def settled(shell: Shell) -> list[str]:
    return (shell.folder / "in.txt.settled").read_text().splitlines()


RUN = ("run", "-p", "p.yml", "--plugin-dirs", "plugins")


def test_a_dropped_in_source_is_consumed_and_acknowledged(lines: Shell) -> None:
    profiles(lines, file={"default": {"path": "out.jsonl"}})
    done = lines.run(*RUN, "--from", "in", "--count", "3")
    assert done.returncode == 0, done.stderr
    assert [event["routing_key"] for event in lines.lines("out.jsonl")] == ["line"] * 3
    assert settled(lines) == ["0 True", "1 True", "2 True"]
    assert "file.file.default         3          3" in done.stderr


def test_count_leaves_the_rest_to_the_source(lines: Shell) -> None:
    profiles(lines, file={"default": {"path": "out.jsonl"}})
    assert lines.run(*RUN, "-q", "--from", "in", "--count", "2").returncode == 0
    assert settled(lines) == ["0 True", "1 True"]


def test_a_source_that_ends_ends_the_run(lines: Shell) -> None:
    profiles(lines, lines={"in": {"path": "in.txt", "ends": True}}, file={"default": {"path": "out.jsonl"}})
    assert lines.run(*RUN, "-q", "--from", "in").returncode == 0
    assert len(settled(lines)) == 3


def test_several_sources_are_named_together_or_one_by_one(lines: Shell) -> None:
    two = {"in": {"path": "in.txt"}, "more": {"path": "in.txt"}}
    profiles(lines, lines=two, file={"default": {"path": "out.jsonl"}})
    assert lines.run(*RUN, "-q", "--count", "3", "--from", "in", "more").returncode == 0
    assert lines.run(*RUN, "-q", "--count", "3", "--from", "in", "--from", "lines.more").returncode == 0
    assert len(lines.lines("out.jsonl")) == 12


def test_a_configuration_file_may_name_the_source(lines: Shell) -> None:
    profiles(lines, file={"default": {"path": "out.jsonl"}})
    lines.file("c.yml", "evbus: {from: in, count: 3}\n")
    assert lines.run(*RUN, "-q", "-c", "c.yml").returncode == 0
    assert len(lines.lines("out.jsonl")) == 3


def test_tail_prints_what_comes_in(lines: Shell) -> None:
    profiles(lines, internal={"default": {}})
    args = ("tail", "-p", "p.yml", "--plugin-dirs", "plugins", "-q", "--from", "in", "--count", "3")
    done = lines.run(*args)
    assert (done.returncode, done.stdout) == (0, "line a\nline b\nline c\n")


ADD = "write 'internal: {default: {}}' into it"
NEEDS = "tail prints what reaches the internal queues, and no profile of the provider internal"


@pytest.mark.parametrize(
    ("given", "args", "sentence"),
    [
        (
            {"file": {"default": {"path": "out.jsonl"}}},
            ("--from", "in"),
            f"p.yml: {NEEDS} matches 'default': {ADD}\n",
        ),
        (
            {"internal": {"look": {}}},
            ("--from", "in"),
            f"p.yml: {NEEDS} matches 'default': {ADD}; or name one with --profile; known: look\n",
        ),
        (None, ("--from", "in"), "no profiles: name a file with --profiles"),
    ],
)
def test_tail_that_could_print_nothing_says_what_it_needs(
    lines: Shell, given: dict[str, Any] | None, args: tuple[str, ...], sentence: str
) -> None:
    where: tuple[str, ...] = ()
    if given is not None:
        profiles(lines, **given)
        where = ("-p", "p.yml")
    done = lines.run("tail", "--plugin-dirs", "plugins", *where, *args, stdin="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"evbus: {sentence}")
    assert not (lines.folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--from", "inn"), "p.yml: there is no profile 'inn' to consume from; did you mean 'in'?"),
        (("--from", "out"), "nothing can be consumed from the provider 'file'; those that can: amqp, "),
        (("--from", "in", "--profile", "elsewhere"), "no profile matches 'elsewhere', so what is consumed"),
        (("--from", "in", "in"), "--from names the profile 'in' twice; once is right"),
        (("--from", "in", "--socket", "s"), "give either --from, an input file or --socket"),
        (("--from", "in", "--count", "-1"), "--count -1: this is a number of events"),
        (("--count", "3"), "--count says how many events --from is to consume"),
        (("--from", "broken"), "p.yml: lines.broken: a profile's data are a mapping, not str"),
    ],
)
def test_a_mistake_is_one_sentence(lines: Shell, args: tuple[str, ...], sentence: str) -> None:
    sources = {"in": {"path": "in.txt"}, "broken": "in.txt"}
    profiles(lines, lines=sources, file={"default": {"path": "out.jsonl"}, "out": {"path": "o"}})
    done = lines.run(*RUN, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_source_that_fails_is_one_sentence(lines: Shell) -> None:
    profiles(lines, lines={"in": {"path": "none.txt"}}, file={"default": {"path": "out.jsonl"}})
    done = lines.run(*RUN, "-q", "--from", "in")
    assert done.returncode == 1
    assert "evbus: lines profile 'in': the source ended: FileNotFoundError: " in done.stderr


def test_dead_events_are_on_the_disk_before_they_are_acknowledged(lines: Shell) -> None:
    lines.file("plugins/ingress/rejecting.py", REJECTS)
    profiles(lines, rejecting={"default": {}})
    done = lines.run(*RUN, "--from", "in", "--count", "3")
    assert done.returncode == 1
    assert len(settled(lines)) == 3
    assert [record["dead"]["reason"] for record in lines.dead()] == ["not this"] * 3


def test_what_is_larger_than_max_body_is_dead_and_the_others_are_delivered(lines: Shell) -> None:
    lines.file("in.txt", "four\nfives\n4\n")
    profiles(lines, file={"default": {"path": "out.jsonl"}})
    done = lines.run(*RUN, "--from", "in", "--count", "3", EVBUS_MAX_BODY="4")
    assert done.returncode == 1, done.stderr
    assert len(lines.lines("out.jsonl")) == 2
    (record,) = lines.dead()
    assert "more than the 4 that the option max_body allows" in record["dead"]["reason"]
    assert sorted(settled(lines)) == ["0 True", "1 True", "2 True"]


def test_what_cannot_be_recorded_stays_with_its_source(lines: Shell) -> None:
    lines.file("plugins/ingress/rejecting.py", REJECTS)
    lines.file("there", "")
    profiles(lines, rejecting={"default": {}})
    done = lines.run(*RUN, "--from", "in", "--count", "3", "--dead-store", "there/dead.jsonl")
    assert done.returncode == 1
    assert settled(lines) == []
    assert "3 deliveries were not settled in time, and stay with their source" in done.stderr


def test_what_is_refused_goes_to_the_profile_of_dead_letters(lines: Shell) -> None:
    lines.file("plugins/ingress/rejecting.py", REJECTS)
    delivery = {"delivery": {"dead_letter": "parking"}}
    profiles(lines, rejecting={"default": delivery}, file={"parking": {"path": "out.jsonl"}})
    assert lines.run(*RUN, "-q", "--from", "in", "--count", "3").returncode == 1
    letters = lines.lines("out.jsonl")
    assert [letter["headers"]["evbus-dead-reason"] for letter in letters] == ["not this"] * 3
    assert len(settled(lines)) == 3
    assert not lines.state.exists()


@pytest.mark.parametrize("error", ["ValueError('odd')", "evbus.errors.Rejected('odd')"])
def test_what_an_interceptor_refuses_is_a_dead_event(lines: Shell, error: str) -> None:
    refusing = f"def send(hub, envelope):\n    if envelope.body == b'b':\n        raise {error}\n"
    lines.file("plugins/pipeline/refusing.py", f"import evbus.errors\n{refusing}")
    profiles(lines, file={"default": {"path": "out.jsonl"}})
    assert lines.run(*RUN, "-q", "--from", "in", "--count", "3").returncode == 1
    assert len(lines.lines("out.jsonl")) == 2
    assert [record["dead"]["reason"] for record in lines.dead()] == ["odd"]
    assert sorted(settled(lines)) == ["0 True", "1 True", "2 True"]


def test_the_first_signal_drains_and_acknowledges(lines: Shell) -> None:
    lines.file("plugins/ingress/printing.py", PRINTS)
    profiles(lines, printing={"default": {}})
    with lines.start(*RUN, "--from", "in") as process:
        wait_for(process.stdout, "c")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert len(settled(lines)) == 3


def test_what_is_not_delivered_in_time_stays_with_its_source(lines: Shell) -> None:
    lines.file("plugins/ingress/hanging.py", HANGS)
    profiles(lines, hanging={"default": {}})
    with lines.start(*RUN, "--from", "in", "--drain-timeout", "0.1") as process:
        wait_for(process.stdout, "a")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        assert "3 deliveries were not settled in time" in process.stderr.read()
    assert settled(lines) == []
    assert not lines.state.exists()


def test_the_second_signal_leaves_all_to_the_source(lines: Shell) -> None:
    lines.file("plugins/ingress/hanging.py", HANGS)
    profiles(lines, hanging={"default": {}})
    with lines.start(*RUN, "--from", "in") as process:
        wait_for(process.stdout, "a")
        process.send_signal(signal.SIGINT)
        wait_for(process.stderr, "a second signal stops at once")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert settled(lines) == []
    assert not lines.state.exists()


# Between real brokers


def to_queue(node: RabbitMQ, name: str, **more: Any) -> dict[str, Any]:
    """Return the data of a profile that sends to a queue, or consumes from it."""
    return {"url": node.url, "queue": name, "routing_key": name, **more}


def test_a_message_is_the_same_on_the_other_side(shell: Shell, rabbitmq: RabbitMQ, unique: str) -> None:
    here, there = f"{unique}-here", f"{unique}-there"
    rabbitmq.declare_queue(here)
    rabbitmq.declare_queue(there)
    rabbitmq.declare_exchange(f"{unique}-x", "topic")
    rabbitmq.bind(f"{unique}-x", there, "#")
    body = '{"id":  1.0, "snow": "\u2603"}'
    properties = {
        "content_type": "application/x-odd",
        "message_id": "m-1",
        "correlation_id": "c-1",
        "type": "order",
        "headers": {"tenant": "acme"},
    }
    rabbitmq.api(
        "POST",
        "exchanges/%2F/amq.default/publish",
        {"routing_key": here, "payload": body, "payload_encoding": "string", "properties": properties},
    )
    data = {
        "in": {"url": rabbitmq.url, "queue": here},
        "out": {"url": rabbitmq.url, "exchange": f"{unique}-x"},
    }
    shell.file("p.yml", json.dumps({"amqp": data}))
    done = shell.run("run", "-p", "p.yml", "-q", "--from", "in", "--profile", "out", "--count", "1")
    assert done.returncode == 0, done.stderr
    (message,) = rabbitmq.take(there)
    assert message["payload"] == body
    assert message["routing_key"] == here
    found = message["properties"]
    assert found.pop("delivery_mode") == 2
    assert found == properties
    assert rabbitmq.depth(here) == (0, 0)


def test_thousands_of_events_go_there_and_back_in_order(
    shell: Shell, rabbitmq: RabbitMQ, unique: str
) -> None:
    first, second = f"{unique}-1", f"{unique}-2"
    shell.file("in.jsonl", "".join(f'{{"body": {number}, "profile": "q1"}}\n' for number in range(EVENTS)))
    amqp = {"q1": to_queue(rabbitmq, first), "q2": to_queue(rabbitmq, second)}
    shell.file("p.yml", json.dumps({"amqp": amqp, "file": {"end": {"path": "out.txt", "format": "body"}}}))
    run = ("run", "-p", "p.yml", "-q")
    assert shell.run(*run, "in.jsonl").returncode == 0
    assert rabbitmq.queue_depth(first) == EVENTS
    assert shell.run(*run, "--from", "q1", "--profile", "q2", "--count", EVENTS).returncode == 0
    assert (rabbitmq.queue_depth(first), rabbitmq.queue_depth(second)) == (0, EVENTS)
    assert shell.run(*run, "--from", "q2", "--profile", "end", "--count", EVENTS).returncode == 0
    assert (shell.folder / "out.txt").read_text().splitlines() == [str(number) for number in range(EVENTS)]
    assert rabbitmq.depth(second) == (0, 0)


def test_an_interrupted_bridge_goes_on_where_it_was(shell: Shell, rabbitmq: RabbitMQ, unique: str) -> None:
    shell.file("in.jsonl", "".join(f'{{"body": {number}, "profile": "q"}}\n' for number in range(5_000)))
    amqp = {"q": to_queue(rabbitmq, unique, prefetch=100)}
    shell.file("p.yml", json.dumps({"amqp": amqp, "file": {"end": {"path": "out.txt", "format": "body"}}}))
    assert shell.run("run", "-p", "p.yml", "-q", "in.jsonl").returncode == 0
    run = ("run", "-p", "p.yml", "-q", "--from", "q", "--profile", "end")
    out = shell.folder / "out.txt"
    with shell.start(*run) as process:
        until(lambda: out.exists() and out.stat().st_size > 0, 30, "the first events")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
    done = len(out.read_text().splitlines())
    assert rabbitmq.queue_depth(unique) == 5_000 - done
    if done < 5_000:
        assert shell.run(*run, "--count", 5_000 - done).returncode == 0
    assert out.read_text().splitlines() == [str(number) for number in range(5_000)]


def test_a_source_that_is_down_at_the_start_is_one_sentence(
    shell: Shell, rabbitmq: RabbitMQ, unique: str, proxy: Any
) -> None:
    door = proxy(rabbitmq.port)
    door.refuse()
    url = rabbitmq.url.replace(str(rabbitmq.port), str(door.port))
    amqp = {"in": {"url": url, "queue": unique}}
    shell.file("p.yml", json.dumps({"amqp": amqp, "internal": {"default": {}}}))
    done = shell.run("run", "-p", "p.yml", "-q", "--from", "in")
    assert done.returncode == 1
    assert done.stderr.startswith(f"evbus: amqp profile 'in': {door.host}:{door.port}: ")
    assert done.stderr.count("\n") == 1


def test_a_bridge_survives_the_loss_of_its_connections(
    shell: Shell, rabbitmq: RabbitMQ, unique: str, proxy: Any
) -> None:
    first, second = f"{unique}-1", f"{unique}-2"
    rabbitmq.declare_queue(first)
    door = proxy(rabbitmq.port)
    url = rabbitmq.url.replace(str(rabbitmq.port), str(door.port))
    amqp = {
        "in": {"url": url, "queue": first},
        "out": {"url": url, "queue": second, "routing_key": second, "reconnect": {"max": 0.1}},
    }
    shell.file("p.yml", json.dumps({"amqp": amqp}))
    for number in range(10):
        assert rabbitmq.publish(first, str(number))
    with shell.start("run", "-p", "p.yml", "-q", "--from", "in", "--profile", "out") as process:
        until(lambda: rabbitmq.has_queue(second) and rabbitmq.queue_depth(second) == 10, 30, "the first ten")
        door.cut()
        for number in range(10, 20):
            assert rabbitmq.publish(first, str(number))
        until(lambda: rabbitmq.queue_depth(second) >= 20, 30, "the next ten")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
    # Acknowledgements may have been on their way when the connection was cut.
    bodies = [message["payload"] for message in rabbitmq.take(second)]
    assert [*dict.fromkeys(bodies)] == [str(number) for number in range(20)]
    assert rabbitmq.depth(first) == (0, 0)


def test_a_bridge_survives_the_death_of_its_broker(
    shell: Shell, broken_rabbitmq: RabbitMQ, unique: str
) -> None:
    node = broken_rabbitmq
    shell.file("in.jsonl", "".join(f'{{"body": {number}, "profile": "in"}}\n' for number in range(2_000)))
    first, second = f"{unique}-1", f"{unique}-2"
    amqp = {"in": to_queue(node, first, prefetch=50), "out": to_queue(node, second)}
    shell.file("p.yml", json.dumps({"amqp": amqp}))
    assert shell.run("run", "-p", "p.yml", "-q", "in.jsonl").returncode == 0
    with shell.start("run", "-p", "p.yml", "-q", "--from", "in", "--profile", "out") as process:
        until(lambda: node.queue_depth(second) > 0, 30, "the first events")
        node.sync()
        node.restart()
        until(lambda: node.queue_depth(second) >= 2_000, 60, "the others")
        until(lambda: node.queue_depth(first) == 0, 30, "the end of the queue")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
    bodies = [int(message["payload"]) for message in node.take(second, 4_000)]
    # What was under way comes twice, as does what the broker had not yet noted as acknowledged.
    assert [*dict.fromkeys(bodies)] == [*range(2_000)]
    assert node.depth(first) == (0, 0)
