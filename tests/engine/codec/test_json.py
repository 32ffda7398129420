from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import json
import math
import threading
import types
import uuid
import weakref
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evbus.engine.codec import json as codec_json
from evbus.engine.codec import plain
from evbus.engine.kit import strictjson
from evbus.errors import ContentDisallowed, InvalidPayload, PayloadTooDeep, SerializeError
from tests.engine.codec.trees import SCALARS, THIRD, Known, Leaf, Tree, trees
from tests.evbus.rig import failure

KEYS = st.text() | st.integers() | st.floats() | st.booleans() | st.none()
BODIES = st.recursive(
    SCALARS | st.sets(st.integers()) | st.frozensets(st.text()) | st.sets(st.integers() | st.text()),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)
FLAT = st.dictionaries(KEYS, SCALARS, max_size=4)
#: What survives a round trip as it is.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def default(data: Any) -> Any:
    """What pop-evbus does with what json does not know, and what the brief adds to it."""
    if isinstance(data, (set, frozenset)):
        try:
            return sorted(data)
        except TypeError:
            return sorted(data, key=repr)
    return list(data) if hasattr(data, "__iter__") else repr(data)


def meaning(text: bytes | str) -> Any:
    """The value of JSON with NaN made comparable."""
    return json.loads(text, parse_constant=lambda name: ("constant", name))


def nested(depth: int) -> list[Any]:
    """An empty list in ``depth - 1`` others."""
    body: list[Any] = []
    for _ in range(depth - 1):
        body = [body]
    return body


def collides(body: Any) -> bool:
    """Say whether two keys of one dict are written alike."""
    if isinstance(body, dict):
        written = {name for key in body for name in json.loads(json.dumps({key: 0}))}
        return len(written) < len(body) or any(map(collides, body.values()))
    return isinstance(body, (list, tuple)) and any(map(collides, body))


@given(BODIES | FLAT)
def test_means_what_the_json_of_pop_evbus_meant(body: Any) -> None:
    if collides(body):
        with pytest.raises(SerializeError, match="two keys are both written as"):
            codec_json.apply(body)
        return
    assert meaning(codec_json.apply(body)) == meaning(json.dumps(body, default=default, allow_nan=True))


@given(VALUES)
def test_what_is_written_is_read_back(body: Any) -> None:
    assert codec_json.load(codec_json.apply(body)) == body
    assert strictjson.load(codec_json.apply(body)) == body


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_json_of_other_writers_is_read_the_same(body: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(body, indent=indent, ensure_ascii=ascii_only)
    assert strictjson.load(text.encode()) == body


@given(BODIES)
def test_whatever_is_written_can_be_read(body: Any) -> None:
    assume(not collides(body))
    codec_json.load(codec_json.apply(body))


def test_output_is_compact_utf_8_in_the_order_of_the_keys() -> None:
    assert codec_json.apply({"b": 1, "a": "é"}) == '{"b":1,"a":"é"}'.encode()


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ({"a": math.nan}, b'{"a":NaN}'),
        ({"a": math.inf}, b'{"a":Infinity}'),
        ([1.5, -math.inf, None], b"[1.5,-Infinity,null]"),
        (math.nan, b"NaN"),
        ({"a": None, "u": "null"}, b'{"a":null,"u":"null"}'),
        ({math.nan: 1}, b'{"NaN":1}'),
        ({None: 1, True: 2, 7: 3, 1e16: 4}, b'{"null":1,"true":2,"7":3,"1e+16":4}'),
        ({"a": {3, 1, 2}}, b'{"a":[1,2,3]}'),
        ({2, "a"}, b'["a",2]'),
        ({"a": range(3)}, b'{"a":[0,1,2]}'),
        ({"a": collections.deque([1])}, b'{"a":[1]}'),
        (types.MappingProxyType({"a": 1}), b'{"a":1}'),
        ({"a": "[{null"}, b'{"a":"[{null"}'),
    ],
)
def test_what_json_has_no_form_for(body: Any, written: bytes) -> None:
    assert codec_json.apply(body) == written


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


class Moment(dt.datetime):
    pass


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Order:
    id: int
    items: Any
    _private: int = 0
    count: int = dataclasses.field(default=3, init=False)


