from __future__ import annotations

import contextlib
import datetime as dt
import enum
import fractions
import math
import re
import threading
import uuid
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evbus.engine.codec import msgpack as codec_msgpack
from evbus.engine.codec import skim
from evbus.errors import ContentDisallowed, InvalidPayload, PayloadTooDeep, SerializeError
from tests.engine.codec.trees import Known, Leaf, Tree, trees
from tests.evbus.rig import failure

INTEGERS = st.integers(-(2**63), 2**64 - 1)
MOMENTS = st.datetimes(timezones=st.just(dt.UTC))
KEYS = st.text() | INTEGERS | st.booleans() | st.none() | st.binary() | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | st.text() | st.binary() | MOMENTS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)
UTC = dt.UTC
NAIVE = dt.datetime(2026, 5, 4)  # noqa: DTZ001 - what becomes of it is the question


class Level(enum.IntEnum):
    HIGH = 3


class Moment(dt.datetime):
    pass


@given(VALUES)
def test_what_is_written_is_read_back(body: Any) -> None:
    assert codec_msgpack.load(codec_msgpack.apply(body)) == body


@given(VALUES)
def test_what_the_packer_writes_passes_the_skim(body: Any) -> None:
    skim.skim(codec_msgpack.apply(body))


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({3, 1, 2}, [1, 2, 3]),
        ({"a", 1}, ["a", 1]),
        (range(3), [0, 1, 2]),
        (NAIVE, "2026-05-04T00:00:00"),
        (Moment(2026, 5, 4, tzinfo=UTC), dt.datetime(2026, 5, 4, tzinfo=UTC)),
        (
            dt.datetime(2026, 5, 4, tzinfo=dt.timezone(dt.timedelta(hours=2))),
            dt.datetime(2026, 5, 3, 22, tzinfo=UTC),
        ),
        (dt.date(2026, 5, 4), "2026-05-04"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (Level.HIGH, 3),
        (bytearray(b"hi"), b"hi"),
        (memoryview(b"hi"), b"hi"),
        (fractions.Fraction(1, 3), "1/3"),
        (math.inf, math.inf),
        ((1, 2), [1, 2]),
        ({None: 1, 2: 3, b"x": 4, 1.5: 5, True: 6}, {None: 1, 2: 3, b"x": 4, 1.5: 5, True: 6}),
        ({Level.HIGH: 1, dt.date(2026, 5, 4): 2}, {3: 1, "2026-05-04": 2}),
    ],
)
@pytest.mark.parametrize("beside", [0, {1}, fractions.Fraction(1, 3)], ids=["fast", "set", "natural"])
def test_a_value_is_written_alike_whatever_stands_beside_it(value: Any, read: Any, beside: Any) -> None:
    assert codec_msgpack.load(codec_msgpack.apply({"value": value, "beside": beside}))["value"] == read


@pytest.mark.parametrize("last", ["x", fractions.Fraction(1, 3), 2**60, NAIVE, {1}])
def test_an_iterator_is_consumed_once(last: Any) -> None:
    written = codec_msgpack.load(codec_msgpack.apply({"a": (n for n in range(3)), "last": last}))
    assert written["a"] == [0, 1, 2]


