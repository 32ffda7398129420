"""idem, unmodified, with evbus installed in place of the pop-evbus that it was published for."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.apps.conftest import Apps

pytestmark = pytest.mark.apps

RUN = "nightly"
KEY = base64.urlsafe_b64encode(b"the key of a test".ljust(32, b".")).decode()  # the form that fernet wants
STATE = """
wait a moment:
  time.sleep:
    - duration: 0
"""
PROFILES = """
file:
  "idem-*":
    path: {path}
internal:
  "idem-*": {{}}
  default:
    routing_key: idem
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a state and a profiles file whose events go to events.jsonl."""
    (tmp_path / "first.sls").write_text(STATE)
    (tmp_path / "profiles.yml").write_text(PROFILES.format(path=tmp_path / "events.jsonl"))
    return tmp_path


def run_state(apps: Apps, project: Path, *options: str | Path) -> list[dict[str, Any]]:
    """Run `idem state` and return the events that it delivered to the file, in order."""
    folders = ("--root-dir", project / "root", "--cache-dir", project / "cache")
    done = apps.run("idem", "state", "first.sls", "--run-name", RUN, *folders, *options, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "1 successful" in done.stdout
    assert "Traceback" not in done.stderr
    assert "ERROR" not in done.stderr
    return [json.loads(line) for line in (project / "events.jsonl").read_text().splitlines()]


def assert_events_of_one_run(events: list[dict[str, Any]]) -> None:
    bodies = [event["body"] for event in events]
    assert {body["run_name"] for body in bodies} == {RUN}

    status = [event["body"] for event in events if event["profile"] == "idem-status"]
    assert status[0]["tags"] == {"ref": "idem.state.update_status", "type": "state-status"}
    messages = [body["message"] for body in status]
    assert messages == ["GATHERING", "COMPILING", "RUNNING", "FINISHED"]

    (chunk,) = (event["body"] for event in events if event["profile"] == "idem-chunk")
    assert chunk["tags"] == {"ref": "states.time.sleep", "type": "state-chunk"}
    assert chunk["message"]["name"] == "wait a moment"

    after = next(body for body in bodies if body["tags"]["type"] == "state-post")
    assert after["tags"]["ref"] == "states.time.sleep"
    assert after["message"]["result"] is True
    assert after["message"]["comment"] == ["Successfully slept for 0 seconds."]


def test_the_events_of_a_state_run_reach_the_file(apps: Apps, project: Path) -> None:
    events = run_state(apps, project, "--acct-file", project / "profiles.yml")
    assert_events_of_one_run(events)
    # Started, gathered, run, ended: the last event put is delivered before idem ends.
    assert events[0]["body"]["message"] == "GATHERING"
    assert events[-1]["body"]["message"] == "FINISHED"


def test_profiles_may_come_from_a_file_encrypted_by_acct(apps: Apps, project: Path) -> None:
    locked = project / "profiles.fernet"
    options = ("--acct-key", KEY, "--output-file", locked)
    done = apps.run("idem", "encrypt", "profiles.yml", *options, cwd=project)
    assert done.returncode == 0, done.stderr
    assert b"idem-" not in locked.read_bytes()

    (project / "profiles.yml").unlink()
    events = run_state(apps, project, "--acct-file", locked, "--acct-key", KEY)
    assert_events_of_one_run(events)


def test_without_profiles_idem_runs_and_delivers_nothing(apps: Apps, project: Path) -> None:
    (project / "events.jsonl").touch()
    assert run_state(apps, project) == []


def test_this_package_is_what_idem_imports(apps: Apps, project: Path) -> None:
    code = "import importlib.metadata as m; print([d.name for d in m.distributions() if 'evbus' in d.name])"
    done = apps.run("python", "-c", code, cwd=project)
    assert "'evbus-hub'" in done.stdout
    assert "pop-evbus" not in done.stdout


def test_log_records_of_idem_are_events(apps: Apps, project: Path) -> None:
    lines = PROFILES.format(path=project / "events.jsonl").splitlines(keepends=True)
    # Of the provider file, the first of them.
    lines.insert(2, f"  logger: {{path: {project / 'records.jsonl'}}}\n")
    (project / "profiles.yml").write_text("".join(lines))
    events = run_state(
        apps,
        project,
        "--log-plugin",
        "event",
        "--log-level",
        "debug",
        "--acct-file",
        project / "profiles.yml",
    )
    assert_events_of_one_run(events)
    records = [json.loads(line)["body"] for line in (project / "records.jsonl").read_text().splitlines()]
    assert records
    for record in records:
        assert {"message", "module", "level", "timestamp"} <= record.keys()
        assert record["level"] in {"DEBUG", "INFO", "WARNING"}
