"""Tokens that an authorization server has signed: JSON Web Tokens (RFC 7519), by PyJWT."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jwt

from evbus.engine.kit.redact import one_line
from evbus.engine.service.auth import JwtSettings
from evbus.engine.service.guard import Caller
from evbus.engine.service.keys import Key, source_of

__all__ = ["JwtTokens", "RefusedToken"]

#: The most tokens that are remembered.
_MOST = 1000


class RefusedToken(Exception):
    """A token is not accepted; the text is for the log, and holds nothing of it that is secret."""


class JwtTokens:
    """Verifies tokens, and remembers those that it has verified until they expire.

    :raises ConfigError: a file or an algorithm is unusable; names the key of the settings.
    :raises MissingExtra: keys of this kind need the package cryptography.
    """

    def __init__(self, settings: JwtSettings) -> None:
        self._settings = settings
        self._source = source_of(settings)
        self._audience = settings.audience or None
        self._issuer = settings.issuer or None
        # By a digest: what is remembered cannot be used by who gets to see it.
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._of: Sequence[Key] = ()

    def __repr__(self) -> str:
        return f"<JwtTokens {len(self._known)} remembered>"

    async def close(self) -> None:
        """Let go of the keys."""
        await self._source.close()

    async def caller(self, token: str) -> Caller:
        """Return whose token this is.

        :raises RefusedToken: it is not accepted.
        :raises Unavailable: it cannot be checked now.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._known.get(digest)
        # Asked for also where the token is known, as keys are taken back, and new ones fetched in time.
        keys = await self._source.keys("" if known is not None else _kid(token))
        if keys is not self._of:
            self._of = keys
            self._known.clear()
            known = None
        if known is not None:
            if time.time() < known[1]:
                return known[0]
            del self._known[digest]
        claims = self._verified(token, keys)
        found = Caller(_name(claims), _scopes(claims, self._settings.scopes), MappingProxyType(claims))
        self._known[digest] = found, float(claims["exp"]) + self._settings.leeway
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return found

    def _verified(self, token: str, keys: Sequence[Key]) -> dict[str, Any]:
        """Return what a token says, once its signature and its times are found to be right."""
        head = _head(token)
        algorithm, kid = head.get("alg"), head.get("kid", "")
        shown = one_line(repr(algorithm), 30)
        named = [key for key in keys if not key.kid or not kid or key.kid == kid]
        if not named:
            raise RefusedToken(f"its key {one_line(repr(kid), 100)} is none of those that are known")
        fitting = [key for key in named if algorithm in key.algorithms]
        if not fitting:
            raise RefusedToken(f"its algorithm {shown} is none that its key is for")
        for key in fitting:
            try:
                return self._decoded(token, key, str(algorithm))
            except jwt.InvalidSignatureError:
                continue
        raise RefusedToken(
            "its signature is not right: it was forged, or signed with a key that is not known"
        )

    def _decoded(self, token: str, key: Key, algorithm: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._settings.leeway,
                options={"require": ["exp"]},
            )
        except jwt.InvalidSignatureError:
            raise
        except jwt.MissingRequiredClaimError as exc:
            raise RefusedToken(f"it has no {one_line(exc.claim, 50)}") from None
        except jwt.PyJWTError as exc:
            raise RefusedToken(_reason(exc)) from None


def _reason(problem: jwt.PyJWTError) -> str:
    """Say why a token is refused; what PyJWT says may hold parts of it."""
    return next((text for kind, text in _REASONS if isinstance(problem, kind)), _MALFORMED)


_MALFORMED = "it is malformed"
_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not valid yet"),
    (jwt.InvalidIssuedAtError, "it is not valid yet, or its iat is no time"),
    (jwt.InvalidAudienceError, "it is for somebody else: its aud is not this audience"),
    (jwt.InvalidIssuerError, "it is from somebody else: its iss is not this issuer"),
    (jwt.InvalidKeyError, "its key is not usable"),
)


def _head(token: str) -> Mapping[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise RefusedToken(_MALFORMED) from None


def _kid(token: str) -> str:
    kid = _head(token).get("kid", "")
    return kid if isinstance(kid, str) else ""


def _name(claims: Mapping[str, Any]) -> str:
    """Return whose a token is: of its subject, or of the client that has it (RFC 9068, section 2.2)."""
    for claim in ("sub", "client_id", "azp"):
        found = claims.get(claim)
        if isinstance(found, str) and found:
            return found
    raise RefusedToken("it does not say whose it is: it has no sub")


def _scopes(claims: Mapping[str, Any], claim: str) -> frozenset[str]:
    found = claims.get(claim, "")
    if isinstance(found, str):
        return frozenset(found.split())
    if isinstance(found, list):
        return frozenset(one for one in found if isinstance(one, str))
    raise RefusedToken(f"its claim {claim} is neither a text nor a list")
