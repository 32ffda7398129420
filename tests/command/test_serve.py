"""``evbus serve``: the components of folders, files and modules, in a process of their own."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.command.kit import TIMEOUT, Shell, wait_for
from tests.command.market import IMPLEMENTATIONS, INTERFACES, build, serving

IMPORTS = "from evbus.api import AbstractComponent, Component, Service, component, implementation, service\n"
BROKEN = (
    IMPORTS
    + """
@component(services=[])
class Mall(Component): ...

@implementation()
class MallImpl(AbstractComponent, Mall):
    async def startup(self):
        raise ConnectionError("the database is away")
"""
)
UNFINISHED = (
    IMPORTS
    + """
@service()
class Shop(Service):
    async def order(self) -> int: ...

@implementation()
class ShopImpl(Shop):
    def order(self): ...
"""
)


#: A request that is answered when the shop ends.
WAIT = (
    b"POST /invoke HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: 40\r\n\r\n"
    b'{"method": "mall:shop:wait", "args": []}'
)


@pytest.fixture
def market(shell: Shell) -> Shell:
    build(shell)
    return shell


def invoke(url: str, method: str, *args: object) -> object:
    body = json.dumps({"method": method, "args": args}).encode()
    request = urllib.request.Request(f"{url}/invoke", body, {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
        return json.load(answer)["result"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_what_it_serves_and_a_signal_ends_it_in_order(market: Shell, number: signal.Signals) -> None:
    with serving(market, "shop") as served:
        assert served.said == (
            f"evbus: component mall: shop; dispatch-json, dispatch-msgpack, rest at {served.url}\n"
            f"evbus: serving at {served.url}; Ctrl-C stops\n"
        )
        assert invoke(served.url, "mall:shop:price", "pen") == 2.5
        served.process.send_signal(number)
        assert served.process.wait(TIMEOUT) == 0
        assert served.process.stdout.read() == "the mall opens\nthe mall closes\n"
        assert served.process.stderr.read() == (
            "evbus: ending the calls under way; a second signal stops at once\n"
        )


@pytest.mark.parametrize(
    "named", ["shop.impl", "shop/impl.py", "shop/", "files", "plugins", "--plugin-dirs=plugins"]
)
def test_modules_files_and_folders_are_served(market: Shell, named: str) -> None:
    market.file("plugins/component/mall.py", IMPLEMENTATIONS)
    market.file("files/mall.py", IMPLEMENTATIONS)
    market.file("files/program.py", "raise SystemExit('a file without a component is not run')\n")
    with serving(market, named) as served:
        assert "evbus: component mall: shop; " in served.said
        assert invoke(served.url, "mall:shop:price", "pen") == 2.5


def test_a_second_signal_ends_the_calls_under_way(market: Shell) -> None:
    with (
        serving(market, "shop") as served,
        socket.create_connection(("127.0.0.1", _port(served.url))) as sock,
    ):
        sock.sendall(WAIT)
        wait_for(served.process.stdout, "waiting")
        served.process.send_signal(signal.SIGTERM)
        wait_for(served.process.stderr, "a second signal stops at once")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(TIMEOUT) == 130
        sock.settimeout(TIMEOUT)
        assert b"the server stopped before the method had ended" in sock.recv(65536)
        assert "the mall closes" in served.process.stdout.read()


def test_calls_that_a_stop_cuts_off_are_an_exit_code(market: Shell) -> None:
    with (
        serving(market, "shop", "--drain-timeout", "0.1") as served,
        socket.create_connection(("127.0.0.1", _port(served.url))) as sock,
    ):
        sock.sendall(WAIT)
        wait_for(served.process.stdout, "waiting")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(TIMEOUT) == 1
        assert "1 request is cancelled by the stop" in served.process.stderr.read()


SLOW = (
    IMPORTS
    + """
import asyncio

@component(services=[])
class Mall(Component): ...

@implementation()
class MallImpl(AbstractComponent, Mall):
    async def {}(self):
        print("waiting", flush=True)
        await asyncio.Event().wait()
