"""Tokens over HTTP: whose they are, what they let call, and what is told of those that are refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from evbus import session
from evbus.api import Service, get, implementation, rest, service
from evbus.engine.call.forward import passed_on
from evbus.engine.service import jwt_tokens, keys
from evbus.engine.service.auth import JwtSettings
from evbus.engine.service.authenticate import Authenticator
from evbus.engine.service.settings import channel_settings, read
from evbus.errors import AuthorizationError, ConfigError, ServiceCommunicationError, ServiceError
from tests.evbus.kit import new_hub, write
from tests.service.locked import (
    OTHER,
    SECRET,
    Door,
    DoorImpl,
    Keys,
    Vault,
    VaultImpl,
    ask,
    calling,
    invoke,
    jwk,
    key_file,
    pem,
    serving,
    token,
)


@rest("/reader")
@service()
class Reader(Service):
    """Tells the session that it is called in."""

    @get("/read")
    @abstractmethod
    async def read(self) -> str: ...


@implementation()
class ReaderImpl(Reader):
    async def read(self) -> str:
        await asyncio.sleep(0)
        return " ".join(sorted(session.current().values()))


REMOTE = ("dispatch-json", "dispatch-msgpack", "rest")
TOKENS = {"tokens": {"joe": {"token": SECRET, "scopes": ["vault:read"]}, "ann": {"token": OTHER}}}


def signed(head: dict[str, Any], claims: dict[str, Any], key: bytes | None) -> str:
    """Return a token as PyJWT would not write it."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    text = f"{part(json.dumps(head).encode())}.{part(json.dumps(claims).encode())}"
    signature = b"" if key is None else hmac.new(key, text.encode(), hashlib.sha256).digest()
    return f"{text}.{part(signature)}"


def told(answer: Any) -> str:
    reason: str = json.loads(answer.body)["error"]["reason"]
    return reason


@pytest.mark.parametrize("over", REMOTE)
async def test_a_token_of_the_channel_lets_call_what_it_is_for(over: str) -> None:
    async with serving(TOKENS) as there, calling(there, over, token=SECRET) as here:
        vault = here.service.init.get(Vault)
        assert await vault.look() == "joe"
        with pytest.raises(AuthorizationError, match=r"Vault\.put asks for the scope vault:write") as caught:
            await vault.put({})
        assert caught.value.known
        if over != "rest":
            assert await asyncio.to_thread(vault.plain) == "joe"
            assert [one async for one in vault.all(2)] == ["joe", "joe"]


@pytest.mark.parametrize("over", REMOTE)
async def test_who_has_no_token_is_told_so(over: str) -> None:
    async with serving(TOKENS) as there, calling(there, over) as here:
        vault = here.service.init.get(Vault)
        with pytest.raises(AuthorizationError, match="who calls is not known: send a token") as caught:
            await vault.look()
        assert not caught.value.known
        with here.service.init.token(OTHER[::-1]), pytest.raises(AuthorizationError, match="not accepted"):
            await vault.look()
        with here.service.init.token(SECRET):
            assert await vault.look() == "joe"
        with here.service.init.token(OTHER), pytest.raises(AuthorizationError, match="vault:read"):
            await vault.look()
        if over != "rest":
            with pytest.raises(AuthorizationError, match="who calls is not known"):
                await anext(vault.all(1))


async def test_what_is_no_token_is_not_sent() -> None:
    hub = new_hub()
    for wrong in ("", "a b", "a\r\nx: y", "ü", None):
        with pytest.raises(ValueError, match="a token is a text of ASCII without blanks"):
            hub.service.init.token(wrong).__enter__()


async def test_a_local_call_is_not_asked() -> None:
    async with serving(TOKENS) as hub:
        assert await hub.service.init.get(Vault).look() == "nobody was asked"


