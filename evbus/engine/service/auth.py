"""The settings ``auth`` and ``server.tls``: who calls, and how the server shows who it is."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from evbus.engine.kit.loopback import is_loopback
from evbus.engine.kit.redact import MASK, is_secret_name
from evbus.engine.kit.units import Seconds
from evbus.engine.wire.base.tls import Tls

__all__ = ["AuthSettings", "JwtSettings", "ServerTls", "TokenSettings", "masked"]

#: Characters that a secret has at least: 128 bits, in hexadecimal digits.
_SHORTEST = 32


def masked(settings: msgspec.Struct) -> str:
    """Return the ``repr`` of settings, without their secrets."""
    fields = [(name, getattr(settings, name)) for name in settings.__struct_fields__]
    shown = (
        f"{name}={MASK if value and isinstance(value, str) and is_secret_name(name) else repr(value)}"
        for name, value in fields
    )
    return f"{type(settings).__name__}({', '.join(shown)})"


class JwtSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tokens that an authorization server has signed: JSON Web Tokens (RFC 7519).

    :ivar key_file: files of keys, or one: public keys or certificates in PEM, or a secret for HMAC. They are
        read again when they have changed.
    :ivar jwks: where a JSON Web Key Set is (RFC 7517): an ``https://`` URL, an ``http://`` one of this
        machine, or a file.
    :ivar algorithms: of signatures; default: those that each key is for. Never ``none``.
    :ivar issuer: the claim ``iss`` that tokens must have.
    :ivar audience: of which the claim ``aud`` must have one: what this process is called. Without it, tokens
        that are for somebody are refused.
    :ivar leeway: seconds by which clocks may differ.
    :ivar scopes: the claim that holds the scopes, a list or a text with blanks between them.
    :ivar refetch: seconds between two looks for a key that the key set did not have.
    :ivar max_age: seconds after which a key set is fetched again.
    :ivar tls: what is trusted where the key set is.
    """

    key_file: str | list[str] = ""
    jwks: str = ""
    algorithms: list[str] = []
    issuer: str = ""
    audience: str | list[str] = ""
    leeway: Seconds = 10.0
    scopes: str = "scope"
    refetch: Seconds = 30.0
    max_age: Seconds = 600.0
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if bool(self.key_file) == bool(self.jwks):
            raise ValueError("jwt needs either key_file, files of keys, or jwks, the address of a key set")
        parts = urlsplit(self.jwks)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError(
                "jwks is fetched by https from other machines: who is on the way could put a key of his own "
                "into it"
            )
        if any(name.lower() == "none" for name in self.algorithms):
            raise ValueError("algorithms has none, by which everybody could write tokens; leave it out")
        if not 0 <= self.leeway <= 300:
            raise ValueError("leeway is a number of seconds from 0 to 300")
        if self.refetch < 1 or self.max_age < self.refetch:
            raise ValueError("refetch is 1 second or more, and max_age not below it")

    @property
    def key_files(self) -> list[str]:
        """The files of keys."""
        if not self.key_file:
            return []
        return [self.key_file] if isinstance(self.key_file, str) else self.key_file


class TokenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token that somebody has been given by hand.

    :ivar token: itself, 32 characters or more.
    :ivar token_file: a file that holds it, and is read again when it has changed.
    :ivar scopes: what is granted to who has it.
    """

    token: str = ""
    token_file: str = ""
    scopes: list[str] = []

    def problem(self) -> str:
        """Return what is wrong with it, ``""`` for nothing."""
        if bool(self.token) == bool(self.token_file):
            return "either token or token_file says what the token is"
        if self.token and len(self.token) < _SHORTEST:
            return (
                f"a token has {_SHORTEST} characters or more, or it can be guessed; "
                "`openssl rand -hex 32` writes one"
            )
        return ""

    def __repr__(self) -> str:
        return masked(self)


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may call from outside, and how it is known who calls.

    :ivar tokens: tokens by the names of those who have them.
    :ivar certificates: scopes by the names in certificates of callers: a URI or DNS name of the subject's
        alternative names, or the common name; ``*`` for any other. Needs ``server.tls.client_ca_file``.
    :ivar anonymous: what anybody may call: ``component:service:method``, or a path of the server;
        each with ``*`` for any text.
    """

    jwt: JwtSettings | None = None
    tokens: dict[str, TokenSettings] = {}
    certificates: dict[str, list[str]] = {}
    anonymous: list[str] = []

    def __post_init__(self) -> None:
        if self.jwt is None and not self.tokens and not self.certificates:
            raise ValueError("auth needs jwt, tokens or certificates: by what else is it known who calls?")
        if not all(self.tokens) or not all(self.certificates):
            raise ValueError("a caller has a name")
        for name, one in self.tokens.items():
            if problem := one.problem():
                raise ValueError(f"tokens.{name}: {problem}")


class ServerTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The encryption of the server: TLS 1.2 or later. The files are read again when they have changed.

    :ivar cert_file: its certificate and those between it and an authority, in PEM.
    :ivar key_file: its private key, unencrypted, when that is not in ``cert_file``.
    :ivar client_ca_file: certificates of the authorities whose certificates callers may show, in PEM.
    :ivar client_certificate: whether a caller without one is let in.
    """

    cert_file: str
    key_file: str = ""
    client_ca_file: str = ""
    client_certificate: Literal["required", "optional"] = "required"
