"""``evbus asyncapi``: the document is one that AsyncAPI's own schema takes, and says what there is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.command.calling import OPTIONS as MALL
from tests.command.calling import open_mall
from tests.command.kit import Shell
from tests.command.shop import OPTIONS, SECRETS, open_shop

#: The official JSON Schema; see README.rst beside it.
SCHEMA = Draft7Validator(json.loads((Path(__file__).parent / "asyncapi" / "3.0.0.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the document of the whole application, as it is printed."""
    shell = Shell(tmp_path_factory.mktemp("shop"))
    open_shop(shell)
    done = shell.run("asyncapi", *OPTIONS, "--pipeline", "stamp", "trace")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def document(written: str) -> Any:
    return json.loads(written)


def mistakes(document: Any) -> list[str]:
    return [error.message for error in SCHEMA.iter_errors(document)]


def at(document: Any, reference: dict[str, str]) -> Any:
    """Return what a reference leads to."""
    found = document
    for part in reference["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(value: Any) -> list[dict[str, str]]:
    if isinstance(value, dict):
        own = [value] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in references(part)]
    return [found for part in value for found in references(part)] if isinstance(value, list) else []


def test_asyncapi_takes_the_document(document: Any) -> None:
    assert mistakes(document) == []
    assert document["asyncapi"] == "3.0.0"


def test_every_reference_leads_somewhere(document: Any) -> None:
    found = references(document)
    assert len(found) > 50
    assert all(isinstance(at(document, reference), dict) for reference in found)


def test_a_wrong_document_would_be_refused(document: Any) -> None:
    def without_a_title(wrong: Any) -> None:
        del wrong["info"]["title"]

    def with_an_action_of_version_2(wrong: Any) -> None:
        next(iter(wrong["operations"].values()))["action"] = "publish"

    def with_a_protocol_of_no_server(wrong: Any) -> None:
        del next(iter(wrong["servers"].values()))["protocol"]

    def with_a_binding_that_is_none(wrong: Any) -> None:
        wrong["channels"]["amqp.default.OrderPlaced"]["bindings"]["amqp"]["is"] = "pipe"

    def with_a_schema_that_is_none(wrong: Any) -> None:
        wrong["components"]["schemas"]["Line"]["properties"]["article"]["type"] = "text"

    def with_a_part_that_there_is_not(wrong: Any) -> None:
        wrong["components"]["payloads"] = {}

    for spoil in (
        without_a_title,
        with_an_action_of_version_2,
        with_a_protocol_of_no_server,
        with_a_binding_that_is_none,
        with_a_schema_that_is_none,
        with_a_part_that_there_is_not,
    ):
        wrong = copy.deepcopy(document)
        spoil(wrong)
        assert mistakes(wrong), spoil.__name__


def test_nothing_secret_is_in_it(document: Any) -> None:
    text = json.dumps(document)
    assert [secret for secret in SECRETS if secret in text] == []
    assert "rabbit.example:5671" in text


def test_servers_are_the_profiles(document: Any) -> None:
    servers = document["servers"]
    assert {name: server["protocol"] for name, server in servers.items()} == {
        "amqp.default": "amqps",
        "amqp1.queues": "amqp1",
        "stomp.queues": "stomp",
        "file.lost": "file",
        "webhook.default": "https",
        "internal.default": "internal",
    }
    assert servers["amqp.default"] == {
        "host": "rabbit.example:5671",
        "pathname": "/prod",
        "protocol": "amqps",
        "protocolVersion": "0-9-1",
        "title": "amqp.default",
        "security": [{"$ref": "#/components/securitySchemes/userPassword"}],
    }