def test_many_threads_may_pack_at_once() -> None:
    body = {"a": [1, {"b": "x" * 50}], "c": [dt.datetime(2026, 5, 4, tzinfo=UTC)] * 5}
    expected = codec_msgpack.apply(body)
    wrong: list[bytes] = []

    def work() -> None:
        wrong.extend(out for out in (codec_msgpack.apply(body) for _ in range(200)) if out != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_body_after_a_refused_or_a_large_one_is_whole() -> None:
    with pytest.raises(SerializeError):
        codec_msgpack.apply([1, 2**64])
    assert codec_msgpack.apply([1]) == b"\x91\x01"
    assert len(codec_msgpack.apply(b"x" * (2 << 20))) == (2 << 20) + 5
    assert codec_msgpack.apply([1]) == b"\x91\x01"


COLLIDES = "two keys are both written as '2026-05-04'"
KEY = "a key is a string, bytes, a number, a date or a UUID, not tuple"


@pytest.mark.parametrize(
    ("body", "reason", "path"),
    [
        ({"order": {(1, 2): "x"}}, KEY, "$.order key (1, 2)"),
        ({"a": [1, 2**64]}, "an integer of more than 64 bits, which MessagePack cannot carry", "$.a[1]"),
        (
            {"a": {-(2**64): 1}},
            "an integer of more than 64 bits, which MessagePack cannot carry",
            f"$.a key {-(2**64)}",
        ),
        ({1: ["\ud800"]}, "a lone surrogate (U+D800 at position 0), which UTF-8 cannot carry", '$["1"][0]'),
        (
            {"a": {"\ud800": 1}},
            "a lone surrogate (U+D800 at position 0), which UTF-8 cannot carry",
            r"$.a key '\ud800'",
        ),
        (
            {"a": [object]},
            "the class object has no plain form; make it a text, a number, a list, a mapping or a dataclass",
            "$.a[0]",
        ),
        ({Level.HIGH: 1, dt.date(2026, 5, 4): 2, "2026-05-04": 3}, COLLIDES, "$ key '2026-05-04'"),
    ],
    ids=["tuple key", "integer", "integer key", "surrogate", "surrogate key", "no form", "same keys"],
)
def test_a_refusal_says_what_and_where(body: Any, reason: str, path: str) -> None:
    assert (
        failure(SerializeError, codec_msgpack.apply, body)
        == f"the event body cannot be serialized as msgpack: {reason} - at {path}"
    )


def test_a_list_that_holds_itself_is_refused() -> None:
    body: list[Any] = []
    body.append(body)
    with pytest.raises(SerializeError, match=r"a circular reference: the value holds itself - at \$\[0\]$"):
        codec_msgpack.apply({"a": 1, "b": body}["b"])


def nested(depth: int) -> Any:
    body: list[Any] = []
    for _ in range(depth - 1):
        body = [body]
    return body


def test_64_levels_are_written_and_read() -> None:
    assert codec_msgpack.load(codec_msgpack.apply(nested(64))) == nested(64)


@pytest.mark.parametrize("depth", [65, 600, 5000])
def test_more_than_64_levels_are_not_written(depth: int) -> None:
    with pytest.raises(PayloadTooDeep):
        codec_msgpack.apply(nested(depth))


@pytest.mark.parametrize(
    "opener", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xdf\x00\x00\x00\x01\xc0", b"\x92\x01"]
)
@pytest.mark.parametrize("depth", [65, 600, 1024, 2000, 100_000])
def test_deep_bytes_are_refused(opener: bytes, depth: int) -> None:
    with pytest.raises((PayloadTooDeep, InvalidPayload)) as caught:
        codec_msgpack.load(opener * depth + b"\x01")
    if opener != b"\x92\x01":  # whose last items are missing
        assert str(caught.value) == "the event body nests more than 64 levels deep"


EARLY = "it ends early, or a length in it is longer than the body"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"\x01\x02\x03", "2 surplus bytes after the value"),
        (b"\xc1", "it holds the byte 0xc1, which stands for nothing"),
        (b"\xa1\xff", "a string is not UTF-8: invalid start byte"),
        (b"\x81\x91\x01\x02", "a key of a map is itself an array or a map"),
        (b"\x92\x01", EARLY),
        (b"\xdb\xff\xff\xff\xffx", EARLY),
        (b"\xdd\xff\xff\xff\xff", EARLY),
        (b"\xdf\xff\xff\xff\xff\x01", EARLY),
        (b"\xc6\xff\xff\xff\xff", EARLY),
        (b"\xc9\xff\xff\xff\xff\x01", EARLY),
        (b"\xc7\x03\xffabc", "a timestamp is out of range or has a wrong length"),
        (
            b"\xc7\x0c\xff\x00\x00\x00\x00\x7f" + b"\xff" * 7,
            "a timestamp is out of range or has a wrong length",
        ),
    ],
)
def test_bad_bytes_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    assert failure(InvalidPayload, codec_msgpack.load, data) == f"the body is not valid MessagePack: {reason}"


