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


SERVICES = """
registry: {static: {mall: {rest: "http://127.0.0.1:1"}}}
channels: {rest: {connections: 5}}
"""
COMPONENT = (
    "from evbus.api import Service, implementation, service\n"
    "@service()\n"
    "class Shop(Service):\n"
    "    async def order(self) -> int: ...\n"
    "@implementation()\n"
    "class ShopImpl(Shop):\n"
    "    async def order(self):\n"
    "        return 1\n"
)


def test_services_are_checked(shell: Shell) -> None:
    shell.file("services.yml", SERVICES)
    shell.file("plugins/component/shop.py", COMPONENT)
    options = ("--services", "services.yml", "--plugin-dirs", "plugins")
    done = shell.run("check", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(maxsplit=3) for line in done.stdout.splitlines()[2:]] == [
        ["registry", "static", "ok"],
        ["channel", "rest", "ok"],
        ["component", "shop", "ok", "shop"],
    ]
    both = shell.run("check", "-p", "p.yml", *options)
    assert both.returncode == 0
    assert both.stdout.endswith(done.stdout)
    assert "internal.internal.*" in both.stdout


@pytest.mark.parametrize(
    ("text", "component", "sentence"),
    [
        (
            "regisry: static\n",
            COMPONENT,
            "services.yml: regisry: there is no such key; did you mean 'registry'?",
        ),
        ("channels: {rst: {}}\n", COMPONENT, "channels.rst: there is no channel 'rst'; did you mean 'rest'?"),
        (
            "channels: {rest: {connectons: 1}}\n",
            COMPONENT,
            "there is no such key; did you mean 'connections'?",
        ),
        (
            "registry: statc\n",
            COMPONENT,
            "services: registry: there is no registry 'statc'; did you mean 'static'?",
        ),
        (
            "registry: {static: {shop: {rest: 5}}}\n",
            COMPONENT,
            "registry.static.shop.rest: an address is a text",
        ),
        ("server: {port: 70000}\n", COMPONENT, "services.yml: server: port is a number from 0 to 65535"),
        ("channels: {rest: {tls: {ca_file: none.pem}}}\n", COMPONENT, "none.pem"),
        (
            "{}\n",
            COMPONENT.replace("    async def order(self):\n", "    def order(self):\n"),
            "shop.py:7) is a plain def, and Shop.order is an async def; write it alike",
        ),
    ],
)
def test_a_mistake_of_services_is_told(shell: Shell, text: str, component: str, sentence: str) -> None:
    shell.file("services.yml", text)
    shell.file("plugins/component/shop.py", component)
    done = shell.run("check", "--services", "services.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 2
    assert sentence in done.stderr


def test_addresses_of_a_channel_that_there_is_not_are_told(shell: Shell) -> None:
    shell.file("services.yml", "registry: {static: {mall: {rst: 'http://127.0.0.1:1'}}}\n")
    done = shell.run("check", "--services", "services.yml")
    assert done.returncode == 1
    assert "component mall   failed  there is no channel 'rst' here; did you mean 'rest'?" in done.stdout


def test_a_registry_and_a_channel_that_are_down_are_told(shell: Shell) -> None:
    down = "async def open(hub, ctx):\n    raise ConnectionError('the net is down')\n"
    shell.file("plugins/registry/far.py", f"{down}async def watch(hub, ctx, component):\n    yield []\n")
    shell.file("plugins/channel/pigeon.py", f"{down}async def invoke(hub, ctx, call, address): ...\n")
    shell.file("services.yml", "registry: far\nchannels: {pigeon: {}}\n")
    done = shell.run("check", "--services", "services.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 1
    registry, channel = done.stdout.splitlines()[2:]
    assert registry.split(maxsplit=3)[2:] == [
        "failed",
        "the registry far cannot be opened: ConnectionError: the net is down",
    ]
    assert channel.split(maxsplit=3)[2:] == ["failed", "ConnectionError: the net is down"]