@dataclasses.dataclass(slots=True)
class Slotted:
    id: int
    items: Any


class Renamed(msgspec.Struct, rename="camel", tag="renamed", omit_defaults=True):
    order_id: int
    more_items: Any = msgspec.field(default_factory=list)
    on_hand: int = 3
    not_there: Any = msgspec.UNSET


class Row(msgspec.Struct, array_like=True, tag=True):
    id: int
    items: Any = None


UTC = dt.UTC
NAIVE = dt.datetime(2026, 5, 4, 1, 2, 3, 4)  # noqa: DTZ001 - what becomes of it is the question
NATIVE = [
    (NAIVE, "2026-05-04T01:02:03.000004"),
    (dt.datetime(2026, 5, 4, tzinfo=UTC), "2026-05-04T00:00:00Z"),
    (Moment(2026, 5, 4, tzinfo=UTC), "2026-05-04T00:00:00Z"),
    (dt.date(2026, 5, 4), "2026-05-04"),
    (dt.time(1, 2), "01:02:00"),
    (dt.timedelta(days=1, seconds=2), "P1DT2S"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (decimal.Decimal("1.10"), "1.10"),
    (b"hi", "aGk="),
    (bytearray(b"hi"), "aGk="),
    (memoryview(b"hi"), "aGk="),
    (Colour.RED, "red"),
    (Colour.PAIR, [1, 2]),
    (Level.HIGH, 3),
    (Text("x"), "x"),
    (Number(5), 5),
    (Real(2.5), 2.5),
    (Order(1, [2]), {"id": 1, "items": [2], "_private": 0}),
    (Slotted(1, [2]), {"id": 1, "items": [2]}),
    (Renamed(1), {"type": "renamed", "orderId": 1}),
    (Renamed(1, [2], 4, 5), {"type": "renamed", "orderId": 1, "moreItems": [2], "onHand": 4, "notThere": 5}),
    (Row(1, [2]), ["Row", 1, [2]]),
    (msgspec.Raw(b'{"a":1}'), {"a": 1}),
]


@pytest.mark.parametrize(("value", "written"), NATIVE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("beside", [0, {1}, math.nan, THIRD], ids=["fast", "set", "nan", "natural"])
def test_a_value_is_written_alike_whatever_stands_beside_it(value: Any, written: Any, beside: Any) -> None:
    body = meaning(codec_json.apply({"value": value, "list": [value], "beside": beside}))
    assert (body["value"], body["list"]) == (written, [written])


@pytest.mark.parametrize("record", [Order(1, {3, 1}), Slotted(1, {3, 1}), Row(1, {3, 1}), Renamed(1, {3, 1})])
def test_sets_inside_records_are_sorted(record: Any) -> None:
    assert b"[1,3]" in codec_json.apply(record)
    assert b"NaN" in codec_json.apply({"a": [record], "b": math.nan})


@pytest.mark.parametrize(
    "key", [uuid.UUID(int=1), dt.date(2026, 5, 4), Level.HIGH, Colour.RED, Text("k"), b"k"]
)
def test_a_key_is_written_alike_by_msgspec_and_by_the_walk(key: Any) -> None:
    (expected,) = meaning(msgspec.json.encode({key: 1}))
    assert meaning(codec_json.apply({key: {2}})) == {expected: [2]}


def test_a_dict_with_an_item_named_items_is_written() -> None:
    from dict_tools.data import NamespaceDict

    assert (
        codec_json.apply(NamespaceDict(items=[1], a=NamespaceDict(b={2}))) == b'{"items":[1],"a":{"b":[2]}}'
    )


def test_attrs_classes_are_objects() -> None:
    attrs = pytest.importorskip("attrs")
    made = attrs.make_class("Made", ["a", "b"])
    assert codec_json.apply(made(1, {2})) == b'{"a":1,"b":[2]}'


def test_pydantic_models_are_dumped_in_their_json_mode() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        id: int
        when: dt.datetime
        inner: Any = None

    model = Model(id=1, when=dt.datetime(2026, 5, 4, tzinfo=UTC), inner={"a": (1, 2)})
    expected = {"id": 1, "when": "2026-05-04T00:00:00Z", "inner": {"a": [1, 2]}}
    assert meaning(codec_json.apply({"order": model, "set": {1}})) == {"order": expected, "set": [1]}
    assert meaning(codec_json.apply(pydantic.RootModel[list[int]]([1, 2]))) == [1, 2]


@pytest.mark.parametrize("last", ["x", THIRD, {1}, math.nan, iter([9])])
def test_an_iterator_is_consumed_once(last: Any) -> None:
    body = {"a": (n for n in range(3)), "b": iter([7]), "last": last}
    written = meaning(codec_json.apply(body))
    assert (written["a"], written["b"]) == ([0, 1, 2], [7])


def test_the_body_is_not_changed() -> None:
    body = {"a": {2, 1}, 3: [math.nan, (1,)]}
    before = repr(body)
    codec_json.apply(body)
    assert repr(body) == before


def test_many_threads_may_encode_at_once() -> None:
    body = {"a": [1, {"b": {2}}], "c": math.inf}
    wrong: list[bytes] = []

    def work() -> None:
        wrong.extend(out for out in (codec_json.apply(body) for _ in range(200)) if out != expected)

    expected = codec_json.apply(body)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- what is refused when writing --------------------------------------------------------------


class Unreadable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Uniterable:
    def __iter__(self) -> Iterator[int]:
        yield 1
        raise OSError("gone")


class Forever:
    def __iter__(self) -> Iterator[Any]:
        yield Forever()
        yield Forever()


class Proxy:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("unbound")


def circular() -> list[Any]:
    body: list[Any] = [1]
    body.append(body)
    return body


NO_FORM = "has no plain form; make it a text, a number, a list, a mapping or a dataclass"
REFUSED = [
    (
        {"order": {(1, 2): "x"}},
        "a key is a string, a number, a date or a UUID, not tuple",
        "$.order key (1, 2)",
    ),
    ({"a": [{"b": circular()}]}, "a circular reference: the value holds itself", "$.a[0].b[1]"),
    ({"a": ["x", "\ud800"]}, "a lone surrogate (U+D800 at position 0), which UTF-8 cannot carry", "$.a[1]"),
    (
        {"a": {"x\udfff": 1}},
        "a lone surrogate (U+DFFF at position 1), which UTF-8 cannot carry",
        r"$.a key 'x\udfff'",
    ),
    (
        {"order": {"items": [0, 1, 2, Unreadable()]}},
        f"a value of the type Unreadable {NO_FORM}",
        "$.order.items[3]",
    ),
    ({"a": 1 + 2j}, f"a value of the type complex {NO_FORM}", "$.a"),
    ({"a": [print]}, f"a value of the type builtin_function_or_method {NO_FORM}", "$.a[0]"),
    ({"a": Colour}, f"the class Colour {NO_FORM}", "$.a"),
    ({"a": KeyError("x")}, f"a value of the type KeyError {NO_FORM}", "$.a"),
    ({"a": {1: "a", "1": "b"}}, "two keys are both written as '1'", "$.a key '1'"),
    ({"a": {"null": {}, None: 1}}, "two keys are both written as 'null'", "$.a key None"),
    (
        {dt.date(2026, 5, 4): 1, "2026-05-04": 2},
        "two keys are both written as '2026-05-04'",
        "$ key '2026-05-04'",
    ),
    ({Text("x"): 1, Colour.RED: 2, "red": 3}, "two keys are both written as 'red'", "$ key 'red'"),
    ({"a b": Uniterable()}, "iterating over Uniterable raised OSError", '$["a b"]'),
    ({"a": 10**4300}, "an integer of more than 4,300 digits, which no reader takes", "$.a"),
    ({10**4300: 1}, "a key that is an integer of more than 4,300 digits", "$"),
    ({"a": {Unreadable(): 1}}, "a key is a string, a number, a date or a UUID, not Unreadable", None),
    ([Proxy()], "looking at it raised RuntimeError", "$[0]"),
    (Order(1, [{(): 1}]), "a key is a string, a number, a date or a UUID, not tuple", "$.items[0] key ()"),
    (Renamed(1, [Unreadable()]), f"a value of the type Unreadable {NO_FORM}", "$.moreItems[0]"),
]


@pytest.mark.parametrize(("body", "reason", "path"), REFUSED, ids=[reason[:30] for _, reason, _ in REFUSED])
def test_a_refusal_says_what_and_where(body: Any, reason: str, path: str | None) -> None:
    path = path or "$.a key of the type Unreadable"
    with pytest.raises(SerializeError) as caught:
        codec_json.apply(body)
    assert (caught.value.reason, caught.value.path, caught.value.plugin) == (reason, path, "json")
    assert str(caught.value) == f"the event body cannot be serialized as json: {reason} - at {path}"


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ({"a": 1 + 2j}, b'{"a":"(1+2j)"}'),
        ([object], b"[\"<class 'object'>\"]"),
        ({"a": THIRD, "b": {2, 1}, "c": math.nan}, b'{"a":"1/3","b":[1,2],"c":NaN}'),
        ({1: Colour}, b'{"1":"<enum \'Colour\'>"}'),
    ],
)
def test_the_repr_of_what_has_no_form_is_written_when_that_is_asked_for(body: Any, written: bytes) -> None:
    assert codec_json.apply_or_repr(body) == written


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([Unreadable()], "repr() of Unreadable raised RuntimeError"),
        ({1: 0, "1": 0}, "two keys are both written as '1'"),
    ],
)
def test_what_is_refused_beside_its_repr_is_refused_there_too(body: Any, reason: Any) -> None:
    with pytest.raises(SerializeError) as caught:
        codec_json.apply_or_repr(body)
    assert caught.value.reason == reason


