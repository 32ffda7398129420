"""Plugin files, good and bad: what is broken is told with file, line and reason, and harms nothing else."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pop.hub
import pytest

from evbus.engine.core.plugins import installed
from evbus.errors import ConfigError, EvbusError, ProfileError
from tests.evbus.kit import KEEPER, WAIT, new_hub, package, plugin, running, states, write
from tests.evbus.rig import failure

OURS = {"amqp", "amqp1", "console", "file", "internal", "stomp", "webhook"}

BROKEN = {
    "syntax": ("x = 1\ndef publish(:\n", "not valid Python: invalid syntax", 2),
    "missing": (
        "import os\n\nimport there_is_no_such_module\n",
        "ModuleNotFoundError: No module named 'there_is_no_such_module'",
        3,
    ),
    "relative": (
        "from . import _helper\n",
        "it imports relatively (from . import ...); plugin files import absolutely",
        1,
    ),
    "raising": ("\nraise ValueError('no')\n", "ValueError: no", 2),
    "leaving": (
        "import sys\nsys.exit('bye')\n",
        "it ends the program when it is imported: SystemExit: bye",
        2,
    ),
    "init_raises": (
        (
            "def __init__(hub):\n    hub.ingress.init_raises.ACCT = ['x']\n    raise KeyError('k')\n\n\n"
            "async def publish(hub, ctx, body):\n    pass\n"
        ),
        "__init__ failed: KeyError: 'k'",
        3,
    ),
    "init_leaves": (
        "def __init__(hub):\n    raise SystemExit\n\n\nasync def publish(hub, ctx, body):\n    pass\n",
        "__init__ failed: SystemExit",
        2,
    ),
    "no_publish": (
        "async def publsh(hub, ctx, body):\n    pass\n",
        "it has no function publish(hub, ctx, routing_key, body)",
        0,
    ),
    "sync": (
        "\ndef publish(hub, ctx, body):\n    pass\n",
        "publish must be 'async def'; the forms are publish(hub, ctx, routing_key, body)",
        2,
    ),
    "wrong": (
        "\n\nasync def publish(hub, ctx, topic, body):\n    pass\n",
        "publish takes the parameter 'topic', which the bus does not know; the forms are publish(",
        3,
    ),
    "no_ctx": (
        "async def publish(hub, routing_key, body):\n    pass\n",
        "publish takes (hub, routing_key, body), but must begin with hub, ctx: publish(",
        1,
    ),
    "no_body": (
        "async def publish(hub, ctx, routing_key):\n    pass\n",
        "publish takes no parameter 'body'; the forms are publish(",
        1,
    ),
    "sync_batch": (
        "async def publish(hub, ctx, body):\n    pass\n\n\ndef publish_batch(hub, ctx, events):\n    pass\n",
        "publish_batch must be 'async def publish_batch(hub, ctx, events)'",
        5,
    ),
    "async_now": (
        (
            "async def publish(hub, ctx, body):\n    pass\n\n\n"
            "async def publish_nowait(hub, ctx, events):\n    pass\n"
        ),
        "publish_nowait may not wait and must be plain 'def', not 'async def'",
        5,
    ),
    "async_ready": (
        "async def publish(hub, ctx, body):\n    pass\n\n\nasync def ready(hub, ctx):\n    pass\n",
        "ready returns what to await and must be plain 'def', not 'async def'",
        5,
    ),
    "wrong_open": (
        (
            "__func_alias__ = {'open_': 'open'}\n\n\nasync def publish(hub, ctx, body):\n    pass\n\n\n"
            "async def open_(hub):\n    pass\n"
        ),
        "open takes (hub), but is called with (hub, ctx)",
        8,
    ),
    "virtual_raises": (
        "def __virtual__(hub):\n    return 1 / 0\n\n\nasync def publish(hub, ctx, body):\n    pass\n",
        "__virtual__ failed: ZeroDivisionError: division by zero",
        2,
    ),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on ``sys.path``, for packages that merge their plugins in."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_told_with_file_line_and_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    text, reason, line = BROKEN[name]
    root = write(
        tmp_path / "plugins", **{f"ingress__{name}": text, "ingress__good": KEEPER.format(name="good")}
    )
    modules = set(sys.modules)
    for _ in range(2):  # a second hub in the process sees the same
        caplog.clear()
        hub = new_hub(plugin_dirs=[root])
        found = plugin(hub, name)
        assert found.state == "broken"
        assert found.reason.startswith(reason)
        assert (found.file, found.line) == (str(root / "ingress" / f"{name}.py"), line)
        assert states(hub) == {**dict.fromkeys(OURS, "loaded"), name: "broken", "good": "loaded"}
        place = f"{found.file}:{line}" if line else found.file
        messages = [record.getMessage() for record in caplog.records]
        assert messages == [f"plugin not loaded: ingress.{name} ({place}): {found.reason}"]
        assert caplog.records[0].exc_info is None
    left = [module for module in set(sys.modules) - modules if module.endswith(f"ingress.{name}")]
    assert left == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_of_another_package_is_told_as_well(site: Path, name: str) -> None:
    text, reason, line = BROKEN[name]
    files = {f"hooks__{name}": text, "hooks__good": KEEPER.format(name="good")}
    root = package(site, "other", {"ingress": ["hooks"]}, **files)
    for _ in range(2):
        hub = new_hub()
        found = plugin(hub, name)
        assert (found.file, found.line) == (str(root / "hooks" / f"{name}.py"), line)
        assert found.reason.startswith(reason)
        assert states(hub)["good"] == "loaded"


def test_nothing_of_a_broken_plugin_is_on_the_hub(tmp_path: Path) -> None:
    files = {f"ingress__{name}": text for name, (text, _, _) in BROKEN.items()}
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", **files)])
    hub.evbus.init.plugins()
    assert {module.__name__ for module in hub.ingress} == OURS | {"init"}
    for name in BROKEN:
        # Either there is no such attribute, or POP's placeholder, which says why when it is called.
        with pytest.raises(Exception, match=r"no attribute|Failed to load|threw exception"):
            getattr(hub.ingress, name).publish()


async def test_a_healthy_plugin_beside_broken_ones_delivers(tmp_path: Path) -> None:
    files = {f"ingress__{name}": text for name, (text, _, _) in BROKEN.items()}
    root = write(tmp_path / "plugins", **files, ingress__good=KEEPER.format(name="good"))
    hub = new_hub(plugin_dirs=[root])

    async with running(hub, {"good": {"default": {}}}):
        await hub.evbus.broker.put(body={"a": 1})
    assert hub.ingress.GOT == {"good": [b'{"a":1}']}


def test_a_profile_of_a_broken_plugin_is_refused_with_what_is_wrong_with_the_plugin(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__slack="def publish(:\n")
    hub = new_hub(plugin_dirs=[root])
    assert failure(ProfileError, hub.evbus.init.check, {"slack": {"default": {}}}).startswith(
        "contexts: slack: no ingress plugin accepts the provider 'slack'; "
        f"ingress.slack ({root / 'ingress' / 'slack.py'}:1): not valid Python: invalid syntax"
    )


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("(False, 'needs redis')", "needs redis"),
        ("False", "__virtual__ returned False"),
        ("None", "__virtual__ returned None"),
        ("'not today'", "not today"),
    ],
)
def test_a_plugin_may_switch_itself_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, returned: str, reason: str
) -> None:
    text = f"def __virtual__(hub):\n    return {returned}\n\n\nasync def publish(hub, ctx, body):\n    pass\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__off=text)])
    found = plugin(hub, "off")
    assert (found.state, found.reason) == ("disabled", reason)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    with pytest.raises(
        ProfileError, match=f"accepts the provider 'off'; ingress.off \\(.*off.py\\): .*{reason[-5:]}"
    ):
        hub.evbus.init.check({"off": {"default": {}}})


def test_a_virtualname_is_the_plugins_name_and_its_provider(tmp_path: Path) -> None:
    text = "__virtualname__ = 'chat'\n\n\nasync def publish(hub, ctx, body):\n    pass\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__slack=text)])
    assert states(hub)["chat"] == "loaded"
    assert "slack" not in states(hub)
    assert hub.evbus.init.check({"chat": {"default": {}}})[0].plugin.name == "chat"


def test_a_virtualname_may_be_made_up_at_import(tmp_path: Path) -> None:
    text = "__virtualname__ = 'ch' + 'at'\n\n\nasync def publish(hub, ctx, body):\n    pass\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__slack=text)])
    assert states(hub)["chat"] == "loaded"


def test_of_two_plugins_with_one_name_the_first_is_loaded(tmp_path: Path) -> None:
    first = write(tmp_path / "first", ingress__slack=KEEPER.format(name="slack"))
    second = write(tmp_path / "second", ingress__slack="raise AssertionError('not even looked at')\n")
    third = write(tmp_path / "third", ingress__slack=KEEPER.format(name="slack"))
    hub = new_hub(plugin_dirs=[first, second, third])
    found = {one.file: one for one in hub.evbus.init.plugins()["ingress"] if one.name == "slack"}
    assert [found[str(root / "ingress/slack.py")].state for root in (first, second, third)] == [
        "loaded",
        "broken",
        "broken",
    ]
    assert found[str(third / "ingress/slack.py")].reason == (
        f"the name 'slack' is taken by {first / 'ingress/slack.py'}; rename the file or its __virtualname__"
    )
    assert hub.ingress.slack.publish.func.__code__.co_filename == str(first / "ingress/slack.py")


def test_files_that_pop_cannot_tell_apart_are_told_as_that(tmp_path: Path) -> None:
    first, second = tmp_path / "shop.eu", tmp_path / "shop/eu"
    write(first, ingress__same=KEEPER.format(name="same"))
    write(second, ingress__same='__virtualname__ = "other"\n' + KEEPER.format(name="other"))
    hub = new_hub(plugin_dirs=[first, second])
    found = plugin(hub, "same")
    assert found.file == str(second / "ingress/same.py")
    assert found.reason.startswith(
        f"POP takes it for {first / 'ingress/same.py'}, whose path differs in dots only"
    )
    assert states(hub) == {**dict.fromkeys(OURS, "loaded"), "same": "broken"}
    assert hub.ingress.same.publish


def test_of_two_plugins_with_one_virtualname_the_first_by_file_name_is_loaded(tmp_path: Path) -> None:
    text = "__virtualname__ = 'chat'\n\n\nasync def publish(hub, ctx, body):\n    pass\n"
    root = write(tmp_path / "plugins", ingress__b=text, ingress__a=text, ingress__c=text)
    for _ in range(2):
        found = [
            one for one in new_hub(plugin_dirs=[root]).evbus.init.plugins()["ingress"] if one.name == "chat"
        ]
        assert [(Path(one.file).name, one.state) for one in found] == [
            ("a.py", "loaded"),
            ("b.py", "broken"),
            ("c.py", "broken"),
        ]
        assert str(root / "ingress/a.py") in found[1].reason


def test_a_second_plugin_may_have_the_name_of_one_that_is_switched_off(tmp_path: Path) -> None:
    off = "__virtualname__ = 'chat'\n\n\ndef __virtual__(hub):\n    return False, 'no'\n\n\n"
    files = {"ingress__a": off, "ingress__b": "__virtualname__ = 'chat'\n" + KEEPER.format(name="chat")}
    publish = "async def publish(hub, ctx, body):\n    pass\n"
    root = write(
        tmp_path / "plugins", ingress__a=files["ingress__a"] + publish, ingress__b=files["ingress__b"]
    )
    found = [
        one.state for one in new_hub(plugin_dirs=[root]).evbus.init.plugins()["ingress"] if one.name == "chat"
    ]
    assert found == ["disabled", "loaded"]


@pytest.mark.parametrize(
    ("room", "name", "text"),
    [
        ("ingress", "internal", "async def publish(hub, ctx, body):\n    raise AssertionError\n"),
        (
            "serialize",
            "json",
            "def apply(hub, data):\n    raise AssertionError\n\n\ndef load(hub, data):\n    pass\n",
        ),
        ("match", "glob", "def find(hub, name, pattern):\n    raise AssertionError\n"),
        ("pipeline", "stamp", "def send(hub, envelope):\n    raise AssertionError\n"),
        ("evbus", "broker", "async def put(hub, **kwargs):\n    raise AssertionError\n"),
        ("evbus", "stats", "def snapshot(hub):\n    raise AssertionError\n"),
    ],
)
def test_ours_cannot_be_overridden_from_a_folder(tmp_path: Path, room: str, name: str, text: str) -> None:
    root = write(tmp_path / "plugins", **{f"{room}__{name}": text})
    hub = new_hub(plugin_dirs=[root], pipeline=["stamp"])
    found = plugin(hub, name, room)
    assert found.state == "broken"
    assert f"the name {name!r} is taken by " in found.reason
    assert str(Path("evbus", room, f"{name}.py")) in found.reason

    async def main() -> bytes:
        async with running(hub, {"internal": {"*": {}}}):
            await hub.evbus.broker.put(routing_key="k", body=1)
            return await asyncio.wait_for((await hub.ingress.internal.get("k")).get(), WAIT)

    assert asyncio.run(main()) == b"1"
    assert hub.evbus.stats.snapshot()["bus"]["accepted"] == 1


def test_ours_cannot_be_overridden_by_a_package_even_before_the_bus_is_configured(site: Path) -> None:
    package(
        site, "other", {"ingress": ["hooks"]}, hooks__internal="async def get(hub, k):\n    return 'theirs'\n"
    )
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")
    assert asyncio.run(hub.ingress.internal.get("k")) != "theirs"


RUNS = "def pre_{name}(hub, ctx):\n    vars(hub).setdefault('RUNS', []).append(ctx.ref)\n"


@pytest.mark.parametrize("second", ["another folder", "another name"])
async def test_a_package_that_stands_twice_on_the_path_is_no_duplicate(
    second: str, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(
        site,
        "other",
        {"ingress": ["hooks"], "evbus": ["bus"]},
        hooks__slack=KEEPER.format(name="slack"),
        hooks__contracts__slack=RUNS.format(name="publish"),
        bus__contracts__broker=RUNS.format(name="put_nowait"),
    )
    if second == "another name":
        (site / "copy").symlink_to("other")
    else:
        (tmp_path / "link").symlink_to(site)
        monkeypatch.syspath_prepend(tmp_path / "link")
    hub = new_hub()
    assert states(hub) == {**dict.fromkeys(OURS, "loaded"), "slack": "loaded"}
    async with running(hub, {"slack": {"*": {}}}):
        hub.evbus.broker.put_nowait(body=1)
    assert hub.RUNS == ["evbus.broker", "ingress.slack"]


# init.py of others


def test_the_init_of_another_package_joins_ours(site: Path) -> None:
    text = "def __init__(hub):\n    hub.ingress.THEIRS = 1\n\n\ndef helper(hub):\n    return 'help'\n"
    package(site, "other", {"ingress": ["hooks"]}, hooks__init=text)
    hub = new_hub()
    assert (hub.ingress.THEIRS, hub.ingress.init.helper()) == (1, "help")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def __init__(hub):\n    raise ValueError('no')\n", "__init__ failed: ValueError: no"),
        ("import there_is_no_such_module\n", "ModuleNotFoundError: "),
        ("def (\n", "not valid Python: "),
        ("def find(hub, name, pattern):\n    return True\n", "its function find() would replace that of "),
    ],
)
def test_a_bad_init_of_another_package_is_told_and_ours_stays(site: Path, text: str, reason: str) -> None:
    root = package(site, "other", {"match": ["hooks"]}, hooks__init=text)
    for _ in range(2):
        hub = new_hub()
        found = plugin(hub, "init", "match")
        assert (found.state, found.file) == ("broken", str(root / "hooks/init.py"))
        assert found.reason.startswith(reason)
        assert hub.match.init.find("a", "b") is False
        assert hub.match.init.find("ab", "a*") is True


def test_a_bad_init_in_a_folder_is_told_and_ours_stays(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__init="def __init__(hub):\n    1 / 0\n")
    hub = new_hub(plugin_dirs=[root])
    found = plugin(hub, "init")
    assert (found.reason, found.line) == ("__init__ failed: ZeroDivisionError: division by zero", 2)
    assert states(hub)["internal"] == "loaded"


# Contracts of others

VETO = """
def pre_put(hub, ctx):
    vars(hub.evbus).setdefault("SEEN", []).append(ctx.kwargs)
    ctx.kwargs["body"] = "changed"


