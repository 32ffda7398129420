"""Keep secrets, and control characters from outside, out of everything that a person reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl, quote, unquote

__all__ = ["MASK", "is_secret_name", "one_line", "problem_text", "redact", "said", "secrets_of", "text_of"]

#: What stands in the place of a secret.
MASK = "***"

#: Shorter values are no secrets worth the name, and masking them would make every text unreadable.
_SHORTEST = 4

#: A user name without a password is a secret only when it is as long as an access token.
_TOKEN_LENGTH = 16

_SECRET_PARTS = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "api_key",
    "apikey",
    "private_key",
    "credential",
    "authorization",
    "acct_key",
    "access_key",
    "signing_key",
)
_SECRET_NAMES = frozenset({"key", "pass", "pwd", "cookie", "login_pass", "loginpass", "user_pass"})

# A password may hold unescaped "@" and "/", so it reaches to the last "@" before the next URL; the
# look-ahead keeps "http://host:8080/a@b" whole. Every step is bounded by the next "://": linear.
_URL_PASSWORD = re.compile(r"(://[^\s/:@?#]*:)(?!\d{1,5}[/?#])(?:(?!://)[^\s\"'<>])*@")
_USERINFO = re.compile(r"://([^\s/:@?#]*)(?::(?!\d{1,5}[/?#])((?:(?!://)\S)*))?@")
_QUERY_SECRET = re.compile(
    r"([?&;](?:[\w.-]{0,40}(?:passw(?:or)?d|secret|token|api_?key|signature)[\w.-]{0,40}|key|sig)=)"
    r"[^&\s#\"'<>]+",
    re.IGNORECASE,
)

# Control characters, line and paragraph separators, what turns the writing direction around, and lone
# surrogates (they cannot be written to a UTF-8 log at all).
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def is_secret_name(name: object) -> bool:
    """Return whether the value under a key of this name (any case, ``-`` as ``_``) is a secret."""
    plain = str(name).lower().replace("-", "_").replace(" ", "_")
    return plain in _SECRET_NAMES or any(part in plain for part in _SECRET_PARTS)


def secrets_of(data: object) -> frozenset[str]:
    """Return every secret string of a profile, however deeply nested, for :func:`redact`.

    Secret are the values under keys such as ``password``, ``token`` or ``api_key``, and of every URL the
    password, the whole ``user:password`` and query values under such names. Values of less than four
    characters are left out.
    """
    return frozenset(value for value in _walk(data, secret=False) if len(value) >= _SHORTEST)


def _walk(data: object, *, secret: bool) -> Iterator[str]:
    if isinstance(data, bytes):
        data = data.decode("utf-8", "replace")
    if isinstance(data, str):
        yield from _secret_forms(data) if secret else ()
        yield from _url_secrets(data) if "://" in data else ()
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _walk(value, secret=secret or is_secret_name(key))
    elif isinstance(data, (list, tuple, set, frozenset)):
        for value in data:
            yield from _walk(value, secret=secret)


def _secret_forms(value: str) -> Iterator[str]:
    yield value
    yield value.strip()
    # "Bearer abc": the credentials are as secret without their scheme.
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() in ("basic", "bearer", "token", "apikey"):
        yield rest.strip()


def _url_secrets(text: str) -> Iterator[str]:
    for user, password in _USERINFO.findall(text):
        if password:
            yield from (password, f"{user}:{password}", unquote(password), unquote(f"{user}:{password}"))
        elif len(user) >= _TOKEN_LENGTH:
            yield from (user, unquote(user))
    query = text.partition("?")[2].partition("#")[0]
    for name, value in parse_qsl(query):
        if is_secret_name(name) or name.lower() == "sig":
            yield value


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with every secret replaced by ``***``.

    Masked are the passwords of URLs (``scheme://user:***@host``), query values under secret names
    (``?token=***``), and each of ``secrets`` as written and percent-encoded.
    """
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
    if "=" in text:
        text = _QUERY_SECRET.sub(rf"\1{MASK}", text)
    # The longest first: a secret that holds another one must not be left in pieces.
    for form in sorted(_written_forms(secrets), key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def _written_forms(secrets: Iterable[str]) -> set[str]:
    forms: set[str] = set()
    for secret in (secrets,) if isinstance(secrets, str) else secrets:
        encoded = quote(secret, safe="", errors="replace")
        lower = re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
        forms.update((secret, encoded, lower, quote(secret, errors="replace")))
    forms.discard("")
    return forms


def one_line(text: object, limit: int = 500) -> str:
    r"""Return a foreign text as at most ``limit`` printable characters, so that it makes one log record.

    Newlines, control and ANSI characters and those that turn the writing direction are escaped
    (``\n``, ``\x1b``, ``\u202e``); what is too long ends in ``...``.
    """
    whole = str(text)
    line = _UNPRINTABLE.sub(_escape, whole[:limit])
    if len(whole) > limit or len(line) > limit:
        return line[: max(limit - 3, 0)] + "..."[:limit]
    return line


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    code = ord(char)
    return _SHORT_ESCAPES.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def problem_text(problem: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return an exception's type and text, in one line and without secrets.

    A group of exceptions, which itself says only how many they are, says what each of them is.
    """
    return one_line(redact(_typed(problem), secrets))


def said(problem: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return an exception's text, as :func:`problem_text` does, without its type.

    That stands before it all the same when the text alone says nothing: ``KeyError: 'id'``,
    ``AssertionError``.
    """
    return one_line(redact(_text(problem) if _speaks(problem) else _typed(problem), secrets))


def text_of(problem: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return an exception's text, as :func:`said` does, for beside its type: never with that."""
    return one_line(redact(_text(problem), secrets))


def _speaks(problem: BaseException) -> bool:
    """Return whether an exception says more than what it was made with."""
    try:
        return str(problem) not in ("", repr(problem.args), *map(repr, problem.args))
    except Exception:
        return True  # that its text cannot be had


def _typed(problem: BaseException) -> str:
    text = _text(problem)
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _text(problem: BaseException) -> str:
    try:
        text = str(problem)
    except Exception as exc:
        return f"(its text cannot be had: {type(exc).__name__})"
    parts = getattr(problem, "exceptions", None)
    if not isinstance(parts, tuple) or not all(isinstance(part, BaseException) for part in parts):
        return text
    return f"{text}: {'; '.join(map(_typed, parts))}"
