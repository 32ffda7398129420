"""Services over TLS: what a server shows, what its callers refuse, and whom it lets in."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
import trustme
from openapi_spec_validator import OpenAPIV31SpecValidator

from evbus.engine.describe.openapi import RestMethod, document
from evbus.engine.service.declare import service_spec
from evbus.engine.wire.base.tls import Tls
from evbus.engine.wire.http.pool import HttpFailure
from evbus.errors import AuthorizationError, ConfigError, ServiceCommunicationError
from tests.service.locked import SECRET, Door, DoorImpl, Vault, VaultImpl, ask, calling, invoke, serving

TOKENS = {"tokens": {"joe": {"token": SECRET, "scopes": ["vault:read"]}}}
OVER = ("dispatch-json", "dispatch-msgpack", "rest")


def days(count: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=count)


class Authority:
    """A certificate authority with a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *identities: str, **options: Any) -> str:
        """Write a certificate with its key, and return the file."""
        assert identities  # without one Python 3.13 takes no certificate
        made = self._authority.issue_cert(*identities, **options)
        path = self.folder / f"{name}.pem"
        fresh = self.folder / f"{name}.new"
        made.private_key_and_cert_chain_pem.write_to_path(fresh)
        fresh.replace(path)
        return str(path)

    def server(self, *identities: str, **options: Any) -> str:
        return self.issue("server", *(identities or ("127.0.0.1", "localhost")), **options)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def tls(authority: Authority, **more: Any) -> dict[str, Any]:
    return {"tls": {"cert_file": authority.server(), **more}}


@pytest.mark.parametrize("over", OVER)
async def test_a_call_over_tls(over: str, authority: Authority) -> None:
    trusted = {"ca_file": authority.ca}
    async with serving(TOKENS, server=tls(authority)) as there:
        report = there.service.init.report()
        assert report["url"].startswith("https://127.0.0.1:")
        assert {uri for _, uri in report["components"][0]["addresses"]} == {report["url"]}
        async with calling(there, over, tls=trusted, token=SECRET) as here:
            assert await here.service.init.get(Vault).look() == "joe"


async def refused(there: Any, **client: Any) -> str:
    more = {"retry": {"attempts": 1}, "token": SECRET}
    async with calling(there, "dispatch-json", tls=client, **more) as here:
        with pytest.raises(ServiceCommunicationError) as caught:
            await here.service.init.get(Vault).look()
    assert not caught.value.handed_over
    assert SECRET not in str(caught.value)
    return str(caught.value)