def post_put_nowait(hub, ctx):
    return "posted"
"""


def test_a_contract_in_a_plugin_folder_takes_effect_on_put(tmp_path: Path) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", evbus__contracts__broker=VETO)])
    hub.evbus.init.settings()

    async def main() -> bytes:
        async with running(hub, {"internal": {"*": {}}}):
            await hub.evbus.broker.put(routing_key="k", body="mine")
            assert hub.evbus.broker.put_nowait(routing_key="k", body="other") == "posted"
            return await asyncio.wait_for((await hub.ingress.internal.get("k")).get(), WAIT)

    assert asyncio.run(main()) == b'"changed"'
    assert [seen["routing_key"] for seen in hub.evbus.SEEN] == ["k"]


async def test_a_contract_of_another_package_takes_effect_on_put(site: Path) -> None:
    package(site, "other", {"evbus": ["bus"]}, bus__contracts__broker=VETO)
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")

    async with running(hub, {"internal": {"*": {}}}):
        await hub.evbus.broker.put(routing_key="k", body="mine")
        assert (await asyncio.wait_for((await hub.ingress.internal.get("k")).get(), WAIT)) == b'"changed"'


async def test_a_contract_for_our_plugins_takes_effect_in_the_lanes(tmp_path: Path) -> None:
    contract = "async def pre_publish_batch(hub, ctx):\n    vars(hub.ingress)['RAN'] = ctx.ref\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__contracts__internal=contract)])

    async with running(hub, {"internal": {"*": {}}}):
        await hub.evbus.broker.put(body=1)
    assert hub.ingress.RAN == "ingress.internal"


@pytest.mark.parametrize("room", ["ingress", "evbus", "match", "serialize", "pipeline"])
@pytest.mark.parametrize("name", ["init", "internal", "broker"])
def test_a_broken_contract_file_is_told_and_harms_no_plugin(tmp_path: Path, room: str, name: str) -> None:
    root = write(tmp_path / "plugins", **{f"{room}__contracts__{name}": "x = 1\ndef (\n"})
    for _ in range(2):
        hub = new_hub(plugin_dirs=[root])
        found = plugin(hub, f"contracts.{name}", room)
        assert (found.state, found.line) == ("broken", 2)
        assert found.reason.startswith("not valid Python: ")
        assert {one for one, state in states(hub).items() if state == "loaded"} >= OURS
        hub.evbus.broker.put_nowait(body=1)
        assert hub.evbus.BUS.qsize() == 1


# Pipeline plugins


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        (
            "async def send(hub, envelope):\n    pass\n",
            "send runs wherever an event is put and must be plain",
            1,
        ),
        ("\ndef send(hub):\n    pass\n", "send takes (hub), but is called with (hub, envelope)", 2),
        (
            "def handle(hub, envelope, call_next):\n    pass\n",
            "handle must be 'async def handle(hub, envelope",
            1,
        ),
        (
            "async def handle(hub, envelope):\n    pass\n",
            "handle takes (hub, envelope), but is called with",
            1,
        ),
        ("x = 1\n", "it has neither send(hub, envelope) nor handle(hub, envelope, call_next)", 0),
        (
            "__order__ = 'last'\n\n\ndef send(hub, envelope):\n    pass\n",
            "__order__ is a number, not 'last'",
            0,
        ),
    ],
)
def test_a_bad_pipeline_plugin_is_told_when_it_is_loaded(
    tmp_path: Path, text: str, reason: str, line: int
) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", pipeline__bad=text)])
    found = plugin(hub, "bad", "pipeline")
    assert (found.state, found.line) == ("broken", line)
    assert found.reason.startswith(reason)
    hub.evbus.broker.put_nowait(body=1)
    assert hub.evbus.BUS.qsize() == 1


async def test_a_serializer_and_a_matcher_dropped_into_a_folder_are_used(tmp_path: Path) -> None:
    root = write(
        tmp_path / "plugins",
        serialize__shout=(
            "def apply(hub, data):\n    return str(data).upper()\n\n\ndef load(hub, data):\n    pass\n"
        ),
        match__first="def find(hub, name, pattern):\n    return name[:1] == pattern[:1]\n",
        pipeline__mark="def send(hub, envelope):\n    envelope.headers['seen'] = 'yes'\n",
        ingress__heads=(
            "async def publish(hub, ctx, body, headers):\n"
            "    vars(hub.ingress).setdefault('GOT', []).append((body, headers))\n"
        ),
    )
    hub = new_hub(plugin_dirs=[root], serialize_plugin="shout")

    async with running(hub, {"heads": {"anna": {}}, "match_plugin": "first"}):
        await hub.evbus.broker.put(body="hello", profile="a")
    assert hub.ingress.GOT == [(b"HELLO", {"seen": "yes", "content-type": "application/octet-stream"})]


def test_an_event_put_while_plugins_are_loaded_breaks_that_plugin_alone(tmp_path: Path) -> None:
    text = (
        "def __init__(hub):\n    hub.evbus.broker.put_nowait(body=1)\n\n\n" + KEEPER.format(name="x").lstrip()
    )
    text = text.replace('def __init__(hub):\n    hub.ingress.x.ACCT = ["x"]\n', "")
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__eager=text)])
    found = plugin(hub, "eager")
    assert found.reason == (
        "__init__ failed: EvbusError: the plugins are being loaded; no event can be put before that is done"
    )
    hub.evbus.broker.put_nowait(body=2)
    assert hub.evbus.BUS.qsize() == 1


def test_a_wrong_folder_is_told_again_when_it_is_asked_for_again(tmp_path: Path) -> None:
    hub = new_hub(plugin_dirs=[tmp_path / "nowhere"])
    for _ in range(2):
        with pytest.raises(ConfigError, match="is not a folder"):
            hub.evbus.init.plugins()
    with pytest.raises(EvbusError, match="is not a folder"):
        hub.evbus.broker.put_nowait(body=1)


async def test_two_hubs_share_no_state(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__good=KEEPER.format(name="good"))
    one, two = (
        new_hub(plugin_dirs=[root]),
        new_hub(plugin_dirs=[root], serialize_plugin="msgpack", queue_limit=1),
    )
    assert states(one) == states(two)

    contexts = {"good": {"*": {}}, "internal": {"*": {}}}
    async with running(one, contexts), running(two, contexts):
        await one.evbus.broker.put(body="one")
        await two.evbus.broker.put(body="two")
    first, second = one.evbus.stats.snapshot(), two.evbus.stats.snapshot()
    assert first["bus"]["accepted"] == second["bus"]["accepted"] == 1
    assert one.ingress.GOT == {"good": [b'"one"']}
    assert two.ingress.GOT == {"good": [b"\xa3two"]}
    assert one.ingress.internal.QUEUE is not two.ingress.internal.QUEUE
    assert (one.serialize.PLUGIN, two.serialize.PLUGIN) == ("json", "msgpack")
    one.match.PLUGIN = "exact"
    assert two.match.PLUGIN == "glob"


# Plugins that consume


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("def produce(hub):\n    pass\n", "it has no function consume(hub, ctx, subscription)", 0),
        (
            "\nasync def consume(hub, ctx, subscription):\n    return []\n",
            "consume must be 'async def consume(hub, ctx, subscription)' with a yield in it",
            2,
        ),
        (
            "def consume(hub, ctx, subscription):\n    yield 1\n",
            "consume must be 'async def consume(hub, ctx, subscription)' with a yield in it",
            1,
        ),
        (
            "async def consume(hub, ctx):\n    yield 1\n",
            "consume takes (hub, ctx), but is called with (hub, ctx, subscription)",
            1,
        ),
    ],
)
def test_a_bad_egress_plugin_is_told_when_it_is_loaded(
    tmp_path: Path, text: str, reason: str, line: int
) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", egress__bad=text)])
    found = plugin(hub, "bad", "egress")
    assert (found.state, found.reason, found.line) == ("broken", reason, line)
    assert "bad" not in {accept.name for accept in hub.evbus.init.sources()}


def test_an_egress_plugin_dropped_into_a_folder_is_found(tmp_path: Path) -> None:
    text = "async def consume(hub, ctx, subscription):\n    yield 1\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", egress__lines=text)])
    assert states(hub, "egress") == dict.fromkeys(("amqp", "amqp1", "internal", "lines", "stomp"), "loaded")
    accepts = {accept.name: accept.providers for accept in hub.evbus.init.sources()}
    assert accepts["lines"] == ("lines",)
    assert hub.evbus.init.check({"lines": {"a": {"any": "thing"}}}) == []


# What is no plugin, and what plugins say that they accept


def test_an_editors_lock_file_and_other_hidden_files_are_no_plugins(tmp_path: Path) -> None:
    write(tmp_path, ingress__ok="async def publish(hub, ctx, body):\n    pass\n")
    folder = tmp_path / "ingress"
    (folder / ".#ok.py").symlink_to("somebody@somewhere.1234:1")
    (folder / ".hidden.py").write_text("raise ValueError\n")
    hub = new_hub(plugin_dirs=[str(tmp_path)])
    names = {found.name: found.state for found in hub.evbus.init.plugins()["ingress"]}
    assert names["ok"] == "loaded"
    assert "broken" not in names.values()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    write(tmp_path, ingress__ok="async def publish(hub, ctx, body):\n    pass\n")
    path = tmp_path / "ingress" / "x.py"
    path.symlink_to("nowhere") if kind == "link" else os.mkfifo(path)
    hub = new_hub(plugin_dirs=[str(tmp_path)])
    found = {one.name: one for one in hub.evbus.init.plugins()["ingress"]}
    assert found["ok"].state == "loaded"
    assert (found["x"].state, found["x"].reason) == (
        "broken",
        "it is no file, but a link that leads nowhere, or a folder, pipe, socket or device",
    )


@pytest.mark.parametrize("room", ["ingress", "egress"])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ACCT = 5", "ACCT is a list of the names of providers, and not 5"),
        ("ACCT = 'kafka'", "ACCT is a list of the names of providers, and not 'kafka'"),
        ("PROFILE = 5", "PROFILE is a class deriving msgspec.Struct, and not 5"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("def __init__(hub):\n    raise GeneratorExit", "__init__ failed: GeneratorExit"),
    ],
)
def test_a_bad_plugin_is_told_and_the_others_are_loaded(
    tmp_path: Path, room: str, line: str, reason: str
) -> None:
    shape = {
        "ingress": "async def publish(hub, ctx, body):\n    pass\n",
        "egress": "async def consume(hub, ctx, subscription):\n    yield\n",
    }[room]
    write(tmp_path, **{f"{room}__bad": f"{line}\n\n\n{shape}", f"{room}__good": shape})
    hub = new_hub(plugin_dirs=[str(tmp_path)])
    found = {one.name: one for one in hub.evbus.init.plugins()[room]}
    assert (found["good"].state, found["bad"].state, found["bad"].reason) == ("loaded", "broken", reason)
    hub.evbus.init.check({"internal": {"default": {}}})


def test_the_signatures_of_a_plugin_are_read_once_however_many_hubs_there_are(hub: Any) -> None:
    again = installed.new_hub()
    assert again.ingress.file.publish.signature is hub.ingress.file.publish.signature


def test_the_types_of_a_plugin_that_are_texts_can_be_asked_for(tmp_path: Path) -> None:
    text = "from __future__ import annotations\n\n\ndef double(hub, number: int):\n    return 2 * number\n"
    write(tmp_path, ingress__typed=f"{text}\n\nasync def publish(hub, ctx, body):\n    pass\n")
    hub = new_hub(plugin_dirs=[str(tmp_path)])
    hub.evbus.init.plugins()
    found = inspect.signature(hub.ingress.typed.double.func, eval_str=True)
    assert found.parameters["number"].annotation is int
