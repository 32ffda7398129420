"""Profiles: both shapes, and every mistake named by file, key and nearest valid name."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dict_tools.data import NamespaceDict, SafeNamespaceDict

from evbus.engine.core import profiles
from evbus.engine.core.endpoint import Plugin
from evbus.engine.core.profiles import load_yaml, read_profiles
from evbus.errors import ProfileError
from tests.evbus.rig import failure


class Tls(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    verify: bool = True


class Target(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    path: str = ""
    limit: int = 0
    routing_key: str | None = None
    tls: Tls | None = None
    hops: list[Tls] = []
    named: dict[str, Tls] = {}
    mode: str = "a"

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError("limit must be 0 or more")


ACCEPTS = [Plugin("file", ("file",), Target), Plugin("pika", ("amqp", "rabbitmq"))]


def read(contexts: Any, broken: dict[str, str] | None = None, find: Any = fnmatch.fnmatchcase) -> Any:
    return read_profiles(contexts, ACCEPTS, source="p.yml", find=find, broken=broken or {})


def refused(contexts: Any, **more: Any) -> str:
    with pytest.raises(ProfileError) as caught:
        read(contexts, **more)
    assert caught.value.source == "p.yml"
    return str(caught.value)


def loaded(tmp_path: Path, text: str | bytes) -> Any:
    path = tmp_path / "p.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_yaml(path)


def not_loaded(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(ProfileError) as caught:
        loaded(tmp_path, text)
    assert caught.value.__cause__ is None
    prefix = f"{tmp_path / 'p.yml'}: "
    assert str(caught.value).startswith(prefix)
    return str(caught.value)[len(prefix) :]


# Shapes


@pytest.mark.parametrize(
    "contexts",
    [
        {"file": {"orders": {"path": "a"}, "*": {"path": "b"}}},
        {"file": [{"orders": {"path": "a"}}, {"*": {"path": "b"}}]},
        {"file": ({"orders": {"path": "a"}, "*": {"path": "b"}},)},
        {"file": [NamespaceDict(orders={"path": "a"}), SafeNamespaceDict({"*": {"path": "b"}})]},
    ],
)
def test_both_shapes_of_contexts_give_the_same_profiles(contexts: Any) -> None:
    found = [
        (profile.plugin.name, profile.provider, profile.name, profile.settings.path)
        for profile in read(contexts)
    ]
    assert found == [("file", "file", "orders", "a"), ("file", "file", "*", "b")]


def test_the_same_name_may_stand_under_several_providers_and_several_times_in_a_list() -> None:
    contexts = {"file": [{"a": {}}, {"a": {}}], "amqp": {"a": {}}, "rabbitmq": {"a": {}}}
    assert [(one.plugin.name, one.provider, one.name) for one in read(contexts)] == [
        ("file", "file", "a"),
        ("file", "file", "a"),
        ("pika", "amqp", "a"),
        ("pika", "rabbitmq", "a"),
    ]


def test_a_provider_that_two_plugins_accept_gives_a_profile_to_each() -> None:
    accepts = [Plugin("one", ("amqp",)), Plugin("two", ("amqp",))]
    found = read_profiles({"amqp": {"a": {}}}, accepts, source="", find=fnmatch.fnmatchcase, broken={})
    assert [profile.plugin.name for profile in found] == ["one", "two"]


def test_empty_data_providers_and_parts_mean_defaults_or_nothing() -> None:
    (profile,) = read({"file": {"a": None}, "amqp": None, "rabbitmq": [None]})
    assert (profile.data, profile.settings, profile.delivery) == ({}, Target(), profiles.DeliverySettings())


def test_names_that_yaml_read_as_numbers_are_names() -> None:
    assert [profile.name for profile in read({"amqp": {404: {}}})] == ["404"]


def test_the_key_delivery_is_not_handed_to_the_plugin_and_the_contexts_stay_as_they_are() -> None:
    contexts = {"amqp": {"a": {"url": "amqp://x", "delivery": {"batch": 7}}}}
    (profile,) = read(contexts)
    assert (profile.data, profile.delivery.batch) == ({"url": "amqp://x"}, 7)
    assert contexts["amqp"]["a"]["delivery"] == {"batch": 7}


def test_profiles_of_plugins_without_a_type_may_hold_anything() -> None:
    (profile,) = read({"amqp": {"a": {"anything": object}}})
    assert profile.settings is None


def test_values_are_converted_as_environment_and_yaml_need_it() -> None:
    (profile,) = read({"file": {"a": {"limit": "12", "delivery": {"retry": {"min": "0.5"}}}}})
    assert (profile.settings.limit, profile.delivery.retry.min) == (12, 0.5)


# Mistakes


@pytest.mark.parametrize(
    ("contexts", "sentence"),
    [
        (
            {"fiel": {"a": {}}},
            "p.yml: fiel: no ingress plugin accepts the provider 'fiel'; did you mean 'file'?",
        ),
        (
            {"xyzzy": {"a": {}}},
            "p.yml: xyzzy: no ingress plugin accepts the provider 'xyzzy'; known: amqp, file, rabbitmq",
        ),
        (
            {"match_plugn": "glob"},
            "p.yml: match_plugn: profiles are a mapping of names to data, not str; did you mean ",
        ),
        (
            {"match_plugn": {"a": {}}},
            (
                "p.yml: match_plugn: no ingress plugin accepts the provider 'match_plugn'; "
                "did you mean 'match_plugin'?"
            ),
        ),
        ({7: {}}, "p.yml: a provider is a string, not 7; quote it"),
        ({"file": "x"}, "p.yml: file: profiles are a mapping of names to data, not str"),
        ({"file": [{}, 5]}, "p.yml: file[1]: profiles are a mapping of names to data, not int"),
        ({"file": {True: {}}}, "p.yml: file: a profile's name is a string, not True; quote it"),
        ({"file": {None: {}}}, "p.yml: file: a profile's name is a string, not None; quote it"),
        ({"file": {"a": "x"}}, "p.yml: file.a: a profile's data are a mapping, not str"),
        ({"file": {"a": []}}, "p.yml: file.a: a profile's data are a mapping, not list"),
        (
            {"file": {"path": "x"}},
            "p.yml: file.path: a profile's data are a mapping, not str; a name stands above it: file: {NAM",
        ),
        ({"a": {"file": {}}}, "p.yml: a: no ingress plugin accepts the provider 'a'; known: "),
        (
            {"evbus": {"profiles": {}}},
            "p.yml: evbus: no ingress plugin accepts the provider 'evbus'; a file of ",
        ),
        (
            {"file": {"a": {"retry": {}}}},
            "p.yml: file.a.retry: there is no such key; it stands below 'delivery'",
        ),
        (
            {"file": {"a": {"attempts": 3}}},
            "p.yml: file.a.attempts: there is no such key; it stands below 'del",
        ),
        (
            {"file": {"a": {"pth": "x"}}},
            "p.yml: file.a.pth: there is no such key; did you mean 'path'?",
        ),
        (
            {"file": [{"a": {}}, {"b": {"zzz": 1}}]},
            "p.yml: file[1].b.zzz: there is no such key; known: hops, limit, mode, named, path, routing_key",
        ),
        ({"file": {"a": {5: 1}}}, "p.yml: file.a.5: there is no such key; known: "),
        (
            {"file": {"a": {"tls": {"verfy": 1}}}},
            "p.yml: file.a.tls.verfy: there is no such key; did you mean 'verify'?",
        ),
        (
            {"file": {"a": {"hops": [{}, {"verfy": 1}]}}},
            "p.yml: file.a.hops[1].verfy: there is no such key; did you mean 'verify'?",
        ),
        (
            {"file": {"a": {"named": {"x": {"verfy": 1}}}}},
            "p.yml: file.a.named.x.verfy: there is no such key; did you mean 'verify'?",
        ),
        ({"file": {"a": {"limit": "x"}}}, "p.yml: file.a.limit: expected int, found str"),
        ({"file": {"a": {"limit": -1}}}, "p.yml: file.a: limit must be 0 or more"),
        ({"file": {"a": {"tls": {"verify": 3}}}}, "p.yml: file.a.tls.verify: expected bool, found int"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_nearest_name(contexts: Any, sentence: str) -> None:
    assert refused(contexts).startswith(sentence)


@pytest.mark.parametrize(
    ("delivery", "sentence"),
    [
        ({"bach": 1}, "delivery.bach: there is no such key; did you mean 'batch'?"),
        ({"retry": {"atempts": 1}}, "delivery.retry.atempts: there is no such key; did you mean 'attempts'?"),
        ([], "delivery: this is a mapping, not list"),
        ("x", "delivery: this is a mapping, not str"),
        (0, "delivery: this is a mapping, not int"),
        ({"batch": 0}, "delivery: batch must be 1 or more"),
        ({"buffer": -1}, "delivery: buffer must be 1 or more"),
        ({"concurrency": 0}, "delivery: concurrency must be 1 or more"),
        (
            {"concurrency": 99999999},
            "delivery: concurrency must be at most 1,000: each of them is a task of its own",
        ),
        ({"batch": 1.5}, "delivery.batch: expected int, found float"),
        ({"timeout": -1}, "delivery: timeout must be 0 (any time) or more seconds"),
        ({"timeout": float("nan")}, "delivery: timeout must be 0 (any time) or more seconds"),
        ({"on_full": "wait"}, "delivery.on_full: 'wait' is none of block, spill, drop_oldest"),
        ({"retry": {"attempts": -1}}, "delivery.retry: attempts must be 0 (for ever) or more"),
        ({"retry": {"min": 0}}, "delivery.retry: min and max are seconds with 0 < min <= max"),
        ({"retry": {"min": 2, "max": 1}}, "delivery.retry: min and max are seconds with 0 < min <= max"),
        ({"retry": {"max": float("inf")}}, "delivery.retry: min and max are seconds with 0 < min <= max"),
        ({"retry": 3}, "delivery.retry: expected a mapping, found int"),
        (
            {"durable": True},
            (
                "delivery.durable: this version of evbus keeps events in memory only; durable lanes "
                "and spilling to disk are to come"
            ),
        ),
        ({"on_full": "spill"}, "delivery.on_full: this version of evbus keeps events in memory only"),
    ],
)
@pytest.mark.parametrize("provider", ["file", "amqp"])
def test_the_key_delivery_is_checked_for_every_provider(provider: Any, delivery: Any, sentence: str) -> None:
    assert refused({provider: {"a": {"delivery": delivery}}}).startswith(f"p.yml: {provider}.a.{sentence}")


def test_a_broken_plugin_of_the_providers_name_is_mentioned_instead_of_a_guess() -> None:
    sentence = refused(
        {"slack": {"a": {}}}, broken={"slack": "ingress.slack (/p/slack.py:3): not valid Python"}
    )
    assert sentence == (
        "p.yml: slack: no ingress plugin accepts the provider 'slack'; "
        "ingress.slack (/p/slack.py:3): not valid Python"
    )


def test_a_name_that_is_no_valid_pattern_is_refused() -> None:
    def find(name: str, pattern: str) -> bool:
        return re.fullmatch(pattern, name) is not None

    sentence = refused({"file": {"orders[": {}}}, find=find)
    assert sentence == (
        "p.yml: file.orders[: the name is no valid pattern: unterminated character set at position 6"
    )


@pytest.mark.parametrize("template", ["a", "{routing_key}", "a.{routing_key}.{profile}", "{{x}}", "", None])
def test_templates_of_routing_keys(template: str | None) -> None:
    (profile,) = read({"amqp": {"a": {"routing_key": template}}})
    assert profile.routing_key == template


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (5, "a routing key is a string, not int"),
        ("{key}", "the template holds {key}; it may hold {routing_key} and {profile}"),
        ("{}", "the template holds {}; it may"),
        ("{0}", "the template holds {0}; it may"),
        ("{routing_key.__class__}", "the template holds {routing_key.__class__}; it may"),
        ("{profile[0]}", "the template holds {profile[0]}; it may"),
        ("{routing_key:d}", "the template holds {routing_key:d}; it may"),
        ("{routing_key:{x}}", "the template holds {routing_key:{x}}; it may"),
        ("{routing_key!z}", "the template holds {routing_key!z}; it may"),
        ("{routing_key", "not a valid template: expected '}' before end of string"),
        ("a}", "not a valid template: Single '}' encountered in format string"),
    ],
)
def test_a_bad_template_is_refused_at_start_and_not_at_the_first_event(template: Any, sentence: str) -> None:
    assert refused({"amqp": {"a": {"routing_key": template}}}).startswith(
        f"p.yml: amqp.a.routing_key: {sentence}"
    )


@pytest.mark.parametrize("provider", ["file", "amqp"])
@pytest.mark.parametrize(
    "wrong",
    [{"delivery": {"bach": 1}}, {"routing_key": "{x}"}, {"delivery": {"retry": 1}}, {"routing_key": 1}],
)
def test_no_error_holds_a_secret_of_the_profile(provider: str, wrong: dict[str, Any]) -> None:
    secrets = {"url": "amqp://joe:hunter22@host", "password": "hunter22"} if provider == "amqp" else {}
    secrets |= {"path": "hunter22"} if provider == "file" else {}
    with pytest.raises(ProfileError) as caught:
        read({provider: {"a": {**secrets, **wrong}}})
    assert "hunter22" not in str(caught.value) + repr(caught.value)


def test_the_repr_of_a_profile_shows_no_value() -> None:
    (profile,) = read({"amqp": {"a": {"url": "amqp://joe:hunter22@host"}}})
    assert repr(profile) == "<Endpoint pika.amqp.a>"


# YAML files


def test_a_yaml_file_is_read(tmp_path: Path) -> None:
    assert loaded(tmp_path, "file:\n  a: {path: ü}\n") == {"file": {"a": {"path": "ü"}}}
    assert loaded(tmp_path, "# nothing\n") == {}
    assert loaded(tmp_path, "\ufefffile: {}\n") == {"file": {}}


def test_aliases_and_merge_keys_work_and_are_no_duplicates(tmp_path: Path) -> None:
    text = "x:\n  deep:\n    b: &b {<<: {k: 1}, k: 2}\nd: {<<: *b, k: 3}\ne: *b\n"
    assert loaded(tmp_path, text) == {"x": {"deep": {"b": {"k": 2}}}, "d": {"k": 3}, "e": {"k": 2}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "a: 1\nb: [\n",
            "line 3, column 1: not valid YAML: expected the node content, but found '<stream end>'",
        ),
        (
            "file:\n  a: !!python/object/apply:os.system ['id']\n",
            (
                "line 2, column 6: not valid YAML: could not determine a constructor for the tag "
                "'tag:yaml.org,2002:python/object/apply:os.system'"
            ),
        ),
        ("file: !!python/name:os.system\n", "line 1, column 7: not valid YAML: could not determine"),
        ("file: {}\nfile: {}\n", "line 2, column 1: not valid YAML: the key 'file' stands twice"),
        ("a:\n  b: {c: 1, 'c': 2}\n", "line 2, column 13: not valid YAML: the key 'c' stands twice"),
        (
            "a: &a [*a]\n",
            "line 1, column 4: not valid YAML: an alias stands for something that holds the alias",
        ),
        (
            "a: &a {b: {c: *a}}\n",
            "line 1, column 4: not valid YAML: an alias stands for something that holds",
        ),
        ("a: *nowhere\n", "line 1, column 4: not valid YAML: found undefined alias 'nowhere'; what"),
        (
            "file:\n  *: {}\n",
            "line 2, column 4: not valid YAML: expected alphabetic or numeric character, but found ':'; what",
        ),
        (
            "a: 2024-99-99\n",
            "line 1, column 4: not valid YAML: this value cannot be read as timestamp; quote it",
        ),
        pytest.param(
            "a: " + "9" * 5000,
            "line 1, column 4: not valid YAML: this value cannot be read as int; quote it",
            id="too many digits",
        ),
        ("? [a]\n: b\n", "line 1, column 3: not valid YAML: found unhashable key"),
        ("a: {}\n---\nb: {}\n", "line 2, column 1: not valid YAML: but found another document"),
        ("a: \x00", "not valid YAML: unacceptable character #x0000"),
        pytest.param("[" * 30_000, "not valid YAML: it nests too deep", id="too deep"),
        (b"\x80\x04\x95\xff", "the file is not text in UTF-8"),
        (
            "just text",
            "the file holds no mapping of providers to profiles; if acct encrypted it, give the acct_key",
        ),
        ("- a\n", "the file holds no mapping of providers to profiles; if acct encrypted it"),
    ],
)
def test_a_bad_file_is_one_sentence_with_line_and_column(
    tmp_path: Path, text: str | bytes, sentence: str
) -> None:
    found = not_loaded(tmp_path, text)
    assert found.startswith(sentence)
    assert "\n" not in found


def test_an_alias_bomb_is_refused_before_it_is_built(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    found = not_loaded(tmp_path, "\n".join(lines))
    assert found == "line 6, column 5: not valid YAML: the aliases stand for more than 100000 values"


def test_a_bad_value_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    assert "2024-13-13" not in not_loaded(tmp_path, "a: {password: 2024-13-13}")


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert failure(ProfileError, load_yaml, Path("none.yml")).endswith(
        f"No such file or directory in the current folder, {tmp_path}"
    )
    with pytest.raises(ProfileError, match="none.yml: the file cannot be read: No such file or directory"):
        load_yaml(tmp_path / "none.yml")
    with pytest.raises(ProfileError, match="the file cannot be read: Is a directory"):
        load_yaml(tmp_path)


# Several plugins for one provider, and plugins that only receive


def takers(*accepts: Plugin, provider: str = "amqp") -> list[str]:
    contexts = {provider: {"a": {}}}
    found = read_profiles(contexts, accepts, source="p", find=fnmatch.fnmatchcase, broken={})
    return [profile.plugin.name for profile in found]


OURS = Plugin("amqp", ("amqp", "pika"), flags=frozenset({"SOLE"}))
THEIRS = Plugin("pika", ("pika", "amqp"))


def test_several_plugins_get_the_profiles_of_a_provider_they_share() -> None:
    assert takers(Plugin("a", ("amqp",)), Plugin("b", ("amqp",))) == ["a", "b"]


@pytest.mark.parametrize(("provider", "plugin"), [("amqp", "amqp"), ("pika", "pika")])
def test_a_provider_of_a_sole_plugin_goes_to_one_alone_the_one_of_its_name_first(
    provider: str, plugin: str
) -> None:
    assert takers(OURS, THEIRS, provider=provider) == [plugin]
    assert takers(THEIRS, OURS, provider=provider) == [plugin]


def test_a_sole_plugin_has_the_provider_of_one_that_is_not_there() -> None:
    assert takers(OURS, provider="pika") == ["amqp"]
    assert takers(OURS, Plugin("other", ("pika",)), provider="pika") == ["amqp"]


def test_profiles_of_plugins_that_only_receive_are_no_destinations() -> None:
    contexts = {"lines": {"a": {"any": 1}}, "file": {"b": {}}}
    kept: dict[str, Any] = {"source": "p", "find": fnmatch.fnmatchcase, "broken": {}}
    assert [one.name for one in read_profiles(contexts, ACCEPTS, others=["lines"], **kept)] == ["b"]
    with pytest.raises(ProfileError, match="no ingress plugin accepts the provider 'lines'"):
        read_profiles(contexts, ACCEPTS, **kept)