"""
)


def test_a_component_that_does_not_end_is_named(shell: Shell) -> None:
    shell.file("slow.py", SLOW.format("shutdown"))
    with serving(shell, "slow", "--drain-timeout", "0.1") as served:
        served.process.send_signal(signal.SIGTERM)
        wait_for(served.process.stdout, "waiting")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(TIMEOUT) == 130
        said = served.process.stderr.read()
        assert "evbus: everything was delivered (0.00 s); the component mall has not ended\n" in said
        assert "evbus: the process did not end by itself\n" in said


def test_a_signal_while_components_start_ends_them(shell: Shell) -> None:
    shell.file("slow.py", SLOW.format("startup"))
    with shell.start("serve", "slow", "--port", "0") as process:
        wait_for(process.stdout, "waiting")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
        assert process.stderr.read() == "evbus: stopped before the components were started\n"


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_a_bus_delivers_what_components_send(shell: Shell) -> None:
    shell.file(
        "till.py",
        IMPORTS + "@service()\n"
        "class Till(Service):\n"
        "    async def pay(self, amount: int) -> int: ...\n"
        "@implementation()\n"
        "class TillImpl(Till):\n"
        "    def __init__(self, hub):\n"
        "        self.hub = hub\n"
        "    async def pay(self, amount):\n"
        "        await self.hub.evbus.broker.put(routing_key='paid', body=amount)\n"
        "        return amount\n",
    )
    with serving(shell, "till", "-p", "file.yml") as served:
        assert invoke(served.url, "till:till:pay", 7) == 7
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(TIMEOUT) == 0
        assert "file.file.*         1          1        0" in served.process.stderr.read()
    assert [one["body"] for one in shell.lines("out.jsonl")] == [7]


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (
            (),
            2,
            "there are no components; name a folder that has a folder component/, a file or a module that",
        ),
        (("shp",), 2, "and where Python finds packages; did you mean 'shop'?"),
        (("./shp",), 2, "; did you mean 'shop'?"),
        (("shop/imp.py",), 2, "there is no file or folder shop/imp.py in "),
        (("shop.interfaces",), 2, "shop.interfaces: there is no class with @implementation() here; name"),
        (
            ("empty",),
            2,
            "the folder empty has neither a folder component/ nor files of Python with @service(),",
        ),
        (("p.yml/",), 2, "p.yml/ is no file of Python, whose name ends in .py"),
        (("wrong.py",), 2, "the module 'wrong' cannot be imported: ZeroDivisionError: division by zero ("),
        (("typo.py",), 2, "the module 'typo' cannot be imported: it is not valid Python: invalid syntax (/"),
        (("json.py",), 2, "is called as another module is, "),
        (
            ("unfinished.py",),
            2,
            "unfinished.py:9) is a plain def, and Shop.order is an async def; write it alike",
        ),
        (("broken.py", "--port", "0"), 1, "could not be started: ConnectionError: the database is away (/"),
        (("shop", "--port", "99999"), 2, "--port 99999: a port is a number from 0 to 65535"),
        (("shop", "--host", "::"), 2, "where other machines reach it, and nothing here asks who calls"),
        (("shop", "--services", "none.yml"), 2, "none.yml: "),
        (
            ("shop", "--services", "bad.yml"),
            2,
            "bad.yml: regisry: there is no such key; did you mean 'registry'?",
        ),
    ],
)
def test_a_mistake_is_one_sentence(market: Shell, args: tuple[str, ...], code: int, sentence: str) -> None:
    market.file("empty/readme.py", "x = 1\n")
    market.file("wrong.py", "1 / 0\n")
    market.file("typo.py", "x = 1\nretrn x\n")
    market.file("json.py", UNFINISHED)
    market.file("unfinished.py", UNFINISHED)
    market.file("broken.py", BROKEN)
    market.file("bad.yml", "regisry: static\n")
    done = market.run("serve", *args)
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("room", ["component", "health"])
def test_a_plugin_file_that_is_broken_is_told_once(market: Shell, room: str) -> None:
    market.file(f"project/{room}/first.py", "import nothing_there\n")
    market.file("project/component/second.py", UNFINISHED)
    done = market.run("serve", "project")
    assert done.returncode == 2
    told = sorted(done.stderr.splitlines())
    assert len(told) == 2
    assert told[0].startswith("[WARNING ] plugin not loaded: ")  # the other one
    assert told[1].startswith("evbus: component.")
    assert done.stderr.count("nothing_there") == 1


def test_a_port_that_is_taken_is_told(market: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = market.run("serve", "shop", "--port", port)
        market.file("services.yml", f"server: {{port: {port}}}\n")
        again = market.run("serve", "shop", "--services", "services.yml")
    for one in (done, again):
        assert one.returncode == 1
        assert one.stderr == (
            f"evbus: the server cannot listen on 127.0.0.1:{port}: Address already in use; choose another "
            "port, or 0 for any that is free\n"
        )
        assert one.stdout == "the mall opens\nthe mall closes\n"


def test_a_channel_that_takes_calls_itself_needs_no_http_server(market: Shell) -> None:
    market.file(
        "plugins/channel/pigeon.py",
        "async def invoke(hub, ctx, call, address): ...\n"
        "async def serve(hub, ctx, served):\n    return Loft()\n"
        "class Loft:\n    async def stop(self, seconds): ...\n",
    )
    market.file("services.yml", "channels: {pigeon: {}}\n")
    serve = ("serve", "shop", "--services", "services.yml", "--plugin-dirs", "plugins")
    with market.start(*serve) as process:
        assert "evbus: serving; Ctrl-C stops\n" in wait_for(process.stderr, "serving")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    with serving(market, *serve[1:]) as served:
        assert invoke(served.url, "mall:shop:price", "pen") == 2.5


def test_without_the_extra_it_says_what_to_install(market: Shell) -> None:
    market.file("less/uvicorn/__init__.py", "raise ModuleNotFoundError('no', name='uvicorn')\n")
    root = Path(__file__).parent.parent.parent
    done = market.run("serve", "shop", "--port", "0", PYTHONPATH=f"{market.folder / 'less'}:{root}")
    assert done.returncode == 2
    assert "the HTTP server needs the package uvicorn, which is not installed; install it with" in done.stderr


def test_nothing_is_said_that_was_not_asked_for(market: Shell) -> None:
    market.file("plugins/component/mall.py", INTERFACES)
    done = market.run("serve", "plugins", "--quiet")
    assert done.returncode == 2
    assert "it has no implementation: a class with @implementation()" in done.stderr
