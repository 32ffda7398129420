"""``evbus run`` and ``evbus tail``."""

from __future__ import annotations

import json

import pytest

from tests.command.kit import FAILING, RETRY, Shell

GOOD = '{"routing_key": "a", "body": {"id": 1.0}}\n'


def test_a_file_is_delivered_and_a_table_says_so(shell: Shell) -> None:
    shell.file("in.jsonl", GOOD * 3)
    done = shell.run("run", "in.jsonl", "-p", "file.yml")
    assert (done.returncode, done.stdout) == (0, "")
    assert shell.lines("out.jsonl") == [{"routing_key": "a", "profile": "default", "body": {"id": 1.0}}] * 3
    head, _, row = done.stderr.splitlines()
    assert " ".join(head.split()) == "destination accepted delivered retried dead dropped queued events/s"
    assert row.split()[:7] == ["file.file.*", "3", "3", "0", "0", "0", "0"]


def test_standard_input_is_the_default_and_a_dash_names_it(shell: Shell) -> None:
    assert shell.run("run", "-p", "file.yml", "-q", stdin=GOOD).returncode == 0
    assert shell.run("run", "-", "-p", "file.yml", "-q", stdin=GOOD.strip()).returncode == 0
    assert len(shell.lines("out.jsonl")) == 2


def test_quiet_prints_nothing(shell: Shell) -> None:
    done = shell.run("run", "-p", "p.yml", "--quiet", stdin=GOOD)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bad_lines_are_told_with_their_place_and_the_rest_goes_on(shell: Shell) -> None:
    shell.file("in.jsonl", GOOD + "nonsense\n\n" + '{"body": 2, "profil": "x"}\n' + GOOD)
    done = shell.run("run", "in.jsonl", "-p", "file.yml", "-q")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "evbus: in.jsonl:2: the line is not valid JSON: expecting value at line 1 column 1",
        "evbus: in.jsonl:4: unknown key 'profil'; did you mean 'profile'?",
    ]
    assert len(shell.lines("out.jsonl")) == 2


def test_a_line_that_is_too_long_is_refused_without_being_kept_in_memory(shell: Shell) -> None:
    long = '{"body": "' + "x" * 3_000_000 + '"}\n'
    done = shell.run("run", "-p", "file.yml", "-q", stdin=long + GOOD, EVBUS_MAX_BODY="1000")
    assert done.returncode == 3
    assert "standard input:1: the event body has" in done.stderr
    assert len(shell.lines("out.jsonl")) == 1


def test_an_event_that_no_profile_matches_is_counted(shell: Shell) -> None:
    shell.file("one.yml", "internal:\n  orders: {}\n")
    done = shell.run("run", "-p", "one.yml", stdin='{"profile": "order", "body": 1}\n')
    assert done.returncode == 1
    assert "no profile matches 'order'" in done.stderr
    assert "1 event matched no profile" in done.stderr


def test_events_that_die_are_kept_and_the_reason_is_shown(shell: Shell) -> None:
    shell.file("plugins/ingress/failing.py", FAILING)
    shell.file("f.yml", f'failing:\n  "*": {RETRY}\n')
    done = shell.run("run", "-p", "f.yml", "--plugin-dirs", "plugins", stdin=GOOD * 2)
    assert done.returncode == 1
    assert f"2 dead events are kept in {shell.state}" in done.stderr
    assert "last error of failing.failing.*: it does not work" in done.stderr
    assert [record["dead"]["attempts"] for record in shell.dead()] == [2, 2]


def test_a_destination_that_cannot_be_written_keeps_its_events(shell: Shell) -> None:
    shell.file("there", "")
    shell.file("bad.yml", 'file:\n  "*": {path: there/out.jsonl}\n')
    done = shell.run("run", "-p", "bad.yml", "--drain-timeout", "0", stdin=GOOD)
    assert done.returncode == 1
    assert "a part of its path is a file" in done.stderr
    assert len(shell.dead()) == 1


def test_bodies_in_base64_keep_their_bytes_whatever_the_serializer(shell: Shell) -> None:
    shell.file(
        "in.jsonl",
        '{"body_base64": "/wA="}\n{"headers": {"content-type": "application/json"}, "body_base64": "Wzld"}\n',
    )
    done = shell.run("run", "in.jsonl", "-p", "file.yml", "-q", "--serialize-plugin", "msgpack")
    assert done.returncode == 0
    first, second = shell.lines("out.jsonl")
    assert (first["headers"], first["body_base64"]) == ({"content-type": "application/octet-stream"}, "/wA=")
    assert second["body"] == [9]


def test_json_becomes_what_the_serializer_writes(shell: Shell) -> None:
    done = shell.run("run", "-p", "file.yml", "-q", "--serialize-plugin", "msgpack", stdin='{"body": [1]}\n')
    assert done.returncode == 0
    assert shell.lines("out.jsonl")[0]["body_base64"] == "kQE="


