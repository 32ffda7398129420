"""``evbus put``, ``check``, ``plugins`` and ``demo``."""

from __future__ import annotations

import json

import pytest

from tests.command.kit import FAILING, RETRY, Shell


def test_put_delivers_one_event_with_its_headers(shell: Shell) -> None:
    done = shell.run(
        "put",
        '{"n": 1.0,\n"b": [1]}',
        "-p",
        "file.yml",
        "-k",
        "a.b",
        "--profile",
        "x",
        "--header",
        "h=1=2",
        "--header",
        "i=3",
    )
    assert done.returncode == 0
    (event,) = shell.lines("out.jsonl")
    assert event == {
        "routing_key": "a.b",
        "profile": "x",
        "headers": {"h": "1=2", "i": "3", "content-type": "application/json"},
        "body": {"n": 1.0, "b": [1]},
    }


def test_put_reads_the_body_from_standard_input(shell: Shell) -> None:
    assert shell.run("put", "-", "-p", "file.yml", "-q", stdin='"ü"\n').returncode == 0
    assert shell.lines("out.jsonl")[0]["body"] == "ü"


def test_put_takes_the_content_type_that_was_given(shell: Shell) -> None:
    done = shell.run("put", '"two\\nlines"', "-p", "file.yml", "-q", "--header", "Content-Type=text/plain")
    assert done.returncode == 0
    assert shell.lines("out.jsonl")[0]["headers"] == {"content-type": "text/plain"}


@pytest.mark.parametrize(
    ("body", "args", "code", "sentence"),
    [
        ("bare", (), 2, "a text needs quotes: '\"some text\"'"),
        ("1", ("--header", "x"), 2, "--header 'x': a header is given as name=value"),
        ('{"a": 1, "a": 2}', (), 3, "the key 'a' stands twice in one object"),
        ("[" * 70 + "]" * 70, (), 3, "nests more than 64 levels deep"),
        (
            "1",
            ("--serialize-plugin", "jason"),
            2,
            "there is no serialize plugin 'jason'; did you mean 'json'?",
        ),
        ("1", ("--pipeline", "stomp"), 2, "there is no pipeline plugin 'stomp'"),
    ],
)
def test_put_says_what_is_wrong(
    shell: Shell, body: str, args: tuple[str, ...], code: int, sentence: str
) -> None:
    done = shell.run("put", body, "-p", "file.yml", "-q", *args)
    assert done.returncode == code
    assert sentence in done.stderr