def test_a_dict_that_holds_itself_is_named() -> None:
    body: dict[str, Any] = {"a": 1}
    body["self"] = body
    with pytest.raises(SerializeError, match=r"a circular reference: the value holds itself - at \$\.self$"):
        codec_json.apply(body)


def test_the_same_value_twice_is_no_circle() -> None:
    shared = {1}
    assert codec_json.apply([shared, shared, [shared]]) == b"[[1],[1],[[1]]]"


def test_a_model_that_cannot_be_dumped_is_named() -> None:
    class Broken:
        def model_dump(self, *, mode: str) -> Any:
            raise ValueError(mode)

    with pytest.raises(SerializeError, match=r"reading the fields of Broken raised ValueError - at \$\.a$"):
        codec_json.apply({"a": Broken()})


def test_a_model_that_dumps_itself_for_ever_is_refused() -> None:
    class Endless:
        def model_dump(self, *, mode: str) -> Any:
            return self

    with pytest.raises(SerializeError, match="nests too deeply, or turns into itself for ever"):
        codec_json.apply(Endless())


def test_64_levels_are_written_and_read() -> None:
    assert codec_json.load(codec_json.apply(nested(64))) == nested(64)
    body: Any = 1
    for _ in range(64):
        body = {"a": body}
    assert codec_json.load(codec_json.apply(body)) == body


