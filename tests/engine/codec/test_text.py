from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.codec import text as codec_text
from evbus.errors import ContentDisallowed, InvalidPayload, SerializeError
from tests.evbus.rig import failure


@given(st.text())
def test_text_is_read_back(text: str) -> None:
    assert codec_text.load(codec_text.apply(text)) == text


@pytest.mark.parametrize("data", [b"\xff\x00", bytearray(b"\xff"), memoryview(b"\xff")])
def test_bytes_pass_unchanged(data: bytes) -> None:
    assert codec_text.apply(data) == bytes(data)


def test_anything_else_is_its_str() -> None:
    assert codec_text.apply({"a": 1}) == b"{'a': 1}"


def test_text_that_utf_8_cannot_carry_is_refused() -> None:
    with pytest.raises(SerializeError) as caught:
        codec_text.apply("ab\udcff")
    reason = "a lone surrogate at position 2, which UTF-8 cannot carry"
    assert str(caught.value) == f"the event body cannot be serialized as text: {reason} - at $"


def test_an_object_whose_str_raises_is_refused() -> None:
    class Broken:
        def __str__(self) -> str:
            raise KeyError

    with pytest.raises(SerializeError, match=r"str\(\) of Broken raised KeyError - at \$$"):
        codec_text.apply(Broken())


def test_bytes_that_are_no_utf_8_are_refused_with_the_position() -> None:
    assert (
        failure(InvalidPayload, codec_text.load, b"ab\xff")
        == "the body is not UTF-8: invalid start byte at byte 2"
    )


def test_a_pickle_is_refused_by_name() -> None:
    with pytest.raises(ContentDisallowed, match=r"^the body is a Python pickle"):
        codec_text.load(b"\x80\x04K\x01.")