def test_the_profile_is_that_of_the_events_that_name_none(shell: Shell) -> None:
    given = '{"body": 1}\n[{"body": 2}, {"profile": "own", "routing_key": "k", "body": 3}]\n'
    done = shell.run("run", "-p", "file.yml", "-q", "--profile", "mine", "-k", "key", stdin=given)
    assert (done.returncode, done.stderr) == (0, "")
    assert shell.lines("out.jsonl") == [
        {"routing_key": "key", "profile": "mine", "body": 1},
        {"routing_key": "key", "profile": "mine", "body": 2},
        {"routing_key": "k", "profile": "own", "body": 3},
    ]


def test_lines_are_bodies_as_they_are(shell: Shell) -> None:
    (shell.folder / "app.log").write_bytes(b"first\r\n\n{\nb\xff\n")
    done = shell.run(
        "run", "app.log", "-p", "file.yml", "-q", "--format", "lines", "--profile", "log", "-k", "app"
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = {"content-type": "text/plain; charset=utf-8"}
    same = {"routing_key": "app", "profile": "log"}
    assert shell.lines("out.jsonl") == [
        {**same, "headers": text, "body": "first"},
        {**same, "headers": text, "body": "{"},
        {**same, "headers": {"content-type": "application/octet-stream"}, "body_base64": "Yv8="},
    ]


def test_the_json_of_others_is_the_body_or_one_key_of_it_is(shell: Shell) -> None:
    given = '{"kind": "a", "data": {"n": 1.10}}\n'
    assert shell.run("run", "-p", "file.yml", "-q", "--format", "json", stdin=given).returncode == 0
    done = shell.run(
        *("run", "-p", "file.yml", "-q", "--format", "json", "--body-key", "data"),
        stdin=given + '{"date": 1}\n[1]\n',
    )
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "evbus: standard input:2: the line has no key 'data' (--body-key); did you mean 'date'?",
        "evbus: standard input:3: the line is no JSON object, in which --body-key finds 'data'",
    ]
    lines = (shell.folder / "out.jsonl").read_text().splitlines()
    assert lines == [
        '{"routing_key":"","profile":"default","body":{"kind": "a", "data": {"n": 1.10}}}',
        '{"routing_key":"","profile":"default","body":{"n": 1.10}}',
    ]


def test_cloudevents_in_json_are_events_of_their_type(shell: Shell) -> None:
    about = '"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid"'
    text_type, image = '"datacontenttype": "text/plain"', '"datacontenttype": "image/png"'
    given = [
        f'{{{about}, "data": {{"total": 1.10}}, "tenant": "acme"}}',
        f'[{{{about}, {text_type}, "data": "hello"}}, {{{about}, {image}, "data_base64": "AP8="}}]',
        f"{{{about}}}",
        '{"specversion": "1.0", "id": "1"}',
        '{"routing_key": "own", "body": {"specversion": "1.0"}}',
    ]
    done = shell.run("run", "-p", "file.yml", "-q", "--profile", "mine", "-k", "key", stdin="\n".join(given))
    assert done.returncode == 3
    assert done.stderr == (
        "evbus: standard input:4: this is no CloudEvent: its source is missing, or is no text\n"
    )
    first, text, raw, empty, own = shell.lines("out.jsonl")
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "order.paid"}
    assert {(one["routing_key"], one["profile"]) for one in (first, text, raw, empty)} == {
        ("order.paid", "mine")
    }
    assert first["headers"] == {**headers, "ce-tenant": "acme", "content-type": "application/json"}
    assert first["body"] == {"total": 1.1}
    assert text["body"] == "hello"
    assert text["headers"]["content-type"] == "text/plain"
    assert raw["body_base64"] == "AP8="
    assert empty["headers"].items() >= headers.items()
    assert own == {"routing_key": "own", "profile": "mine", "body": {"specversion": "1.0"}}


def test_a_batch_is_taken_whole_or_not_at_all(shell: Shell) -> None:
    given = '[{"body": 1}, {"bdy": 2}]\n[]\n[{"body": 3}]\n[{"body": 4}\n'
    done = shell.run("run", "-p", "file.yml", "-q", stdin=given)
    assert done.returncode == 3
    first, second = done.stderr.removeprefix("evbus: standard input:1: ").splitlines()
    assert first == "event 2 of 2: unknown key 'bdy'; did you mean 'body'?; none of them is taken"
    assert second.startswith("evbus: standard input:4: the line is no JSON array of events: ")
    assert [event["body"] for event in shell.lines("out.jsonl")] == [3]


CLOUD = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid", "data": {"total": 1.5}}