@pytest.mark.parametrize("depth", [65, 500, 5000, 100_000])
def test_more_than_64_levels_are_not_written(depth: int) -> None:
    assert (
        failure(PayloadTooDeep, codec_json.apply, nested(depth))
        == f"the event body nests more than 64 levels deep - at ${'[0]' * 64}"
    )


def test_what_nests_for_ever_is_not_written() -> None:
    with pytest.raises(PayloadTooDeep):
        codec_json.apply(Forever())


@pytest.mark.parametrize("leaf", [{1}, math.nan, THIRD, Order(1, None)])
def test_the_depth_is_the_same_on_the_slow_way(leaf: Any) -> None:
    room = 63 if isinstance(leaf, (set, Order)) else 64
    for depth, fits in ((room, True), (room + 1, False)):
        body: Any = leaf
        for _ in range(depth):
            body = {"a": body}
        if fits:
            codec_json.apply(body)
        else:
            with pytest.raises(PayloadTooDeep):
                codec_json.apply(body)


# -- what is refused when reading --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'{"a":1,"b":2,"a":3}', "the key 'a' stands twice in one object at line 1 column 14"),
        (b'[{"a":{"b":1,\n  "b" :2}}]', "the key 'b' stands twice in one object at line 2 column 3"),
        (b'{"a\\"":1,"a\\u0022":2}', "the key 'a\"' stands twice in one object at line 1 column 10"),
        (b'{":":1,"x":":", ":":2}', "the key ':' stands twice in one object at line 1 column 17"),
        (b'{"a":' + b"1" * 4301 + b"}", "an integer of more than 4,300 digits at line 1 column 6"),
        (b"[-" + b"1" * 4301 + b"]", "an integer of more than 4,300 digits at line 1 column 2"),
        (b"[1,1e999]", "a float out of range at line 1 column 4"),
        (b"[-1.5,-1e9991.5]", "a float out of range at line 1 column 7"),
        (b'["\\ud800"]', "a string with a lone surrogate (half of a pair of \\u escapes) at line 1 column 2"),
        (
            b'{"\\udc00x":1}',
            "a string with a lone surrogate (half of a pair of \\u escapes) at line 1 column 2",
        ),
        (b'{"a":1', "expecting ',' delimiter at line 1 column 7"),
        (b"[1 2]", "expecting ',' delimiter at line 1 column 4"),
        (b"[1] x", "extra data at line 1 column 5"),
        (b"nul", "expecting value at line 1 column 1"),
        (b'["a', "unterminated string starting at line 1 column 2"),
        (b"01", "extra data at line 1 column 2"),
    ],
)
@pytest.mark.parametrize("read", [codec_json.load, strictjson.load])
def test_bad_json_is_refused_with_reason_and_place(read: Any, text: bytes, sentence: str) -> None:
    assert failure(InvalidPayload, read, text) == f"the body is not valid JSON: {sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "the body is empty, which is no JSON"),
        (b" \n", "the body is empty, which is no JSON"),
        (b"\xef\xbb\xbf{}", "the body starts with a byte order mark, which JSON does not allow"),
        (b'["\xff"]', "the body is not UTF-8: invalid start byte at byte 2"),
        (b'["\xed\xa0\x80"]', "the body is not UTF-8: invalid continuation byte at byte 2"),
        ("[1]".encode("utf-16"), "the body is not UTF-8: invalid start byte at byte 0"),
    ],
)
def test_bytes_that_are_no_json_text_are_refused(text: bytes, sentence: str) -> None:
    assert failure(InvalidPayload, codec_json.load, text) == sentence


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_nan_is_read_back_but_not_taken_from_outside(literal: str) -> None:
    text = f'{{"NaN":"NaN","a":[1,{literal}]}}'.encode()
    assert repr(codec_json.load(text)["a"][1]) == repr(float(literal))
    assert (
        failure(InvalidPayload, strictjson.load, text)
        == f"the body is not valid JSON: {literal} is no JSON number at line 1 column 21"
    )