def test_a_channel_and_an_operation_stand_for_each_way_of_an_event(document: Any) -> None:
    ways = {
        name: (operation["action"], at(document, operation["channel"])["address"])
        for name, operation in document["operations"].items()
    }
    # The order of the operations is that of the events, then that of the listeners.
    assert list(ways.items()) == [
        ("send.Heartbeat.amqp.default", ("send", "Heartbeat")),
        ("send.Heartbeat.webhook.default", ("send", None)),
        ("send.Heartbeat.internal.default", ("send", "Heartbeat")),
        ("send.OrderPlaced.amqp.default", ("send", "OrderPlaced")),
        ("send.OrderPlaced.webhook.default", ("send", None)),
        ("send.OrderPlaced.internal.default", ("send", "OrderPlaced")),
        ("send.PricesChanged.amqp1.queues", ("send", "PricesChanged")),
        ("send.PricesChanged.stomp.queues", ("send", "/topic/PricesChanged")),
        ("send.customer.registered.amqp.default", ("send", "customer.registered")),
        ("send.customer.registered.webhook.default", ("send", None)),
        ("send.customer.registered.internal.default", ("send", "customer.registered")),
        ("receive.OrderPlaced.Audit.amqp.default", ("receive", "OrderPlaced::Audit")),
        ("receive.OrderPlaced.Audit.internal.default", ("receive", "OrderPlaced")),
        ("receive.OrderPlaced.billing.amqp.default", ("receive", "OrderPlaced::accounts")),
        ("receive.OrderPlaced.billing.internal.default", ("receive", "OrderPlaced")),
        ("receive.PricesChanged.cache.amqp1.queues", ("receive", "PricesChanged::cache-{process}")),
        ("receive.PricesChanged.cache.stomp.queues", ("receive", "/topic/PricesChanged")),
        ("receive.customer.registered.crm.amqp.default", ("receive", "customer.registered::crm")),
        ("receive.customer.registered.crm.internal.default", ("receive", "customer.registered")),
    ]
    for operation in document["operations"].values():
        (message,) = operation["messages"]
        assert set(at(document, at(document, message))) >= {"name", "payload", "headers"}


def test_what_asyncapi_has_no_place_for_stands_in_extensions(document: Any) -> None:
    billing = document["operations"]["receive.OrderPlaced.billing.amqp.default"]
    assert billing["description"] == "Write the invoice."
    assert billing["bindings"]["amqp"]["ack"] is True
    assert billing["x-evbus-listener"] == {
        "name": "billing",
        "group": "accounts",
        "perProcess": False,
        "plugin": "listener.billing",
        "concurrency": 4,
        "retry": {"attempts": 3, "min": 0.1, "max": 10.0},
        "orderedBy": "order_id",
        "timeout": 5,
    }
    bound = at(document, billing["channel"])["x-amqp"]
    assert bound == {"boundTo": "events", "bindingKeys": ["OrderPlaced"]}


def test_the_copy_of_a_process_has_a_parameter(document: Any) -> None:
    operation = document["operations"]["receive.PricesChanged.cache.amqp1.queues"]
    assert operation["x-evbus-listener"]["perProcess"] is True
    assert set(at(document, operation["channel"])["parameters"]) == {"process"}