def test_put_fails_when_the_destination_does(shell: Shell) -> None:
    shell.file("plugins/ingress/failing.py", FAILING)
    shell.file("f.yml", f'failing:\n  "*": {RETRY}\n')
    done = shell.run("put", "1", "-p", "f.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 1
    assert "it does not work" in done.stderr


def test_check_opens_every_destination(shell: Shell) -> None:
    shell.file("there", "")
    shell.file("both.yml", "file:\n  good: {path: out.jsonl}\n  bad: {path: there/out.jsonl}\n")
    assert shell.run("check", "-p", "p.yml").returncode == 0
    done = shell.run("check", "-p", "both.yml")
    assert done.returncode == 1
    rows = {row.split()[0]: row.split()[1] for row in done.stdout.splitlines()[2:]}
    assert rows == {"file.file.good": "ok", "file.file.bad": "failed"}
    assert "a part of its path is a file" in done.stdout


def test_check_and_plugins_report_a_broken_plugin_with_its_place(shell: Shell) -> None:
    shell.file("plugins/ingress/broken.py", "def publish(:\n")
    done = shell.run("check", "-p", "p.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 2
    assert f"ingress.broken ({shell.folder}/plugins/ingress/broken.py:1): not valid Python" in done.stdout
    done = shell.run("plugins", "ingress", "--plugin-dirs", "plugins")
    assert done.returncode == 2
    row = next(line for line in done.stdout.splitlines() if line.startswith("ingress.broken"))
    assert row.split()[1] == "broken"
    assert row.endswith("broken.py:1")


def test_plugins_lists_every_subsystem(shell: Shell) -> None:
    done = shell.run("plugins")
    assert done.returncode == 0
    names = {line.split()[0] for line in done.stdout.splitlines()[2:]}
    assert {"ingress.file", "match.glob", "pipeline.trace", "serialize.json"} <= names
    done = shell.run("plugins", "ingres")
    assert (done.returncode, done.stderr) == (
        2,
        "evbus: there is no subsystem 'ingres'; did you mean 'ingress'?\n",
    )


def test_demo_prints_made_up_events(shell: Shell) -> None:
    done = shell.run("demo", "--count", "3", "--rate", "0", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    bodies = [json.loads(line.removeprefix("random ")) for line in done.stdout.splitlines()]
    assert [body["number"] for body in bodies] == [0, 1, 2]


def test_demo_refuses_negative_numbers(shell: Shell) -> None:
    assert shell.run("demo", "--rate", "-1").returncode == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("evbs: {}\n", "c.yml: evbs: there is no such section; did you mean 'evbus'?"),
        (
            "drain_timeout: 3\n",
            "c.yml: drain_timeout: this is an option of the section evbus, and stands below 'evbus:'",
        ),
        (
            "pop_config: {log_levle: info}\n",
            "c.yml: pop_config.log_levle: there is no such option; did you mean 'log_level'?",
        ),
        ("evbus: [1]\n", "c.yml: evbus: a section is a mapping of options to values"),
        ("pop_config: {log_level: loud}\n", "log_level: there is no level 'loud'; known: "),
    ],
)
def test_a_configuration_file_with_a_mistake_is_refused(shell: Shell, text: str, sentence: str) -> None:
    shell.file("c.yml", text)
    done = shell.run("check", "-p", "p.yml", "-c", "c.yml")
    assert done.returncode == 2
    assert done.stderr.startswith(f"evbus: {sentence}")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "evbus:\n  # drain_timeout: 3\n", "pop_config:\n"])
def test_a_configuration_file_may_be_empty(shell: Shell, text: str) -> None:
    shell.file("c.yml", text)
    done = shell.run("put", "1", "-p", "p.yml", "-q", "-c", "c.yml")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_section_of_somebody_else_is_told(shell: Shell) -> None:
    shell.file("c.yml", "shop: {}\nevbus: {}\n")
    done = shell.run("put", "1", "-p", "p.yml", "-q", "-c", "c.yml")
    assert done.returncode == 0
    assert done.stderr == "[WARNING ] a section of the configuration file is read by nothing here: shop\n"


def test_an_unknown_level_of_the_log_is_refused(shell: Shell) -> None:
    done = shell.run("check", "-p", "p.yml", "--log-level", "wraning")
    assert (done.returncode, done.stderr) == (
        2,
        "evbus: log_level: there is no level 'wraning'; did you mean 'warning'?\n",
    )


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "internal:\n", "match_plugin: regex\n"])
def test_check_refuses_a_file_without_profiles(shell: Shell, text: str) -> None:
    shell.file("empty.yml", text)
    done = shell.run("check", "-p", "empty.yml")
    assert (done.returncode, done.stderr) == (
        2,
        "evbus: empty.yml: the file holds no profile: {provider: {name: data}} is right\n",
    )


def test_options_of_a_plugin_come_from_file_environment_and_command_line(shell: Shell) -> None:
    shell.file(
        "plugins/pipeline/redact.py",
        'OPTIONS = {"pii_pattern": "x+", "pii_limit": 3}\n\n\n'
        "def configure(hub, settings):\n    print(settings.pii_pattern, settings.pii_limit)\n\n\n"
        "def send(hub, envelope):\n    pass\n",
    )
    shell.file("c.yml", "evbus: {pii_pattern: of the file, pii_limit: 4}\n")
    put = ("put", "1", "-p", "p.yml", "-q", "--plugin-dirs", "plugins")
    assert shell.run(*put).stdout == "x+ 3\n"
    assert shell.run(*put, EVBUS_PII_LIMIT="5").stdout == "x+ 5\n"
    assert shell.run(*put, "-c", "c.yml").stdout == "of the file 4\n"
    assert shell.run(*put, "-c", "c.yml", EVBUS_PII_LIMIT="5").stdout == "of the file 5\n"
    assert (
        shell.run(*put, "-c", "c.yml", "--set", "pii_limit=6", EVBUS_PII_LIMIT="5").stdout
        == "of the file 6\n"
    )
    for wrong, sentence in (
        ("pii_limits=6", "evbus.pii_limits: there is no such option; did you mean 'pii_limit'?"),
        ("pii_limit", "--set 'pii_limit': an option is given as name=value"),
        (
            "drain_timeout=3",
            "--set 'drain_timeout=3': this is an option of evbus itself, which is given as --drain-timeout",
        ),
    ):
        done = shell.run(*put, "--set", wrong)
        assert done.returncode == 2
        assert done.stderr.startswith(f"evbus: {sentence}")


