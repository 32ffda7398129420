"""``evbus openapi``: the document is one that OpenAPI takes, of interfaces that are named or implemented."""

from __future__ import annotations

import json

import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.command.kit import Shell

INTERFACES = '''
from dataclasses import dataclass
from evbus.api import Service, get, post, rest, service

@dataclass
class Item:
    name: str

@service()
@rest("/shop")
class Shop(Service):
    @get("/items/{name}")
    async def item(self, name: str) -> Item:
        """Return an item."""

@service()
class Silent(Service):
    async def silent(self) -> None: ...
'''
COMPONENT = """
from evbus.api import Service, implementation, post, service

@service()
class Till(Service):
    @post("/till/{amount}")
    def pay(self, amount: int) -> None: ...

@implementation()
class TillImpl(Till):
    def pay(self, amount): ...
"""


def test_the_document_of_modules_and_folders(shell: Shell) -> None:
    shell.file("shop/__init__.py", "")
    shell.file("shop/interfaces.py", INTERFACES)
    shell.file("plugins/component/till.py", COMPONENT)
    options = ("--interfaces", "shop.interfaces", "--plugin-dirs", "plugins")
    done = shell.run("openapi", *options)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    OpenAPIV31SpecValidator(document).validate()
    assert list(document["paths"]) == ["/shop/items/{name}", "/till/{amount}"]
    assert document["info"] == {"title": "Services", "version": "1.0.0"}
    done = shell.run("openapi", *options, "--title", "Shop", "--api-version", "2", "-o", "shop.yaml")
    assert (done.returncode, done.stdout) == (0, "")
    written = yaml.safe_load((shell.folder / "shop.yaml").read_text())
    assert written == {**document, "info": {"title": "Shop", "version": "2"}}


def test_nothing_has_a_path(shell: Shell) -> None:
    shell.file("quiet.py", "x = 1\n")
    done = shell.run("openapi", "--interfaces", "quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "evbus: no method has a path (@get, @post, ...): name the modules of interfaces with --interfaces, "
        "or folders of implementations with --plugin-dirs\n"
    )


def test_a_broken_file_is_told(shell: Shell) -> None:
    shell.file("plugins/component/till.py", "x = 1\n")
    done = shell.run("openapi", "--plugin-dirs", "plugins")
    assert done.returncode == 2
    assert "it has no implementation: a class with @implementation()" in done.stderr