async def test_callers_refuse_what_is_not_the_server(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    async with serving(TOKENS, server=tls(authority)) as there:
        said = await refused(there, ca_file=other.ca)
        assert "the server's certificate was refused:" in said
        assert "give the authority in tls.ca_file" in said
        assert "certificate was refused" in await refused(there)
        authority.server("elsewhere.example")
        assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in await refused(
            there, ca_file=authority.ca
        )
        authority.server(not_before=days(-20), not_after=days(-1))
        assert "certificate has expired" in await refused(there, ca_file=authority.ca)


async def test_a_certificate_that_was_renewed_is_used_without_a_restart(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    file = authority.server(not_before=days(-20), not_after=days(-1))
    trusted = Tls(ca_file=authority.ca)
    async with serving(TOKENS, server={"tls": {"cert_file": file}}) as hub:
        assert "expired" in await refused(hub, ca_file=authority.ca)
        authority.server()
        answer = await invoke(hub, "vault:vault:look", bearer=SECRET, tls=trusted)
        assert answer.status == 200
        # One that is half written: the one before stays, and the log says so.
        Path(file).write_text("-----BEGIN CERTIFICATE-----\nAAAA")
        answer = await invoke(hub, "vault:vault:look", bearer=SECRET, tls=trusted)
        assert answer.status == 200
        assert "cannot be used, what it held before stays: ConfigError: server.tls.cert_file" in caplog.text


@pytest.mark.parametrize(
    ("left", "status", "said"),
    [(100, "OK", ""), (13, "WARNING", "expires in 13.0 days; renew it"), (-1, "ERROR", "has expired")],
)
async def test_health_says_when_the_certificate_ends(
    left: float, status: str, said: str, authority: Authority
) -> None:
    file = authority.server(not_before=days(-20), not_after=days(left))
    async with serving(TOKENS, server={"tls": {"cert_file": file}}) as hub:
        found = await hub.service.SERVICES.health.check()
        result = next(one for one in found.to_dict()["checks"] if one["name"] == "certificate")
        assert result["status"] == status
        assert said in result.get("details", "")


async def test_versions_before_tls_1_2_are_refused(authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.ca)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(TOKENS, server=tls(authority)) as hub:
        port = hub.service.init.report()["port"]
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=context)
        context = ssl.create_default_context(cafile=authority.ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.close()
        await writer.wait_closed()


# Certificates of callers


def mutual(authority: Authority, **more: Any) -> dict[str, Any]:
    return tls(authority, client_ca_file=authority.ca, **more)


CERTIFICATES = {
    "certificates": {
        "billing.example": ["vault:read", "vault:write"],
        "joe": ["vault:read"],
        "ann": [],
        "spiffe://example.org/mall": ["vault:read"],
    }
}


@pytest.mark.parametrize("over", OVER)
async def test_a_certificate_says_who_calls(over: str, authority: Authority) -> None:
    async with serving(CERTIFICATES, server=mutual(authority)) as there:
        for name, identities, options in (
            ("billing.example", ("billing.example",), {}),
            ("joe", ("client.example",), {"common_name": "joe"}),
        ):
            shown = {"ca_file": authority.ca, "cert_file": authority.issue(name, *identities, **options)}
            async with calling(there, over, tls=shown) as here:
                assert await here.service.init.get(Vault).look() == name
        shown = {
            "ca_file": authority.ca,
            "cert_file": authority.issue("ann", "client.example", common_name="ann"),
        }
        async with calling(there, over, tls=shown) as here:
            with pytest.raises(AuthorizationError, match="asks for the scope vault:read") as caught:
                await here.service.init.get(Vault).look()
            assert caught.value.known


async def test_a_certificate_of_nobody_who_may_call(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shown = Tls(ca_file=authority.ca, cert_file=authority.issue("eve", "eve.example", common_name="eve"))
    async with serving(CERTIFICATES, server=mutual(authority)) as hub:
        answer = await invoke(hub, "vault:vault:look", tls=shown)
        assert answer.status == 401
        assert json.loads(answer.body)["error"]["reason"] == "the certificate is of nobody who may call here"
    assert (
        "the certificate of a caller was refused: it is of eve.example, eve, who may not call" in caplog.text
    )
    auth = {"certificates": {"*": ["vault:read"]}}
    async with serving(auth, server=mutual(authority)) as hub:
        answer = await invoke(hub, "vault:vault:look", tls=shown)
        assert json.loads(answer.body)["result"] == "eve.example"


async def test_certificates_that_are_missing_foreign_or_expired_are_refused(
    authority: Authority, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path / "foreign").issue("joe", "client.example", common_name="joe")
    expired = authority.issue(
        "old", "client.example", common_name="joe", not_before=days(-20), not_after=days(-1)
    )
    async with serving(CERTIFICATES, server=mutual(authority)) as hub:
        for file in (None, foreign, expired):
            shown = Tls(ca_file=authority.ca, cert_file=file)
            with pytest.raises(HttpFailure):
                await invoke(hub, "vault:vault:look", tls=shown)


async def test_a_certificate_may_be_optional_beside_tokens(authority: Authority, tmp_path: Path) -> None:
    auth = {**CERTIFICATES, **TOKENS}
    server = mutual(authority, client_certificate="optional")
    without = Tls(ca_file=authority.ca)
    joe = Tls(ca_file=authority.ca, cert_file=authority.issue("joe", "client.example", common_name="joe"))
    ann = Tls(ca_file=authority.ca, cert_file=authority.issue("ann", "client.example", common_name="ann"))
    async with serving(auth, server=server) as hub:
        assert (await invoke(hub, "vault:vault:look", tls=without)).status == 401
        assert (await invoke(hub, "vault:vault:look", tls=without, bearer=SECRET)).status == 200
        assert (await invoke(hub, "vault:vault:look", tls=joe)).status == 200
        assert (await invoke(hub, "vault:vault:look", tls=ann)).status == 403
        # A token counts more.
        assert (await invoke(hub, "vault:vault:look", tls=ann, bearer=SECRET)).status == 200
        assert (await invoke(hub, "vault:vault:look", tls=joe, bearer="x" * 40)).status == 401
        assert (await ask(hub, "GET", "/health", tls=without)).status == 200


# Settings


async def start(settings: dict[str, Any]) -> str:
    from tests.evbus.kit import new_hub

    hub = new_hub()
    hub.service.init.add(DoorImpl)
    with pytest.raises(ConfigError) as caught:
        await hub.service.init.start(settings=settings)
    return str(caught.value)


async def test_files_that_cannot_be_used_are_told_with_their_key(
    authority: Authority, tmp_path: Path
) -> None:
    async def complaint(**files: str) -> str:
        return await start({"server": {"port": 0, "tls": files}})

    cert = authority.server()
    assert "server.tls.cert_file: /nowhere cannot be read: No such file" in await complaint(
        cert_file="/nowhere"
    )
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert f"server.tls.cert_file: {broken} is not usable" in await complaint(cert_file=str(broken))
    assert f"server.tls.cert_file: {authority.ca} is not usable" in await complaint(cert_file=authority.ca)
    said = await complaint(cert_file=cert, client_ca_file=str(broken))
    assert f"server.tls.client_ca_file: {broken} is not usable" in said
    other = authority.issue("other", "x.example")
    assert "is not usable: KEY_VALUES_MISMATCH" in await complaint(cert_file=cert, key_file=other)
    encrypted = tmp_path / "key.pem"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    said = await complaint(cert_file=cert, key_file=str(encrypted))
    assert "its private key is encrypted; give one without a password" in said
    said = await start({"server": {"port": 0}, "auth": CERTIFICATES})
    assert said == "auth.certificates needs server.tls.client_ca_file: whose certificates are they?"


async def test_other_machines_reach_a_server_that_asks_and_has_tls(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    there = {"host": "0.0.0.0", "port": 0}  # noqa: S104 - which is what this is about
    certificate = {"cert_file": authority.server()}
    assert "nothing here asks who calls" in await start({"server": there})
    assert "nothing here asks who calls" in await start({"server": {**there, "tls": certificate}})
    said = await start({"server": there, "auth": TOKENS})
    assert "tokens would come in plain text: give server.tls, or server.insecure: true where a proxy" in said
    async with serving(TOKENS, server={**there, "tls": certificate}) as hub:
        url = f"https://127.0.0.1:{hub.service.init.report()['port']}"
        answer = await ask(url, "GET", "/vault/look", bearer=SECRET, tls=Tls(ca_file=authority.ca))
        assert answer.status == 200
        # Names that nobody has told of.
        answer = await ask(
            url, "GET", "/vault/look", bearer=SECRET, tls=Tls(ca_file=authority.ca), host="any.example"
        )
        assert answer.status == 200
    assert "without TLS" not in caplog.text
    async with serving(TOKENS, server={**there, "insecure": True}) as hub:
        url = f"http://127.0.0.1:{hub.service.init.report()['port']}"
        assert (await ask(url, "GET", "/vault/look", bearer=SECRET)).status == 200
    assert "listens on 0.0.0.0 without TLS (server.insecure)" in caplog.text


# The header Host


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:8000", 200),
        ("localhost.", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("evil.example:127.0.0.1", 421),
        ("user@localhost", 421),
        ("0.0.0.0", 421),  # noqa: S104 - nothing is bound to it
    ],
)
async def test_a_server_of_this_machine_answers_by_its_own_names_only(host: str, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"app"})

    async with serving(None, DoorImpl, mounts={"/app": app}) as hub:
        answers = [
            await ask(hub, "GET", path, host=host) for path in ("/door/sign", "/health", "/app/x", "/docs")
        ]
        answers.append(await invoke(hub, "door:door:sign", host=host))
        assert {answer.status for answer in answers} == {status}
        if status == 421:
            assert b"is not called what the header Host says" in answers[0].body


async def test_a_server_is_called_what_the_settings_say() -> None:
    async with serving(None, DoorImpl, server={"hosts": ["shop.example", "*.shop.example"]}) as hub:
        for host, status in (
            ("shop.example", 200),
            ("a.b.shop.example:8000", 200),
            ("ashop.example", 421),
            ("localhost", 421),
        ):
            assert (await ask(hub, "GET", "/door/sign", host=host)).status == status
    async with serving(None, DoorImpl, server={"hosts": ["*"]}) as hub:
        assert (await ask(hub, "GET", "/door/sign", host="any.example")).status == 200


async def test_the_document_of_openapi_says_what_a_method_asks_for(authority: Authority) -> None:
    auth = {**CERTIFICATES, **TOKENS, "anonymous": ["vault:vault:put"]}
    trusted = Tls(ca_file=authority.ca, cert_file=authority.issue("joe", "client.example", common_name="joe"))
    async with serving(auth, VaultImpl, DoorImpl, server=mutual(authority)) as hub:
        answer = await ask(hub, "GET", "/openapi.json", tls=trusted)
    made = json.loads(answer.body)
    OpenAPIV31SpecValidator(made).validate()
    assert made["components"]["securitySchemes"] == {
        "bearerAuth": {"type": "http", "scheme": "bearer"},
        "mutualTLS": {"type": "mutualTLS"},
    }
    look = made["paths"]["/vault/look"]["get"]
    assert look["security"] == [{"bearerAuth": ["vault:read"]}, {"mutualTLS": ["vault:read"]}]
    assert {"401", "403"} <= set(look["responses"])
    for anybody in (made["paths"]["/vault/put"]["post"], made["paths"]["/door/sign"]["get"]):
        assert "security" not in anybody
        assert "401" not in anybody["responses"]


def test_without_a_server_the_document_says_what_interfaces_ask_for() -> None:
    methods = [
        RestMethod(spec, route) for spec in map(service_spec, (Vault, Door)) for route in spec.routes.values()
    ]
    made = document(methods, title="x", version="1")
    assert list(made["components"]["securitySchemes"]) == ["bearerAuth"]
    assert made["paths"]["/vault/put"]["post"]["security"] == [{"bearerAuth": ["vault:write"]}]
    assert "security" not in made["paths"]["/door/sign"]["get"]
    made = document([one for one in methods if one.service.cls is Door], title="x", version="1")
    assert "securitySchemes" not in made["components"]