async def test_a_token_is_not_passed_on_and_neither_is_who_calls() -> None:
    async with serving(TOKENS) as there, calling(there, "dispatch-json", token=SECRET) as here:
        # What is handled in a process has the headers of the request that it came with.
        answer = await invoke(there, "vault:vault:look", bearer=SECRET, x_mine="1")
        assert answer.status == 200
        assert here.service.init.caller() is None
        assert await here.service.init.get(Vault).look() == "joe"
        assert here.service.init.caller() is None


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("vault:vault:look", 401),
        ("vault:vault:_private", 401),
        ("vault:vault:__class__", 401),
        ("vault:vault:unknown", 401),
        ("door:door:sign", 200),
    ],
)
@pytest.mark.parametrize("classes", [(VaultImpl, DoorImpl)])
async def test_nobody_learns_which_methods_there_are(name: str, status: int, classes: Any) -> None:
    async with serving(TOKENS, *classes) as hub:
        answer = await invoke(hub, name)
        assert answer.status == status
        if status == 401:
            assert told(answer) == "who calls is not known: send a token"
            assert answer.headers["www-authenticate"] == "Bearer"
        else:
            assert json.loads(answer.body)["result"] == "nobody"
        for method, path in (("GET", "/vault/nothing"), ("DELETE", "/vault/look"), ("GET", "/docs")):
            assert (await ask(hub, method, path)).status == 401
        assert (await ask(hub, "GET", "/vault/look")).status == 401
        assert (await ask(hub, "GET", "/door/sign")).status == 200


@pytest.mark.parametrize(
    "name",
    ["vault:vault:_private", "vault:vault:__class__", "vault:vault:look.__func__", "vault:vault:x", "::", ""],
)
async def test_who_is_known_gets_404_for_what_is_not_declared(name: str) -> None:
    async with serving(TOKENS) as hub:
        assert (await invoke(hub, name, bearer=SECRET)).status == 404
        assert (await ask(hub, "GET", "/vault/nothing", bearer=SECRET)).status == 404
        assert (await ask(hub, "DELETE", "/vault/look", bearer=SECRET)).status == 405


async def test_where_nobody_may_come_without_a_token_the_body_is_not_waited_for() -> None:
    async with serving(TOKENS) as hub:
        port = hub.service.init.report()["port"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /invoke HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 1000000\r\n\r\n"
        )
        async with asyncio.timeout(20):
            assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
        writer.close()
        await writer.wait_closed()


async def test_answers_say_what_is_missing_as_the_rfc_wants_it() -> None:
    async with serving(TOKENS) as hub:
        answer = await invoke(hub, "vault:vault:look", bearer="x" * 40)
        assert (answer.status, told(answer)) == (401, "the token is not accepted")
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        answer = await invoke(hub, "vault:vault:put", {}, bearer=SECRET)
        assert (answer.status, told(answer)) == (403, "Vault.put asks for the scope vault:write")
        assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
        answer = await ask(hub, "POST", "/vault/put", {}, bearer=SECRET)
        assert answer.status == 403
        for odd in ("Basic am9lOng=", "Bearer", "bearer  ", f"Token {SECRET}"):
            answer = await invoke(hub, "vault:vault:look", authorization=odd)
            assert answer.status == 401
        answer = await invoke(hub, "vault:vault:look", authorization=f"bEARER {SECRET}")
        assert answer.status == 200


async def test_two_tokens_in_one_request_are_refused() -> None:
    async with serving(TOKENS) as hub:
        answer = await invoke(hub, "vault:vault:look", bearer=SECRET, Authorization=f"Bearer {OTHER}")
        assert (answer.status, told(answer)) == (400, "there are two headers Authorization")
        answer = await ask(hub, "GET", "/docs", bearer=SECRET, Authorization=f"Bearer {OTHER}")
        assert answer.status == 400


async def test_settings_let_anybody_call_methods_and_ask_for_paths() -> None:
    auth = {**TOKENS, "anonymous": ["vault:vault:lo*", "/openapi.json"]}
    async with serving(auth) as hub:
        assert (await invoke(hub, "vault:vault:look")).status == 200
        assert (await ask(hub, "GET", "/vault/look")).status == 200
        assert (await invoke(hub, "vault:vault:put", {})).status == 401
        assert (await ask(hub, "GET", "/openapi.json")).status == 200
        assert (await ask(hub, "GET", "/docs")).status == 401
        assert (await ask(hub, "GET", "/docs", bearer=SECRET)).status == 200