@pytest.mark.parametrize("data", [b"\xd4\x05x", b"\xc7\x01\x2ax", b"\x91\xd8\x80" + b"x" * 16])
def test_an_unknown_extension_type_is_refused(data: bytes) -> None:
    with pytest.raises(
        InvalidPayload, match=r"the extension type -?\d+ is unknown; only timestamps \(-1\) are read$"
    ):
        codec_msgpack.load(data)


def test_claims_that_cannot_be_true_are_refused_before_room_is_made_for_them() -> None:
    claim = (100_000).to_bytes(4, "big")
    for data in (
        (b"\xdd" + claim) * 20_000,
        (b"\xdf" + claim) * 20_000,
        b"\xdd\x00\x00\x80\x00" + b"\x01" * 10 + (b"\xdd" + claim) * 20_000,
        b"\xdc\xff\xff" * 40_000,
    ):
        with pytest.raises((InvalidPayload, PayloadTooDeep)):
            codec_msgpack.load(data)
    with pytest.raises(InvalidPayload, match=r"it ends early, or the length before byte 5 is too long$"):
        codec_msgpack.load(b"\xdd" + claim + b"\x01" * 50_000)


@pytest.mark.parametrize("body", [list(range(50_000)), {str(n): [n, None, 1.5, b"x"] for n in range(5000)}])
def test_long_containers_are_read(body: Any) -> None:
    assert codec_msgpack.load(codec_msgpack.apply(body)) == body
    with pytest.raises(InvalidPayload, match="is not UTF-8"):
        codec_msgpack.load(codec_msgpack.apply([body, "\u00e9"])[:-1] + b"\xff")


def test_the_skim_knows_every_format() -> None:
    values = [
        *(None, True, -1, 127, -33, 200, -200, 70_000, -70_000, 2**40, -(2**40), 1.5, 2**63),
        *("x" * size for size in (5, 40, 300, 70_000)),
        *(b"x" * size for size in (5, 300, 70_000)),
        *([0] * 20, [0] * 70_000, dict.fromkeys(range(20)), dict.fromkeys(range(70_000))),
        *(msgpack.ExtType(5, b"x" * size) for size in (1, 2, 4, 8, 16, 3, 300, 70_000)),
    ]
    data = msgpack.packb([*values, msgpack.packb(1.5, use_single_float=True)])
    skim.skim(data)
    for cut in (1, 100, 70_000, len(data) // 2):
        with pytest.raises(InvalidPayload, match="it ends early"):
            skim.skim(data[:-cut])
    with pytest.raises(InvalidPayload, match=r"the byte 0xc1 at 1 stands for nothing$"):
        skim.skim(b"\x91\xc1")
    with pytest.raises(PayloadTooDeep):
        skim.skim(b"\x91" * 65 + b"\x01")
    skim.skim(b"\x91" * 64 + b"\x01")


def test_a_pickle_is_refused_by_name() -> None:
    with pytest.raises(ContentDisallowed, match=r"^the body is a Python pickle"):
        codec_msgpack.load(b"\x80\x04K\x01.")


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidPayload, PayloadTooDeep, ContentDisallowed):
        codec_msgpack.load(data)


# Records


@settings(deadline=None)
@given(trees(Tree) | trees(Known))
def test_records_are_written_as_they_are_by_a_walk_through_all_of_them(value: Any) -> None:
    def walk(body: Any) -> bytes:
        return codec_msgpack._pack(codec_msgpack._MsgpackNormaliser()(body))

    body = {"a": [value]}
    try:
        walked = walk(body)
    except SerializeError as exc:  # a long integer
        with pytest.raises(SerializeError, match=re.escape(str(exc))):
            codec_msgpack.apply(body)
    else:
        assert codec_msgpack.apply(body) == walked


def test_what_msgspec_has_read_without_a_default_is_written_with_it() -> None:
    read = msgspec.convert({"name": "a"}, Leaf)
    assert "size" not in vars(read)
    whole = {"name": "a", "size": 0.0}
    assert codec_msgpack.load(codec_msgpack.apply(read)) == whole
    assert codec_msgpack.load(codec_msgpack.apply({"more": [read, {1}]})) == {"more": [whole, [1]]}
