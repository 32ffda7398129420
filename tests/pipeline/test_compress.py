from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.core.settings import Settings
from evbus.engine.stages import compress
from evbus.engine.stages.compress import Compressor
from evbus.errors import MissingExtra, PayloadTooLarge, Rejected
from evbus.types import Envelope, SharedHeaders

MIB = 1024 * 1024
LONG = b'{"word":"abc"}' * 200
NAMES = {"zstd": "zstd", "zlib": "deflate"}

zstd = compress._zstd
needs_zstd = pytest.mark.skipif(zstd is None, reason="the extra zstd is not installed")
each = pytest.mark.parametrize("chosen", [pytest.param("zstd", marks=needs_zstd), "zlib"])


@pytest.fixture
def room(room: Any) -> Any:
    """Return a hub with this room alone, and the plugin's options as they are by default."""
    room.pipeline.compress.configure(Settings())
    return room


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as where no zstd is installed."""
    monkeypatch.setattr(compress, "_zstd", None)


def sent(compressor: Compressor, body: bytes, **headers: str) -> Envelope:
    envelope = Envelope("p", "k", body, {name.replace("_", "-"): text for name, text in headers.items()})
    compressor.send(envelope)
    return envelope


def refused(body: bytes, name: str, max_body: int = MIB) -> str:
    envelope = Envelope("p", "k", body, {"content-encoding": name})
    with pytest.raises(Rejected) as caught:
        Compressor("auto", 0, max_body).received(envelope)
    return str(caught.value)


@each
def test_a_long_body_is_compressed_and_comes_back(chosen: str) -> None:
    compressor = Compressor(chosen, 1024, MIB)
    envelope = sent(compressor, LONG, content_type="application/json")
    assert len(envelope.body) < len(LONG) / 10
    assert envelope.headers == {"content-type": "application/json", "content-encoding": NAMES[chosen]}
    envelope.headers = SharedHeaders(envelope.headers)
    plain = compressor.received(envelope)
    assert (plain.body, plain.headers) == (LONG, {"content-type": "application/json"})
    assert envelope.headers["content-encoding"] == NAMES[chosen]
    assert (plain.profile, plain.routing_key) == ("p", "k")


def test_what_is_not_longer_than_the_option_stays() -> None:
    compressor = Compressor("zlib", len(LONG), MIB)
    assert sent(compressor, LONG) == Envelope("p", "k", LONG, {})
    assert sent(compressor, LONG + b" ").headers == {"content-encoding": "deflate"}


@each
def test_what_would_not_get_smaller_stays(chosen: str) -> None:
    body = zlib.compress(bytes(range(256)) * 3)
    assert sent(Compressor(chosen, 0, MIB), body) == Envelope("p", "k", body, {})


@pytest.mark.parametrize("name", ["content-encoding", "Content-Encoding"])
def test_what_is_compressed_already_stays(name: str) -> None:
    assert sent(Compressor("zlib", 0, MIB), LONG, **{name: "br"}).body == LONG


def test_a_body_that_no_receiver_would_take_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="2800 bytes, more than the 2799"):
        sent(Compressor("zlib", 0, len(LONG) - 1), LONG)
    assert sent(Compressor("zlib", 0, len(LONG)), LONG).headers


@needs_zstd
def test_auto_is_zstd_where_there_is_one() -> None:
    assert repr(Compressor("auto", 5, MIB)) == "<Compressor zstd over 5 bytes>"


@pytest.mark.usefixtures("without_zstd")
def test_auto_is_zlib_where_there_is_no_zstd() -> None:
    assert repr(Compressor("auto", 5, MIB)) == "<Compressor deflate over 5 bytes>"
    assert refused(b"x", "zstd").endswith("which is not installed: pip install 'evbus-hub[zstd]'")


@pytest.mark.usefixtures("without_zstd")
def test_zstd_without_its_extra_is_one_clear_sentence() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'evbus-hub\[zstd\]'"):
        Compressor("zstd", 0, MIB)


def test_what_was_not_compressed_is_handed_on_as_it_is() -> None:
    compressor = Compressor("auto", 0, MIB)
    for headers in ({}, {"content-encoding": "identity"}):
        envelope = Envelope("p", "k", b"x", headers)
        assert compressor.received(envelope) is envelope


def test_an_unknown_encoding_is_rejected_by_name() -> None:
    assert refused(b"x", "br\n") == f"the body is compressed as 'br'; known: {_known()}"
    assert "\\x1b" in refused(b"x", "b\x1br")


def _known() -> str:
    return "deflate, zstd" if zstd is not None else "deflate"


@each
@given(data=st.data())
def test_a_damaged_body_is_rejected_or_comes_out_whole(chosen: str, data: st.DataObject) -> None:
    compressor = Compressor(chosen, 0, MIB)
    envelope = sent(compressor, LONG)
    place = data.draw(st.integers(0, len(envelope.body) - 1))
    what = data.draw(st.sampled_from(["flip", "cut", "append"]))
    if what == "flip":
        byte = envelope.body[place] ^ data.draw(st.integers(1, 255))
        envelope.body = envelope.body[:place] + bytes([byte]) + envelope.body[place + 1 :]
    else:
        envelope.body = envelope.body[:place] if what == "cut" else envelope.body + b"x"
    try:
        body = compressor.received(envelope).body
    except Rejected:
        return
    # Some bits mean nothing; zstd has no checksum unless asked for.
    assert what == "flip"
    assert len(body) <= MIB


@pytest.mark.parametrize("name", [pytest.param("zstd", marks=needs_zstd), "deflate"])
def test_a_body_that_ends_too_early_or_goes_on_is_rejected(name: str) -> None:
    whole = sent(Compressor("zlib" if name == "deflate" else name, 0, MIB), LONG).body
    assert refused(whole[:-1], name) == f"the body is {name} that ends too early"
    assert refused(b"", name) == f"the body is {name} that ends too early"
    assert refused(whole + whole, name) == f"the body goes on for {len(whole)} bytes behind its {name}"
    assert refused(b"no such thing", name).startswith(f"the body is no {name}, or is damaged")


def bomb(chosen: str, size: int) -> bytes:
    return zlib.compress(bytes(size), 9) if chosen == "zlib" else bytes(zstd.compress(bytes(size), 19))


@each
def test_a_bomb_is_rejected_before_it_takes_more_memory_than_a_body_may(chosen: str) -> None:
    body = bomb(chosen, 200 * MIB)
    assert len(body) < MIB
    tracemalloc.start()
    try:
        assert refused(body, NAMES[chosen]).startswith(
            "the body is larger than the 1048576 bytes of the option max_body"
        )
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@each
def test_a_body_of_exactly_the_largest_size_is_taken(chosen: str) -> None:
    envelope = Envelope("p", "k", bomb(chosen, MIB), {"content-encoding": NAMES[chosen]})
    assert len(Compressor(chosen, 0, MIB).received(envelope).body) == MIB
    assert len(Compressor(chosen, 0, 0).received(envelope).body) == MIB
    assert "max_body" in refused(bomb(chosen, MIB + 1), NAMES[chosen])


@needs_zstd
def test_a_frame_that_asks_for_a_large_window_is_rejected() -> None:
    def framed(window_log: int) -> bytes:
        squeeze = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
        return bytes(squeeze.compress(LONG) + squeeze.flush())

    assert "the body is no zstd, or is damaged" in refused(framed(27), "zstd")
    taken = Envelope("p", "k", framed(23), {"content-encoding": "zstd"})
    assert Compressor("zstd", 0, MIB).received(taken).body == LONG


@each
@given(body=st.binary(max_size=5000) | st.builds(bytes.__mul__, st.binary(max_size=20), st.integers(0, 400)))
def test_whatever_is_sent_comes_back(chosen: str, body: bytes) -> None:
    compressor = Compressor(chosen, 10, MIB)
    envelope = sent(compressor, body)
    assert len(envelope.body) <= len(body)
    assert compressor.received(envelope) == Envelope("p", "k", body, {})


async def test_the_plugin_hands_the_handler_what_was_put(room: Any) -> None:

    async def handler(envelope: Envelope) -> bytes:
        return envelope.body

    envelope = Envelope("p", "k", LONG, {})
    assert room.pipeline.compress.send(envelope) is None
    assert envelope.body != LONG
    assert bytes(await room.pipeline.compress.handle(envelope, handler)) == LONG


def test_a_message_in_process_has_no_body_to_be_taken_apart(room: Any) -> None:
    async def main() -> Envelope:
        async def handler(envelope: Envelope) -> Envelope:
            return envelope

        envelope = Envelope("", "k", b"", {"content-encoding": "zstd"})
        found = await room.pipeline.compress.handle(envelope, handler)
        assert found is envelope
        return envelope

    asyncio.run(main())


def test_compress_takes_part_only_when_it_is_named(room: Any) -> None:
    assert room.pipeline.compress.__optional__ is True
