"""``evbus graph``: who sends what to whom, as text, in Graphviz' language, and drawn."""

from __future__ import annotations

import os
import re
import shutil
from xml.etree import ElementTree as ET

import pytest

from evbus.engine.describe.graph import Event, Graph, ListenerNode, ProfileNode, dot, svg, text
from evbus.errors import ConfigError
from tests.command.calling import OPTIONS as MALL
from tests.command.calling import open_mall
from tests.command.kit import Shell
from tests.command.shop import OPTIONS, SECRETS, open_shop

# Without Graphviz its tests are skipped, and that is a failure where CI is set.
drawn = pytest.mark.skipif(
    shutil.which("dot") is None and not os.environ.get("CI"), reason="Graphviz (dot) is not installed"
)

SMALL = Graph(
    events=[
        Event("Placed", "durable", ("amqp.default", "file.*")),
        Event("Paid", "", ("amqp.default",)),
        Event("Lost", "", ()),
    ],
    profiles=[
        ProfileNode(
            "amqp.default", "amqp mq.example:5672", {"Placed": "exchange a", "Paid": "queue b"}, ("file.*",)
        ),
        ProfileNode("file.*", "", {"Placed": "file x"}, ()),
        ProfileNode("webhook.idle", "https hooks.example", {}, ()),
    ],
    listeners=[
        ListenerNode(
            "billing 0", "billing", "group accounts", (("Placed", "amqp.default"), ("Paid", "amqp.default"))
        ),
        ListenerNode("mail 1", "mail", "", (("Placed", "amqp.default"),)),
        ListenerNode("deaf 2", "deaf", "every process", ()),
    ],
)


# Text


def test_the_text_is_a_tree_for_each_event() -> None:
    assert (
        text(SMALL)
        == """\
Placed           durable
├─ amqp.default  exchange a
│  ├─▶ billing   group accounts
│  └─▶ mail
└─ file.*        file x

Paid
└─ amqp.default  queue b
   └─▶ billing   group accounts

Lost             goes nowhere

Dead letters
   amqp.default ─▶ file.*

Profiles that no event goes to
   webhook.idle  https hooks.example

Listeners that get nothing
   deaf          every process
"""
    )


def test_where_lines_cannot_be_written_plain_characters_are() -> None:
    assert text(SMALL, "ascii").isascii()
    assert "|- amqp.default" in text(SMALL, "latin-1")
    assert "`- file.*" in text(SMALL, "no-such-encoding")


def test_a_long_name_moves_no_column_but_its_own() -> None:
    long = "a" * 60
    graph = SMALL._replace(events=[*SMALL.events, Event(long, "durable", ())])
    lines = text(graph).splitlines()
    assert f"{long}  durable" in lines
    assert all(len(line) < 60 for line in lines if long not in line)


def test_what_comes_from_a_profile_that_is_only_consumed_from_is_shown() -> None:
    graph = Graph(
        [Event("Placed", "", ())],
        [ProfileNode("lines.in", "lines a", {"Placed": ""}, ())],
        [ListenerNode("mail 0", "mail", "", (("Placed", "lines.in"),))],
    )
    assert text(graph) == "Placed  goes nowhere\n└─ lines.in\n   └─▶ mail\n"


def test_control_characters_of_names_are_written_out() -> None:
    graph = Graph([Event("a\x1b[2Jb\n", "", ())], [], [])
    assert text(graph).startswith("a\\x1b[2Jb\\n ")
    assert "\x1b" not in dot(graph)


# dot


def test_edges_lead_from_events_through_rows_of_profiles_to_listeners() -> None:
    lines = [line.strip() for line in dot(SMALL).splitlines()]
    assert '"event Placed":e -> "profile amqp.default":way0:w' in lines
    assert '"event Paid":e -> "profile amqp.default":way1:w' in lines
    assert '"profile amqp.default":way1:e -> "listener billing 0":w' in lines
    assert [line for line in lines if line.startswith('"profile amqp.default":top -> "profile file.*":top [')]


def test_names_are_quoted() -> None:
    name = 'a"\\<b>&'
    source = dot(Graph([Event(name, "", ())], [], []))
    assert '"event a\\"\\\\<b>&" [' in source
    assert "<B>a&quot;\\&lt;b&gt;&amp;</B>" in source


@drawn
def test_the_drawing_shows_every_name() -> None:
    odd = Event('a"\\<b>&', "durable", ())
    root = ET.fromstring(svg(dot(SMALL._replace(events=[*SMALL.events, odd]))))  # noqa: S314 - own
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    shown = {element.text for element in root.iter(f"{space}text")}
    names = {
        "Placed",
        "Paid",
        "Lost",
        'a"\\<b>&',
        "amqp.default",
        "file.*",
        "webhook.idle",
        "billing",
        "mail",
    }
    assert names | {"deaf", "dead letters", "group accounts", "amqp mq.example:5672"} <= {
        each.strip() for each in shown if each
    }