async def test_tokens_of_files_are_read_again_on_both_sides(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.write_text(SECRET + "\n")
    ours.write_text(SECRET + "\n")
    auth = {"tokens": {"joe": {"token_file": str(theirs), "scopes": ["vault:read"]}}}
    async with serving(auth) as there, calling(there, "dispatch-json", token_file=str(ours)) as here:
        vault = here.service.init.get(Vault)
        assert await vault.look() == "joe"
        theirs.write_text(OTHER + "0\n")
        with pytest.raises(AuthorizationError):
            await vault.look()
        ours.write_text(OTHER + "0\n")
        assert await vault.look() == "joe"
        # One that is being written: the one before holds.
        theirs.write_text("")
        assert await vault.look() == "joe"


# Tokens that somebody has signed


async def test_tokens_of_all_kinds_of_keys(tmp_path: Path) -> None:
    async with serving({"jwt": {"key_file": key_file(tmp_path, Keys.one_rsa, Keys.ec, Keys.ed)}}) as hub:
        for key, algorithm in (
            (Keys.one_rsa, "RS256"),
            (Keys.one_rsa, "PS512"),
            (Keys.ec, "ES256"),
            (Keys.ed, "EdDSA"),
        ):
            answer = await invoke(hub, "vault:vault:look", bearer=token(key, algorithm))
            assert json.loads(answer.body)["result"] == "joe"


async def test_a_token_by_a_secret_that_is_shared(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    async with serving({"jwt": {"key_file": str(secret)}}) as hub:
        answer = await invoke(hub, "vault:vault:look", bearer=token(SECRET, "HS256"))
        assert answer.status == 200
        assert (await invoke(hub, "vault:vault:look", bearer=token(OTHER, "HS256"))).status == 401


NOW = time.time()
RIGHT = {"iss": "https://login.example", "aud": "vault"}
CLAIMS = {"sub": "joe", "scope": "vault:read vault:write", "exp": NOW + 3600, **RIGHT}


def mine(key: Any = None, algorithm: str = "RS256", **claims: Any) -> str:
    return token(key, algorithm, **{**RIGHT, **claims})


REFUSED = [
    (mine(exp=NOW - 60), "it has expired"),
    (mine(nbf=NOW + 3600), "it is not valid yet"),
    (mine(iat=NOW + 3600), "it is not valid yet"),
    (mine(exp=None), "it has no exp"),
    (mine(Keys.other_rsa), "its signature is not right"),
    (mine()[:-8] + "AAAAAAAA", "its signature is not right"),
    (mine(aud="others"), "it is for somebody else: its aud"),
    (mine(aud=None), "it has no aud"),
    (mine(iss="https://evil.example"), "it is from somebody else: its iss"),
    (mine(iss=None), "it has no iss"),
    (mine(sub=None), "it does not say whose it is"),
    (mine(sub=""), "it does not say whose it is"),
    (mine(scope={"a": 1}), "its claim scope is neither a text nor a list"),
    (signed({"alg": "none"}, CLAIMS, None), "its algorithm 'none' is none that its key is for"),
    (signed({"alg": "None"}, CLAIMS, None), "its algorithm 'None' is none that its key is for"),
    (signed({"alg": "HS256"}, CLAIMS, pem(Keys.one_rsa)), "its algorithm 'HS256' is none that its key"),
    (signed({}, CLAIMS, None), "its algorithm None is none that its key is for"),
    (mine(Keys.ec, "ES256"), "its algorithm 'ES256' is none that its key is for"),
    ("a.b.c", "it is malformed"),
    ("a" * 3000, "it is malformed"),
    (".".join(["AAAA"] * 5), "it is malformed"),
    (mine() + ".x", "it is malformed"),
]


# Tokens have no names: theirs would differ from process to process.
@pytest.mark.parametrize(("given", "reason"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
async def test_a_token_that_is_not_right_is_refused_and_the_log_says_why(
    given: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    auth = {"jwt": {"key_file": key_file(tmp_path), "issuer": RIGHT["iss"], "audience": ["shop", "vault"]}}
    async with serving(auth) as hub:
        good = mine()
        assert (await invoke(hub, "vault:vault:look", bearer=good)).status == 200
        answer = await invoke(hub, "vault:vault:look", bearer=given)
    assert (answer.status, told(answer)) == (401, "the token is not accepted")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert f"the token of a caller was refused: {reason}" in caplog.text
    for text in (given, good):
        assert text not in caplog.text
        assert all(part not in caplog.text for part in text.split(".") if len(part) > 10)


async def test_an_audience_that_is_not_configured_is_somebody_else(tmp_path: Path) -> None:
    async with serving({"jwt": {"key_file": key_file(tmp_path)}}) as hub:
        assert (await invoke(hub, "vault:vault:look", bearer=token())).status == 200
        assert (await invoke(hub, "vault:vault:look", bearer=token(aud="others"))).status == 401


async def test_scopes_may_be_a_list_under_another_name_and_a_client_may_have_no_subject(
    tmp_path: Path,
) -> None:
    async with serving({"jwt": {"key_file": key_file(tmp_path), "scopes": "scp"}}) as hub:
        given = token(scope=None, scp=["vault:read", 3], sub=None, client_id="billing")
        answer = await invoke(hub, "vault:vault:look", bearer=given)
        assert json.loads(answer.body)["result"] == "billing"
        answer = await invoke(hub, "vault:vault:look", bearer=token())
        assert told(answer) == "Vault.look asks for the scope vault:read"


async def test_a_token_that_was_verified_is_remembered_until_it_expires_or_its_key_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(key_file(tmp_path))
    tokens = jwt_tokens.JwtTokens(JwtSettings(key_file=str(file), leeway=0))
    verified: list[str] = []
    decode = jwt.decode

    def decoded(given: str, *args: Any, **options: Any) -> Any:
        verified.append(given)
        return decode(given, *args, **options)

    monkeypatch.setattr(jwt, "decode", decoded)
    clock = [time.time()]
    monkeypatch.setattr(jwt_tokens, "time", SimpleNamespace(time=lambda: clock[0]))
    given = token(exp=int(clock[0]) + 100)
    for _ in range(3):
        assert (await tokens.caller(given)).name == "joe"
    assert verified == [given]
    clock[0] += 101
    await tokens.caller(given)  # for PyJWT the time is still what it was
    assert verified == [given] * 2
    clock[0] -= 101
    file.write_bytes(pem(Keys.other_rsa) + pem(Keys.ec))
    with pytest.raises(jwt_tokens.RefusedToken, match="its signature is not right"):
        await tokens.caller(given)
    monkeypatch.setattr(jwt_tokens, "_MOST", 3)
    for number in range(6):
        await tokens.caller(token(Keys.other_rsa, sub=f"joe{number}"))
    assert repr(tokens) == "<JwtTokens 3 remembered>"


# Settings


def refused(auth: Any, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Authenticator(read({"auth": auth, **more}).auth, lambda: False)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ({}, "services: auth: auth needs jwt, tokens or certificates"),
        ({"jwt": {}}, "auth.jwt: jwt needs either key_file, files of keys, or jwks"),
        (
            {"jwt": {"jwks": "http://login.example/keys"}},
            "auth.jwt: jwks is fetched by https from other machines",
        ),
        ({"jwt": {"jwks": "x", "algorithms": ["NONE"]}}, "auth.jwt: algorithms has none, by which everybody"),
        ({"jwt": {"jwks": "x", "leeway": 301}}, "auth.jwt: leeway is a number of seconds from 0 to 300"),
        ({"jwt": {"jwks": "x", "refetch": 0}}, "auth.jwt: refetch is 1 second or more"),
        ({"jwt": {"jwk": "x"}}, "auth.jwt.jwk: there is no such key; did you mean 'jwks'?"),
        ({"tokens": {"joe": {}}}, "auth: tokens.joe: either token or token_file"),
        ({"tokens": {"joe": {"token": "short"}}}, "auth: tokens.joe: a token has 32 characters or more"),
        ({"tokens": {"": {"token": SECRET}}}, "auth: a caller has a name"),
        (
            {"tokens": {"joe": {"token_file": "/nowhere"}}},
            "auth.tokens.joe.token_file: /nowhere cannot be read",
        ),
        ({"jwt": {"key_file": "/nowhere"}}, "auth.jwt.key_file: /nowhere cannot be read: No such file"),
        ({"jwt": {"jwks": "/nowhere"}}, "auth.jwt.jwks: /nowhere cannot be read: No such file"),
        (
            {"jwt": {"jwks": "x", "algorithms": ["RS255"]}},
            "auth.jwt.algorithms: there is no 'RS255'; there are ES",
        ),
    ],
)
def test_settings_that_cannot_be_say_what_would_be_right(auth: Any, said: str) -> None:
    assert said in refused(auth)
    assert "short" not in refused(auth)


def test_files_of_keys_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    file = tmp_path / "key"

    def complaint(content: bytes, **more: Any) -> str:
        file.write_bytes(content)
        said = refused({"jwt": {"key_file": str(file), **more}})
        assert said.startswith("auth.jwt.key_file: ")
        return said

    private = Keys.ec.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert "holds a private key, which who only verifies must not have" in complaint(private)
    assert "holds a secret of 5 bytes, and HMAC takes 32 or more" in complaint(b"short\n")
    assert "no public key in PEM" in complaint(
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    )
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - which is why it is refused
    assert "holds an RSA key of 1024 bits; 2048 or more are needed" in complaint(pem(weak))
    odd = ec.generate_private_key(ec.SECP256K1())
    assert "a key of a kind that signs no tokens here: secp256k1" in complaint(pem(odd))
    # A public key is no secret: with HS256 anybody could sign.
    said = complaint(pem(Keys.one_rsa), algorithms=["HS256"])
    assert "none of its keys is for HS256; they are for PS256, PS384, PS512, RS256, RS384, RS512" in said


def test_secrets_stand_in_no_repr() -> None:
    settings = read({"auth": TOKENS, "channels": {"rest": {"token": SECRET}}})
    assert SECRET not in repr(settings.auth)
    common, _ = channel_settings("rest", {"token": SECRET}, None)
    assert SECRET not in repr(common)
    assert "token='***'" in repr(common) or "token=***" in repr(common)
    assert settings.auth is not None
    assert SECRET not in repr(Authenticator(settings.auth, lambda: False))


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    settings = read({"auth": TOKENS}).auth
    assert settings is not None
    guard = Authenticator(settings, lambda: False)
    assert asyncio.run(guard.caller(authorization=f"Bearer {SECRET}")).name == "joe"
    # Each is compared, the first that fits does not end it, and what is compared has one length.
    assert len(compared) == 2
    assert {len(one) for one in compared} == {32}


# Where tokens go


@pytest.mark.parametrize("over", REMOTE)
async def test_a_token_does_not_go_to_another_machine_in_plain_text(over: str) -> None:
    url = "http://192.0.2.1:8001"
    async with calling(None, over, url, token=SECRET) as here:
        vault = here.service.init.get(Vault)
        with pytest.raises(
            ServiceError, match="its token is not sent to another machine over plain HTTP"
        ) as caught:
            await vault.look()
        assert "use https, or say insecure: true of the channel" in str(caught.value)
        assert SECRET not in str(caught.value)
        if over != "rest":
            with pytest.raises(ServiceError, match="its token is not sent"):
                await anext(vault.all(1))


async def test_a_token_goes_there_where_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the attempt to connect; nothing is there."""
    more = {"insecure": True, "connect_timeout": 0.05, "retry": {"attempts": 1}}
    async with calling(None, "dispatch-json", "http://192.0.2.1:8001", token=SECRET, **more) as here:
        with pytest.raises(ServiceCommunicationError) as caught:
            await here.service.init.get(Vault).look()
    assert "not sent" not in str(caught.value)


async def test_a_file_of_a_token_that_is_not_there_is_told_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "token"
    async with calling(None, "rest", "http://127.0.0.1:1", token_file=str(file)) as here:
        with pytest.raises(
            ConfigError, match=r"channels\.rest\.token_file: .*token cannot be read: No such file"
        ):
            await here.service.init.get(Vault).look()


async def test_a_pipeline_plugin_sets_a_token_of_its_own_and_one_decides_who_may(tmp_path: Path) -> None:
    ours = f"""
        def send(hub, envelope):
            envelope.headers["Authorization"] = "Bearer {SECRET}"
        """
    theirs = """
        from evbus.api import caller
        from evbus.errors import AuthorizationError

        async def handle(hub, envelope, call_next):
            assert "authorization" not in {name.lower() for name in envelope.headers}
            one = caller()
            if envelope.routing_key.endswith(":all") and one.name != "ann":
                raise AuthorizationError(f"{one.name} may not", known=True)
            return await call_next(envelope)
        """
    rules = [write(tmp_path / "theirs", pipeline__rules=theirs)]
    bearer = {"plugin_dirs": [write(tmp_path / "ours", pipeline__bearer=ours)]}
    async with (
        serving(TOKENS, plugin_dirs=rules) as there,
        calling(there, "dispatch-json", options=bearer, token=OTHER) as here,
    ):
        vault = here.service.init.get(Vault)
        assert await vault.look() == "joe"
        with pytest.raises(AuthorizationError, match="joe may not") as caught:
            await anext(vault.all(1))
        assert caught.value.known


async def test_what_asks_for_something_is_not_called_where_nobody_is_asked() -> None:
    async with serving(None, VaultImpl, DoorImpl) as there, calling(there, "rest") as here:
        with pytest.raises(
            AuthorizationError, match=r"Vault\.look is for callers that are known.*setting auth"
        ):
            await here.service.init.get(Vault).look()
        assert await here.service.init.get(Door).sign() == "nobody was asked"


async def test_health_is_told_to_everybody_and_its_details_to_who_is_known() -> None:
    async with serving(TOKENS) as hub:
        for path in ("/health", "/health/live", "/health/ready"):
            for bearer in ("", "x" * 40, SECRET):
                assert (await ask(hub, "GET", path, bearer=bearer)).status == 200
        # As through a proxy.
        told = [
            json.loads((await ask(hub, "GET", "/health", bearer=bearer, via="1.1 proxy")).body)
            for bearer in ("", "x" * 40, SECRET)
        ]
        assert told[0] == told[1] == {"status": "OK"}
        assert told[2]["checks"]


async def test_a_request_of_a_page_in_a_browser_changes_nothing() -> None:
    """A page may have a form sent without being asked, as text/plain; what comes back names no origin."""
    async with serving(None, DoorImpl) as hub:
        body = json.dumps({"method": "door:door:sign", "args": []}).encode()
        answer = await ask(
            hub, "POST", "/invoke", body, content_type="text/plain", origin="http://evil.example"
        )
        assert answer.status == 415
        answer = await ask(hub, "OPTIONS", "/invoke", origin="http://evil.example")
        assert answer.status == 405
        answer = await invoke(hub, "door:door:sign", origin="http://evil.example")
        assert not any(name.startswith("access-control") for name in answer.headers)


# Key sets


class KeySet:
    """A server of a key set, over HTTP of this machine."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.status = 200
        self.asked: list[str] = []
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"] + "?" + scope["query_string"].decode())
        body = json.dumps({"keys": self.keys}).encode()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def key_set() -> AsyncIterator[KeySet]:
    made = KeySet()
    async with serving(None, DoorImpl, mounts={"/login": made}) as hub:
        made.url = hub.service.init.report()["url"] + "/login/keys?of=all"
        yield made


async def look(hub: Any, given: str) -> int:
    status: int = (await invoke(hub, "vault:vault:look", bearer=given)).status
    return status


def named(kid: str, key: Any = None) -> str:
    return token(key, headers={"kid": kid})


async def test_keys_of_a_key_set_are_fetched_once_and_again_for_one_that_is_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(keys, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    async with key_set() as login, serving({"jwt": {"jwks": login.url}}) as hub:
        login.keys = [
            jwk(Keys.one_rsa, "RS256", kid="one", use="sig"),
            jwk(Keys.ec, "ES256", kid="enc", use="enc"),
        ]
        assert await asyncio.gather(*(look(hub, named("one")) for _ in range(5))) == [200] * 5
        assert login.asked == ["/login/keys?of=all"]
        # The key set has another key now. Tokens of invented keys do not have it fetched every time.
        login.keys.append(jwk(Keys.other_rsa, "RS256", kid="two"))
        assert await look(hub, named("two", Keys.other_rsa)) == 401
        assert len(login.asked) == 1
        clock[0] += 30
        assert await look(hub, named("two", Keys.other_rsa)) == 200
        assert await look(hub, named("three", Keys.other_rsa)) == 401
        assert await look(hub, named("two")) == 401
        assert len(login.asked) == 2
        # A key that is taken back is not used once the set is old: it is fetched meanwhile.
        del login.keys[0]
        assert await look(hub, named("one")) == 200
        clock[0] += 600
        assert await look(hub, named("two", Keys.other_rsa)) == 200
        async with asyncio.timeout(20):
            while await look(hub, named("one")) != 401:
                pass
        assert len(login.asked) == 3


async def test_a_key_set_that_is_away_is_no_fault_of_who_calls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(keys, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    async with key_set() as login, serving({"jwt": {"jwks": login.url}}) as hub:
        login.keys, login.status = [jwk(Keys.one_rsa, "RS256", kid="one")], 500
        given = named("one")
        answer = await invoke(hub, "vault:vault:look", bearer=given)
        assert (answer.status, told(answer)) == (503, "who calls cannot be checked now; try again later")
        assert (
            "gives no keys, no token can be checked: Unavailable: it answered with the HTTP status 500"
            in caplog.text
        )
        login.status = 200
        clock[0] += 30
        assert await look(hub, given) == 200
        # Once they are known they stay.
        login.status = 404
        clock[0] += 601
        assert await look(hub, given) == 200
        clock[0] += 30
        assert await look(hub, named("new")) == 401
        assert "gives no keys, those that are known stay" in caplog.text
    assert given not in caplog.text


async def test_what_is_no_key_set_gives_no_keys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with key_set() as login, serving({"jwt": {"jwks": login.url}}) as hub:
        login.keys = [
            {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "s"},
            {"kty": "RSA", "n": "?"},
            7,
            {"kty": "strange"},
        ]
        assert await look(hub, named("one")) == 503
    assert "key 1 is a secret, which a key set that others read must not have" in caplog.text
    assert "has no key that signatures can be verified with" in caplog.text
    assert "c2VjcmV0" not in caplog.text


async def test_a_key_set_may_be_a_file_that_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(Keys.one_rsa, "RS256", kid="one", alg="RS256")]}))
    async with serving({"jwt": {"jwks": str(file)}}) as hub:
        assert await look(hub, named("one")) == 200
        assert await look(hub, token()) == 200
        # The key says what it is for.
        assert await look(hub, token(algorithm="PS256", headers={"kid": "one"})) == 401
        file.write_text(json.dumps({"keys": [jwk(Keys.other_rsa, "RS256", kid="two")]}))
        assert await look(hub, named("one")) == 401
        assert await look(hub, named("two", Keys.other_rsa)) == 200


@pytest.mark.parametrize("over", ["local", *REMOTE])
async def test_a_session_is_seen_in_the_method_over_every_channel(over: str) -> None:
    """By the pipeline plugin ``session`` of both; without it, nothing of a session travels."""
    options = {"pipeline": ["session"]}

    async def seen(hub: Any) -> str:
        with session.use(user="joe", tenant="acme"):
            return await hub.service.init.get(Reader).read()

    if over == "local":
        async with serving(None, ReaderImpl, **options) as here:
            assert await seen(here) == "acme joe"
        return
    async with serving(TOKENS, ReaderImpl, **options) as there:
        settings = {"registry": {"static": {"reader": {over: there.service.init.report()["url"]}}}}
        settings["channels"] = {over: {"token": SECRET}}
        for pipeline, expected in ((options, "acme joe"), ({}, "")):
            here = new_hub(**pipeline)
            await here.service.init.start(settings=settings, client=True)
            try:
                assert await seen(here) == expected
            finally:
                await here.service.init.stop(5)


def test_a_token_is_no_header_that_is_passed_on() -> None:
    assert passed_on({"Authorization": "Bearer x", "authorization": "y", "x-mine": "1"}) == {"x-mine": "1"}


async def test_what_is_mounted_elsewhere_asks_who_calls_and_for_which_host_too() -> None:
    async with serving(TOKENS, server={"hosts": ["inner.example"]}) as inner:
        mounts = {"/inner": inner.service.init.asgi()}
        async with serving(None, DoorImpl, mounts=mounts, server={"hosts": ["*"]}) as outer:
            for host, bearer, status in (
                ("inner.example", SECRET, 200),
                ("inner.example", "", 401),
                ("evil.example", SECRET, 421),
            ):
                answer = await ask(outer, "GET", "/inner/vault/look", bearer=bearer, host=host)
                assert answer.status == status
