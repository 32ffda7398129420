"""The keys that tokens are verified with: of files, and of JSON Web Key Sets (RFC 7517). Needs PyJWT."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import jwt

from evbus.engine.codec import json
from evbus.engine.kit.paths import expanded
from evbus.engine.kit.redact import one_line, problem_text, redact
from evbus.engine.kit.watched import Watched
from evbus.engine.service.auth import JwtSettings
from evbus.errors import ConfigError, EvbusError, MissingExtra, PayloadError, ProfileError, Unavailable

__all__ = ["Key", "KeySource", "source_of"]

log = logging.getLogger("evbus.service")

#: What a key may sign with, by its type (RFC 7518, section 3.1; RFC 8037).
ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
    "secret": ("HS256", "HS384", "HS512"),
}
_KNOWN = frozenset(name for names in ALGORITHMS.values() for name in names)
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
#: Bytes of a secret (RFC 7518, section 3.2), and of a key set.
_SHORTEST, _LARGEST = 32, 1024 * 1024
#: Seconds that fetching a key set may take.
_PATIENCE = 10.0


class Key(NamedTuple):
    """A key.

    :ivar kid: what tokens call it, ``""`` where they need not name it.
    :ivar algorithms: what it verifies; no other one is tried with it, whatever a token says.
    :ivar key: as PyJWT takes it.
    """

    kid: str
    algorithms: tuple[str, ...]
    key: Any

    def __repr__(self) -> str:
        return f"<Key {self.kid or 'without a name'} {', '.join(self.algorithms)}>"


class KeySource(Protocol):
    """Where keys come from."""

    async def keys(self, kid: str) -> Sequence[Key]:
        """Return the keys; the same object as long as they are the same.

        :param kid: what a token calls its key; one that is not there may be looked for.
        :raises Unavailable: they cannot be had now.
        """

    async def close(self) -> None:
        """Let go of what it holds."""


def source_of(settings: JwtSettings) -> KeySource:
    """Return where the keys come from that are configured.

    :raises ConfigError: a file or an algorithm is unusable; names the key of the settings.
    :raises MissingExtra: keys of this kind need the package cryptography.
    """
    for name in settings.algorithms:
        if name not in _KNOWN:
            shown, known = one_line(repr(name), 50), ", ".join(sorted(_KNOWN))
            raise ConfigError(f"auth.jwt.algorithms: there is no {shown}; there are {known}")
    if settings.key_file:
        return _Files(
            [expanded(file, "auth.jwt.key_file") for file in settings.key_files],
            _of_pem,
            settings,
            "key_file",
        )
    if urlsplit(settings.jwks).scheme in ("http", "https"):
        return _KeySet(settings)
    return _Files([expanded(settings.jwks, "auth.jwt.jwks")], _of_set, settings, "jwks")


class _Files:
    """Keys of files."""

    def __init__(self, files: list[Path], read: Any, settings: JwtSettings, name: str) -> None:
        def load() -> tuple[Key, ...]:
            found: list[Key] = []
            for file in files:
                where = f"auth.jwt.{name}: {file}"
                try:
                    content = file.read_bytes()
                except OSError as exc:
                    raise ConfigError(f"{where} cannot be read: {exc.strerror}") from None
                found += read(content, where)
            return _wanted(found, settings, f"auth.jwt.{name}")

        self._keys = Watched(files, load, log)

    async def keys(self, kid: str) -> Sequence[Key]:
        """Return the keys."""
        return self._keys.get()

    async def close(self) -> None:
        """There is nothing to close."""


class _KeySet:
    """A key set that is fetched when it is needed, and again in the background when it has become old."""

    def __init__(self, settings: JwtSettings) -> None:
        # Of the extra service, which the HTTP server has and others need for this alone.
        from evbus.engine.wire.http.pool import HttpPool, address_of

        self._settings = settings
        parts = urlsplit(settings.jwks)
        try:
            self._address = address_of(parts._replace(query="", fragment="").geturl())
        except ValueError as exc:
            raise ConfigError(f"auth.jwt.jwks: {exc}") from None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = self._address.authority
        self._head = f"GET {target} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n".encode()
        try:
            self._pool = HttpPool(connections=1, connect_timeout=5.0, max_answer=_LARGEST, tls=settings.tls)
        except ProfileError as exc:
            raise ConfigError(f"auth.jwt.{exc.path}: {exc.reason}") from None
        self._keys: tuple[Key, ...] = ()
        self._content = b""
        self._tried = self._fetched = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<_KeySet {redact(self._settings.jwks)}, {len(self._keys)} keys>"

    async def keys(self, kid: str) -> Sequence[Key]:
        """Return the keys; for one that is not there the set is fetched again, but not every time."""
        now = time.monotonic()
        known = any(not kid or key.kid == kid for key in self._keys)
        # Whoever sends tokens with invented names must not have the set fetched for each.
        may = now - self._tried >= self._settings.refetch
        if not known and (may or self._fetching is not None):
            await asyncio.shield(self._fetch())
        elif now - self._fetched >= self._settings.max_age and may:
            self._fetch()
        if not self._keys:
            raise Unavailable("who calls cannot be checked now; try again later")
        return self._keys

    def _fetch(self) -> asyncio.Task[None]:
        """Return the task that fetches it: one at a time."""
        if self._fetching is None:
            self._tried = time.monotonic()
            self._fetching = asyncio.get_running_loop().create_task(self._load())
            self._fetching.add_done_callback(self._done)
        return self._fetching

    def _done(self, task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _load(self) -> None:
        where = f"the key set {redact(self._settings.jwks)}"
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await self._pool.request(self._address, self._head, b"")
            if answer.status != 200:
                raise Unavailable(f"it answered with the HTTP status {answer.status}")
            if answer.body != self._content:
                self._keys = _wanted(_of_set(answer.body, where), self._settings, where)
                self._content = answer.body
            self._fetched = time.monotonic()
        except Exception as exc:
            known = "those that are known stay" if self._keys else "no token can be checked"
            why = f"no answer within {_PATIENCE:g} s" if isinstance(exc, TimeoutError) else problem_text(exc)
            log.error("%s gives no keys, %s: %s", where, known, why)

    async def close(self) -> None:
        """End what is under way."""
        task = self._fetching
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._pool.close()


def _wanted(found: Sequence[Key], settings: JwtSettings, where: str) -> tuple[Key, ...]:
    """Return keys with those of their algorithms that the settings allow."""
    allowed = settings.algorithms
    kept = [
        key._replace(algorithms=tuple(one for one in key.algorithms if not allowed or one in allowed))
        for key in found
    ]
    usable = tuple(key for key in kept if key.algorithms)
    if not usable:
        can = ", ".join(sorted({name for key in found for name in key.algorithms}))
        raise ConfigError(
            f"{where}: none of its keys is for {', '.join(allowed)}; they are for {can or 'nothing'}"
        )
    return usable


def _of_pem(content: bytes, where: str) -> list[Key]:
    """Return the keys of a file: public ones in PEM, or one secret."""
    if b"-----BEGIN" not in content:
        secret = content.strip()
        if len(secret) < _SHORTEST:
            raise ConfigError(
                f"{where} holds a secret of {len(secret)} bytes, and HMAC takes {_SHORTEST} or more; "
                "`openssl rand -hex 32` writes one"
            )
        return [Key("", ALGORITHMS["secret"], secret)]
    if b"PRIVATE KEY-----" in content:
        raise ConfigError(
            f"{where} holds a private key, which who only verifies must not have; give the public one"
        )
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from cryptography.x509 import load_pem_x509_certificate
    except ModuleNotFoundError:
        raise MissingExtra("tokens with public keys", package="cryptography", extra="jwt") from None
    found = []
    for block in content.split(b"-----BEGIN")[1:]:
        pem = b"-----BEGIN" + block
        try:
            if b"BEGIN CERTIFICATE" in pem:
                key: Any = load_pem_x509_certificate(pem).public_key()
            else:
                key = load_pem_public_key(pem)
        except ValueError:
            raise ConfigError(f"{where} holds something that is no public key in PEM") from None
        found.append(Key("", _algorithms(key, where), key))
    return found


def _algorithms(key: Any, where: str) -> tuple[str, ...]:
    """Return what a public key verifies."""
    curve = getattr(getattr(key, "curve", None), "name", "")
    name = type(key).__name__
    kind = "RSA" if "RSA" in name else "Ed25519" if "Ed25519" in name else _CURVES.get(curve, "")
    if kind not in ALGORITHMS:
        raise ConfigError(f"{where} holds a key of a kind that signs no tokens here: {curve or name}")
    if kind == "RSA" and key.key_size < 2048:
        raise ConfigError(f"{where} holds an RSA key of {key.key_size} bits; 2048 or more are needed")
    return ALGORITHMS[kind]


def _of_set(content: bytes, where: str) -> list[Key]:
    """Return the keys of a key set that are for signatures; those that cannot be used are left out."""
    try:
        found = json.load(content)
    except PayloadError as exc:
        raise ConfigError(f"{where} is no JSON Web Key Set: {exc}") from None
    given = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(given, list):
        raise ConfigError(f'{where} is no JSON Web Key Set: it has no list "keys"')
    keys = []
    for number, one in enumerate(given):
        try:
            keys.append(_of_jwk(one, f"{where}: key {number + 1}"))
        except (EvbusError, jwt.PyJWTError, ValueError, TypeError, KeyError) as exc:
            if isinstance(exc, (MissingExtra, jwt.exceptions.MissingCryptographyError)):
                raise MissingExtra("tokens with public keys", package="cryptography", extra="jwt") from None
            # What PyJWT says holds the key, which need not be public.
            said = str(exc) if isinstance(exc, EvbusError) else type(exc).__name__
            log.info("%s, key %d is left out: %s", where, number + 1, said)
    if not keys:
        raise ConfigError(f"{where} has no key that signatures can be verified with")
    return keys


def _of_jwk(one: Any, where: str) -> Key:
    if not isinstance(one, dict) or one.get("use", "sig") != "sig":
        raise ConfigError(f"{where} is not for signatures")
    if one.get("kty") == "oct" or "d" in one:
        raise ConfigError(f"{where} is a secret, which a key set that others read must not have")
    kid, said = one.get("kid", ""), one.get("alg")
    key = jwt.PyJWK.from_dict(one).key
    algorithms = _algorithms(key, where)
    if said is not None:
        algorithms = tuple(name for name in algorithms if name == said)
    return Key(kid if isinstance(kid, str) else "", algorithms, key)
