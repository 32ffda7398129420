"""Certificates of a certificate authority that is made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Certificates(NamedTuple):
    """PEM files: the authority's, the server's (localhost, 127.0.0.1), the client's; others of a client.

    The one of ``nobody`` names a user that there is not; the one of the ``stranger`` is trusted by nobody.
    """

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    nobody: Path
    nobody_key: Path
    stranger: Path
    stranger_key: Path


def certificates(folder: Path, client: str) -> Certificates:
    """Write them to the folder; the client's common name is `client`, and so is that of the stranger."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    mail = f"{client}@localhost"
    issued = {
        "server": authority.issue_cert("localhost", "127.0.0.1", common_name="localhost"),
        "client": authority.issue_cert(mail, common_name=client),
        "nobody": authority.issue_cert("nobody@localhost", common_name="nobody"),
        "stranger": trustme.CA().issue_cert(mail, common_name=client),
    }
    for name, certificate in issued.items():
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(folder / f"{name}.pem", append=number > 0)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
    names = ("server", "client", "nobody", "stranger")
    return Certificates(
        folder / "ca.pem", *(folder / f"{name}{end}" for name in names for end in (".pem", ".key"))
    )


def key_store(certificates: Certificates, path: Path, password: str) -> Path:
    """Write the server's certificate and key as PKCS #12, which is what Java reads, and return the path."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        load_pem_private_key,
        pkcs12,
    )
    from cryptography.x509 import load_pem_x509_certificates

    first, *others = load_pem_x509_certificates(certificates.server.read_bytes())
    key = load_pem_private_key(certificates.server_key.read_bytes(), password=None)
    encryption = BestAvailableEncryption(password.encode())
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"server", key, first, others, encryption))  # type: ignore[arg-type]
    return path
