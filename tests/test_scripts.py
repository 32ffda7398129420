"""The command line itself, and what a start does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evbus.version import version
from tests.command.kit import INTERNAL, ROOT, Shell

COMMANDS = ("check", "dead", "demo", "plugins", "put", "replay", "run", "tail")
EVENT = '{"body": 1}\n'


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made.file("p.yml", INTERNAL)
    return made


def test_without_a_command_the_help_is_printed(shell: Shell) -> None:
    done = shell.run()
    assert (done.returncode, done.stdout) == (2, shell.run("--help").stdout)
    assert "exit codes:" in done.stdout
    assert all(f"    {command} " in done.stdout for command in COMMANDS)


def test_the_version_is_printed(shell: Shell) -> None:
    assert shell.run("--version").stdout == f"evbus {version}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_documents_its_exit_codes(shell: Shell, command: str) -> None:
    done = shell.run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: evbus {command} ")
    assert "exit codes:" in " ".join(done.stdout.split()).lower()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("rum",), "evbus: there is no command 'rum'; did you mean 'run'?; evbus --help says more"),
        (("--quite",), "evbus: there is no option --quite; known: --config, "),
        (("--quiet", "put", "1"), "evbus put: --quiet is an option of the command, and stands behind it;"),
        (("run", "--quite"), "evbus run: there is no option --quite; did you mean '--quiet'?; evbus run "),
        (("put", "1", "--max-body=2"), "evbus put: --max-body is no option of the command line, but stands"),
        (("put", "1", "2"), "evbus put: '2' is one argument too many;"),
        (("check", "p.yml"), "'p.yml' is one argument too many; a file of profiles is named by --profiles;"),
        (("run", "--profile", "p.yml"), "--profile names one of them, and --profiles p.yml their file\n"),
        (("run", "--drain-timeout", "soon"), "argument --drain-timeout: invalid float value: 'soon'"),
        (("put",), "evbus put: the following arguments are required: body;"),
        (("put", "1", "--set", "queue_limit=2"), "in the section evbus of a configuration file, or in EVB"),
        (("put", "1", "--set", "quiet=2"), "this is an option of evbus itself, which is given as --quiet"),
        (
            ("put", "1", "-p", "p.yml", "--drain-timeout", "-1"),
            "evbus: evbus.drain_timeout: it must be a number from 0 on",
        ),
    ],
)
def test_wrong_options_are_told_in_one_line(shell: Shell, args: tuple[str, ...], sentence: str) -> None:
    done = shell.run(*args)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_template_of_options_needs_no_arguments_and_holds_none(shell: Shell) -> None:
    done = shell.run("put", "--config-template")
    assert done.returncode == 0
    options = yaml.safe_load(done.stdout)["evbus"]
    assert options["drain_timeout"] == 20.0
    assert options.keys().isdisjoint({"body", "input", "store", "subsystem"})


def test_a_misspelt_environment_variable_is_told(shell: Shell) -> None:
    done = shell.run("put", "1", "-p", "p.yml", "-q", EVBUS_QUEUE_LIMT="3", EVBUS_ELSE="x")
    assert done.returncode == 0
    said = "the environment variable EVBUS_QUEUE_LIMT is read by nothing here; did you mean "
    assert done.stderr.endswith(f"{said}'EVBUS_QUEUE_LIMIT'?\n")
    assert done.stderr.count("\n") == 1


def test_options_come_from_a_configuration_file_and_the_environment(shell: Shell) -> None:
    shell.file("c.yml", "evbus: {profiles: p.yml, quiet: true}\n")
    for done in (
        shell.run("run", "--config", "c.yml", stdin=EVENT),
        shell.run("run", stdin=EVENT, EVBUS_CONFIG="c.yml"),
        shell.run("run", "-q", stdin=EVENT, EVBUS_PROFILES="p.yml"),
        shell.run("run", "-q", stdin=EVENT, ACCT_FILE="p.yml"),
    ):
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "c.yml: the file cannot be read: No such file or directory"),
        ("evbus: [\n", "c.yml: line 2, column 1: not valid YAML"),
        ("evbus: 3\n", "c.yml: evbus: a section is a mapping of options to values"),
        ("acct: 3\n", "c.yml: acct: a section is a mapping of options to values"),
        ("evbus: {dead_stor: x}\n", "evbus.dead_stor: there is no such option; did you mean 'dead_store'?"),
        ("evbus: {queue_limit: many}\n", "evbus.queue_limit: expected int"),
    ],
)
def test_mistakes_in_a_configuration_file_are_one_sentence(
    shell: Shell, text: str | None, sentence: str
) -> None:
    if text is not None:
        shell.file("c.yml", text)
    done = shell.run("run", "-c", "c.yml", "-p", "p.yml", stdin=EVENT)
    assert done.returncode == 2
    assert done.stderr.startswith(f"evbus: {sentence}")
    assert done.stderr.count("\n") == 1


def test_a_wrong_acct_key_is_one_sentence_without_the_key(shell: Shell) -> None:
    (shell.folder / "p.fernet").write_text("gAAAAABtYWRlIHVw")
    done = shell.run("run", "-p", "p.fernet", ACCT_KEY="very-secret")
    assert done.returncode == 2
    assert done.stderr.startswith("evbus: p.fernet: the file cannot be decrypted with this acct_key (")
    assert done.stderr.count("\n") == 1
    assert "very-secret" not in done.stdout + done.stderr


def test_a_plain_file_is_read_although_the_environment_has_a_key(shell: Shell) -> None:
    assert shell.run("run", "-p", "p.yml", "-q", ACCT_KEY="very-secret").returncode == 0


def test_profiles_encrypted_by_acct_are_read_with_the_key(shell: Shell) -> None:
    fernet = pytest.importorskip("cryptography.fernet")
    msgpack = pytest.importorskip("msgpack")
    pytest.importorskip("acct")
    key = fernet.Fernet.generate_key()
    data = fernet.Fernet(key).encrypt(msgpack.dumps({"internal": {"*": {}}}))
    (shell.folder / "p.fernet").write_bytes(data)
    done = shell.run("run", "-p", "p.fernet", "-q", stdin=EVENT, ACCT_KEY=key.decode())
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_nobody_reads_is_no_stack_trace(shell: Shell) -> None:
    with shell.start("plugins") as process:
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (1, "")


def test_no_log_file_is_written_unless_asked_for(shell: Shell) -> None:
    shell.run("run", "-p", "p.yml", stdin=EVENT)
    assert {path.name for path in shell.folder.iterdir()} == {"p.yml"}
    shell.file("one.yml", "internal:\n  orders: {}\n")
    shell.run("run", "-p", "one.yml", "--log-file", "my.log", stdin='{"profile": "x"}\n')
    assert "no profile matches 'x'" in (shell.folder / "my.log").read_text()
    done = shell.run("run", "-p", "p.yml", "--log-file", "none/my.log", stdin=EVENT)
    assert (done.returncode, done.stderr) == (
        2,
        "evbus: the log file none/my.log cannot be written: No such file or directory\n",
    )


def test_a_start_does_not_import_pip() -> None:
    program = (
        "import sys; sys.argv = ['evbus', 'plugins', 'match']\n"
        "from evbus import _program\n"
        "assert _program.run() == 0\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'pip']\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


# What a start does not import: counted, since the time that it takes says how busy the machine is.


#: What is imported when it is first used: other people's packages, what is slow of Python's own, and the
#: engines of what most programs do not use.
LATER = (
    *("aiohttp", "aiormq", "backports.zstd", "opentelemetry", "pamqp", "proton", "pydantic"),
    *("stomp", "uvloop", "yarl", "email", "fractions", "http", "multiprocessing", "unittest", "xml"),
    *(
        "evbus.engine.cli",
        "evbus.engine.client",
        "evbus.engine.describe",
        "evbus.engine.web",
        "evbus.testing",
    ),
    *(f"evbus.engine.service.{name}" for name in ("declare", "implementations", "services", "settings")),
    *(f"evbus.engine.stages.{name}" for name in ("compress", "keys", "sign", "trace")),
    *(f"evbus.engine.wire.{name}.publish" for name in ("amqp", "amqp1", "stomp")),
)
MERGE = """
import pop.hub
hub = pop.hub.Hub()
before = set(sys.modules)
hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")
print(*sorted(set(sys.modules) - before))
"""
PUT = """
import runpy
sys.argv = ["evbus", "put", "--profiles", "profiles.yml", "--quiet", "--routing-key", "k", "{}"]
before = set(sys.modules)
try:
    runpy.run_module("evbus", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize(
    ("program", "used"), [(MERGE, ()), (PUT, ("evbus.engine.cli",))], ids=["merge", "put"]
)
def test_it_imports_what_it_uses(program: str, used: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "profiles.yml").write_text("file: {default: {path: out.jsonl}}\n")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){program}"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    imported = done.stdout.split()
    assert "evbus.engine.core.queue" in imported
    later = tuple(name for name in LATER if name not in used)
    assert [name for name in imported if _below(name, later)] == []


def _below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)
