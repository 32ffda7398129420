"""``evbus services``: who is where, and how healthy."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.command.kit import ROOT, TIMEOUT, Shell, wait_for
from tests.command.market import build, serving

CHECKS = """
from evbus.api import HealthStatus, health_check, health_checks

@health_checks()
class Checks:
    @health_check()
    async def disk(self, result):
        result.set_status(HealthStatus.{}, "97 % used")
"""
PIGEON = "async def invoke(hub, ctx, call, address): ...\n"
#: A registry that is a file: each line is component, channel and address. It is read ten times a second.
REGISTRY = """
import asyncio
import pathlib

def rows(ctx):
    return [line.split() for line in pathlib.Path(ctx.acct["path"]).read_text().splitlines()]

async def watch(hub, ctx, component):
    before = None
    while True:
        found = [(channel, uri) for name, channel, uri in rows(ctx) if name == component]
        if found != before:
            yield found
        before = found
        await asyncio.sleep(0.1)

async def components(hub, ctx):
    return list(dict.fromkeys(name for name, _, _ in rows(ctx)))
"""


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Answer every request in the same way, or never with none; return where."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            held = []
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    break
                held.append(connection)
                connection.recv(65536)
                if answer:
                    connection.sendall(answer)
            for each in held:
                each.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT)


def nobody() -> str:
    """Return an address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def told(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


def settings(shell: Shell, static: object) -> tuple[str, ...]:
    shell.file("plugins/channel/pigeon.py", PIGEON)
    shell.file("services.yml", json.dumps({"registry": {"static": static}}))
    return "services", "--services", "services.yml", "--plugin-dirs", "plugins", "--timeout", "60"


@pytest.mark.parametrize(
    ("status", "health", "reason", "code"),
    [
        ("OK", "OK", "", 0),
        ("WARNING", "WARNING", "disk: WARNING 97 % used", 0),
        ("ERROR", "ERROR", "disk: ERROR 97 % used", 1),
    ],
)
def test_servers_say_how_they_are(shell: Shell, status: str, health: str, reason: str, code: int) -> None:
    build(shell)
    shell.file("checks.py", CHECKS.format(status))
    with serving(shell, "shop", "checks") as served:
        where = {
            "mall": {"dispatch-json": served.url, "rest": served.url},
            "queues": {"pigeon": "amqp://u:pw@h/"},
        }
        command = settings(shell, where)
        done = shell.run(*command)
        rows = [line.split(maxsplit=5) for line in done.stdout.splitlines()]
        assert rows[0] == ["component", "channels", "address", "health", "reason"]
        assert rows[2][:5] == ["mall", "dispatch-json,", "rest", served.url, health]
        assert rows[3] == ["queues", "pigeon", "amqp://u:***@h/", "-"]
        done = shell.run(*command, "--json")
        assert done.returncode == code
        first, second = json.loads(done.stdout)
        assert first == {
            "component": "mall",
            "channels": ["dispatch-json", "rest"],
            "address": served.url,
            "health": health,
            "reason": reason,
        }
        assert (second["health"], second["reason"]) == ("-", "")


@pytest.mark.parametrize(
    ("answer", "health", "reason", "code"),
    [
        (told(200, b'{"status": "OK"}'), "OK", "", 0),
        (told(429, b'{"status": "WARNING"}'), "WARNING", "", 0),
        (told(500, b'{"status": "ERROR"}'), "ERROR", "", 1),
        (told(404, b"none"), "-", "it does not tell its health here", 0),
        (told(401, b"{}"), "-", "it does not tell its health here to everybody", 0),
        (told(200, b"<html>"), "-", "it answered with the HTTP status 200", 0),
        (told(502, b"bad gateway"), "ERROR", "it answered with the HTTP status 502", 1),
        (b"SSH-2.0-x\r\n\r\n", "away", None, 1),
        (b"", "away", "there was no answer within 0.2 s", 1),
    ],
)
def test_others_say_it_in_other_ways(
    shell: Shell, answer: bytes, health: str, reason: str | None, code: int
) -> None:
    with answering(answer) as url:
        # One that says nothing is not waited for.
        limit = () if answer else ("--timeout", "200ms")
        done = shell.run(*settings(shell, {"web": {"rest": url}}), "--json", *limit)
    (place,) = json.loads(done.stdout)
    assert (place["health"], done.returncode) == (health, code)
    assert place["reason"] == reason or (reason is None and place["reason"])


def test_one_that_is_away_is_told_with_its_reason(shell: Shell) -> None:
    done = shell.run(*settings(shell, {"mall": {"rest": nobody()}}))
    assert done.returncode == 1
    (away,) = done.stdout.splitlines()[2:]
    assert away.endswith("  away    nothing listens there (connection refused)")
    done = shell.run(*settings(shell, {"mall": {"rest": "shop.example"}}))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(
        "registry.static.mall.rest: this is no address of a service: it is no URL of HTTP; write it as "
        "http://host:port or https://host:port\n"
    )


def test_a_channel_that_there_is_not_is_told(shell: Shell) -> None:
    done = shell.run(*settings(shell, {"mall": {"rst": nobody()}}))
    assert done.returncode == 0
    assert done.stdout.endswith("  -       there is no channel 'rst' here; did you mean 'rest'?\n")


def test_a_registry_that_knows_nobody(shell: Shell) -> None:
    done = shell.run(*settings(shell, {}))
    assert (done.returncode, done.stdout) == (0, "the registry has no components\n")
    for args in ((), ("--services", "local.yml")):
        shell.file("local.yml", "registry: local\n")
        done = shell.run("services", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "evbus: the registry local knows the components of its own process, and nothing of others; name "
            "the file of settings that has another one: --services services.yml\n"
        )


@pytest.mark.parametrize(
    ("registry", "code", "sentence"),
    [
        ("", 1, "the registry mine cannot say which components there are"),
        (
            "async def components(hub, ctx):\n    raise OSError('no net')",
            1,
            "mine cannot be asked: OSError: no net",
        ),
    ],
)
def test_a_registry_that_cannot_tell(shell: Shell, registry: str, code: int, sentence: str) -> None:
    watch = "\nasync def watch(hub, ctx, component):\n    yield []\n"
    shell.file("plugins/registry/mine.py", registry + watch)
    shell.file("services.yml", "registry: mine\n")
    done = shell.run("services", "--services", "services.yml", "--plugin-dirs", "plugins")
    assert done.returncode == code
    assert sentence in done.stderr


def test_without_the_extra_it_says_what_to_install(shell: Shell) -> None:
    shell.file("less/httptools/__init__.py", "raise ModuleNotFoundError('no', name='httptools')\n")
    path = f"{shell.folder / 'less'}:{ROOT}"
    address = ("--address", "http://127.0.0.1:1")
    for command, what, code in (
        (settings(shell, {}), "the health of services", 2),
        (("call", "mall:shop:price", *address), "the channel dispatch-json", 2),
    ):
        done = shell.run(*command, PYTHONPATH=path)
        assert done.returncode == code
        assert f"{what} needs the package httptools, which is not installed; install it with: " in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_prints_a_line_for_each_change(shell: Shell, number: signal.Signals) -> None:
    build(shell)
    shell.file("plugins/registry/lines.py", REGISTRY)
    shell.file("services.yml", "registry: {lines: {path: where.txt}}\n")
    gone = nobody()
    watch = (
        "services",
        "--services",
        "services.yml",
        "--plugin-dirs",
        "plugins",
        "--timeout",
        "60",
        "--watch",
    )
    with serving(shell, "shop") as served:
        one, other = f"mall rest {served.url}\n", f"mall rest {gone}\n"
        shell.file("where.txt", one)
        with shell.start(*watch) as watching:
            assert f" mall at {served.url} over rest: OK\n" in wait_for(watching.stdout, "rest")
            shell.file("where.txt", one + other)
            refused = "nothing listens there (connection refused)"
            assert f" mall at {gone} over rest: away: {refused}\n" in wait_for(watching.stdout, "away")
            shell.file("where.txt", one)
            assert f" mall at {gone} over rest: gone\n" in wait_for(watching.stdout, "gone")
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(TIMEOUT) == 0
            said = wait_for(watching.stdout, "was OK")
            assert f" mall at {served.url} over rest: away, was OK: {refused}\n" in said
            shell.file("where.txt", "")
            said = wait_for(watching.stdout, "no address")
            assert " mall: away: the registry has no address of it now\n" in said
            watching.send_signal(number)
            assert watching.wait(TIMEOUT) == 0
            assert watching.stderr.read() == ""


def test_watch_goes_on_while_its_registry_is_away(shell: Shell) -> None:
    shell.file("plugins/registry/lines.py", REGISTRY)
    shell.file("services.yml", "registry: {lines: {path: where.txt}}\n")
    shell.file("where.txt", f"mall rest {nobody()}\n")
    shell.file("plugins/channel/pigeon.py", PIGEON)
    watch = (
        "services",
        "--services",
        "services.yml",
        "--plugin-dirs",
        "plugins",
        "--timeout",
        "60",
        "--watch",
        "--json",
    )
    with shell.start(*watch[:-1]) as watching, shell.start(*watch) as machine:
        wait_for(watching.stdout, "away")
        assert json.loads(wait_for(machine.stdout, "mall"))[0]["health"] == "away"
        (shell.folder / "where.txt").unlink()
        assert " the registry lines cannot be asked: FileNotFoundError: " in wait_for(
            watching.stdout, "asked"
        )
        shell.file("where.txt", "web pigeon q\n")
        assert " web at q over pigeon: health not told\n" in wait_for(watching.stdout, "web")
        for process in (watching, machine):
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 0
