"""``evbus listen`` in a process of its own."""

from __future__ import annotations

import signal

import pytest

from tests.command.kit import INTERNAL, Shell, wait_for

FOLDER = ("-p", "p.yml", "--plugin-dirs", "plugins")
LISTENER = """
from evbus.api import event_listener

@event_listener("start", retry={"attempts": 2, "min": 0.001, "max": 0.001})
async def on(hub, event):
    print("handling", event, flush=True)
    if event == "bad":
        raise ValueError("it does not work")
    if event == 1:
        await hub.evbus.broker.put(routing_key="start", body=2)
"""
INPUT = '{{"routing_key": "start", "body": {}}}\n'


@pytest.fixture
def application(shell: Shell) -> Shell:
    shell.file("p.yml", INTERNAL)
    shell.file("plugins/listener/starter.py", LISTENER)
    return shell


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_table_of_its_listeners(application: Shell, number: signal.Signals) -> None:
    # So that it can be seen that it runs: before that a signal cancels the start.
    application.file(
        "plugins/listener/maker.py",
        "import asyncio\n"
        "from evbus.api import EventListener, event_listener\n"
        "@event_listener('never')\n"
        "class Maker(EventListener):\n"
        "    def __init__(self, hub):\n"
        "        self.telling = asyncio.ensure_future(self.tell(hub))\n"
        "    async def tell(self, hub):\n"
        "        await hub.evbus.init.join()\n"
        "        print('running', flush=True)\n"
        "    async def on(self, event):\n"
        "        pass\n",
    )
    with application.start("listen", *FOLDER) as process:
        wait_for(process.stdout, "running")
        process.send_signal(number)
        assert process.wait(60) == 0
        table = process.stderr.read()
    assert "starter   start         0        0     0       0" in table
    assert "Maker     never         0        0     0       0" in table


def test_run_hands_what_it_reads_to_the_listeners_and_waits_for_what_they_send(application: Shell) -> None:
    done = application.run("run", *FOLDER, stdin=INPUT.format(1))
    assert done.returncode == 0
    assert done.stdout == "handling 1\nhandling 2\n"
    assert "starter   start         2        0     0       0" in done.stderr


def test_what_a_listener_gave_up_is_stored_counted_and_an_exit_code(application: Shell) -> None:
    done = application.run("run", *FOLDER, "--quiet", stdin=INPUT.format('"bad"'))
    assert done.returncode == 1
    [dead] = application.dead()
    assert dead["body"] == "bad"
    assert dead["dead"]["lane"] == "listener starter"
    assert dead["dead"]["reason"] == "ValueError: it does not work"
    assert dead["dead"]["attempts"] == 2


def test_what_was_given_up_is_replayed_for_its_listener_alone(application: Shell) -> None:
    application.run("run", *FOLDER, "--quiet", stdin=INPUT.format('"bad"'))
    mended = LISTENER.replace('raise ValueError("it does not work")', 'print("it works")')
    application.file("plugins/listener/starter.py", mended)
    application.file(
        "plugins/listener/other.py",
        "from evbus.api import event_listener\n"
        "@event_listener('start')\n"
        "async def on(event):\n"
        "    print('handled a second time')\n",
    )
    done = application.run("replay", *FOLDER)
    assert done.returncode == 0
    assert done.stdout == "handling bad\nit works\n"


def test_listeners_of_modules_are_run_shown_and_get_back_what_they_gave_up(shell: Shell) -> None:
    shell.file("p.yml", INTERNAL)
    shell.file("shop/__init__.py", "")
    shell.file("shop/work.py", LISTENER)
    named = ("-p", "p.yml", "--listeners", "shop")
    assert "▶ work" in shell.run("graph", *named).stdout
    done = shell.run("run", *named, stdin=INPUT.format('"bad"'))
    assert done.returncode == 1
    assert "work      start         0        1     1       0" in done.stderr
    done = shell.run("replay", "-p", "p.yml", "-q")
    assert "there is no lane listener work; name its module with --listeners, or its folder" in done.stderr
    shell.file("shop/work.py", LISTENER.replace("raise ValueError", "print"))
    done = shell.run("replay", "-p", "p.yml", "-q", EVBUS_LISTENERS="shop.work, shop")
    assert (done.returncode, done.stdout) == (0, "handling bad\nit does not work\n")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("shop.wrk", "there is no module 'shop.wrk'; it is looked for in "),
        ("shop", "the module 'shop' cannot be imported: ZeroDivisionError: division by zero (/"),
        ("shop.none", "shop.none has no listener: a function or class with @event_listener(Event)"),
    ],
)
def test_a_module_without_listeners_is_a_mistake(shell: Shell, named: str, said: str) -> None:
    shell.file("p.yml", INTERNAL)
    shell.file("shop/__init__.py", "")
    shell.file("shop/none.py", "")
    shell.file("shop/wrong.py", "1 / 0\n")
    done = shell.run("listen", "-p", "p.yml", "--listeners", named)
    assert done.returncode == 2
    assert done.stderr.startswith(f"evbus: {said}")


def test_no_listener_at_all_is_a_mistake(shell: Shell) -> None:
    shell.file("p.yml", INTERNAL)
    done = shell.run("listen", "-p", "p.yml")
    assert done.returncode == 2
    assert done.stderr == (
        "evbus: there are no listeners; name the module that holds them: --listeners MODULE, a folder that "
        "has a folder listener/ with them: --plugin-dirs DIR, or an installed package: --listen-to PACKAGE\n"
    )


def test_a_listener_that_cannot_be_called_is_a_mistake_with_its_place(application: Shell) -> None:
    path = application.file(
        "plugins/listener/wrong.py",
        "from evbus.api import event_listener\n\n@event_listener('start')\ndef on(hub, event, more): ...\n",
    )
    done = application.run("listen", *FOLDER)
    assert done.returncode == 2
    assert f"evbus: listener.wrong ({path}:3): " in done.stderr
    assert "it takes (hub, event, more), and is called with the event alone, or with (hub, " in done.stderr


@pytest.mark.parametrize("arguments", [("put", '"bad"', "-k", "start"), ("tail",)], ids=["put", "tail"])
def test_what_only_sends_takes_nothing_from_a_broker(application: Shell, arguments: tuple[str, ...]) -> None:
    # A provider whose consumers would be asked for something, and that fails when they are.
    application.file(
        "plugins/egress/far.py",
        "async def consume(hub, ctx, subscription):\n    raise ValueError('consumed')\n    yield\n",
    )
    publish = "async def publish(hub, ctx, routing_key, body):\n    print('sent')\n"
    application.file("plugins/ingress/far.py", publish)
    application.file("far.yml", "far:\n  default: {}\n")
    options = ("-p", "far.yml", "--plugin-dirs", "plugins", "--quiet")
    done = application.run(*arguments, *options, stdin=INPUT.format('"bad"'))
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent\n", "")