@drawn
def test_what_dot_says_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot draw the graph: .*syntax error"):
        svg("no graph")


def test_without_dot_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="'apt-get install graphviz' installs it, and --format text"):
        svg(dot(SMALL))


# The command


def test_the_command_prints_the_text(shell: Shell) -> None:
    open_shop(shell)
    done = shell.run("graph", *OPTIONS, PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == """\
Heartbeat
├─ amqp.default  exchange events
├─ webhook.default
└─ internal.default

OrderPlaced      durable, version 2
├─ amqp.default  exchange events
│  ├─▶ Audit
│  └─▶ billing   group accounts
├─ webhook.default
└─ internal.default
   ├─▶ Audit
   └─▶ billing   group accounts

PricesChanged    broadcast
├─ amqp1.queues
│  └─▶ cache     every process
└─ stomp.queues  /topic/PricesChanged
   └─▶ cache     every process

customer.registered
├─ amqp.default  exchange events
│  └─▶ crm
├─ webhook.default
└─ internal.default
   └─▶ crm

Dead letters
   amqp.default ─▶ file.lost
"""
    )


def test_the_ending_of_the_file_says_the_format(shell: Shell) -> None:
    open_shop(shell)
    for name, begins in (("a.dot", "digraph evbus {"), ("a.txt", "Heartbeat\n├─ amqp.default")):
        done = shell.run("graph", *OPTIONS, "-o", name, PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        written = (shell.folder / name).read_text("utf-8")
        assert written.startswith(begins)
        assert [secret for secret in SECRETS if secret in written] == []


@drawn
def test_the_command_draws(shell: Shell) -> None:
    open_shop(shell)
    assert shell.run("graph", *OPTIONS, "-o", "a.svg").returncode == 0
    written = (shell.folder / "a.svg").read_text("utf-8")
    assert ET.fromstring(written).tag.endswith("svg")  # noqa: S314 - own
    assert shell.run("graph", *OPTIONS, "--format", "svg").stdout == written


def test_profiles_alone_can_be_shown(shell: Shell) -> None:
    open_shop(shell)
    done = shell.run("graph", "-p", "profiles.yml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "webhook.default  https hooks.example" in done.stdout


def test_nothing_to_show_is_a_mistake(shell: Shell) -> None:
    done = shell.run("graph")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("evbus: there is nothing to show: name the modules that hold events")


# Services


def test_components_stand_with_their_services_and_who_calls_them(shell: Shell) -> None:
    open_mall(shell)
    done = shell.run("graph", *MALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == """\
OrderPlaced
└─ internal.*
   └─▶ booking

Components
   bank             elsewhere
   └─ bank
      └─◀ ShopImpl  component mall
   idle             elsewhere
   └─ idle
   mall
   ├─ shop          ShopImpl
   │  └─◀ restock   handler
   └─ till          TillImpl
      ├─◀ ShopImpl  component mall
      └─◀ booking   listener
"""
    )


def test_the_graph_of_services_in_graphviz(shell: Shell) -> None:
    open_mall(shell)
    source = shell.run("graph", *MALL, "--format", "dot").stdout
    edges = [line.strip().partition(" [")[0] for line in source.splitlines() if "calls" in line]
    assert edges == [
        '"component mall":top -> "component bank":service0:w',
        '"handler restock handler.storage" -> "component mall":service0:w',
        '"component mall":top -> "component mall":service1:w',
        '"listener booking 0" -> "component mall":service1:w',
    ]
    nodes = re.findall(r'^  "((?:component|handler|listener) [^"]+)" \[', source, re.MULTILINE)
    assert nodes == [
        "listener booking 0",
        "handler restock handler.storage",
        "component bank",
        "component idle",
        "component mall",
    ]


@drawn
def test_services_are_drawn(shell: Shell) -> None:
    open_mall(shell)
    done = shell.run("graph", *MALL, "-o", "mall.svg")
    assert (done.returncode, done.stderr) == (0, "")
    drawing = ET.parse(shell.folder / "mall.svg")  # noqa: S314 - of the program dot
    texts = [each.text for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"mall", "shop", "till", "ShopImpl", "restock", "elsewhere"} <= set(texts)


def test_services_alone_are_a_graph_and_a_broken_component_is_a_mistake(shell: Shell) -> None:
    open_mall(shell)
    done = shell.run("graph", "--interfaces", "mall.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Components\n   bank  elsewhere\n   └─ bank\n")
    shell.file("plugins/component/mall_here.py", "x = 1\n")
    done = shell.run("graph", *MALL)
    assert done.returncode == 2
    assert "it has no implementation: a class with @implementation()" in done.stderr
