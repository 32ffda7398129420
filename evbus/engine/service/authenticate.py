"""Asks who calls from outside: by tokens and certificates, as the setting ``auth`` says."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import translate
from typing import TYPE_CHECKING, Any

from evbus.engine.kit.paths import expanded
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.watched import Watched
from evbus.engine.service.auth import AuthSettings, TokenSettings
from evbus.engine.service.guard import NOBODY, Caller, check_known
from evbus.engine.service.settings import ChannelSettings
from evbus.errors import AuthorizationError, ConfigError, MissingExtra

if TYPE_CHECKING:
    from evbus.engine.service.jwt_tokens import JwtTokens

__all__ = ["Authenticator", "anybody", "secret_of", "token_of"]

log = logging.getLogger("evbus.service")

_SHORTEST = 32


class Authenticator:
    """A :class:`.Guard` for the settings ``auth``.

    :param open_methods: returns whether there are methods that anybody may call.
    :raises ConfigError: a file, a key or a token is unusable; names the key of the settings.
    :raises MissingExtra: the extra ``jwt`` is not installed, and tokens of that kind are to be read.
    """

    def __init__(self, settings: AuthSettings, open_methods: Callable[[], bool]) -> None:
        self._tokens = _Tokens(settings.tokens)
        self._certificates = {name: frozenset(scopes) for name, scopes in settings.certificates.items()}
        self._open_methods = open_methods
        self._jwt: JwtTokens | None = None
        if settings.jwt is not None:
            try:
                from evbus.engine.service import jwt_tokens
            except ModuleNotFoundError as exc:
                if (exc.name or "").partition(".")[0] != "jwt":
                    raise
                raise MissingExtra("the setting auth.jwt", package="PyJWT", extra="jwt") from exc
            self._refused: type[Exception] = jwt_tokens.RefusedToken
            self._jwt = jwt_tokens.JwtTokens(settings.jwt)

    def __repr__(self) -> str:
        ways = {"jwt": self._jwt, "tokens": self._tokens, "certificates": self._certificates}
        return f"<Authenticator {', '.join(name for name, way in ways.items() if way)}>"

    async def close(self) -> None:
        """Let go of what it holds."""
        if self._jwt is not None:
            await self._jwt.close()

    async def caller(
        self, *, authorization: str = "", certificate: Mapping[str, Any] | None = None
    ) -> Caller:
        """Return who calls; see :class:`.Guard`. A token counts more than a certificate."""
        if authorization:
            return await self._of_token(authorization)
        if certificate and self._certificates:
            return self._of_certificate(certificate)
        if not self._open_methods():
            check_known(NOBODY, None)
        return NOBODY

    async def _of_token(self, authorization: str) -> Caller:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise self._refuse("the header Authorization holds no bearer token")
        found = self._tokens.find(token)
        if found is not None:
            return found
        if self._jwt is None:
            raise self._refuse("it is none of those that are known")
        try:
            return await self._jwt.caller(token)
        except self._refused as exc:
            # Without the cause, whose traceback could show the token.
            reason = str(exc)
        raise self._refuse(reason)

    def _of_certificate(self, certificate: Mapping[str, Any]) -> Caller:
        names = list(dict.fromkeys(_names(certificate)))
        known = [name for name in names if name in self._certificates]
        scopes = [self._certificates[name] for name in known]
        if not known and "*" in self._certificates and names:
            known, scopes = names, [self._certificates["*"]]
        if not known:
            shown = one_line(", ".join(names) or "nobody", 300)
            log.info("the certificate of a caller was refused: it is of %s, who may not call", shown)
            raise AuthorizationError("the certificate is of nobody who may call here")
        return Caller(known[0], frozenset().union(*scopes))

    def _refuse(self, reason: str) -> AuthorizationError:
        """Return what a caller is told, which is little, and tell the log more."""
        log.info("the token of a caller was refused: %s", reason)
        return AuthorizationError("the token is not accepted")


class _Tokens:
    """Tokens that were given to somebody by hand."""

    def __init__(self, given: Mapping[str, TokenSettings]) -> None:
        self._given = [
            (Caller(name, frozenset(one.scopes)), _digest_of(name, one)) for name, one in given.items()
        ]

    def __repr__(self) -> str:
        return f"<_Tokens {len(self)}>"

    def __len__(self) -> int:
        return len(self._given)

    def find(self, token: str) -> Caller | None:
        """Return whose token this is; it takes as long for each, so that nothing is learned from that."""
        digest, found = _digest(token), None
        for one, known in self._given:
            if hmac.compare_digest(known(), digest):
                found = one
        return found


def _digest_of(name: str, settings: TokenSettings) -> Callable[[], bytes]:
    """Return what returns the digest of a token."""
    if settings.token_file:
        return secret_of(settings.token_file, f"auth.tokens.{name}.token_file", _long).get
    digest = _digest(settings.token)
    return lambda: digest


def _long(secret: str, where: str) -> bytes:
    if len(secret) < _SHORTEST:
        raise ConfigError(
            f"{where} holds a token of {len(secret)} characters, and one of less than {_SHORTEST} can be "
            "guessed; `openssl rand -hex 32` writes one"
        )
    return _digest(secret)


def secret_of(file: str, where: str, made: Callable[[str, str], Any]) -> Watched[Any]:
    """Return what is made of the secret that a file holds.

    :param where: the key of the settings, for errors.
    :param made: makes it of the secret, and of what the errors are to begin with.
    :raises ConfigError: the file cannot be read, or holds nothing.
    """
    path = expanded(file, where)

    def load() -> Any:
        try:
            secret = path.read_text(encoding="ascii").strip()
        except OSError as exc:
            raise ConfigError(f"{where}: {file} cannot be read: {exc.strerror}") from None
        except UnicodeError:
            secret = ""
        if not secret or any(one <= " " for one in secret):
            raise ConfigError(f"{where}: {file} holds no token: one line of ASCII without blanks")
        return made(secret, f"{where}: {file}")

    return Watched([path], load, log)


def token_of(settings: ChannelSettings, where: str) -> Callable[[], str] | None:
    """Return what returns the token that calls over a channel go with, None for none.

    :param where: the key of the channel, for errors.
    :raises ConfigError: its file cannot be read, or holds no token.
    """
    if settings.token_file:
        return secret_of(settings.token_file, f"{where}.token_file", lambda secret, _: secret).get
    return (lambda: settings.token) if settings.token else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _names(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names in a certificate: URIs and DNS names, then the common name."""
    for wanted in ("URI", "DNS"):
        for kind, value in certificate.get("subjectAltName", ()):
            if kind == wanted and value:
                yield value
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName" and value:
                yield value


def anybody(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether anybody may call ``component:service:method``, or ask for a path."""
    found = [re.compile(translate(one)) for one in patterns]
    return lambda name: any(one.match(name) for one in found)
