"""Names of events, and names in their fields."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import msgspec
import pydantic
import pytest

from evbus.api import event, event_listener
from evbus.errors import HandlerSignatureError, ProfileError
from tests.evbus.kit import WAIT, new_hub, plugin, running, write
from tests.event.kit import failure, go, listening, settled

PATTERNS = ["order.*", "*", "#", "order.#", "*.placed"]


def test_a_pattern_is_no_name_of_an_event() -> None:
    @dataclass
    class Order:
        number: int

    for name in PATTERNS:
        with pytest.raises(HandlerSignatureError, match=r"the event .*Order: the name .* is taken as it is"):
            event(name)(Order)
        event_listener(name)


@pytest.mark.parametrize("name", ["order.>", ">"])
def test_what_only_activemq_takes_for_a_pattern_is_refused_everywhere(hub: Any, name: str) -> None:
    @dataclass
    class Order:
        number: int

    def on(event: Any) -> None: ...

    with pytest.raises(HandlerSignatureError, match=r"the event .*Order: .*'>' is no word of a name"):
        event(name)(Order)
    with pytest.raises(HandlerSignatureError, match=r"a listener: .*'>' is no word of a name"):
        event_listener(name)
    with pytest.raises(HandlerSignatureError, match=r"a listener: .*'>' is no word of a name"):
        hub.event.init.subscribe(name, on)


@pytest.mark.parametrize("name", ["x" * 256, "ä" * 128])
def test_a_name_has_255_bytes_at_most(name: str) -> None:
    @dataclass
    class Order:
        number: int

    with pytest.raises(HandlerSignatureError, match="more than 255 bytes of UTF-8"):
        event(name)(Order)
    with pytest.raises(HandlerSignatureError, match="more than 255 bytes of UTF-8"):
        event_listener(name)
    event(name[1:])(Order)
    event_listener(name[1:])


@pytest.mark.parametrize(
    ("name", "held"),
    [("a\nb", "U+000A"), ("a\r", "U+000D"), ("\0", "U+0000"), ("a\x85b", "U+0085"), ("a\ud800", "U+D800")],
)
def test_a_name_holds_nothing_that_a_broker_leaves_out(hub: Any, name: str, held: str) -> None:
    @dataclass
    class Order:
        number: int

    def on(event: Any) -> None: ...

    with pytest.raises(HandlerSignatureError, match=f"the event .*Order: .* holds {re.escape(held)},"):
        event(name)(Order)
    with pytest.raises(HandlerSignatureError, match=f"a listener: .* holds {re.escape(held)},"):
        hub.event.init.subscribe(name, on)


@pytest.mark.parametrize("name", ["a*", "order.#1", "a>b.c", "*/#", "bestellung.geändert", "o'brien?=%$"])
def test_every_other_name_is_one(name: str) -> None:
    @dataclass
    class Order:
        number: int

    event(name)(Order)
    event_listener(name)


def test_a_pattern_is_refused_where_the_plugin_finds_events_by_their_names_alone(tmp_path: Path) -> None:
    text = """
        def __init__(hub):
            hub.egress.own.ACCT = ["own"]

        async def consume(hub, ctx, subscription):
            if subscription.name == "never":
                yield
    """
    hub = new_hub(plugin_dirs=[write(tmp_path, egress__own=text)], dead_store=tmp_path / "dead.jsonl")
    hub.event.init.subscribe("order.*", print)

    async def main() -> None:
        async with running(hub, {"own": {"default": {}}}):
            raise AssertionError("it has started")

    with pytest.raises(ProfileError, match=r"own.default finds events by their names alone, and 'order"):
        asyncio.run(main())


@pytest.mark.parametrize("key", ["address", "destination"])
def test_what_a_plugin_of_others_calls_its_keys_says_nothing_of_names(key: str, tmp_path: Path) -> None:
    text = """
        import asyncio

        def __init__(hub):
            hub.egress.own.ACCT = ["own"]

        async def consume(hub, ctx, subscription):
            if subscription.name == "never":
                yield
            await asyncio.Event().wait()
    """
    hub = new_hub(plugin_dirs=[write(tmp_path / "p", egress__own=text)], dead_store=tmp_path / "dead.jsonl")
    hub.event.init.subscribe("order.made", print)

    async def main() -> None:
        async with running(hub, {"own": {"default": {key: "127.0.0.1:5000"}}}):
            assert len(hub.event.init.subscriptions()) == 1

    asyncio.run(main())


@pytest.mark.parametrize("place", ["all", "shop/all", "50%25 off"])
def test_where_all_events_go_to_one_place_its_name_is_what_stands_in_the_profile(
    place: str, tmp_path: Path
) -> None:
    hub = new_hub(dead_store=tmp_path / "dead.jsonl")

    async def main() -> None:
        got = asyncio.Queue[Any]()

        async def put(event: Any) -> None:
            got.put_nowait(event)

        hub.event.init.subscribe(place, put)
        async with running(hub, {"internal": {"default": {"routing_key": place}}}):
            hub.evbus.broker.put_nowait(routing_key="other", body={"number": 1})
            assert await asyncio.wait_for(got.get(), WAIT) == {"number": 1}

    asyncio.run(main())


# Names in the fields of events: imported for type checkers alone, or defined in a function.


if TYPE_CHECKING:
    from decimal import Decimal


async def on(event: Any) -> None: ...


@event()
@dataclasses.dataclass
class Paid:
    total: Decimal


@dataclasses.dataclass
class Line:
    prices: list[Decimal]


@event()
@dataclasses.dataclass
class Bill:
    lines: dict[str, Line]


@event()
class Struct(msgspec.Struct):
    total: Decimal


@event()
@attrs.define
class Attrs:
    total: Decimal


@event()
class Model(pydantic.BaseModel):
    total: Decimal


@event()
@dataclasses.dataclass
class Holder:
    model: Model


@event()
@pydantic.dataclasses.dataclass
class Checked:
    total: Decimal


FIELDS = [
    (Paid, "total"),
    (Bill, "lines.prices"),
    (Struct, "total"),
    (Attrs, "total"),
    (Model, "total"),
    (Holder, "model.total"),
    (Checked, "total"),
]


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=lambda part: getattr(part, "__name__", None))
def test_a_name_for_type_checkers_alone_is_told_before_the_first_event(
    hub: Any, cls: Any, field: str
) -> None:
    said = (
        f"the event {cls.__name__}: the field {field} cannot be read, as the name Decimal means nothing in "
        f"{__name__} when the program runs; import it there outside of `if TYPE_CHECKING:`, or define it at "
        "the top level of the module"
    )
    assert failure(HandlerSignatureError, hub.event.init.subscribe, cls, on) == said
    assert hub.event.init.subscriptions() == []
    unfilled = cls(1) if issubclass(cls, msgspec.Struct) else object.__new__(cls)
    assert failure(HandlerSignatureError, hub.event.init.send, unfilled) == said


async def test_a_file_that_listens_to_such_an_event_is_broken(tmp_path: Path) -> None:
    text = (
        "from tests.event.test_names import Paid\n"
        "from evbus.api import event_listener\n"
        "@event_listener(Paid)\n"
        "async def on(event): ...\n"
    )
    root = write(tmp_path / "plugins", listener__billing=text)

    async with listening(plugin_dirs=[str(root)]) as hub:
        found = plugin(hub, "billing", "listener")
    assert found.state == "broken"
    assert "the field total cannot be read, as the name Decimal means nothing" in found.reason
    assert found.line == 3


async def _trip(sent: Any) -> Any:
    got: list[Any] = []

    def keep(event: Any) -> None:
        got.append(event)

    async with listening() as hub:
        hub.event.init.subscribe(type(sent), keep)
        await hub.event.init.send(sent)
        await settled(hub)
    (found,) = got
    return found


def test_classes_of_a_function_know_each_other() -> None:
    @dataclasses.dataclass
    class Point:
        x: int
        kept: ClassVar[list[int]] = []

    @dataclasses.dataclass
    class Shape:
        points: list[Point] | None

    @event()
    @dataclasses.dataclass
    class Drawn:
        shapes: dict[str, Shape]
        within: Drawn | None = None

    sent = Drawn({"a": Shape([Point(1), Point(2)])}, Drawn({"b": Shape(None)}))
    assert go(lambda: _trip(sent)) == sent


def test_classes_of_a_function_may_stand_below_the_decorator_and_have_slots() -> None:
    @dataclasses.dataclass(slots=True)
    class Point:
        x: int

    @dataclasses.dataclass(slots=True)
    @event()
    class Drawn:
        point: Point
        within: Drawn | None = None

    sent = Drawn(Point(1), Drawn(Point(2)))
    assert go(lambda: _trip(sent)) == sent


def test_structs_attrs_classes_and_models_of_a_function_know_each_other() -> None:
    class Model(pydantic.BaseModel):
        x: int

    class Struct(msgspec.Struct):
        model: Model

    @event()
    @attrs.define
    class Holder:
        struct: Struct

    sent = Holder(Struct(Model(x=1)))
    assert go(lambda: _trip(sent)) == sent


def test_a_class_that_the_function_defines_too_late_is_told() -> None:
    @event()
    @dataclasses.dataclass
    class Early:
        late: Late

    @dataclasses.dataclass
    class Late:
        x: int

    said = failure(HandlerSignatureError, new_hub().event.init.subscribe, Early, on)
    assert "the field late cannot be read, as the name Late means nothing" in said
    assert Late(1) == Late(1)
