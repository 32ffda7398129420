"""Exchanges, queues and bindings, checked and declared on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from evbus.engine.wire.amqp.topology import declared
from evbus.errors import Unavailable
from tests.connection.amqp_kit import WAIT, connected, no_tasks_left, profile, url


def declare(node: Any, *, login: str = "guest:guest", vhost: str = "", times: int = 1, **data: Any) -> None:
    """Check and declare what a profile says; the connection and other channels outlive what goes wrong."""

    async def main() -> None:
        where = url(node, login=login, vhost=vhost)
        settings = profile(url=where, **data)
        async with connected(url=where) as made:
            session = made.up()
            beside = await session.channel()
            try:
                for _ in range(times):
                    await asyncio.wait_for(declared(session, settings), WAIT)
            finally:
                assert not beside.is_closed
                assert not session.lost.done()
                await session.rpc(beside.set_qos(prefetch_count=1))
        await no_tasks_left()

    asyncio.run(main())


def complaint(node: Any, **data: Any) -> str:
    with pytest.raises(Unavailable) as caught:
        declare(node, **data)
    said = str(caught.value)
    assert "\n" not in said
    return said


def found(node: Any, kind: str, name: str) -> Any:
    return node.api("GET", f"{kind}/%2F/{quote(name, safe='')}", missing_ok=True)


def bindings(node: Any, queue: str) -> set[tuple[str, str]]:
    """Return (exchange, key) of each binding but that to the default exchange."""
    listed = node.api("GET", f"queues/%2F/{quote(queue, safe='')}/bindings")
    return {(one["source"], one["routing_key"]) for one in listed if one["source"]}


@pytest.fixture
def names(rabbitmq: Any, unique: str) -> Iterator[str]:
    """Return a unique name; what is called so, or begins so, is deleted afterwards."""
    yield unique
    for kind in ("queues", "exchanges"):
        for one in rabbitmq.api("GET", f"{kind}/%2F?columns=name"):
            if one["name"].startswith(unique):
                rabbitmq.api("DELETE", f"{kind}/%2F/{quote(one['name'], safe='')}", missing_ok=True)


def test_without_anything_to_declare_nothing_happens(rabbitmq: Any) -> None:
    declare(rabbitmq)
    declare(rabbitmq, exchange="default")


def test_everything_is_declared_and_bound_as_often_as_one_likes(rabbitmq: Any, names: str) -> None:
    exchange = {"name": f"{names}-e", "type": "topic", "arguments": {"alternate-exchange": "amq.fanout"}}
    queue = {
        "name": f"{names}-q",
        "type": "quorum",
        "bind": ["a.*", "b.#"],
        "dead_letter_exchange": "amq.fanout",
        "arguments": {"x-max-length": 5},
    }
    declare(rabbitmq, exchange=exchange, queue=queue, times=3)
    made = found(rabbitmq, "exchanges", f"{names}-e")
    assert (made["type"], made["durable"], made["auto_delete"]) == ("topic", True, False)
    assert made["arguments"] == {"alternate-exchange": "amq.fanout"}
    made = found(rabbitmq, "queues", f"{names}-q")
    assert made["arguments"] == {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "amq.fanout",
        "x-max-length": 5,
    }
    assert bindings(rabbitmq, f"{names}-q") == {(f"{names}-e", "a.*"), (f"{names}-e", "b.#")}


def test_an_exchange_that_is_only_named_is_taken_as_it_is(rabbitmq: Any, names: str) -> None:
    rabbitmq.declare_exchange(names, "headers", durable=False)
    declare(rabbitmq, exchange=names)


def test_a_missing_exchange_is_told(rabbitmq: Any, names: str) -> None:
    assert complaint(rabbitmq, exchange=names) == (
        f"there is no exchange '{names}' on the broker; create it, or have it declared with "
        f"'exchange: {{name: {names}, type: topic}}'"
    )
    assert found(rabbitmq, "exchanges", names) is None


def test_an_exchange_with_other_settings_is_told(rabbitmq: Any, names: str) -> None:
    rabbitmq.declare_exchange(names, "fanout")
    said = complaint(rabbitmq, exchange={"name": names, "type": "topic"})
    assert said.startswith(f"the exchange '{names}' is there with other settings, or cannot have these: ")
    assert "inequivalent arg 'type'" in said
    assert said.endswith("give its own settings, or its name alone to use it as it is")


def test_a_name_that_is_reserved_is_told(rabbitmq: Any) -> None:
    said = complaint(rabbitmq, exchange={"name": "amq.mine"})
    assert said.startswith("the broker does not permit it for the exchange 'amq.mine': ACCESS_REFUSED")


def test_a_queue_that_is_only_named_is_declared_if_it_is_not_there(rabbitmq: Any, names: str) -> None:
    declare(rabbitmq, queue=names, exchange="amq.topic", routing_key="key")
    assert found(rabbitmq, "queues", names)["durable"]
    assert bindings(rabbitmq, names) == {("amq.topic", "key")}


def test_a_queue_that_is_only_named_is_taken_as_it_is(rabbitmq: Any, names: str) -> None:
    rabbitmq.declare_queue(names, {"x-queue-type": "quorum", "x-max-length": 3})
    declare(rabbitmq, queue=names, exchange="amq.topic")
    assert bindings(rabbitmq, names) == {("amq.topic", names)}


@pytest.mark.parametrize(
    ("settings", "there", "differs", "meaning"),
    [
        ({"type": "quorum"}, {}, "'x-queue-type'", "delete it when nothing waits in it"),
        ({"arguments": {"x-max-length": 3}}, {"x-max-length": 2}, "'x-max-length'", "delete it when nothing"),
    ],
)
def test_a_queue_with_other_settings_is_used_as_it_is_and_that_is_told_once_for_a_connection(
    rabbitmq: Any,
    names: str,
    caplog: pytest.LogCaptureFixture,
    settings: Any,
    there: Any,
    differs: str,
    meaning: str,
) -> None:
    rabbitmq.declare_queue(names, there)
    declare(rabbitmq, queue={"name": names, **settings}, exchange="amq.topic", times=2)
    assert bindings(rabbitmq, names) == {("amq.topic", names)}
    arguments = found(rabbitmq, "queues", names)["arguments"]
    arguments.pop("x-queue-type", None)  # which RabbitMQ 4.3 notes by itself
    assert arguments == there
    (record,) = (one for one in caplog.records if one.name == "evbus.connection.amqp")
    said = record.message
    assert said.startswith(f"the queue '{names}' is there with other settings, and is used as it is: ")
    assert f"inequivalent arg {differs}" in said
    assert meaning in said


@pytest.mark.parametrize("each_rabbitmq", ["3.10", "4.0", "4.3"], indirect=True)
def test_a_quorum_queue_drops_nothing_that_comes_back_and_one_of_before_is_told(
    each_rabbitmq: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    counts = each_rabbitmq.version >= (4,)
    declare(each_rabbitmq, queue={"name": unique, "type": "quorum"}, times=2)
    made = found(each_rabbitmq, "queues", unique)["arguments"]
    assert made == {"x-queue-type": "quorum", **({"x-delivery-limit": -1} if counts else {})}
    assert not caplog.records
    each_rabbitmq.delete_queue(unique)

    each_rabbitmq.declare_queue(unique, {"x-queue-type": "quorum"})
    declare(each_rabbitmq, queue={"name": unique, "type": "quorum"})
    said = [record.message for record in caplog.records]
    assert len(said) == counts
    assert all(
        one.endswith("a policy with 'delivery-limit: -1' or a dead letter exchange mends that")
        for one in said
    )
    each_rabbitmq.delete_queue(unique)


@pytest.mark.parametrize("each_rabbitmq", ["3.10", "4.0", "4.3"], indirect=True)
def test_a_classic_queue_is_classic_whatever_the_default_of_its_vhost(
    each_rabbitmq: Any, unique: str
) -> None:
    path = f"vhosts/{unique}"
    each_rabbitmq.api("PUT", path, {"default_queue_type": "quorum"})
    try:
        each_rabbitmq.set_permissions("guest", vhost=unique)
        declare(each_rabbitmq, vhost=unique, queue="named")
        declare(each_rabbitmq, vhost=unique, queue={"name": "made", "arguments": {"x-max-priority": 5}})
        listed = each_rabbitmq.api("GET", f"queues/{unique}")
        assert {one["name"]: one["type"] for one in listed} == {"named": "classic", "made": "classic"}
    finally:
        each_rabbitmq.api("DELETE", path)


def test_a_queue_that_was_declared_without_a_type_is_a_classic_one(
    each_rabbitmq: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    each_rabbitmq.declare_queue(unique)
    declare(each_rabbitmq, queue={"name": unique})
    assert not caplog.records
    each_rabbitmq.delete_queue(unique)


def test_a_queue_is_bound_by_headers(rabbitmq: Any, names: str) -> None:
    wanted = [{"x-match": "all", "tenant": "shop"}, {"x-match": "any", "a": "1", "b": "2"}]
    queue = {"name": f"{names}-q", "bind": wanted}
    declare(rabbitmq, exchange={"name": f"{names}-e", "type": "headers"}, queue=queue, times=2)
    listed = rabbitmq.api("GET", f"queues/%2F/{names}-q/bindings")
    bound = [(one["routing_key"], one["arguments"]) for one in listed if one["source"]]
    assert [key for key, _ in bound] == ["", ""]
    assert all(headers in wanted for _, headers in bound)


@pytest.mark.parametrize("each_rabbitmq", ["4.0", "4.3"], indirect=True)
def test_a_local_random_exchange_has_its_only_key(each_rabbitmq: Any, unique: str) -> None:
    declare(each_rabbitmq, exchange={"name": unique, "type": "x-local-random"}, queue=unique)
    assert bindings(each_rabbitmq, unique) == {(unique, "")}
    each_rabbitmq.delete_queue(unique)
    each_rabbitmq.api("DELETE", f"exchanges/%2F/{unique}")


@pytest.mark.parametrize("each_rabbitmq", ["4.0-denied"], indirect=True)
async def test_a_broker_that_has_no_transient_queues_is_told(each_rabbitmq: Any, unique: str) -> None:
    """It ends the whole connection for that (reply code 541)."""

    settings = profile(queue={"name": unique, "durable": False})
    async with connected(url=each_rabbitmq.url) as made:
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(declared(made.up(), settings), WAIT)
    said = str(caught.value)
    assert (
        "this broker has no queues that are neither durable nor exclusive: leave out 'durable: false'" in said
    )
    assert "\n" not in said


def test_settings_that_no_queue_can_have_are_told(rabbitmq: Any, names: str) -> None:
    said = complaint(rabbitmq, queue={"name": names, "arguments": {"x-overflow": "drop-all"}})
    assert said.startswith(f"the queue '{names}' is there with other settings, or cannot have these: ")
    assert "x-overflow" in said


async def test_a_queue_of_another_connection_alone_is_told(rabbitmq: Any, names: str) -> None:

    async with connected(url=rabbitmq.url) as made, connected(url=rabbitmq.url) as other:
        settings = profile(queue=names)
        await (await other.up().channel()).declare_queue(names, exclusive=True)
        with pytest.raises(Unavailable, match=f"^the queue '{names}' belongs to another connection alone: "):
            await asyncio.wait_for(declared(made.up(), settings), WAIT)
        assert not made.up().lost.done()
    async with connected(url=rabbitmq.url) as made:
        await asyncio.wait_for(declared(made.up(), settings), WAIT)  # it went with its connection


def test_what_is_not_permitted_is_told(rabbitmq: Any, names: str) -> None:
    rabbitmq.add_user(names, "hunter22")
    rabbitmq.declare_queue(f"{names}-q")
    login = f"{names}:hunter22"
    try:
        rabbitmq.set_permissions(names, configure="^$", write="^$", read="^$")
        said = complaint(rabbitmq, login=login, queue={"name": f"{names}-new"})
        assert said.startswith(f"the broker does not permit it for the queue '{names}-new': ACCESS_REFUSED")
        said = complaint(rabbitmq, login=login, exchange={"name": f"{names}-e"})
        assert said.startswith(f"the broker does not permit it for the exchange '{names}-e': ACCESS_REFUSED")
        said = complaint(rabbitmq, login=login, queue=f"{names}-q", exchange="amq.topic")
        # RabbitMQ 4.3 does not even say that an exchange is there, to who has no right to it at all.
        what = "the exchange" if rabbitmq.version >= (4, 3) else f"the queue '{names}-q' or"
        assert said.startswith(f"the broker does not permit it for {what} 'amq.topic': ACCESS_REFUSED")
    finally:
        rabbitmq.delete_user(names)


async def test_an_exchange_of_an_unknown_type_is_told(rabbitmq: Any, names: str) -> None:
    """The broker ends the whole connection for that (reply code 503)."""

    settings = profile(exchange={"name": names, "type": "x-no-such-type"})
    async with connected(url=rabbitmq.url) as made:
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(declared(made.up(), settings), WAIT)
        assert "unknown exchange type 'x-no-such-type'" in str(caught.value)
        assert f"the exchange '{names}'" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["queue", "exchange"])
def test_a_name_that_is_too_long_is_told(rabbitmq: Any, key: str) -> None:
    name = "ä" * 128  # 256 bytes
    said = complaint(rabbitmq, **{key: {"name": name}})
    assert said.startswith(f"the {key} {name!r} cannot have this name")
    assert "255" in said


def test_arguments_that_amqp_has_no_type_for_are_told(rabbitmq: Any, names: str) -> None:
    said = complaint(rabbitmq, queue={"name": names, "arguments": {"x-max-length": 2**70}})
    assert said.startswith(f"the queue '{names}' cannot have this name or these arguments: ")


async def test_a_connection_that_is_lost_meanwhile_is_told(rabbitmq: Any, proxy: Any, names: str) -> None:
    way = proxy(rabbitmq.port)

    async with connected(url=url(rabbitmq, way.port)) as made:
        session = made.up()
        way.freeze("down")
        declaring = asyncio.ensure_future(declared(session, profile(queue=names)))
        await asyncio.sleep(0)
        way.cut()
        with pytest.raises(Unavailable, match="the connection is lost: "):
            await asyncio.wait_for(declaring, WAIT)