def test_commands_that_deliver_refuse_a_broken_pipeline_plugin_and_the_others_show_it(shell: Shell) -> None:
    shell.file("plugins/pipeline/redact.py", "import there_is_no_such_module\n")
    options = ("-p", "p.yml", "--plugin-dirs", "plugins")
    for command in (("put", "1"), ("run",), ("tail",), ("demo", "--count", "1")):
        done = shell.run(*command, *options, "-q")
        assert done.returncode == 2
        assert done.stdout == ""
        assert "pipeline.redact" in done.stderr.splitlines()[-1]
        assert "no event passes without this plugin" in done.stderr
    assert shell.run("check", *options).returncode == 2
    done = shell.run("plugins", "pipeline", "--plugin-dirs", "plugins")
    assert done.returncode == 2
    assert "ModuleNotFoundError" in done.stdout


def test_profiles_may_stand_in_a_configuration_file(shell: Shell) -> None:
    shell.file(
        "c.yml",
        """
        evbus:
          profiles:
            file:
              orders: {path: "${FOLDER:-.}/out.jsonl", max_size: 10MB, delivery: {retry: {min: 50ms}}}
            console: [{audit: {}}, {default: {}}]
        """,
    )
    done = shell.run("put", "1", "--profile", "orders", "-q", "-c", "c.yml")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = shell.lines("out.jsonl")
    assert line["body"] == 1
    done = shell.run("check", "-c", "c.yml")
    assert (done.returncode, done.stdout.count(" ok")) == (0, 3)
    shell.file("c.yml", "evbus: {profiles: {console: {'*': {}}}}\n")
    assert shell.run("put", "1", "-q", "-c", "c.yml").stdout == "1\n"
    shell.file("c.yml", "evbus: {profiles: {file: {orders: {path: x, max_size: 10 parsecs}}}}\n")
    done = shell.run("check", "-c", "c.yml")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "evbus: evbus.profiles: file.orders.max_size: '10 parsecs' has an unknown unit; "
    )
    for command in (("asyncapi",), ("graph",)):
        assert shell.run(*command, "-c", "c.yml").stderr == done.stderr


def test_sizes_and_durations_of_options_have_units(shell: Shell) -> None:
    put = ("put", "1", "-p", "p.yml", "-q")
    assert shell.run(*put, "--drain-timeout", "2s", EVBUS_MAX_BODY="1kB").returncode == 0
    done = shell.run(*put, "--drain-timeout", "2 weeks")
    assert done.returncode == 2
    assert "argument --drain-timeout: '2 weeks' has an unknown unit; a number of seconds" in done.stderr
    done = shell.run(*put, EVBUS_DRAIN_TIMEOUT="2 weeks")
    assert done.returncode == 2
    assert done.stderr.startswith("evbus: evbus.drain_timeout: '2 weeks' has an unknown unit; a number of")


def test_what_a_command_makes_is_collected(shell: Shell) -> None:
    shell.file(
        "plugins/ingress/told.py",
        "import gc\n\n\nasync def publish(hub, ctx, body):\n    print(gc.isenabled())\n",
    )
    shell.file("told.yml", "told: {default: {}}\n")
    assert shell.run("put", "1", "-p", "told.yml", "-q", "--plugin-dirs", "plugins").stdout == "True\n"
