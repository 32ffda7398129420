"""The examples, run as a user runs them, in a copy of the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.servers import _consul
from tests.servers._ports import free_ports

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with a copy of examples/ that no example has run in yet."""
    shutil.copytree(
        ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("out", "__pycache__")
    )
    return tmp_path


def run(clone: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("EVBUS", "ACCT", "PYTHONPATH"))
    }
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=clone,
        env={**kept, "HOME": str(clone), "XDG_STATE_HOME": str(clone), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def facts(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without what is added in passing: the content type of its body."""
    headers = {name: value for name, value in event.get("headers", {}).items() if name != "content-type"}
    return {**event, "headers": headers}


def table(text: str) -> dict[str, list[str]]:
    """Return the rows of the closing table by destination."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:]}


def test_make_run_delivers_every_event_of_the_example(clone: Path) -> None:
    # The command is taken from the Makefile, so that this is what `make run` does.
    (command,) = re.findall(r"^\t\$\(BIN\)/(evbus run .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    done = run(clone, *command.split())

    put = events(clone / "examples/events.jsonl")
    profiles = Counter(event["profile"] for event in put)
    archive = events(clone / "examples/out/archive.jsonl")
    assert [facts(event) for event in archive] == [facts(event) for event in put]
    payments = events(clone / "examples/out/payments.jsonl")
    assert [event["body"] for event in payments] == [e["body"] for e in put if e["profile"] == "payments"]
    assert all(event["routing_key"].startswith("shop.payment.") for event in payments)
    printed = [f"{e['routing_key']} {json.dumps(e['body'])}" for e in put if e["profile"] == "audit"]
    assert done.stdout.splitlines() == printed

    rows = table(done.stderr)
    delivered = {name: int(row[1]) for name, row in rows.items()}
    assert delivered == {
        "file.file.*": len(put),
        "file.file.payments": profiles["payments"],
        "internal.internal.orders": profiles["orders"],
        "internal.internal.default": profiles["default"],
        "console.console.audit": profiles["audit"],
    }
    assert all(row[0] == row[1] and row[2:6] == ["0"] * 4 for row in rows.values())


def test_the_example_events_are_many_and_of_several_kinds() -> None:
    put = events(ROOT / "examples/events.jsonl")
    assert len(put) >= 30
    assert {event["profile"] for event in put} == {"orders", "payments", "audit", "default"}
    assert len({event["routing_key"] for event in put}) >= 15


def test_the_quickstart_prints_its_event_and_keeps_it_in_a_file(clone: Path) -> None:
    done = run(clone, "python", "examples/quickstart.py")
    assert done.stdout == 'order.created {"id":1}\n'
    assert events(clone / "examples/out/orders.jsonl") == [
        {"routing_key": "order.created", "profile": "orders", "body": {"id": 1}}
    ]


def test_a_plugin_dropped_into_a_folder_gets_the_events(clone: Path) -> None:
    (clone / "shout.yml").write_text('shout:\n  "*": {}\n')
    options = ("--profiles", "shout.yml", "--plugin-dirs", "examples/plugins")
    done = run(clone, "evbus", "run", "examples/events.jsonl", *options)
    assert len(done.stdout.splitlines()) == len(events(clone / "examples/events.jsonl"))
    assert done.stdout.splitlines()[2] == 'USER.LOGIN {"USER": "ANN", "FROM": "192.0.2.17"}'


def test_the_plugin_of_three_lines_has_three_lines() -> None:
    assert len((ROOT / "examples/plugins/ingress/shout.py").read_text().splitlines()) == 3


def test_the_thermostat_shows_its_events_on_its_own_destination_in_order(clone: Path) -> None:
    done = run(clone, "python", "-m", "thermostat", PYTHONPATH="examples/thermostat")
    *shown, report = done.stdout.splitlines()
    assert [line.split()[1:3] for line in shown] == [
        ["room.temperature", "20.2"],
        ["heating.on", "20.2"],
        ["room.temperature", "20.6"],
        ["room.temperature", "21.1"],
        ["room.temperature", "21.4"],
        ["heating.off", "21.4"],
        ["room.temperature", "20.9"],
        ["heating.on", "20.9"],
        ["room.temperature", "20.4"],
    ]
    assert report.startswith("everything was delivered")
    switched = events(clone / "examples/out/thermostat.jsonl")
    assert [event["routing_key"] for event in switched] == ["heating.on", "heating.off", "heating.on"]
    assert switched[0]["body"] == {"celsius": 20.2, "target": 21.0}


def test_the_thermostat_takes_other_profiles_and_another_temperature(clone: Path) -> None:
    (clone / "other.yml").write_text('file:\n  "*": {path: all.jsonl}\n')
    options = ("--target", "5", "--profiles", "other.yml")
    run(clone, "python", "-m", "thermostat", *options, PYTHONPATH="examples/thermostat")
    assert {event["profile"] for event in events(clone / "all.jsonl")} == {"room"}
    assert len(events(clone / "all.jsonl")) == 6


def test_the_services_of_two_processes_are_called_as_those_of_one(clone: Path) -> None:
    (port,) = free_ports(1)
    bought = "Item(name='pen', price=3.0)\n['pen', 'ink']\nout of stock: 3 of ink are left\n"
    script = clone / "examples" / "services" / "run.sh"
    done = run(clone, str(script), PYTHON=sys.executable, SHOP_PORT=str(port))
    assert done.stdout == f"{bought}the shop is open, at port {port}\nthe shop is closed\n"
    command = [sys.executable, "client.py", "--here"]
    here = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=60, check=True)
    assert here.stdout == bought


def test_the_services_of_two_processes_find_each_other_in_consul(clone: Path) -> None:
    if missing := _consul.missing():
        pytest.skip(missing)  # in CI too: it is fetched, which not every machine can do
    port, *others = map(str, free_ports(4))
    names = ("CONSUL_PORT", "CONSUL_SERVER_PORT", "CONSUL_SERF_PORT")
    agent = {"CONSUL": str(_consul.PROGRAM), **dict(zip(names, others, strict=True))}
    script = clone / "examples" / "services" / "run-consul.sh"
    done = run(clone, str(script), PYTHON=sys.executable, SHOP_PORT=port, **agent)
    bought = "Item(name='pen', price=3.0)\n['pen', 'ink']\nout of stock: 3 of ink are left\n"
    assert done.stdout == f"{bought}the shop is open, at port {port}\nthe shop is closed\n"


def test_the_services_of_two_processes_call_each_other_over_rabbitmq(clone: Path, rabbitmq: Any) -> None:
    script = clone / "examples" / "services" / "run-rabbitmq.sh"
    url = f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/"
    done = run(clone, str(script), PYTHON=sys.executable, RABBITMQ_URL=url)
    refused = "this channel has no streams; call it over dispatch-json or dispatch-msgpack"
    assert done.stdout.splitlines() == [
        "Item(name='pen', price=3.0)",
        f"no catalogue: Shop.catalogue of the component 'shop' over amqp: {refused}",
        "out of stock: 3 of ink are left",
        "the shop is open",
        "the shop is closed",
    ]


def test_the_shop_is_served_and_called_from_the_command_line(clone: Path) -> None:
    (port,) = free_ports(1)
    folder = clone / "examples" / "services"
    environment = {"SHOP_PORT": str(port)}
    command = [str(BIN / "evbus"), "serve", "shop", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            said = [next(server.stderr), next(server.stderr)]
            assert said[1] == f"evbus: serving at http://127.0.0.1:{port}; Ctrl-C stops\n"
            there = ("--interfaces", "shop", "--services", "services.yml")
            done = run(folder, "evbus", "call", "Shop.order", "name=pen", "count=2", *there, **environment)
            assert json.loads(done.stdout) == {"name": "pen", "price": 3.0}
            done = run(folder, "evbus", "services", *there[2:], "--json", "--timeout", "60", **environment)
            assert [one["health"] for one in json.loads(done.stdout)] == ["OK"]
        finally:
            server.terminate()
        assert server.wait(60) == 0
