"""The certificate of the server, which is read again when it has changed, and when it ends."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evbus.engine.kit.paths import expanded
from evbus.engine.kit.watched import Watched
from evbus.engine.service.auth import ServerTls
from evbus.engine.service.health import HealthStatus, Result
from evbus.errors import ConfigError

__all__ = ["Certificate"]

log = logging.getLogger("evbus.service")

#: Seconds before the end of a certificate from which on that is said.
SOON = 14 * 86_400
#: Of OpenSSL: whatever the time is.
_NO_CHECK_TIME = 0x200000


class Certificate:
    """What the server shows, and whom it lets in.

    :ivar context: for ``create_server``; each connection gets the files as they are then.
    :raises ConfigError: a file is not usable; names the key of the settings.
    """

    def __init__(self, settings: ServerTls) -> None:
        self._settings = settings
        names = ("cert_file", "key_file", "client_ca_file")
        self._files = {
            name: expanded(file, f"server.tls.{name}") for name in names if (file := getattr(settings, name))
        }
        self._read = Watched(list(self._files.values()), self._made, log)
        self.context, _ = self._read.get()
        self.context.sni_callback = self._renew

    def __repr__(self) -> str:
        return f"<Certificate {self._settings.cert_file}>"

    def _renew(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Let a connection that begins have the files as they are now."""
        newest, _ = self._read.get()
        if newest is not context:
            connection.context = newest

    def check(self, result: Result) -> None:
        """Say of the health check how long the certificate is good."""
        self._read.get()
        left = self._read.get()[1] - time.time()
        file = self._settings.cert_file
        if left <= 0:
            result.set_status(HealthStatus.ERROR, f"the certificate {file} has expired; callers refuse it")
        elif left < SOON:
            result.set_status(
                HealthStatus.WARNING, f"the certificate {file} expires in {left / 86_400:.1f} days; renew it"
            )

    def _made(self) -> tuple[ssl.SSLContext, float]:
        """Return the context of the files, and the time at which the certificate ends."""
        for name, file in self._files.items():
            self._check_readable(name, file)
        cert, key = self._files["cert_file"], self._files.get("key_file")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(cert, key)
        except ssl.SSLError as exc:
            raise ConfigError(f"server.tls.cert_file: {cert} is not usable: {exc.reason or exc}") from None
        authorities = self._files.get("client_ca_file")
        if authorities is not None:
            try:
                context.load_verify_locations(authorities)
            except ssl.SSLError as exc:
                raise ConfigError(
                    f"server.tls.client_ca_file: {authorities} is not usable: {exc.reason or exc}"
                ) from None
            required = self._settings.client_certificate == "required"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        return context, ssl.cert_time_to_seconds(_certificate_of(cert, key)["notAfter"])

    def _check_readable(self, name: str, file: Path) -> None:
        try:
            content = file.read_bytes()
        except OSError as exc:
            raise ConfigError(f"server.tls.{name}: {file} cannot be read: {exc.strerror}") from None
        if b"ENCRYPTED" in content:
            raise ConfigError(
                f"server.tls.{name}: {file} is not usable: its private key is encrypted; give one without a "
                "password"
            )


def _certificate_of(cert: Path, key: Path | None) -> Mapping[str, Any]:
    """Return what a certificate says.

    The ``ssl`` of Python says that only of one that was shown: it is, from here to here, and is trusted for
    that.
    """
    shows = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shows.load_cert_chain(cert, key)
    looks = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    looks.check_hostname = False
    looks.load_verify_locations(cert)
    looks.verify_flags = ssl.VerifyFlags(_NO_CHECK_TIME | ssl.VERIFY_X509_PARTIAL_CHAIN)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = looks.wrap_bio(back, there), shows.wrap_bio(there, back, server_side=True)
    for end in (client, server, client):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as exc:
            raise ConfigError(f"server.tls.cert_file: {cert} is not usable: {exc.reason or exc}") from None
    return client.getpeercert() or {}
