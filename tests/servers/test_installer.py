"""The script that installs the brokers, in a made-up root folder and with made-up commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / ".ci" / "servers"
ALLOWS = "#!/bin/sh\nexit 0\n"
FORBIDS = "#!/bin/sh\n# somebody's\nexit 101\n"
APT = """#!/bin/sh
echo "$@" >>"$ROOT/calls"
case "$*" in *install*) cat "$ROOT/usr/sbin/policy-rc.d" >"$ROOT/policy"; exit "${APT_ANSWERS:-0}";; esac
"""


class Machine:
    """A root folder and the commands that the script may use."""

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

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), str(self.root)],
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
    update, install = (machine.root / "calls").read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install -y --no-install-recommends rabbitmq-server")


def test_does_nothing_when_all_is_there(machine: Machine) -> None:
    executable(machine.root / "usr/share/activemq/bin/activemq.jar")
    executable(machine.root / "usr/lib/rabbitmq/bin/rabbitmq-server")
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
    assert "sudo apt-get install --no-install-recommends rabbitmq-server activemq" in done.stderr
    assert not (machine.root / "calls").exists()


def test_says_what_is_needed_without_apt_get(machine: Machine) -> None:
    (machine.bin / "apt-get").unlink()
    done = machine.run()
    assert done.returncode == 1
    assert "RabbitMQ and ActiveMQ as Debian packs them" in done.stderr


def test_says_so_when_apt_get_fails(machine: Machine) -> None:
    done = machine.run(APT_ANSWERS="100")
    assert done.returncode == 1
    assert "apt-get could not install them" in done.stderr
