from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus import errors
from evbus.engine.kit import strictjson


@given(st.text('{}[]",:\\a1'), st.integers(0, 4))
def test_depth_is_that_of_the_parsed_value(text: str, limit: int) -> None:
    def depth(value: object) -> int:
        if isinstance(value, dict):
            return 1 + max(map(depth, value.values()), default=0)
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    try:
        value = json.loads(text)
    except ValueError:
        return
    assert strictjson.nests_deeper(text, limit) == (depth(value) > limit)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text('ab:"\\é'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('ab:"\\é'), inner),
    )
)
def test_what_the_standard_library_writes_is_read_back(value: object) -> None:
    assert strictjson.load(json.dumps(value).encode()) == value


def test_errors_call_the_text_what_the_caller_calls_it() -> None:
    with pytest.raises(errors.InvalidPayload, match="^the answer is not valid JSON: .* at line 2 column 1$"):
        strictjson.load(b"[1,\n}", what="the answer")


def test_the_depth_is_the_caller_s() -> None:
    assert strictjson.load(b"[[1]]", max_depth=2) == [[1]]
    with pytest.raises(errors.PayloadTooDeep) as caught:
        strictjson.load(b"[[1]]", max_depth=1)
    assert caught.value.limit == 1


@pytest.mark.parametrize("text", [b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}', b'[{"b":{"a":1,"a":1}}]'])
def test_a_key_that_stands_twice_is_refused(text: bytes) -> None:
    with pytest.raises(errors.InvalidPayload, match="the key 'a' stands twice in one object"):
        strictjson.load(text)


def test_nan_is_read_only_where_it_is_allowed() -> None:
    assert strictjson.load(b"[Infinity]", allow_nan=True) == [float("inf")]
    with pytest.raises(errors.InvalidPayload, match="NaN is no JSON number"):
        strictjson.load(b"[NaN]")