@pytest.mark.parametrize("text", [b'{"a":NaN,"a":1}', b'[NaN,"\\ud800"]', b"[NaN,1e999]"])
def test_nan_does_not_hide_what_else_is_wrong(text: Any) -> None:
    with pytest.raises(InvalidPayload):
        codec_json.load(text)


def test_integers_of_up_to_4300_digits_are_read() -> None:
    assert codec_json.load(b"[-" + b"1" * 4300 + b"]") == [-int("1" * 4300)]


@pytest.mark.parametrize("form", ["[{}]", '{{"a":{}}}', "[1,{},2]", '[{{"a":{}}}]'])
@pytest.mark.parametrize("times", [65, 500, 3000, 20_000, 100_000])
def test_deep_json_is_refused_the_same_on_every_python(form: str, times: int) -> None:
    left, right = form.format("|").split("|")
    for text in (left * times + "1" + right * times, left * times, left * times + "NaN"):
        assert (
            failure(PayloadTooDeep, codec_json.load, text.encode())
            == "the event body nests more than 64 levels deep"
        )


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    text = json.dumps(["[" * 1000, '"{' * 1000, {"[{" * 99: math.nan}])
    assert repr(codec_json.load(text.encode())) == repr(json.loads(text))
    with pytest.raises(InvalidPayload, match="expecting ',' delimiter"):
        codec_json.load(b'["' + b"[" * 1000 + b'" 1]')


def test_many_siblings_are_not_deep() -> None:
    body: list[Any] = [[], {}] * 1000
    assert codec_json.load(codec_json.apply(body)) == body