def test_a_listener_to_a_pattern_and_one_of_batches_say_so(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    open_shop(shell)
    shell.file(
        "plugins/listener/more.py",
        "from evbus.api import event_listener\n"
        "from shop.events import OrderPlaced\n\n"
        "@event_listener('customer.*', name='crm2')\n"
        "def all_of_them(event): ...\n\n"
        "@event_listener(OrderPlaced, name='stock', batch=50)\n"
        "def many(events): ...\n",
    )
    done = shell.run("asyncapi", *OPTIONS)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert mistakes(document) == []
    said = [one["x-evbus-listener"] for one in document["operations"].values() if "x-evbus-listener" in one]
    patterns = [one for one in said if one["name"] == "crm2"]
    assert patterns
    assert all(one["pattern"] == "customer.*" and "batch" not in one for one in patterns)
    batches = [one for one in said if one["name"] == "stock"]
    assert batches
    assert all(one["batch"] == 50 and "pattern" not in one for one in batches)
    assert not any({"pattern", "batch"} & set(one) for one in said if one["name"] not in ("crm2", "stock"))


def test_a_message_has_the_documentation_the_headers_and_the_fields_of_its_event(document: Any) -> None:
    placed = document["components"]["messages"]["OrderPlaced"]
    assert placed["summary"] == "A customer has placed an order."
    assert placed["description"].endswith("\n\nOnce for each order.")
    assert placed["x-evbus-event"] == {"durable": True}
    own, shared = placed["headers"]["allOf"]
    assert own["properties"]["evbus-version"]["default"] == "2"
    assert own["properties"]["evbus-message"]["const"] == "OrderPlaced"
    headers = at(document, shared)["properties"]
    assert {"ce-id", "ce-source", "ce-specversion", "ce-time", "ce-type", "traceparent"} <= set(headers)
    fields = at(document, placed["payload"])["properties"]
    assert fields["lines"] == {"type": "array", "items": {"$ref": "#/components/schemas/Line"}}
    assert fields["at"] == {"type": "string"}
    assert document["components"]["messages"]["customer.registered"]["name"] == "customer.registered"


def test_it_is_the_same_every_time_and_in_yaml(shell: Shell) -> None:
    open_shop(shell)
    texts = []
    for seed, name in (("1", "a.json"), ("2", "b.json"), ("3", "c.yaml")):
        done = shell.run("asyncapi", *OPTIONS, "-o", name, PYTHONHASHSEED=seed)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        texts.append((shell.folder / name).read_text())
    assert texts[0] == texts[1]
    assert yaml.safe_load(texts[2]) == json.loads(texts[0])
    assert "&id" not in texts[2]
    assert shell.run("asyncapi", *OPTIONS, "--format", "yaml").stdout == texts[2]


def test_title_version_and_encoding_are_options(shell: Shell) -> None:
    open_shop(shell)
    options = ("--title", "Läden", "--api-version", "2026.1", "--serialize-plugin", "msgpack")
    found = json.loads(shell.run("asyncapi", "--events", "shop.events", *options, PYTHONUTF8="1").stdout)
    assert found["info"] == {"title": "Läden", "version": "2026.1"}
    assert found["defaultContentType"] == "application/msgpack"
    assert mistakes(found) == []


def test_without_profiles_everything_is_within_the_process(shell: Shell) -> None:
    open_shop(shell)
    found = json.loads(shell.run("asyncapi", "--plugin-dirs", "plugins").stdout)
    assert set(found["servers"]) == {"internal"}
    assert set(found["components"]["messages"]) == {"OrderPlaced", "PricesChanged", "customer.registered"}
    # One address, whether it is sent to or received from.
    assert len(found["channels"]) == 3


def test_each_of_many_hosts_of_one_profile_is_a_server(shell: Shell) -> None:
    open_shop(shell)
    shell.file("hosts.yml", "amqp: {default: {hosts: [a.example, b.example, c.example]}}\n")
    found = json.loads(shell.run("asyncapi", "--events", "shop.events", "-p", "hosts.yml").stdout)
    hosts = {name: server["host"] for name, server in found["servers"].items()}
    assert hosts == {
        "amqp.default": "a.example:5672",
        "amqp.default-2": "b.example:5672",
        "amqp.default-3": "c.example:5672",
    }


def test_events_without_listeners_are_sent_with_the_profile_that_is_named(shell: Shell) -> None:
    open_shop(shell)
    done = shell.run("asyncapi", "--events", "shop.events", "-p", "profiles.yml", "--profile", "lost")
    assert set(json.loads(done.stdout)["channels"]) == {"file.lost.lost.jsonl"}


def test_what_leads_nowhere_is_told(shell: Shell) -> None:
    open_shop(shell)
    shell.file("narrow.yml", "internal: {default: {}}\n")
    done = shell.run("asyncapi", "--plugin-dirs", "plugins", "-p", "narrow.yml")
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert first == (
        "evbus: the event PricesChanged goes nowhere: no profile matches 'queues'; known: default"
    )
    assert second.startswith(
        "evbus: the listener cache gets no PricesChanged: narrow.yml: there is no profile"
    )
    assert mistakes(json.loads(done.stdout)) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "there are no events: name the modules that hold them with --events"),
        (("--events", "shop.evnts"), "there is no module 'shop.evnts'; it is looked for in "),
        (("--events", "shop.events", "--serialize-plugin", "jason"), "there is no serialize plugin 'jason'"),
        (("--events", "shop.events", "again"), "two events are called 'Heartbeat': "),
        (
            ("--plugin-dirs", "broken"),
            "listener.wrong (",
        ),
    ],
)
def test_a_mistake_is_one_sentence(shell: Shell, options: tuple[str, ...], sentence: str) -> None:
    open_shop(shell)
    shell.file(
        "again.py",
        "from evbus.api import event\nfrom dataclasses import dataclass\n"
        "@event()\n@dataclass\nclass Heartbeat: pass\n",
    )
    shell.file("broken/listener/wrong.py", "def on(:\n")
    done = shell.run("asyncapi", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


# Services

#: A message system of our own: where services are called over it, and where events go.
PIGEON = """
import msgspec

class Settings(msgspec.Struct):
    profile: str = "default"
    encoding: str = "msgpack"

def __init__(hub):
    hub.channel.pigeon.PROFILE = Settings

async def invoke(hub, ctx, call, address): ...

def address(hub, ctx, component):
    return f"evbus.service.{component}"
"""
TILL = """
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from evbus.api import Service, method, service

@dataclass
class Coin:
    value: int
    of: "Coin | None" = None

class Empty(Exception):
    pass

@service()
class Till(Service):
    @method(timeout=5, idempotent=True, raises=[Empty])
    async def pay(self, coin: Coin, /, times: int = 1, *, note: str | None = None) -> Coin:
        \"\"\"Pay.

        With coins.

        :param coin: what is paid with
        :returns: the change
        \"\"\"

    def coins(self, wanted: AsyncIterator[int]) -> AsyncIterator[Coin]: ...
"""


def open_pigeons(shell: Shell, settings: str = "channels: {pigeon: {}}\n") -> tuple[str, ...]:
    """Write a message system, and settings by which services are called over it; return the options."""
    shell.file("plugins/channel/pigeon.py", PIGEON)
    shell.file("plugins/ingress/pigeon.py", "async def publish(hub, ctx, routing_key, body): ...\n")
    shell.file("profiles.yml", 'pigeon: {default: {url: "pigeon://user:s3cr3t-w0rd@loft.example:99"}}\n')
    shell.file("services.yml", settings)
    return "--plugin-dirs", "plugins", "--profiles", "profiles.yml", "--services", "services.yml"


def test_services_over_a_broker_are_requests_with_replies(shell: Shell) -> None:
    shell.file("till.py", TILL)
    done = shell.run("asyncapi", "--interfaces", "till", *open_pigeons(shell))
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert mistakes(document) == []
    assert all(isinstance(at(document, reference), dict) for reference in references(document))
    assert "s3cr3t" not in done.stdout
    assert list(document["operations"]) == ["send.till-till-pay", "send.till-till-coins"]
    pay = document["operations"]["send.till-till-pay"]
    assert pay["action"] == "send"
    assert (pay["title"], pay["summary"], pay["description"]) == ("till:till:pay", "Pay.", "With coins.")
    assert pay["x-evbus-service"] == {
        "component": "till",
        "service": "till",
        "method": "pay",
        "timeout": 5.0,
        "idempotent": True,
    }
    there = at(document, pay["channel"])
    assert there["address"] == "evbus.service.till"
    assert [at(document, one)["host"] for one in there["servers"]] == ["loft.example:99"]
    assert pay["reply"]["address"] == {"location": "$message.header#/replyTo"}
    assert at(document, pay["reply"]["channel"])["address"] is None


def test_requests_and_replies_fit_what_is_sent(shell: Shell) -> None:
    shell.file("till.py", TILL)
    done = shell.run("asyncapi", "--interfaces", "till", *open_pigeons(shell))
    document = json.loads(done.stdout)

    def message(reference: dict[str, str]) -> Any:
        found = at(document, at(document, reference))
        assert found["contentType"] == "application/msgpack"
        return Draft7Validator({**found["payload"], "components": document["components"]})

    pay = document["operations"]["send.till-till-pay"]
    request, reply = message(pay["messages"][0]), message(pay["reply"]["messages"][0])
    call = {"method": "till:till:pay", "args": [{"value": 1, "of": {"value": 2, "of": None}}, 2]}
    assert request.is_valid(call)
    assert request.is_valid({**call, "kwargs": {"note": None}})
    assert not request.is_valid({**call, "method": "till:till:rob"})
    assert not request.is_valid({**call, "args": ["coin"]})
    assert not request.is_valid({**call, "kwargs": {"nte": "x"}})
    assert reply.is_valid({"result": {"value": 1, "of": None}, "exception": None})
    failed = {"type": "Empty", "reason": "there is nothing"}
    assert reply.is_valid({"result": None, "exception": "there is nothing", "error": failed})
    assert not reply.is_valid({"result": "coin", "exception": None})
    coins = document["operations"]["send.till-till-coins"]
    assert coins["x-evbus-service"]["streams"] == ["wanted", "result"]
    assert message(coins["reply"]["messages"][0]).is_valid({"result": [{"value": 1, "of": None}]})


def test_what_runs_here_receives(shell: Shell) -> None:
    open_mall(shell)
    done = shell.run("asyncapi", *MALL, *open_pigeons(shell, "channels: {pigeon: {encoding: json}}\n"))
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert mistakes(document) == []
    assert [name for name in document["operations"] if "OrderPlaced" not in name] == [
        "send.bank-bank-book",
        "send.idle-idle-rest",
        "receive.mall-shop-order",
        "receive.mall-till-pay",
    ]
    assert document["components"]["messages"]["mall-shop-order.request"]["contentType"] == "application/json"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            "channels: {pigeon: {profile: defalt}}\n",
            "channels.pigeon.profile: there is no profile 'defalt' of ",
        ),
        (
            "channels: {rest: {}}\n",
            "; no broker is known over which services are called: name their settings",
        ),
        ("channels: {pigon: {}}\n", "channels.pigon: there is no channel 'pigon'; did you mean 'pigeon'?"),
    ],
)
def test_a_mistake_in_the_settings_of_services(shell: Shell, settings: str, sentence: str) -> None:
    shell.file("till.py", TILL)
    done = shell.run("asyncapi", "--interfaces", "till", *open_pigeons(shell, settings))
    assert done.returncode == 2
    assert sentence in done.stderr
