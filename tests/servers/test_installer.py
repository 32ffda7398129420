"""The scripts that install what the tests need, in a made-up root folder and with made-up commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / ".ci"
PACKAGES = "rabbitmq-server activemq graphviz"
ALLOWS = "#!/bin/sh\nexit 0\n"
FORBIDS = "#!/bin/sh\n# somebody's\nexit 101\n"
APT = """#!/bin/sh
echo "$@" >>"$ROOT/calls"
case "$*" in *install*)
  [ ! -e "$ROOT/usr/sbin/policy-rc.d" ] || cat "$ROOT/usr/sbin/policy-rc.d" >"$ROOT/policy"
  exit "${APT_ANSWERS:-0}";;
esac
"""
# A Python 3.12 whose headers lie in the made-up root folder.
PYTHON = """#!/bin/sh
case "$2" in *include*) echo "$ROOT/include";; *) echo python3.12-dev;; esac
"""


class Machine:
    """A root folder and the commands that the scripts may use."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.bin = folder / "bin"
        self.policy = self.root / "usr" / "sbin" / "policy-rc.d"
        for parent in (self.bin, self.root / "run" / "lock", self.policy.parent):
            parent.mkdir(parents=True)
        for name in ("bash", "env", "flock", "mv", "rm", "chmod", "cat"):
            found = next(Path(p, name) for p in os.defpath.split(":") if Path(p, name).exists())
            (self.bin / name).symlink_to(found)
        self.command("id", "#!/bin/sh\necho 0\n")
        self.command("apt-get", APT)

    def command(self, name: str, text: str) -> None:
        executable(self.bin / name, text)

    def calls(self) -> list[str]:
        """Return the arguments of each call of apt-get."""
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def run(
        self, script: str = "servers", *arguments: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPTS / script), *map(str, arguments or [self.root])],
            env={"PATH": str(self.bin), "ROOT": str(self.root), **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


def executable(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_installs_what_is_missing_after_an_update(machine: Machine) -> None:
    executable(machine.root / "usr/share/activemq/bin/activemq.jar")
    done = machine.run()
    assert done.returncode == 0, done.stderr
    update, install = machine.calls()
    assert update.endswith("update")
    assert install.endswith("install -y --no-install-recommends rabbitmq-server graphviz")


def test_does_nothing_when_all_is_there(machine: Machine) -> None:
    executable(machine.root / "usr/share/activemq/bin/activemq.jar")
    executable(machine.root / "usr/lib/rabbitmq/bin/rabbitmq-server")
    executable(machine.root / "usr/bin/dot")
    (machine.bin / "apt-get").unlink()
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("apt_answers", ["0", "100"])
@pytest.mark.parametrize("policy", [None, ALLOWS, FORBIDS])
def test_no_service_starts_and_the_policy_is_as_before(
    machine: Machine, policy: str | None, apt_answers: str
) -> None:
    if policy is not None:
        executable(machine.policy, policy)
    done = machine.run(APT_ANSWERS=apt_answers)
    assert done.returncode == (apt_answers != "0")
    assert "exit 101" in (machine.root / "policy").read_text()
    assert (machine.policy.read_text() if machine.policy.exists() else None) == policy
    assert {path.name for path in machine.policy.parent.iterdir()} <= {"policy-rc.d"}


def test_says_the_command_when_not_root(machine: Machine) -> None:
    machine.command("id", "#!/bin/sh\necho 1000\n")
    done = machine.run()
    assert done.returncode == 1
    assert f"sudo apt-get install --no-install-recommends {PACKAGES}\n" in done.stderr
    assert machine.calls() == []


def test_says_what_is_needed_without_apt_get(machine: Machine) -> None:
    (machine.bin / "apt-get").unlink()
    done = machine.run()
    assert done.returncode == 1
    assert f"RabbitMQ, ActiveMQ and Graphviz as Debian packs them ({PACKAGES})" in done.stderr


def test_says_so_when_apt_get_fails(machine: Machine) -> None:
    done = machine.run(APT_ANSWERS="100")
    assert done.returncode == 1
    assert "apt-get could not install them" in done.stderr


# The compiler


@pytest.fixture
def python(machine: Machine) -> Path:
    machine.command("python", PYTHON)
    return machine.bin / "python"


def test_a_compiler_and_the_headers_of_the_python_are_installed(machine: Machine, python: Path) -> None:
    done = machine.run("compiler", python)
    assert done.returncode == 0, done.stderr
    update, install = machine.calls()
    assert update.endswith("update")
    assert install.endswith("install -y --no-install-recommends gcc libc6-dev python3.12-dev")


@pytest.mark.parametrize("compiler", ["cc", "gcc"])
def test_only_what_building_lacks_is_installed(machine: Machine, python: Path, compiler: str) -> None:
    machine.command(compiler, "")
    assert machine.run("compiler", python).returncode == 0
    assert machine.calls()[-1].endswith("--no-install-recommends python3.12-dev")


def test_nothing_is_done_where_all_is_there_to_build(machine: Machine, python: Path) -> None:
    executable(machine.root / "include" / "Python.h")
    machine.command("cc", "")
    (machine.bin / "apt-get").unlink()
    done = machine.run("compiler", python)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_building_lacks_is_said_when_not_root(machine: Machine, python: Path) -> None:
    machine.command("id", "#!/bin/sh\necho 1000\n")
    done = machine.run("compiler", python)
    assert done.returncode == 1
    assert "sudo apt-get install --no-install-recommends gcc libc6-dev python3.12-dev\n" in done.stderr
    assert machine.calls() == []


def test_a_compiler_that_apt_get_cannot_install_is_said(machine: Machine, python: Path) -> None:
    done = machine.run("compiler", python, APT_ANSWERS="100")
    assert done.returncode == 1
    assert "apt-get could not install them" in done.stderr


# What is newer than this system

# What apt-get makes of sources that name three archives.
SOURCES = """#!/bin/sh
case "$*" in
  *indextargets*) printf '%s\n' a://mirror/debian/ a://mirror/debian/ b://elsewhere/ c://third/;;
  *) echo "$* $(tail -n 1 "${APT_CONFIG%/*}/sources.list")" >>"$ROOT/calls"; exit 100;;
esac
"""


@pytest.fixture
def debian(machine: Machine) -> Machine:
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        pytest.skip("the keys of Debian are not here, and so RabbitMQ 4 is not fetched")
    for name in ("sort", "mkdir", "touch", "head", "sh", "tail"):
        (machine.bin / name).symlink_to(Path("/usr/bin", name))
    machine.command("dpkg", "#!/bin/sh\necho amd64\n")
    return machine


def test_rabbitmq_4_is_not_fetched_again(machine: Machine) -> None:
    (machine.root / "complete").touch()
    done = machine.run("rabbitmq", "4.0", machine.root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls() == []


def test_rabbitmq_4_is_not_fetched_where_it_cannot_run(machine: Machine) -> None:
    (machine.bin / "apt-get").unlink()
    done = machine.run("rabbitmq", "4.3", machine.root)
    assert done.returncode == 1
    assert "RabbitMQ 4.3 is fetched by apt-get" in done.stderr


def test_the_command_of_a_python_that_is_there_is_printed(machine: Machine) -> None:
    (machine.root / "complete").touch()
    done = machine.run("python", "3.14", machine.root)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{machine.root}/root/usr/bin/python3.14\n", "")
    assert machine.calls() == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("rabbitmq", "there is a RabbitMQ 4.0 and a 4.3 to be had, not 5.0"),
        ("python", "there is a Python 3.14 to be had, not 5.0"),
    ],
)
def test_a_version_that_nobody_packs_is_refused(machine: Machine, script: str, reason: str) -> None:
    done = machine.run(script, "5.0", machine.root)
    assert (done.returncode, done.stderr) == (1, f"{reason}\n")


@pytest.mark.parametrize(
    ("script", "version", "what"), [("rabbitmq", "4.3", "RabbitMQ 4.3"), ("python", "3.14", "Python 3.14")]
)
def test_what_is_newer_comes_from_an_archive_that_the_sources_of_apt_name(
    debian: Machine, script: str, version: str, what: str
) -> None:
    debian.command("apt-get", SOURCES)
    done = debian.run(script, version, debian.root)
    assert done.returncode == 1
    assert f"{what} could not be fetched from Debian (forky sid): see above" in done.stderr
    asked = [call.split("] ")[1] for call in debian.calls()]
    assert asked == [
        f"{archive} {suite} main"
        for suite in ("forky", "sid")
        for archive in ("a://mirror/debian/", "b://elsewhere/", "c://third/")
    ]
    assert all("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" in c for c in debian.calls())
    assert not (debian.root / "complete").exists()


def test_rabbitmq_4_is_not_fetched_where_apt_has_no_sources(debian: Machine) -> None:
    done = debian.run("rabbitmq", "4.0", debian.root)
    assert done.returncode == 1
    assert "the archive that the apt sources name, and they name none" in done.stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list", "deb [arch=amd64 signed-by=/k.gpg] a://mirror/debian bookworm main\n"),
        ("parts/a.list", "# deb b://off/debian bookworm main\ndeb a://mirror/debian/ bookworm main\n"),
        (
            "parts/a.sources",
            """\
Types: deb
URIs: a://mirror/debian
Suites: bookworm
Components: main
Signed-By: /k.gpg

Types: deb
URIs: b://off/debian
Suites: bookworm
Components: main
Enabled: no
""",
        ),
    ],
)
def test_apt_reads_each_format_of_its_sources(tmp_path: Path, name: str, text: str) -> None:
    """It is apt-get, not the script, that knows the formats: this says that the script asks it rightly."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip("there is no apt-get here")
    (tmp_path / "parts").mkdir()
    (tmp_path / name).write_text(text)
    asked = next(line for line in (SCRIPTS / "debian").read_text().splitlines() if "indextargets" in line)
    said = subprocess.run(
        ["bash", "-c", f'{asked.strip()}\necho "$archives"'],
        env={"PATH": os.environ["PATH"], "APT_CONFIG": str(_apt_configuration(tmp_path))},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert said.stdout == "a://mirror/debian/\n"


def _apt_configuration(folder: Path) -> Path:
    lines = [
        f'Dir::Etc::sourcelist "{folder}/sources.list";',
        f'Dir::Etc::sourceparts "{folder}/parts";',
        f'Dir::State "{folder}";',
        f'Dir::Cache "{folder}";',
    ]
    path = folder / "apt.conf"
    path.write_text("\n".join(lines) + "\n")
    return path