def test_hostile_text_is_refused_in_linear_time() -> None:
    size = 100_000
    for text in (
        b'"' * size,
        b'["' + b"\\" * size,
        b'"\\' * size,
        b"[" + b'{"a":1},' * (size // 8),
        b"-" * size,
    ):
        with pytest.raises(InvalidPayload):
            codec_json.load(text)


def test_a_pickle_is_refused_by_name() -> None:
    for protocol in b"\x02\x03\x04\x05":
        with pytest.raises(ContentDisallowed, match=r"^the body is a Python pickle, which is never decoded"):
            codec_json.load(b"\x80" + bytes([protocol]) + b"K\x01.")


def test_other_kinds_of_bytes_and_text_are_read() -> None:
    for data in (bytearray(b"[1]"), memoryview(b"[1]"), "[1]"):
        assert codec_json.load(data) == [1]  # type: ignore[arg-type]
    with pytest.raises(InvalidPayload, match=r"^a body to be read is bytes, not dict$"):
        codec_json.load({})  # type: ignore[arg-type]
    with pytest.raises(InvalidPayload, match="not UTF-8"):
        codec_json.load('"\ud800"')  # type: ignore[arg-type]


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidPayload, PayloadTooDeep, ContentDisallowed):
        codec_json.load(data)


# Classes with fields, and values that are what the fields are declared to be, or not


@settings(deadline=None)
@given(trees(Tree) | trees(Known))
def test_objects_are_written_as_they_are_by_a_walk_through_all_of_them(value: Any) -> None:
    walked = codec_json._slow(value)
    assert codec_json.apply(value) == walked
    assert codec_json.apply({"a": [value]}) == b'{"a":[' + walked + b"]}"


def test_objects_are_judged_as_they_are_by_a_walk_wherever_they_stand() -> None:
    leaf = Leaf("a", 0.5)
    for value in (leaf, Known("a", [leaf], None, {"b": leaf})):
        check = plain.check_of(type(value))
        assert check is not None
        levels = 1 if value is leaf else 3
        assert [check(value, plain.ATOMS, room) for room in (levels - 1, levels)] == [False, True]
    deep = Known("a", [], None, {})
    for _ in range(64):
        deep = Known("a", [], None, {}, more=deep)
    with pytest.raises(PayloadTooDeep):
        codec_json.apply(deep)


def test_what_msgspec_has_read_without_a_default_is_written_with_it() -> None:
    leaf = msgspec.json.decode(b'{"name":"a"}', type=Leaf)
    within = msgspec.json.decode(b'[{"name":"b"}]', type=list[Leaf])
    assert "size" not in vars(leaf)
    assert codec_json.apply(leaf) == b'{"name":"a","size":0.0}'
    assert codec_json.apply([leaf, {1}]) == b'[{"name":"a","size":0.0},[1]]'
    assert codec_json.apply(Known("a", within, None, {})).startswith(
        b'{"name":"a","leaves":[{"name":"b","size":0.0}]'
    )


# What is remembered of classes


def test_more_than_a_thousand_classes_are_looked_at_once(monkeypatch: Any) -> None:
    looked: list[type] = []
    check = plain._check
    monkeypatch.setattr(plain, "_check", lambda kind, names: looked.append(kind) or check(kind, names))
    fields: Any = [("id", int), ("at", dt.datetime)]
    kinds = [dataclasses.make_dataclass(f"C{number}", fields) for number in range(1_100)]
    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    for _ in range(2):
        for kind in kinds:
            assert codec_json.apply(kind(1, at)) == b'{"id":1,"at":"2026-01-02T00:00:00Z"}'
    assert looked == kinds


def test_what_is_known_of_a_class_goes_with_it() -> None:
    def died() -> list[weakref.ref[type]]:
        inner = dataclasses.make_dataclass("Inner", [("id", int)])
        kinds: Any = [
            msgspec.defstruct("Flat", [("id", int), ("name", str)]),
            dataclasses.make_dataclass("Timed", [("id", int), ("at", dt.time)]),
            dataclasses.make_dataclass("Nested", [("id", int), ("more", list[int])]),
            dataclasses.make_dataclass("Outer", [("id", int), ("inner", inner)]),
        ]
        for kind, value in zip(kinds, ("x", dt.time(1), [2], inner(3)), strict=True):
            assert codec_json.apply(kind(1, value))
        return [weakref.ref(each) for each in (inner, *kinds)]

    known = died()
    gc.collect()
    assert [each() for each in known] == [None] * 5
