"""Every example of the README and of the documentation is run, page by page, in a folder of its own.

``.. code-block::`` of these languages is an example (``sh``, ``json``, ``text`` and others are not):

* any with ``:caption:`` or ``:name:`` is a file of that name;
* ``console``: lines that begin with ``$`` are run by one bash, and what follows each is what it prints;
* ``python``: a coroutine's body with a started ``hub`` (profiles ``internal: {"*": {}}``), where what a
  ``print`` prints stands behind it as a comment;
* ``yaml``: profiles, which are checked. In what is expected ``...`` stands for any text.

In files, ``amqp://localhost/`` and ``stomp://localhost/`` stand for a node that the tests start,
``http://localhost:8500`` for an agent of Consul, or its double where there is none, and 8001, there and in
consoles, for a port that is free.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from evbus.engine.core.plugins import installed
from tests.servers import _consul
from tests.servers._consul import Consul, ConsulDouble
from tests.servers._ports import free_ports
from tests.servers._rabbitmq import RabbitMQ

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
HEAD = re.compile(r"^\.\. code-block:: (\w+)\n((?:   :\w+:.*\n)*)\n((?:(?:   .*)?\n)+)", re.MULTILINE)
NAME = re.compile(r":(?:caption|name): *(\S+)")
PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
CONSUL = "http://localhost:8500"
MARK = "-- end of a command --"


class Block(NamedTuple):
    language: str
    name: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """Return the code blocks of a page in their order."""
    found = []
    for head in HEAD.finditer(text):
        named = NAME.search(head[2])
        body = re.sub("^   ", "", head[3], flags=re.MULTILINE).strip("\n") + "\n"
        line = text.count("\n", 0, head.start(3))
        found.append(Block(head[1], named[1] if named else "", body, line))
    return found


def assert_matches(expected: str, found: str, where: str) -> None:
    pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*")
    if not re.fullmatch(pattern, found.strip(), re.DOTALL):
        pytest.fail(f"{where}\n--- expected:\n{expected.strip()}\n--- found:\n{found.strip()}", pytrace=False)


def run_console(block: Block, where: str) -> None:
    commands = re.findall(r"^\$ (.*)$", block.text, re.MULTILINE)
    expected = [part.partition("\n")[2] for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("EVBUS", "ACCT", "XDG"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    script = "".join(f"{command}\nrc=$?; echo '{MARK}'; (exit $rc)\n" for command in commands)
    env.update(HOME=str(Path.cwd()), PYTHONPATH="")
    null, pipe, merged = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    bash = ["bash", "-c", script]
    done = subprocess.run(bash, env=env, stdin=null, stdout=pipe, stderr=merged, timeout=120, check=False)
    outputs = done.stdout.decode().split(MARK + "\n")
    assert len(outputs) == len(commands) + 1, outputs
    for command, right, found in zip(commands, expected, outputs, strict=False):
        assert_matches(right, found, f"{where}: $ {command}")


def new_hub() -> Any:
    hub = installed.new_hub()
    hub.OPT = hub.pop.data.imap({"evbus": {"dead_store": "dead.jsonl"}})
    return hub


async def run_snippet(block: Block, page: Path) -> None:
    hub = new_hub()
    listener = asyncio.ensure_future(hub.evbus.init.start({"internal": {"*": {}}}))
    try:
        await hub.evbus.init.join()
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile("\n" * block.line + block.text, page, "exec", flags, dont_inherit=True)
        waiting = eval(code, {"hub": hub, "__name__": "example"})  # noqa: S307 - the project's own text
        if waiting is not None:
            await waiting
    finally:
        await hub.evbus.init.stop()
        await asyncio.gather(listener, return_exceptions=True)


def with_broker(text: str, node: RabbitMQ) -> str:
    """Return a file of an example with the address of a real broker in it."""
    for scheme, port in (("amqp", node.port), ("stomp", node.stomp_port)):
        text = text.replace(f"{scheme}://localhost/", f"{scheme}://guest:guest@{node.host}:{port}/")
    return text


def run_block(block: Block, page: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    if block.name:
        Path(block.name).parent.mkdir(parents=True, exist_ok=True)
        Path(block.name).write_text(block.text)
    elif block.language == "console":
        run_console(block, where)
    elif block.language == "python":
        expected = PRINTED.findall(block.text)
        assert expected or "assert " in block.text, f"{where}: this example shows nothing"
        asyncio.run(run_snippet(block, page))
        assert_matches("\n".join(expected), capsys.readouterr().out, where)
    elif block.language == "yaml":
        assert new_hub().evbus.init.check(yaml.safe_load(block.text), where)


def found_in(page: Path) -> list[Block]:
    found = blocks(page.read_text())
    assert len(found) == page.read_text().count(".. code-block::"), "a code block is overlooked"
    (port,) = free_ports(1)
    return [block._replace(text=re.sub(r"\b8001\b", str(port), block.text)) for block in found]


def needs_broker(page: Path) -> bool:
    return bool(re.search(r"(amqp|stomp)://localhost/", page.read_text()))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if not needs_broker(page)], ids=lambda page: page.stem
)
def test_the_examples_of_a_page(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        consul = ""
        if CONSUL in page.read_text():
            agent = ConsulDouble() if _consul.missing() else Consul()
            consul = stack.enter_context(agent).start(tmp_path / "consul").url
        for block in found_in(page):
            if block.name:
                block = block._replace(text=block.text.replace(CONSUL, consul))
            run_block(block, page, f"{page.relative_to(ROOT)}:{block.line}", capsys)


@pytest.mark.xdist_group("pages with a broker")  # where they have queues of the same names
@pytest.mark.parametrize("page", [page for page in PAGES if needs_broker(page)], ids=lambda page: page.stem)
def test_the_examples_of_a_page_with_a_broker(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rabbitmq: RabbitMQ,
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in found_in(page):
        if block.name:
            block = block._replace(text=with_broker(block.text, rabbitmq))
        run_block(block, page, f"{page.relative_to(ROOT)}:{block.line}", capsys)
