"""Bodies that are compressed on the way, as ``zstd`` (RFC 8878) or ``deflate`` (RFC 9110 section 8.4.1.2)."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from evbus.engine.codec.wrapped import unencoded
from evbus.engine.kit.redact import one_line
from evbus.errors import MissingExtra, PayloadTooLarge, Rejected
from evbus.types import Envelope
from evbus.version import install_command

__all__ = ["HEADER", "Compressor"]

#: The header that says how a body is compressed.
HEADER = "content-encoding"

#: The largest window of a zstd frame that every decoder should take (RFC 8878 section 3.1.1.1.2): 8 MiB.
_WINDOW_LOG = 23


def _zstd_module() -> Any:
    """Return the standard library's zstd (Python 3.14), or its backport, the extra ``zstd``, or None."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_zstd = _zstd_module()


class _Inflater(Protocol):
    """One compressed body on its way out."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Encoding(NamedTuple):
    name: str
    compress: Callable[[bytes], bytes]
    inflater: Callable[[], _Inflater]
    error: type[Exception]


def _deflate() -> _Encoding:
    return _Encoding("deflate", zlib.compress, zlib.decompressobj, zlib.error)


def _zstandard() -> _Encoding | None:
    if _zstd is None:
        return None
    limits = {_zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    return _Encoding("zstd", _zstd.compress, lambda: _zstd.ZstdDecompressor(options=limits), _zstd.ZstdError)


class Compressor:
    """Compresses bodies and takes them apart again.

    :param chosen: ``zstd``, ``zlib``, or ``auto``: zstd where it is installed, else zlib.
    :param over: bytes beyond which a body is compressed.
    :param max_body: most bytes of a body that is not compressed; 0 for any size.
    :raises MissingExtra: zstd is wanted and not installed.
    """

    def __init__(self, chosen: str, over: int, max_body: int) -> None:
        zstandard, deflate = _zstandard(), _deflate()
        if chosen == "zstd" and zstandard is None:
            raise MissingExtra("compress_with: zstd", package="backports.zstd", extra="zstd")
        self._with = deflate if chosen == "zlib" or zstandard is None else zstandard
        self._known = {one.name: one for one in (zstandard, deflate) if one is not None}
        self._over = over
        self._max_body = max_body

    def __repr__(self) -> str:
        return f"<Compressor {self._with.name} over {self._over} bytes>"

    def send(self, envelope: Envelope) -> None:
        """Compress the body if it is large enough, not compressed yet, and gets smaller.

        :raises PayloadTooLarge: it is larger than a receiver would take.
        """
        size = len(envelope.body)
        if size <= self._over or any(name.lower() == HEADER for name in envelope.headers):
            return
        if self._max_body and size > self._max_body:
            # Compressed it would pass here, and be refused by everybody that it is sent to.
            raise PayloadTooLarge(size, self._max_body)
        data = self._with.compress(envelope.body)
        if len(data) < size:
            envelope.body = data
            envelope.headers[HEADER] = self._with.name

    def received(self, envelope: Envelope) -> Envelope:
        """Return the envelope with the body as it was before it was compressed.

        :raises Rejected: it is compressed in an unknown way, broken, or too large.
        """
        headers = {name: value for name, value in envelope.headers.items() if name.lower() != HEADER}
        if len(headers) == len(envelope.headers):
            return envelope
        (given,) = [value for name, value in envelope.headers.items() if name.lower() == HEADER][-1:]
        name = given.strip().lower()
        if unencoded(name):
            return envelope
        encoding = self._known.get(name)
        if encoding is None:
            raise Rejected(self._unknown(name))
        plain = envelope.replace(headers=headers)
        plain.body = self._inflate(encoding, envelope.body)
        return plain

    def _unknown(self, name: str) -> str:
        if name == "zstd":
            return f"the body is compressed with zstd, which is not installed: {install_command('zstd')}"
        return f"the body is compressed as {one_line(name, 50)!r}; known: {', '.join(sorted(self._known))}"

    def _inflate(self, encoding: _Encoding, data: bytes) -> bytes:
        inflater = encoding.inflater()
        # zlib takes 0 for any length, zstd -1.
        most = self._max_body + 1 if self._max_body else (0 if encoding.name == "deflate" else -1)
        try:
            body = inflater.decompress(data, most)
        # A frame may also ask for more memory than there is.
        except (encoding.error, MemoryError, ValueError) as exc:
            raise Rejected(
                f"the body is no {encoding.name}, or is damaged: {one_line(str(exc), 200)}"
            ) from None
        if self._max_body and len(body) > self._max_body:
            raise Rejected(
                f"the body is larger than the {self._max_body} bytes of the option max_body when decompressed"
            )
        if not inflater.eof:
            raise Rejected(f"the body is {encoding.name} that ends too early")
        if inflater.unused_data:
            rest = len(inflater.unused_data)
            raise Rejected(f"the body goes on for {rest} bytes behind its {encoding.name}")
        return body
