"""Start, stop, join; options, plugins and profiles put together."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import BusStopped, ConfigError, EvbusError, PluginError, ProfileError, SettingsError
from evbus.types import Event
from tests.evbus.kit import KEEPER, WAIT, bodies, new_hub, plugin, running, states, write


def failing(hub: Any, contexts: Any) -> BaseException:
    """Start the bus; return why it could not be started, which everybody who joins gets to know."""

    async def main() -> BaseException:
        joins = [asyncio.ensure_future(hub.evbus.init.join()) for _ in range(2)]
        with pytest.raises(EvbusError) as caught:
            await hub.evbus.init.start(contexts)
        for join in joins:
            with pytest.raises(EvbusError) as joined:
                await asyncio.wait_for(join, WAIT)
            assert joined.value is caught.value
        with pytest.raises(EvbusError):
            await hub.evbus.init.join()
        return caught.value

    problem = asyncio.run(main())
    assert hub.evbus.STARTED is False
    return problem


def test_the_state_of_a_new_hub(hub: Any) -> None:
    assert hub.evbus.STARTED is False
    assert (hub.evbus.SERIAL_PLUGIN, hub.serialize.PLUGIN) == ("json", "json")
    assert (hub.match.PLUGIN, hub.evbus.BUS.qsize()) == ("glob", 0)


async def test_started_says_when_events_are_delivered(hub: Any) -> None:

    seen = [hub.evbus.STARTED]
    async with running(hub, {"internal": {"*": {}}}):
        seen.append(hub.evbus.STARTED)
    assert [*seen, hub.evbus.STARTED] == [False, True, False]


async def test_a_bus_may_be_started_again(hub: Any) -> None:

    for number in range(3):
        async with running(hub, {"internal": {"*": {}}}):
            await hub.evbus.broker.put(routing_key="k", body=number)
    with pytest.raises(BusStopped):
        await hub.evbus.broker.put(body=1)
    assert await bodies(hub, "k", 3) == [b"0", b"1", b"2"]


async def test_a_started_bus_is_not_started_twice(hub: Any) -> None:

    async with running(hub, {"internal": {"*": {}}}):
        with pytest.raises(EvbusError, match="the bus is already started; stop it first"):
            await hub.evbus.init.start({})
        await hub.evbus.broker.put(routing_key="k", body=1)
        assert await bodies(hub, "k", 1) == [b"1"]


@pytest.mark.parametrize("contexts", [None, [], "internal", 5])
def test_contexts_that_are_no_mapping_are_refused(hub: Any, contexts: Any) -> None:
    problem = failing(hub, contexts)
    assert (
        str(problem) == f"contexts: this is a mapping of providers to profiles, not {type(contexts).__name__}"
    )


@pytest.mark.parametrize(
    ("contexts", "sentence"),
    [
        (
            {"intrnal": {"a": {}}},
            "contexts: intrnal: no ingress plugin accepts the provider 'intrnal'; did you",
        ),
        (
            {"internal": {"a": {"limt": 1}}},
            "contexts: internal.a.limt: there is no such key; did you mean 'limit'?",
        ),
        (
            {"match_plugin": "globb"},
            "contexts: match_plugin: there is no matcher 'globb'; did you mean 'glob'?",
        ),
        ({"match_plugin": ["glob"]}, "contexts: match_plugin: there is no matcher ['glob']"),
        (
            {"match_plugin": "regex", "internal": {"a(b": {}}},
            "contexts: internal.a(b: the name is no valid pattern: missing ), unterminated subpattern",
        ),
        (
            {"internal": {"a": {"delivery": {"dead_letter": "b"}}}},
            "contexts: internal.a.delivery.dead_letter: no profile matches 'b'; known: a",
        ),
    ],
)
def test_a_bad_profile_is_refused_at_start_and_a_second_start_succeeds(
    hub: Any, contexts: Any, sentence: str
) -> None:
    hub.evbus.broker.put_nowait(routing_key="k", body="kept")
    problem = failing(hub, contexts)
    assert isinstance(problem, ProfileError)
    assert str(problem).startswith(sentence)

    async def main() -> list[bytes]:
        async with running(hub, {"internal": {"*": {}}}):
            return await bodies(hub, "k", 1)

    assert asyncio.run(main()) == [b'"kept"']


@pytest.mark.parametrize("joined", [True, False])
async def test_a_start_that_fails_is_told_once_whoever_joins_it(hub: Any, joined: bool) -> None:

    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
    starting = asyncio.ensure_future(hub.evbus.init.start({"nosuch": {"a": {}}}))
    if joined:
        with pytest.raises(ProfileError):
            await hub.evbus.init.join()
    await asyncio.wait({starting})
    del starting
    gc.collect()
    assert [type(one) for one in told] == ([] if joined else [ProfileError])


async def test_joining_a_second_start_does_not_tell_how_the_first_failed(hub: Any) -> None:

    with pytest.raises(ProfileError):
        await hub.evbus.init.start({"nothing": {"a": {}}})
    task = asyncio.ensure_future(hub.evbus.init.start({"internal": {"*": {}}}))
    try:
        await hub.evbus.init.join()
    finally:
        await asyncio.sleep(0)
        await hub.evbus.init.join()
        await hub.evbus.init.stop()
        await task


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"queue_limit": "x"}, "evbus.queue_limit: expected int, found str"),
        (
            {"pipeline": ["stmp"]},
            "evbus.pipeline[0]: there is no pipeline plugin 'stmp'; did you mean 'stamp'?",
        ),
        ({"serialize_plugin": "jsno"}, "there is no serialize plugin 'jsno'; did you mean 'json'?"),
        (
            {"error_callback_ref": "no.such.fn"},
            "evbus.error_callback_ref: the hub has no function 'no.such.fn'",
        ),
        ({"error_callback_ref": "ingress"}, "evbus.error_callback_ref: 'ingress' is no function on the hub"),
        (
            {"error_callback_ref": "ingress.internal"},
            "evbus.error_callback_ref: 'ingress.internal' is no function",
        ),
    ],
)
def test_a_bad_option_is_refused_at_start(options: dict[str, Any], sentence: str) -> None:
    problem = failing(new_hub(**options), {"internal": {"*": {}}})
    assert isinstance(problem, SettingsError)
    assert str(problem).startswith(sentence)


def test_a_matcher_that_the_hub_names_and_does_not_have_is_told(hub: Any) -> None:
    hub.match.PLUGIN = "globb"
    problem = failing(hub, {"internal": {"*": {}}})
    assert str(problem) == "hub.match.PLUGIN: there is no matcher 'globb'; did you mean 'glob'?"


@pytest.mark.parametrize(
    ("contexts", "hits"),
    [
        ({"internal": {"a.*": {}}}, ["a.b"]),
        ({"match_plugin": "regex", "internal": {"a.+": {}}}, ["ab", "a.b"]),
        ({"match_plugin": "exact", "internal": {"a.*": {}}}, ["a.*"]),
        ({"match_plugin": None, "internal": {"a.*": {}}}, ["a.b"]),
    ],
)
async def test_the_matcher_of_the_contexts_decides(hub: Any, contexts: Any, hits: list[str]) -> None:

    async with running(hub, contexts):
        for name in ("ab", "a.b", "a.*", "b"):
            await hub.evbus.broker.put(routing_key=name, body=1, profile=name)
    # A glob matches its own pattern, too.
    assert set(hits) <= set(hub.ingress.internal.QUEUE)
    assert "b" not in hub.ingress.internal.QUEUE
    assert hub.evbus.stats.snapshot()["bus"]["routed"] == len(hub.ingress.internal.QUEUE)


def test_check_returns_the_profiles_and_starts_nothing(hub: Any) -> None:
    found = hub.evbus.init.check({"internal": {"a": {"limit": 5}}}, "somewhere")
    assert [(one.plugin.name, one.name, one.settings.limit) for one in found] == [("internal", "a", 5)]
    assert hub.evbus.STARTED is False
    with pytest.raises(ProfileError, match="somewhere: x"):
        hub.evbus.init.check({"x": {"a": {}}}, "somewhere")


def test_plugins_lists_every_plugin_with_its_file(hub: Any) -> None:
    found = hub.evbus.init.plugins()
    names = {room: {one.name for one in plugins} for room, plugins in found.items()}
    assert names == {
        "channel": {"amqp", "dispatch_json", "dispatch_msgpack", "rest", "stomp"},
        "component": set(),
        "connection": {"amqp", "amqp1", "stomp"},
        "dispatch": {"commands", "events", "queries"},
        "egress": {"amqp", "amqp1", "internal", "stomp"},
        "event": set(),
        "handler": set(),
        "health": set(),
        "ingress": {"amqp", "amqp1", "console", "file", "internal", "stomp", "webhook"},
        "listener": set(),
        "match": {"exact", "glob", "regex", "topic"},
        "pipeline": {"compress", "dedupe", "session", "sign", "stamp", "trace"},
        "registry": {"consul", "local", "static"},
        "service": set(),
        "serialize": {"json", "msgpack"},
    }
    for plugins in found.values():
        for one in plugins:
            assert (one.state, one.reason) == ("loaded", "")
            assert Path(one.file).is_file()
            assert one.ref == f"{one.subsystem}.{one.name}"


def test_accepts_names_the_providers_before_anything_else_ran(hub: Any) -> None:
    assert {one.name: one.providers for one in hub.evbus.init.accepts()} == {
        **{name: (name,) for name in ("amqp1", "console", "file", "internal", "stomp", "webhook")},
        "amqp": ("amqp", "rabbitmq", "pika"),
    }


def test_a_plugin_without_acct_accepts_its_own_name(tmp_path: Path) -> None:
    text = "async def publish(hub, ctx, body):\n    pass\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__slack=text)])
    assert {one.name: one.providers for one in hub.evbus.init.accepts()}["slack"] == ("slack",)


def test_options_are_read_again_when_the_application_replaces_them(tmp_path: Path) -> None:
    hub = new_hub(queue_limit=1)
    hub.evbus.broker.put_nowait(body=1)
    assert hub.evbus.init.settings().queue_limit == 1
    root = write(tmp_path / "plugins", ingress__late=KEEPER.format(name="late"))
    hub.OPT = hub.pop.data.imap({"evbus": {"queue_limit": 2, "plugin_dirs": [root]}})
    assert hub.evbus.init.settings().queue_limit == 2
    assert states(hub)["late"] == "loaded"
    hub.evbus.broker.put_nowait(body=2)
    assert hub.evbus.BUS.qsize() == 2


def test_plugins_are_loaded_once_whatever_is_asked(tmp_path: Path) -> None:
    text = "def __init__(hub):\n    hub.ingress.RUNS = vars(hub.ingress).get('RUNS', 0) + 1\n\n\n"
    publish = "async def publish(hub, ctx, body):\n    pass\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__once=text + publish)])
    for _ in range(3):
        hub.evbus.init.plugins()
        hub.evbus.init.settings()
        hub.evbus.broker.put_nowait(body=1)
        hub.evbus.init.check({"once": {"*": {}}})
    assert hub.ingress.RUNS == 1


def test_many_threads_may_put_the_first_event(tmp_path: Path) -> None:
    """The first event loads the plugins, which must happen once, with everybody else waiting."""
    text = "def __init__(hub):\n    hub.ingress.RUNS = vars(hub.ingress).get('RUNS', 0) + 1\n\n\n"
    publish = "async def publish(hub, ctx, body):\n    pass\n"
    for _ in range(5):
        hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__once=text + publish)])
        barrier = threading.Barrier(8)
        problems: list[BaseException] = []

        def put(hub: Any = hub, barrier: Any = barrier, problems: Any = problems) -> None:
            barrier.wait(WAIT)
            try:
                hub.evbus.init.settings()
                hub.evbus.broker.put_nowait(body={"a": 1})
            except BaseException as exc:
                problems.append(exc)

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert problems == []
        assert (hub.evbus.BUS.qsize(), hub.ingress.RUNS) == (8, 1)


def test_the_pipeline_runs_in_order_before_the_event_is_queued(tmp_path: Path) -> None:
    step = "__order__ = {order}\n\n\ndef send(hub, envelope):\n    envelope.body += b'{name}'\n"
    root = write(
        tmp_path / "plugins",
        pipeline__a=step.format(order=2, name="a"),
        pipeline__b=step.format(order=-1, name="b"),
        pipeline__c="__optional__ = True\n" + step.format(order=0, name="c"),
        pipeline__d="async def handle(hub, envelope, call_next):\n    return await call_next(envelope)\n",
    )
    for option, body in ((None, b"1ba"), (["c", "a"], b"1ca"), ([], b"1"), (["d"], b"1")):
        hub = new_hub(plugin_dirs=[root], pipeline=option)
        hub.evbus.broker.put_nowait(body=1)
        assert asyncio.run(hub.evbus.broker.get()).body == body


def test_a_pipeline_plugin_that_takes_part_is_given_the_options(tmp_path: Path) -> None:
    step = """
        __optional__ = True


        def configure(hub, settings):
            vars(hub.pipeline).setdefault("GIVEN", []).append(settings.event_source)


        def send(hub, envelope):
            assert hub.pipeline.GIVEN == ["shop"]
    """
    root = write(tmp_path / "plugins", pipeline__a=step, pipeline__b=step)
    hub = new_hub(plugin_dirs=[root], pipeline=["b"], event_source="shop")
    hub.evbus.broker.put_nowait(body=1)
    assert hub.pipeline.GIVEN == ["shop"]


async def test_the_handlers_of_the_pipeline_run_in_the_reverse_order(tmp_path: Path) -> None:
    step = """
        async def handle(hub, envelope, call_next):
            return await call_next(envelope.replace(routing_key=envelope.routing_key + "{name}"))
    """
    root = write(tmp_path / "plugins", pipeline__a=step.format(name="a"), pipeline__b=step.format(name="b"))
    hub = new_hub(plugin_dirs=[root], pipeline=["a", "b"])

    async def handler(envelope: Event) -> str:
        return envelope.routing_key

    _, around = hub.evbus.init.interceptors()
    assert str(await around(Event("p"), handler)) == "ba"


def test_pipeline_plugins_that_the_option_leaves_out_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = write(tmp_path / "plugins", pipeline__audit="def send(hub, envelope):\n    pass\n")
    new_hub(plugin_dirs=[root], pipeline=["stamp"]).evbus.init.settings()
    assert "pipeline plugins that the option pipeline leaves out: audit" in caplog.text


def test_errors_of_configuration_are_one_class(tmp_path: Path) -> None:
    for kind in (ProfileError, SettingsError, PluginError):
        assert issubclass(kind, ConfigError)
    root = write(tmp_path / "plugins", ingress__bad="def (\n")
    assert isinstance(plugin(new_hub(plugin_dirs=[root]), "bad").error(), PluginError)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_error_callback_gets_what_died(tmp_path: Path, kind: str) -> None:
    prefix = "async " if kind == "async" else ""
    root = write(
        tmp_path / "plugins",
        ingress__bad=(
            "from evbus.errors import Rejected\n\n\nasync def publish(hub, ctx, body):\n"
            "    raise Rejected('no')\n\n\n"
            f"{prefix}def told(hub, data):\n    vars(hub.ingress).setdefault('TOLD', []).append(data)\n"
        ),
    )
    hub = new_hub(
        plugin_dirs=[root], error_callback_ref="ingress.bad.told", dead_store=tmp_path / "dead.jsonl"
    )
    contexts = {"bad": {"*": {}}}

    async with running(hub, contexts):
        await hub.evbus.broker.put(body=1, profile="p")
    (told,) = hub.ingress.TOLD
    assert set(told) == {"exception", "plugin", "profile", "body", "context"}
    assert str(told["exception"]) == "no"
    assert (told["plugin"], told["profile"], told["body"]) == ("bad", "p", b"1")
    assert told["context"] is contexts
