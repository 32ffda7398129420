"""The key tls of a profile: files that are not usable, and what a handshake says."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evbus.engine.wire.base.tls import Tls, client_context, tls_reason
from evbus.errors import ProfileError
from tests.servers._tls import Certificates, certificates


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"), "client")


def test_certificates_are_verified_and_old_versions_refused(files: Certificates) -> None:
    for tls in (Tls(), Tls(ca_file=str(files.ca)), Tls(server_name="x")):
        context = client_context(tls)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_only_insecure_verifies_nothing() -> None:
    context = client_context(Tls(insecure=True))
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_a_client_certificate_with_its_key_apart_or_in_one_file(files: Certificates, tmp_path: Path) -> None:
    client_context(Tls(cert_file=str(files.client), key_file=str(files.client_key)))
    both = tmp_path / "both.pem"
    both.write_bytes(files.client.read_bytes() + files.client_key.read_bytes())
    client_context(Tls(cert_file=str(both)))


def test_a_path_may_begin_at_home(files: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(files.ca.parent))
    client_context(Tls(ca_file="~/ca.pem", cert_file="~/client.pem", key_file="~/client.key"))


def complaint(tls: Tls) -> str:
    with pytest.raises(ProfileError) as caught:
        client_context(tls)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_told_with_its_key(files: Certificates, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    reason = f"{missing} cannot be read: No such file or directory"
    assert complaint(Tls(ca_file=missing)) == f"tls.ca_file: {reason}"
    assert complaint(Tls(cert_file=missing)) == f"tls.cert_file: {reason}"
    assert complaint(Tls(cert_file=missing, key_file=str(files.client_key))) == f"tls.cert_file: {reason}"
    assert complaint(Tls(cert_file=str(files.client), key_file=missing)) == f"tls.key_file: {reason}"


@pytest.mark.parametrize("key", ["ca_file", "cert_file"])
def test_a_folder_is_told(key: Any, tmp_path: Path) -> None:
    said = complaint(Tls(**{key: str(tmp_path)}))
    assert said.startswith(f"tls.{key}: {tmp_path} ")


def test_a_file_that_holds_something_else_is_told(files: Certificates, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    for content in ("", "hello", "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"):
        wrong.write_text(content)
        assert complaint(Tls(ca_file=str(wrong))).startswith(f"tls.ca_file: {wrong} is not usable: ")
        assert complaint(Tls(cert_file=str(wrong))).startswith(f"tls.cert_file: {wrong} is not usable: ")
    assert "is not usable" in complaint(Tls(cert_file=str(files.client)))  # without its key


def test_a_key_that_belongs_to_another_certificate_is_told(files: Certificates) -> None:
    assert "KEY_VALUES_MISMATCH" in complaint(
        Tls(cert_file=str(files.client), key_file=str(files.server_key))
    )


def test_an_encrypted_key_is_told_and_nobody_is_asked_for_its_password(
    files: Certificates, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.client_key.read_bytes(), password=None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter22"),
        )
    )
    said = complaint(Tls(cert_file=str(files.client), key_file=str(encrypted)))
    assert said.startswith(f"tls.key_file: {encrypted} is not usable: ")
    assert "encrypted" in said.rpartition(":")[2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"key_file": "x"}, "needs tls.cert_file"),
        ({"verify": False}, "unknown field `verify`"),
        ({"insecure": "perhaps"}, "Expected `bool`"),
    ],
)
def test_keys_that_do_not_fit_are_told(data: Any, reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert(data, type=Tls)


def test_the_insecure_one_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    client_context(Tls())
    assert caplog.text == ""
    client_context(Tls(insecure=True))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "certificate is not verified (tls.insecure)" in record.getMessage()


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (
            ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"),
            "does not speak TLS on this port",
        ),
        (
            ssl.SSLError(1, "[SSL: RECORD_LAYER_FAILURE] record layer failure"),
            "does not speak TLS on this port",
        ),
        (ssl.SSLEOFError(8, "EOF occurred (UNEXPECTED_EOF)"), "does not speak TLS on this port"),
        (ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] x"), "refused the TLS handshake"),
        (ssl.SSLError(1, "something else"), "the TLS handshake failed: "),
    ],
)
def test_a_handshake_that_failed_is_told_in_words(problem: ssl.SSLError, reason: str) -> None:
    assert reason in tls_reason(problem)


def test_what_is_no_matter_of_tls_is_left_to_others() -> None:
    assert tls_reason(ConnectionResetError(104, "reset")) == ""
    assert tls_reason(ValueError("x")) == ""