@pytest.mark.parametrize(
    "written",
    [
        json.dumps([CLOUD, CLOUD], indent=2),
        json.dumps(CLOUD, indent=2) + "\n\n" + json.dumps(CLOUD, indent="\t"),
        "[\n" + json.dumps(CLOUD) + ",\r\n" + json.dumps(CLOUD) + "\n]\n",
        "[{\n" + json.dumps(CLOUD)[1:] + ",\n  " + json.dumps(CLOUD) + "]",
        json.dumps({**CLOUD, "data": {"total": 1.5, 'x{["': '\\"]}'}}, indent=1) + "\n" + json.dumps(CLOUD),
    ],
    ids=["array", "two events", "one a line", "braces together", "brackets in texts"],
)
def test_json_over_several_lines_is_one_value(shell: Shell, written: str) -> None:
    done = shell.run("run", "-p", "file.yml", "-q", stdin=written + "\n" + GOOD)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, last = shell.lines("out.jsonl")
    assert first["routing_key"] == second["routing_key"] == "order.paid"
    assert first["body"]["total"] == second["body"]["total"] == 1.5
    assert last["routing_key"] == "a"


def test_the_json_of_others_may_stand_over_several_lines_and_text_may_not(shell: Shell) -> None:
    written = json.dumps({"payload": {"id": 7}}, indent=2)
    args = ("run", "-p", "file.yml", "-q", "--format")
    assert shell.run(*args, "json", "--body-key", "payload", stdin=written).returncode == 0
    assert shell.run(*args, "lines", stdin=written).returncode == 0
    one, *lines = shell.lines("out.jsonl")
    assert one["body"] == {"id": 7}
    assert [line["body"] for line in lines] == written.splitlines()


@pytest.mark.parametrize(
    ("written", "problem", "delivered"),
    [
        ('[\n  {"body": 1},\n  {"bdy": 2}\n]\n' + GOOD, "1: event 2 of 2: unknown key 'bdy'", 1),
        (GOOD + '[\n  {"body": 1},\n  {"body": 2}\n', "2: the line is no JSON array of events: ", 1),
        ('{\n  "body": [\n1,\n2,\n', "1: the line is not valid JSON: ", 0),
        ("{\n" + GOOD + GOOD, "1: the line is not valid JSON: ", 2),
        ('{\n  "body": "a\nb"\n}\n' + GOOD, "1: the line is not valid JSON: ", 1),
        ("[\n" + '"x",\n' * 200_000 + '"x"\n]\n' + GOOD, "1: the event body has ", 1),
    ],
    ids=["bad event", "no end", "no end of one", "a bad line", "a text over two lines", "too long"],
)
def test_what_is_wrong_in_json_over_several_lines_is_told_once(
    shell: Shell, written: str, problem: str, delivered: int
) -> None:
    done = shell.run("run", "-p", "file.yml", "-q", stdin=written, EVBUS_MAX_BODY="100000")
    assert done.returncode == 3
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"evbus: standard input:{problem}")
    assert sum(1 for _ in shell.lines("out.jsonl")) == delivered if delivered else True


def test_mistakes_are_one_sentence_and_exit_code_2(shell: Shell) -> None:
    shell.file("typo.yml", "fil:\n  a: {path: x}\n")
    shell.file("key.yml", "file:\n  a: {pat: x}\n")
    shell.file("yaml.yml", "file:\n  a: [\n")
    for args, sentence in (
        (("run",), "no profiles: name a file with --profiles"),
        (("run", "-p", "none.yml"), "none.yml: the file cannot be read: No such file or directory"),
        (("run", "none.jsonl", "-p", "p.yml"), "the input none.jsonl cannot be opened: No such file"),
        (("run", ".", "-p", "p.yml"), "the input . cannot be opened: Is a directory"),
        (("run", "-p", "typo.yml"), "no ingress plugin accepts the provider 'fil'; did you mean 'file'?"),
        (("run", "-p", "key.yml"), "key.yml: file.a.pat: there is no such key; did you mean 'path'?"),
        (("run", "-p", "yaml.yml"), "yaml.yml: line 3, column 1: not valid YAML"),
        (("run", "in", "--socket", "s", "-p", "p.yml"), "either an input file or --socket, not both"),
        (("run", "-p", "p.yml", "--plugin-dirs", "none"), "is not a folder"),
        (("run", "-p", "p.yml", "--format", "line"), "there is no such format; did you mean 'lines'?"),
        (("run", "-p", "p.yml", "--body-key", "b"), "say --format json as well"),
        (("run", "-p", "p.yml", "--from", "a", "--format", "lines"), "--from reads none: leave it out"),
    ):
        done = shell.run(*args)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith("evbus: ")
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def test_tail_prints_what_reaches_the_internal_queues(shell: Shell) -> None:
    done = shell.run("tail", "-q", stdin=GOOD + '{"body": "two"}\n')
    assert (done.returncode, done.stdout) == (0, 'a {"id": 1.0}\n"two"\n')


def test_tail_ends_when_nobody_reads_it(shell: Shell) -> None:
    with shell.start("tail", "-q") as process:
        process.stdin.write(GOOD)
        assert process.stdout.readline() == 'a {"id": 1.0}\n'
        process.stdout.close()
        process.stdin.write(GOOD)  # standard input stays open: it is the reader who ends it
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
