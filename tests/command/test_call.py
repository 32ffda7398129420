"""``evbus call``: methods of a service in another process, called from a shell."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.command.kit import TIMEOUT, Shell, wait_for
from tests.command.market import build, serving

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, origin: None) -> Iterator[tuple[Shell, str]]:
    """Return a folder with the shop, and where it is served."""
    shell = Shell(tmp_path_factory.mktemp("shop"))
    build(shell)
    with serving(shell, "shop") as served:
        yield shell, served.url
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(TIMEOUT) == 0


@pytest.fixture
def call(shop: tuple[Shell, str]) -> Call:
    shell, url = shop

    def made(*args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return shell.run("call", *args, "--interfaces", "shop", "--address", url, stdin=stdin)

    return made


def printed(done: subprocess.CompletedProcess[str]) -> list[object]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("channel", ["dispatch-json", "dispatch-msgpack", "rest"])
def test_a_result_is_printed_as_json(call: Call, channel: str) -> None:
    done = call("Shop.order", "name=3", "count=3", "--channel", channel)
    assert done.stdout == '{"name":"3","price":7.5,"parts":[]}\n'
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("args", "stdin", "item"),
    [
        (("name=pen",), "", {"name": "pen", "price": 2.5, "parts": []}),
        (("pen", "2"), "", {"name": "pen", "price": 5.0, "parts": []}),
        (("pen", "note=null"), "", {"name": "pen (null)", "price": 2.5, "parts": []}),
        (("pen", "note:=null"), "", {"name": "pen", "price": 2.5, "parts": []}),
        (("name=a=b", "count:=2"), "", {"name": "a=b", "price": 5.0, "parts": []}),
        (("-",), '{"name": "pen", "count": 4}', {"name": "pen", "price": 10.0, "parts": []}),
        (("@args.json", "count=2"), "", {"name": "ink", "price": 5.0, "parts": []}),
    ],
)
def test_arguments_are_written_in_several_ways(
    shop: tuple[Shell, str], call: Call, args: tuple[str, ...], stdin: str, item: object
) -> None:
    shop[0].file("args.json", '{"name": "ink"}')
    assert printed(call("Shop.order", *args, stdin=stdin)) == [item]


def test_values_are_of_their_types(call: Call) -> None:
    done = call("Shop.due", "day=2030-02-01", 'item={"name": "pen"}')
    assert printed(done) == ["01.02. Item(name='pen', price=1.0, parts=[])"]
    assert printed(call("shop.price", "name=pen")) == [2.5]
    assert printed(call("mall:shop:price", "name=pen")) == [2.5]


def test_arguments_may_stand_before_and_behind_options(shop: tuple[Shell, str]) -> None:
    shell, url = shop
    behind = ("call", "Shop.order", "pen", "--interfaces", "shop", "count=2", "--address", url, "note=x")
    assert printed(shell.run(*behind)) == [{"name": "pen (x)", "price": 5.0, "parts": []}]


def test_a_stream_is_printed_item_by_item(call: Call) -> None:
    done = call("Shop.catalogue", "names=pen", "names=ink")
    assert printed(done) == [{"name": name, "price": 1.0, "parts": []} for name in ("pen", "ink")]
    done = call("Shop.catalogue", 'names=["pen", "moon"]')
    assert (done.returncode, done.stderr) == (1, "evbus: OutOfStock: the moon is sold\n")
    assert json.loads(done.stdout)["name"] == "pen"


@pytest.mark.parametrize(
    ("argument", "stdin"),
    [
        ("items=-", '{"name": "a", "price": 2}\n\n{"name": "b"}\n'),
        ("items=@items.jsonl", ""),
        ('items=[{"name": "a", "price": 2}, {"name": "b"}]', ""),
    ],
)
def test_an_argument_that_is_a_stream(shop: tuple[Shell, str], call: Call, argument: str, stdin: str) -> None:
    shop[0].file("items.jsonl", '{"name": "a", "price": 2}\n{"name": "b"}\n')
    assert printed(call("Shop.total", argument, stdin=stdin)) == [3.0]


@pytest.mark.parametrize(
    ("argument", "stdin", "sentence"),
    [
        ("items=-", '{"name": "a"}\n{"nme": "b"}\n', "standard input:2: this is no Item: "),
        ("items=-", '{"name": "a"}\n{"nam\n', "standard input:2: the line is not valid JSON: "),
        ("items=[1]", "", "Shop.total: the argument 'items': item 0: this is no Item: "),
        ("items=1", "", "'items' is a stream: a list of JSON, or - or @file for one item a line"),
        ("items=@none", "", "the input none cannot be opened: No such file or directory"),
    ],
)
def test_a_wrong_item_of_a_stream_is_told_with_its_line(
    call: Call, argument: str, stdin: str, sentence: str
) -> None:
    done = call("Shop.total", argument, stdin=stdin)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_a_method_raises_is_an_exit_code(call: Call) -> None:
    done = call("Shop.order", "name=moon")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "evbus: OutOfStock: the moon is sold\n")
    done = call("Shop.order", "name=sun")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "evbus: ValueError: it is too hot\n")


def test_without_an_interface_json_is_json_and_the_rest_is_text(shop: tuple[Shell, str]) -> None:
    shell, url = shop
    for args in (("name=pen", "count=2"), ("pen", "2"), ("pen", "count:=2"), ("@two.json",)):
        shell.file("two.json", '{"name": "pen", "count": 2}')
        done = shell.run("call", "mall:shop:order", *args, "--address", url)
        assert printed(done) == [{"name": "pen", "price": 5.0, "parts": []}]
    done = shell.run("call", "mall:shop:order", "name=3", "--address", url)
    assert done.returncode == 1
    assert "Shop.order: the argument 'name': this is no str: Expected `str`, got `int`" in done.stderr
    done = shell.run("call", "mall:shop:catalogue", 'names=["pen"]', "--address", url)
    assert done.returncode == 1
    assert "it yields a stream, which the interface here does not say; name its interface with" in done.stderr
    done = shell.run("call", "mall:shop:ordr", "--address", url)
    assert done.returncode == 1
    assert "there is no method 'mall:shop:ordr'" in done.stderr


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "name the method before the options: evbus call Greeter.hello name=world --interfaces greeter"),
        (("order",), "'order' names no method; write Interface.method, or component:service:method"),
        (("Shp.order",), "there is no interface 'Shp'; did you mean 'Shop'?"),
        (("mall:shp:order",), "there is no interface 'shp'; did you mean 'shop'?"),
        (("Shop.ordr",), "Shop has no method 'ordr'; did you mean 'order'?"),
        (("Shop.__class__",), "Shop has no method '__class__'"),
        (("Shop.order", "nme=pen"), "Shop.order has no parameter 'nme'; did you mean 'name'?"),
        (("Shop.order",), "the argument 'name' is missing; it takes (name: str, count: int = 1, *, note: "),
        (("Shop.order", "name", "=", "pen"), "an argument is written without spaces: name=value"),
        (("Shop.order", "--name", "pen"), "no option --name; arguments of the method are written name=value"),
        (("Shop.order", "a", "1", "c"), "Shop.order: 'c' is one too many; it takes (name: str, count: int"),
        (("Shop.order", "a", "name=b"), "Shop.order: the argument 'name' is given twice"),
        (("Shop.order", "name=a", "name=b"), "Shop.order: the argument 'name' is given 2 times"),
        (("Shop.order", "name=a", "-"), "the argument 'name' is given twice"),
        (("Shop.order", "a", "count=three"), "the argument 'count', 'three': this is no int: Expected `int`"),
        (
            ("Shop.order", "a", "count:=x"),
            "the argument 'count' is written as JSON, and 'x' is none: it is not",
        ),
        (("Shop.due", "2030-02-31"), "the argument 'day', '2030-02-31': this is no date"),
        (
            ("Shop.due", "2030-02-01", "item=pen"),
            "'item' is written as JSON, and 'pen' is none: it is not valid",
        ),
        (("Shop.order", "@none.json"), "the file none.json cannot be read: No such file or directory"),
        (("Shop.order", "a", "--channel", "rst"), "there is no channel 'rst'; did you mean 'rest'?"),
        (("Shop.order", "a", "--timeout", "0"), "--timeout 0: this is a number of seconds above 0"),
        (
            ("Shop.price", "a", "--channel", "rest"),
            "Shop.price has no path, and cannot be called over rest; ",
        ),
    ],
)
def test_a_mistake_is_one_sentence(call: Call, args: tuple[str, ...], sentence: str) -> None:
    done = call(*args, stdin='{"name": "pen"}')
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interface_that_is_not_named_or_not_found(shop: tuple[Shell, str]) -> None:
    shell, _ = shop
    for args, sentence in (
        (
            ("Shop.order", "a"),
            "the module that has this interface is named by --interfaces; without it, methods",
        ),
        (
            ("mall:shop:__class__",),
            "'__class__' begins with an underscore, and no method that can be called does",
        ),
        (("mall:shop:order", "a"), "nothing says where the component 'mall' is: give its address, such as"),
        (
            ("Shop.order", "--interfaces", "shop", "ann"),
            "; arguments without a name stand before the options",
        ),
        (("Shop.order", "a", "--interfaces", "shp"), "where Python finds packages; did you mean 'shop'?"),
        (
            ("mall:shop:order", "--address", "localhost:1"),
            "--address localhost:1: write it as http://host:port",
        ),
    ):
        done = shell.run("call", *args)
        assert done.returncode == 2
        assert sentence in done.stderr


def test_of_several_components_with_an_interface_one_is_named(shell: Shell) -> None:
    shell.file(
        "tills.py",
        "from evbus.api import Component, Service, component, service\n"
        "@service()\n"
        "class Till(Service):\n"
        "    async def where(self) -> str: ...\n"
        "@component(services=[Till])\n"
        "class Berlin(Component): ...\n"
        "@component(services=[Till])\n"
        "class Paris(Component): ...\n",
    )
    options = ("--interfaces", "tills", "--address", "http://127.0.0.1:1")
    done = shell.run("call", "Till.where", *options)
    assert done.returncode == 2
    said = "several components have Till; write one of them: berlin:till:where, paris:till:where"
    assert done.stderr == f"evbus: {said}\n"
    done = shell.run("call", "paris:till:where", *options)
    assert "Till.where of the component 'paris' over dispatch-json at http://127.0.0.1:1" in done.stderr


def test_interfaces_of_one_name_are_told_apart(shell: Shell) -> None:
    text = (
        "from evbus.api import Service, service\n"
        "@service()\n"
        "class Shop(Service):\n"
        "    async def order(self) -> None: ...\n"
    )
    shell.file("one.py", text)
    shell.file("two.py", text.replace("@service()", "@service('market')"))
    done = shell.run("call", "Shop.order", "--interfaces", "one", "two", "--address", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert "several interfaces are called 'Shop'; write one of them: shop:shop:order (" in done.stderr
    done = shell.run("call", "market.order", "--interfaces", "one", "two", "--address", "http://127.0.0.1:1")
    assert "order of the component 'market' over dispatch-json at http://127.0.0.1:1: nothing" in done.stderr


def test_the_registry_of_the_settings_says_where(shop: tuple[Shell, str]) -> None:
    shell, url = shop
    where = f"registry: {{static: {{mall: {{dispatch-msgpack: '{url}', rest: '{url}'}}}}}}\n"
    # A server in the settings is that of the other process.
    shell.file("services.yml", f"{where}server: {{port: {url.rpartition(':')[2]}}}\n")
    named = ("--services", "services.yml", "--interfaces", "shop")
    assert printed(shell.run("call", "Shop.price", "pen", *named)) == [2.5]
    done = shell.run("call", "Shop.order", "pen", "--channel", "dispatch-json", *named)
    assert done.returncode == 1
    assert "cannot be called over dispatch-json; the registry static has it over dispatch-msgpack, rest" in (
        done.stderr
    )
    done = shell.run("call", "mll:shop:price", "pen", "--services", "services.yml")
    assert done.returncode == 1
    assert done.stderr == "evbus: the registry static has no component 'mll'; did you mean 'mall'?\n"


def test_a_server_that_is_away_and_one_that_is_slow(call: Call, shop: tuple[Shell, str]) -> None:
    done = call("Shop.wait", "--timeout", "0.2s")
    assert done.returncode == 1
    assert "there was no answer within the 0." in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = shop[0].run("call", "mall:shop:price", "pen", "--address", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"at http://127.0.0.1:{port}: nothing listens there (connection refused)" in done.stderr


def test_a_reader_that_has_enough_ends_the_stream(shop: tuple[Shell, str]) -> None:
    shell, url = shop
    many = json.dumps(["pen"] * 100_000)
    shell.file("many.json", f'{{"names": {many}}}')
    called = ("call", "Shop.catalogue", "@many.json", "--interfaces", "shop", "--address", url)
    with shell.start(*called) as calling:
        assert "pen" in calling.stdout.readline()
        calling.stdout.close()
        assert calling.wait(TIMEOUT) == 1
        assert calling.stderr.read() == ""


def test_a_result_is_utf_8_whatever_the_terminal_takes(call: Call, shop: tuple[Shell, str]) -> None:
    shell, url = shop
    called = ("call", "mall:shop:order", "name=größe", "--address", url)
    assert '"größe"' in shell.run(*called, PYTHONIOENCODING="ascii").stdout


def test_ctrl_c_ends_the_call_at_both_ends(shell: Shell) -> None:
    build(shell)
    with (
        serving(shell, "shop") as served,
        shell.start("call", "mall:shop:wait", "--address", served.url) as calling,
    ):
        wait_for(served.process.stdout, "waiting")
        calling.send_signal(signal.SIGINT)
        assert calling.wait(TIMEOUT) == 130
        assert calling.stderr.read() == ""
        # Nothing is left there that a stop would wait for.
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(TIMEOUT) == 0
