"""Profiles from files, encrypted or not, and from data; and that no key or secret ever shows."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import pop.hub
import pytest

from evbus.errors import EvbusError, MissingExtra, ProfileError, SettingsError
from tests.evbus.kit import KEEPER, bodies, new_hub, running, write

# dict-toolbox, which acct decodes with, uses it.
pytestmark = pytest.mark.filterwarnings("ignore:'typing.ByteString' is deprecated:DeprecationWarning")

SECRET = "hunter22-of-the-profile"
DATA = {"internal": {"orders.*": {"routing_key": "orders"}, "default": {}}}


def shown(problem: BaseException) -> str:
    """Return everything that a program may print of an exception."""
    text = io.StringIO()
    traceback.print_exception(type(problem), problem, problem.__traceback__, file=text)
    return f"{problem!s} {problem!r} {problem.args!r} {text.getvalue()}"


def encrypt(path: Path, data: Any, crypto: str = "fernet") -> str:
    """Write a file as ``acct encrypt`` does and return its key."""
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="acct")

    async def main() -> str:
        key = await hub.crypto.init.generate_key(plugin=crypto)
        encrypted.append(await hub.crypto.init.encrypt(plugin=crypto, data=data, key=key))
        return str(key)

    encrypted: list[bytes] = []
    key = asyncio.run(main())
    path.write_bytes(encrypted[0])
    return key


def profiles(hub: Any, **kwargs: Any) -> Any:
    return asyncio.run(hub.evbus.acct.profiles(**kwargs))


@pytest.fixture
def log_records() -> Any:
    """Return every record of every logger, down to the lowest level."""
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage() + str(record.exc_info or ""))

    root, handler = logging.getLogger(), Keep(level=1)
    root.addHandler(handler)
    root.setLevel(1)
    yield records
    root.removeHandler(handler)


def test_no_file_and_no_data_are_no_profiles(hub: Any) -> None:
    assert (profiles(hub), profiles(hub, acct_file=None, acct_key=None, acct_data={})) == ({}, {})


@pytest.mark.parametrize("shape", ["mapping", "list"])
def test_data_come_back_as_lists_by_provider(hub: Any, shape: str) -> None:
    data: Any = (
        DATA
        if shape == "mapping"
        else {"internal": [{name: part} for name, part in DATA["internal"].items()]}
    )
    assert profiles(hub, acct_data=data) == {
        "internal": [{"orders.*": {"routing_key": "orders"}}, {"default": {}}],
    }


def test_data_win_over_a_file(hub: Any, tmp_path: Path) -> None:
    assert profiles(hub, acct_file=str(tmp_path / "none"), acct_data=DATA)["internal"]


def test_the_matcher_is_kept(hub: Any) -> None:
    contexts = profiles(hub, acct_data={"match_plugin": "regex", "internal": {"a|b": {}}})
    assert contexts["match_plugin"] == "regex"
    with pytest.raises(
        ProfileError, match=r"acct_data: internal\.a\(: the name is no valid pattern: missing \)"
    ):
        profiles(hub, acct_data={"match_plugin": "regex", "internal": {"a(": {}}})


def test_a_plain_file_needs_no_acct(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acct", None)
    path = tmp_path / "p.yml"
    path.write_text("internal: {default: {routing_key: k}}\n")
    assert profiles(hub, acct_file=path) == {"internal": [{"default": {"routing_key": "k"}}]}


@pytest.mark.parametrize("crypto", ["fernet", "aesgcm256"])
def test_an_encrypted_file_is_read_and_its_profiles_deliver(tmp_path: Path, crypto: str) -> None:
    path = tmp_path / f"p.{crypto}"
    key = encrypt(path, {**DATA, "aws": {"default": {"key": SECRET}}}, crypto)
    assert b"orders" not in path.read_bytes()
    hub = new_hub()

    async def main() -> list[bytes]:
        contexts = await hub.evbus.acct.profiles(acct_file=str(path), acct_key=key, crypto_plugin=crypto)
        assert set(contexts) == {"internal"}
        async with running(hub, contexts):
            await hub.evbus.broker.put(body=1, profile="orders.eu")
            return await bodies(hub, "orders", 1)

    assert asyncio.run(main()) == [b"1"]


def test_the_crypto_plugin_of_a_file_is_found_by_the_end_of_its_name(hub: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.yml.aesgcm256"
    key = encrypt(path, DATA, "aesgcm256")
    assert asyncio.run(hub.evbus.acct.load(path, key)) == DATA
    path.rename(tmp_path / "p.locked")
    with pytest.raises(
        ProfileError, match=r"with this acct_key \(\w+\) by fernet; the name of a file by another"
    ):
        asyncio.run(hub.evbus.acct.load(tmp_path / "p.locked", key))


def test_an_own_file_may_be_encrypted_too(hub: Any, tmp_path: Path) -> None:
    key = encrypt(tmp_path / "p", DATA)
    assert asyncio.run(hub.evbus.acct.load(tmp_path / "p", key)) == DATA


@pytest.mark.parametrize("function", ["profiles", "load"])
@pytest.mark.parametrize("kind", ["other key", "no key at all"])
def test_a_wrong_key_is_one_line_without_the_key(
    hub: Any, tmp_path: Path, log_records: list[str], kind: str, function: str
) -> None:
    path = tmp_path / "p"
    encrypt(path, {"internal": {"default": {"routing_key": SECRET}}})
    key = encrypt(tmp_path / "other", {}) if kind == "other key" else "not-the-form-of-a-key-hunter2"
    with pytest.raises(ProfileError) as caught:
        asyncio.run(getattr(hub.evbus.acct, function)(str(path), key))
    assert str(caught.value).startswith(f"{path}: the file cannot be decrypted with this acct_key (")
    assert str(caught.value).endswith(")")
    everything = shown(caught.value) + " ".join(log_records)
    assert key not in everything
    assert SECRET not in everything
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_plain_file_is_read_although_there_is_a_key_for_others(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text("internal: {default: {}}\n")
    contexts = profiles(hub, acct_file=tmp_path / "p.yml", acct_key=encrypt(tmp_path / "x", {}))
    assert list(contexts) == ["internal"]


def test_an_encrypted_file_without_a_key_says_so(hub: Any, tmp_path: Path) -> None:
    encrypt(tmp_path / "p", DATA)
    with pytest.raises(ProfileError, match="if acct encrypted it, give the acct_key"):
        profiles(hub, acct_file=tmp_path / "p")


def test_a_missing_file_is_told_with_and_without_a_key(hub: Any, tmp_path: Path) -> None:
    path = tmp_path / "none.yml"
    with pytest.raises(ProfileError, match="none.yml: the file cannot be read: No such file or directory"):
        profiles(hub, acct_file=path)
    with pytest.raises(ProfileError, match="none.yml: the file cannot be read: there is no such file"):
        profiles(hub, acct_file=path, acct_key="k")


def test_without_acct_an_encrypted_file_is_one_sentence_with_the_command(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "acct", None)
    with pytest.raises(MissingExtra) as caught:
        profiles(hub, acct_file=tmp_path / "p", acct_key="k")
    assert str(caught.value) == (
        "an encrypted profiles file needs the package acct, which is not installed; "
        "install it with: pip install 'evbus-hub[acct]'"
    )


def test_an_option_that_acct_does_not_have_is_no_wrong_key(hub: Any, tmp_path: Path) -> None:
    key = encrypt(tmp_path / "p", DATA)
    with pytest.raises(SettingsError) as caught:
        profiles(hub, acct_file=tmp_path / "p", acct_key=key, crypto_plugn="fernet")
    assert str(caught.value) == "acct has no option 'crypto_plugn'; did you mean 'crypto_plugin'?"


# A file shared with others


def test_providers_of_others_are_left_out(hub: Any) -> None:
    data = {**DATA, "aws": {"default": {"id": 1}}, "vault": [{"x": {}}], "internal.kms": {"x": {}}}
    assert set(profiles(hub, acct_data=data)) == {"internal"}


@pytest.mark.parametrize("name", ["internl", "webhok", "files"])
def test_a_near_miss_is_a_typing_error(hub: Any, name: str) -> None:
    with pytest.raises(ProfileError) as caught:
        profiles(hub, acct_data={name: {"default": {}}})
    assert str(caught.value).startswith(
        f"acct_data: {name}.default: no ingress plugin accepts the provider {name!r}; did you mean '"
    )


def test_in_a_file_of_our_own_every_provider_has_to_be_known(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text("aws: {default: {}}\n")
    with pytest.raises(ProfileError) as caught:
        asyncio.run(hub.evbus.acct.load(tmp_path / "p.yml"))
    assert str(caught.value) == (
        f"{tmp_path / 'p.yml'}: aws: no ingress plugin accepts the provider 'aws'; "
        "known: amqp, amqp1, console, file, internal, pika, rabbitmq, stomp, webhook; "
        "folders with plugins of your own: --plugin-dirs (plugin_dirs)"
    )


def test_mistakes_below_are_told_with_the_file(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text("internal:\n  default: {routing_kee: a}\naws: {default: {}}\n")
    with pytest.raises(ProfileError) as caught:
        profiles(hub, acct_file=tmp_path / "p.yml")
    assert str(caught.value) == (
        f"{tmp_path / 'p.yml'}: internal.default.routing_kee: there is no such key; "
        "did you mean 'routing_key'?"
    )


def test_a_profile_of_a_broken_plugin_is_refused_though_others_share_the_file(tmp_path: Path) -> None:
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__slack="import nothing_here\n")])
    with pytest.raises(ProfileError) as caught:
        profiles(hub, acct_data={"slack": {"default": {}}})
    assert str(caught.value) == (
        "acct_data: slack.default: no ingress plugin accepts the provider 'slack'; ingress.slack "
        f"({tmp_path / 'plugins/ingress/slack.py'}:1): ModuleNotFoundError: No module named 'nothing_here'"
    )


def test_profiles_of_a_plugin_that_is_switched_off_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "def __virtual__(hub):\n    return False, 'needs slack-sdk'\n\n\n" + KEEPER.format(name="slack")
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__slack=text)])
    assert set(profiles(hub, acct_data={**DATA, "slack": {"default": {}}})) == {"internal"}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("acct_data: slack.default: its profiles are left out: ingress.slack (")
    assert warning.endswith("needs slack-sdk")


# Secrets


def test_the_values_of_contexts_do_not_show_in_their_repr(hub: Any, log_records: list[str]) -> None:
    data = {"webhook": {"default": {"url": f"https://joe:{SECRET}@example.org/", "secret": f"raw:{SECRET}"}}}
    try:
        contexts = profiles(hub, acct_data=data)
    except EvbusError as exc:
        pytest.fail(str(exc))
    assert contexts["webhook"][0]["default"]["secret"] == f"raw:{SECRET}"
    assert SECRET not in repr(contexts) + str(contexts) + f"{contexts}" + " ".join(log_records)
    connections = hub.evbus.init.connect(contexts)
    assert SECRET not in repr(connections)
    assert SECRET not in repr(connections[0]) + repr(connections[0].sender)


def test_acct_plugins_complete_the_profiles_of_their_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(
        tmp_path / "site" / "other",
        acct__internal__extra=(
            "async def gather(hub, profiles):\n"
            "    return {name + '-made': {'routing_key': 'made'} for name in profiles['internal']}\n"
        ),
    )
    (root / "conf.py").write_text("DYNE = {'acct': ['acct']}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    hub = new_hub()
    assert profiles(hub, acct_data={"internal": {"a": {}}}) == {
        "internal": [{"a": {}}, {"a-made": {"routing_key": "made"}}],
    }


def test_values_of_the_environment_and_of_files_are_read(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.yml").write_text(
        'internal: {"${A}": {routing_key: "${ORDERS}.${NONE:-x}", limit: "${LIMIT}"}}\n'
    )
    monkeypatch.setenv("ORDERS", "orders")
    monkeypatch.setenv("LIMIT", "5")
    wanted = {"internal": {"${A}": {"routing_key": "orders.x", "limit": "5"}}}
    assert asyncio.run(hub.evbus.acct.load(tmp_path / "p.yml")) == wanted
    assert profiles(hub, acct_file=tmp_path / "p.yml") == {"internal": [wanted["internal"]]}
    monkeypatch.delenv("ORDERS")
    for read in (hub.evbus.acct.load, lambda path: hub.evbus.acct.profiles(acct_file=path)):
        with pytest.raises(
            ProfileError, match=r"p\.yml: internal\.\$\{A\}\.routing_key: there is no environment var"
        ):
            asyncio.run(read(tmp_path / "p.yml"))


def test_what_is_for_others_is_not_looked_at(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text('internal: {a: {}}\naws: {default: {key: "${NO_SUCH_VARIABLE}"}}\n')
    assert list(profiles(hub, acct_file=tmp_path / "p.yml")) == ["internal"]


async def test_secrets_of_files_show_nowhere(tmp_path: Path, log_records: list[str]) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    text = "async def publish(hub, ctx, body):\n    raise ValueError(ctx.acct['password'])\n"
    root = write(tmp_path / "plugins", ingress__leaky=text)
    (tmp_path / "p.yml").write_text(
        f"leaky: {{a: {{password: 'file:{tmp_path}/secret', delivery: {{retry: {{attempts: 1}}}}}}}}\n"
    )

    hub = new_hub(plugin_dirs=[str(root)], dead_store=str(tmp_path / "dead.jsonl"))
    contexts = await hub.evbus.acct.load(tmp_path / "p.yml")
    assert contexts["leaky"]["a"]["password"] == SECRET
    async with running(hub, contexts):
        await hub.evbus.broker.put(body=1, profile="a")
    lane = hub.evbus.stats.snapshot()["lanes"]["leaky.leaky.a"]
    assert (lane["dead"], lane["last_error"]) == (1, "***")
    assert SECRET not in "".join(log_records) + (tmp_path / "dead.jsonl").read_text()


@pytest.mark.parametrize("name", ["profiles", "acct_file"])
def test_without_a_file_that_of_the_options_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "p.yml").write_text("internal: {a: {}}\n")
    assert profiles(new_hub(**{name: str(tmp_path / "p.yml")})) == {"internal": [{"a": {}}]}
    assert profiles(new_hub(**{name: str(tmp_path / "p.yml")}), acct_data={}) == {}


def test_profiles_may_stand_in_the_options(hub: Any) -> None:
    hub = new_hub(profiles={"internal": {"a": {"routing_key": "${NONE:-x}"}, "b": {}}})
    assert profiles(hub) == {"internal": [{"a": {"routing_key": "x"}}, {"b": {}}]}
    contexts = asyncio.run(hub.evbus.acct.load(hub.OPT.evbus["profiles"]))
    assert contexts == {"internal": {"a": {"routing_key": "x"}, "b": {}}}
    with pytest.raises(ProfileError, match=r"^evbus\.profiles: internl: no ingress plugin accepts"):
        asyncio.run(hub.evbus.acct.load({"internl": {"a": {}}}))


def test_a_hub_that_has_no_options_takes_file_and_key_from_the_environment(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.fernet"
    key = encrypt(path, DATA, "fernet")
    monkeypatch.setenv("EVBUS_PROFILES", str(path))
    monkeypatch.setenv("ACCT_KEY", key)
    assert profiles(hub)["internal"] == [{"orders.*": {"routing_key": "orders"}}, {"default": {}}]
    assert profiles(hub, acct_data={}) == {}
