"""The key ``tls`` of a profile, and the context that it stands for."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from evbus.engine.kit.paths import expanded
from evbus.errors import ProfileError

__all__ = ["Tls", "client_context", "tls_reason"]

log = logging.getLogger("evbus.connection")


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The encryption of a connection: TLS 1.2 or later, the server's certificate verified.

    :ivar ca_file: certificates of the authorities to trust, in PEM; default: those of the system.
    :ivar cert_file: the client's own certificate (and chain), in PEM.
    :ivar key_file: its private key, unencrypted, when that is not in ``cert_file``.
    :ivar server_name: the name that the server's certificate must hold; default: the host.
    :ivar insecure: do not verify the certificate. Anybody on the way can then read and change events.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.key_file and not self.cert_file:
            raise ValueError("tls.key_file needs tls.cert_file, the certificate that it belongs to")


def client_context(tls: Tls, path: str = "tls", who: str = "a profile") -> ssl.SSLContext:
    """Return the context of a client.

    :param path: the key that holds the settings, for errors.
    :param who: whose they are, for the warning that ``insecure`` gives.
    :raises ProfileError: a file cannot be read or holds no certificate or key; names the key.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca_file:
        where, file = f"{path}.ca_file", _readable(f"{path}.ca_file", tls.ca_file)
        with _usable(where, tls.ca_file):
            context.load_verify_locations(cafile=file)
    if tls.cert_file:
        where, file = f"{path}.cert_file", _readable(f"{path}.cert_file", tls.cert_file)
        key = _readable(f"{path}.key_file", tls.key_file) if tls.key_file else None
        with _usable(where, tls.cert_file):
            context.load_cert_chain(file, key)
    if tls.insecure:
        log.warning(
            "%s: the server's certificate is not verified (tls.insecure), so anybody on the way can read and "
            "change events",
            who,
        )
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _readable(where: str, file: str) -> str:
    """Return the path of a file that can be read and for which OpenSSL will not ask for a password."""
    path = expanded(file, where)
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ProfileError(f"{file} cannot be read: {exc.strerror}", path=where) from None
    if b"ENCRYPTED" in content:
        reason = f"{file} is not usable: its private key is encrypted; give one without a password"
        raise ProfileError(reason, path=where)
    return str(path)


@contextmanager
def _usable(where: str, file: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as exc:
        raise ProfileError(f"{file} is not usable: {exc.reason or exc}", path=where) from None


def tls_reason(problem: BaseException) -> str:
    """Return the reason of a failed TLS handshake, in words for people; ``""`` when it was not TLS."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate was refused: {problem.verify_message}; "
            "give the authority in tls.ca_file, and in tls.server_name the name if it differs from the host"
        )
    if isinstance(problem, ssl.SSLError):
        # Those that asyncio makes have no reason.
        reason = getattr(problem, "reason", None) or str(problem)
        text = f"{reason} {problem}"
        if "WRONG_VERSION" in text or "RECORD_LAYER" in text or "UNEXPECTED_EOF" in text:
            return "the server does not speak TLS on this port; leave out tls, or name its TLS port"
        if "ALERT" in text:
            return f"the server refused the TLS handshake ({reason}): it may want a client certificate"
        return f"the TLS handshake failed: {reason}"
    return ""
