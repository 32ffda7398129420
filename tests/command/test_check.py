"""``evbus check`` on a real broker: one line for each profile."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.command.kit import Shell
from tests.servers._rabbitmq import RabbitMQ

LOGIN = "guest:guest"


@pytest.fixture
def check(shell: Shell, rabbitmq: RabbitMQ) -> Any:
    """Return a function that checks profiles of amqp and returns the exit code and the reason of each."""

    def check(**profiles: Any) -> tuple[int, dict[str, tuple[str, str]]]:
        shell.file("p.yml", json.dumps({"amqp": profiles}))
        done = shell.run("check", "-p", "p.yml")
        assert done.stderr == ""
        rows = [re.split("  +", line, maxsplit=2) for line in done.stdout.splitlines()[2:]]
        found = {row[0].removeprefix("amqp.amqp."): (row[1], "".join(row[2:])) for row in rows}
        assert set(found) == set(profiles)
        return done.returncode, found

    return check


def test_what_works_is_ok(check: Any, rabbitmq: RabbitMQ, unique: str) -> None:
    assert rabbitmq.certificates is not None
    ca = str(rabbitmq.certificates.ca)
    code, found = check(
        plain={"url": rabbitmq.url, "queue": unique},
        tls={"url": rabbitmq.tls_url, "tls": {"ca_file": ca}},
    )
    assert code == 0
    assert found == {"plain": ("ok", ""), "tls": ("ok", "")}


def test_a_plugin_that_is_opened_over_another_profile_is_tried(shell: Shell, rabbitmq: RabbitMQ) -> None:
    shell.file(
        "plugins/ingress/returns.py",
        "ACCT = ['returns']\n\n\nasync def open_(hub, ctx):\n"
        "    await hub.connection.amqp.client(ctx.acct['via'])\n\n\n"
        "async def publish(hub, ctx, body):\n    pass\n",
    )
    profiles = {"amqp": {"shop": {"url": rabbitmq.url}}, "returns": {"shoes": {"via": "shop"}}}
    shell.file("p.yml", json.dumps(profiles))
    done = shell.run("check", "-p", "p.yml", "--plugin-dirs", "plugins")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^(\S+) +ok", done.stdout, re.MULTILINE) == ["amqp.amqp.shop", "returns.returns.shoes"]


def test_each_mistake_is_one_line(check: Any, rabbitmq: RabbitMQ, unique: str) -> None:
    assert rabbitmq.certificates is not None
    ca = str(rabbitmq.certificates.ca)
    plain, tls = rabbitmq.url, rabbitmq.tls_url
    code, found = check(
        fine={"url": plain},
        refused={"url": f"amqp://{LOGIN}@127.0.0.1:1/"},
        login={"url": plain.replace(LOGIN, "guest:secret-word")},
        vhost={"url": f"{plain}nowhere"},
        tls_on_plain={"url": plain.replace("amqp:", "amqps:"), "tls": {"ca_file": ca}},
        plain_on_tls={"url": tls.replace("amqps:", "amqp:")},
        untrusted={"url": tls},
        exchange={"url": plain, "exchange": unique},
        patient={"url": f"amqp://{LOGIN}@127.0.0.1:1/", "first_connect": "wait"},
        patient_exchange={"url": plain, "exchange": unique, "first_connect": "wait"},
    )
    assert code == 1
    assert found.pop("fine") == ("ok", "")
    for name, sentence in {
        "refused": "nothing listens there (connection refused)",
        "login": "the broker refused the login of the user 'guest'",
        "vhost": "there is no vhost 'nowhere' on the broker",
        "tls_on_plain": "the server does not speak TLS on this port",
        "plain_on_tls": "the server speaks TLS on this port; use amqps://",
        "untrusted": "the server's certificate was refused",
        "exchange": f"there is no exchange '{unique}' on the broker",
        "patient": "nothing listens there (connection refused)",
        "patient_exchange": f"there is no exchange '{unique}' on the broker",
    }.items():
        state, reason = found.pop(name)
        assert (state, reason[: len(name) + 15]) == ("failed", f"amqp profile '{name}'")
        assert sentence in reason
        assert "secret-word" not in reason
    assert found == {}


def test_a_missing_permission_is_one_line(check: Any, rabbitmq: RabbitMQ, unique: str) -> None:
    rabbitmq.add_user(unique, "secret-word")
    try:
        rabbitmq.set_permissions(unique, configure="", write="", read="")
        url = rabbitmq.url.replace(LOGIN, f"{unique}:secret-word")
        code, found = check(mine={"url": url, "queue": unique})
    finally:
        rabbitmq.delete_user(unique)
    assert code == 1
    assert found["mine"][0] == "failed"
    assert f"the broker does not permit it for the queue '{unique}': ACCESS_REFUSED" in found["mine"][1]


def test_profiles_in_lists_are_checked_too(shell: Shell, rabbitmq: RabbitMQ) -> None:
    down = {"url": "amqp://127.0.0.1:1/", "first_connect": "wait"}
    shell.file("p.yml", json.dumps({"amqp": [{"a": {"url": rabbitmq.url}}, {"b": down}]}))
    done = shell.run("check", "-p", "p.yml")
    assert done.returncode == 1
    assert re.search(r"amqp\.amqp\.a +ok\n", done.stdout)
    assert re.search(r"amqp\.amqp\.b +failed .*nothing listens there", done.stdout)


# Without a broker


def test_the_list_of_plugins_says_what_sources_accept(shell: Shell) -> None:
    done = shell.run("plugins", "egress")
    assert done.returncode == 0
    assert re.search(r"egress\.amqp +loaded +amqp, rabbitmq, pika ", done.stdout)


SOURCE = "async def consume(hub, ctx, subscription):\n    yield 1\n"
BUSY = """
import asyncio
async def publish(hub, ctx, body): ...
def ready(hub, ctx):
    return "the door is closed", asyncio.sleep(0)
"""


def test_a_profile_that_is_only_consumed_from_is_no_destination(shell: Shell) -> None:
    shell.file("plugins/egress/lines.py", SOURCE)
    shell.file("p.yml", "lines: {in: {any: thing}}\ninternal: {default: {}}\n")
    done = shell.run("check", "-p", "p.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2:] == [
        "internal.internal.default  ok",
        "lines.lines.in             source  not tried: it is only consumed from",
    ]


def test_the_data_of_such_a_profile_are_checked(shell: Shell) -> None:
    shell.file("plugins/egress/lines.py", SOURCE)
    shell.file("p.yml", "lines: {in: text}\n")
    done = shell.run("check", "-p", "p.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 2
    assert done.stderr == "evbus: p.yml: lines.in: a profile's data are a mapping, not str\n"


def test_a_destination_that_takes_nothing_at_present_is_told(shell: Shell) -> None:
    shell.file("plugins/ingress/busy.py", BUSY)
    shell.file("p.yml", "busy: {a: {}}\n")
    done = shell.run("check", "-p", "p.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 1
    assert "busy.busy.a  failed  the door is closed" in done.stdout
    assert done.stderr == ""
