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
