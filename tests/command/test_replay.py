"""``evbus dead`` and ``evbus replay``."""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
from pathlib import Path

import pytest

from evbus.engine.cli import replay as cli_replay
from evbus.types import Delivery
from tests.command.kit import FAILING, RETRY, Shell
from tests.servers._wait import until


def _record(number: int, lane: str = "file.file.one", profile: str = "x") -> str:
    dead = {
        "lane": lane,
        "reason": f"reason {number}",
        "attempts": 3,
        "time": f"2026-01-01T00:00:0{number}.000Z",
    }
    return json.dumps({"routing_key": "r", "profile": profile, "body": number, "dead": dead}) + "\n"


@pytest.fixture
def two(shell: Shell) -> Shell:
    """Return a folder with two file destinations that match every event."""
    shell.file("two.yml", "match_plugin: regex\nfile:\n  one: {path: one.jsonl}\n  two: {path: two.jsonl}\n")
    return shell


def test_the_table_of_dead_events_has_a_row_for_each_lane(shell: Shell) -> None:
    shell.file("d.jsonl.1", _record(1))
    shell.file("d.jsonl", _record(3) + _record(2) + _record(4, "a.b.c") + "torn {\n")
    done = shell.run("dead", "d.jsonl")
    assert done.returncode == 0
    rows = [line.split(maxsplit=4) for line in done.stdout.splitlines()[2:4]]
    assert rows[0] == [
        "file.file.one",
        "3",
        "2026-01-01T00:00:01.000Z",
        "2026-01-01T00:00:03.000Z",
        "reason 3",
    ]
    assert rows[1][:2] == ["a.b.c", "1"]
    assert "1 line is no event" in done.stdout


def test_no_dead_events_are_no_mistake_unless_a_file_was_named(shell: Shell) -> None:
    assert shell.run("dead").returncode == 0
    assert shell.run("replay", "-p", "p.yml").returncode == 0
    done = shell.run("dead", "none.jsonl")
    assert (done.returncode, done.stderr) == (2, "evbus: there is no dead store at none.jsonl\n")


def test_events_go_only_to_the_lane_that_gave_them_up_and_leave_the_store(two: Shell) -> None:
    two.file("d.jsonl.1", _record(1))
    two.file("d.jsonl", _record(2) + _record(3, "file.file.two"))
    done = two.run("replay", "d.jsonl", "-p", "two.yml")
    assert done.returncode == 0, done.stderr
    assert [event["body"] for event in two.lines("one.jsonl")] == [1, 2]
    assert [event["body"] for event in two.lines("two.jsonl")] == [3]
    assert not list(two.folder.glob("d.jsonl*"))


def test_what_has_no_lane_or_is_no_event_is_kept_as_it_is(two: Shell) -> None:
    kept = _record(2, "gone.gone.x") + '{"body": 9}\ntorn {\n'
    two.file("d.jsonl", _record(1) + kept)
    done = two.run("replay", "d.jsonl", "-p", "two.yml")
    assert done.returncode == 1
    assert "1 event stays in d.jsonl: there is no lane gone.gone.x" in done.stderr
    assert "1 event stays in d.jsonl: no lane is named" in done.stderr
    assert (two.folder / "d.jsonl").read_text() == kept
    assert [event["body"] for event in two.lines("one.jsonl")] == [1]


def test_what_dies_again_comes_back_into_the_store(shell: Shell) -> None:
    shell.file("plugins/ingress/failing.py", FAILING)
    shell.file("f.yml", f'failing:\n  "*": {RETRY}\n')
    shell.file("d.jsonl", _record(1, "failing.failing.*"))
    done = shell.run("replay", "d.jsonl", "-p", "f.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 1
    (record,) = shell.lines("d.jsonl")
    assert (record["body"], record["profile"], record["dead"]["reason"]) == (1, "x", "it does not work")
    assert not (shell.folder / "d.jsonl.replaying").exists()


def test_a_replay_that_crashed_is_resumed(two: Shell) -> None:
    two.file("d.jsonl.replaying", _record(1))
    two.file("d.jsonl", _record(2))
    assert "resumes it" in two.run("dead", "d.jsonl").stdout
    assert two.run("replay", "d.jsonl", "-p", "two.yml").returncode == 0
    assert [event["body"] for event in two.lines("one.jsonl")] == [1]
    assert two.run("replay", "d.jsonl", "-p", "two.yml").returncode == 0
    assert [event["body"] for event in two.lines("one.jsonl")] == [1, 2]
    assert not list(two.folder.glob("d.jsonl*"))


def test_two_replays_of_one_store_exclude_each_other(two: Shell) -> None:
    path = two.file("d.jsonl.replaying", _record(1))
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = two.run("replay", "d.jsonl", "-p", "two.yml", "-q")
    assert done.returncode == 2
    assert "is in use by another process" in done.stderr
    assert path.read_text() == _record(1)


def test_a_lane_that_may_drop_drops_nothing_of_a_replay(shell: Shell) -> None:
    shell.file(
        "d.yml", "file:\n  one: {path: one.jsonl, delivery: {buffer: 2, batch: 1, on_full: drop_oldest}}\n"
    )
    shell.file("d.jsonl", _record(1) * 50)
    assert shell.run("replay", "d.jsonl", "-p", "d.yml").returncode == 0
    assert len(shell.lines("one.jsonl")) == 50


def test_mistakes_in_the_profiles_leave_the_store_alone(shell: Shell) -> None:
    shell.file("bad.yml", "nothing:\n  a: {}\n")
    path = shell.file("d.jsonl", _record(1))
    assert shell.run("replay", "d.jsonl", "-p", "bad.yml").returncode == 2
    assert path.read_text() == _record(1)


COUNTING = """import pathlib
from evbus.errors import Rejected

async def publish(hub, ctx, body):
    with pathlib.Path("tried.txt").open("a") as file:
        file.write(body.decode() + "\\n")
    if int(body) % 3 == 0:
        raise Rejected("never")
    print("tried", flush=True)
    if int(body) == 50 and not pathlib.Path("go").exists():
        import asyncio
        await asyncio.Event().wait()
"""


def test_a_replay_that_was_killed_goes_on_where_it_was(shell: Shell) -> None:
    shell.file("plugins/ingress/count.py", COUNTING)
    shell.file("c.yml", "count: {default: {}}\n")
    lane = "count.count.default"
    shell.file("d.jsonl", "".join(_record(number, lane) for number in range(100)))
    args = ("replay", "d.jsonl", "-p", "c.yml", "--plugin-dirs", "plugins")
    with shell.start(*args) as process:
        # All before the one that hangs are delivered, or in the store again.
        journal = shell.folder / "d.jsonl.replaying.done"
        until(lambda: journal.stat().st_size == 50 * 8, 60, "50 events done")
        process.kill()
        process.wait(60)
    shown = shell.run("dead", "d.jsonl")
    assert "resumes it" in shown.stdout
    shell.file("go", "")
    assert shell.run(*args).returncode == 1
    tried = [int(line) for line in (shell.folder / "tried.txt").read_text().split()]
    assert sorted(set(tried)) == list(range(100))
    assert [number for number in range(100) if tried.count(number) > 1] == [50]
    assert sorted(line["body"] for line in shell.lines("d.jsonl")) == list(range(0, 100, 3))
    assert [path.name for path in shell.folder.glob("d.jsonl*")] == ["d.jsonl"]


def test_a_replay_that_was_stopped_keeps_each_event_once(shell: Shell) -> None:
    shell.file("plugins/ingress/count.py", COUNTING)
    shell.file("c.yml", "count: {default: {}}\n")
    shell.file("d.jsonl", "".join(_record(number, "count.count.default") for number in range(100)))
    args = ("replay", "d.jsonl", "-p", "c.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.3")
    with shell.start(*args) as process:
        for _ in range(34):
            assert process.stdout.readline() == "tried\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        assert "stay in d.jsonl: the replay was stopped" in process.stderr.read()
    done = {number for number in range(50) if number % 3}
    assert sorted(line["body"] for line in shell.lines("d.jsonl")) == sorted(set(range(100)) - done)
    assert [path.name for path in shell.folder.glob("d.jsonl*")] == ["d.jsonl"]


def test_each_program_has_a_dead_store_in_each_folder_and_all_can_be_listed(shell: Shell) -> None:
    shell.file("plugins/ingress/failing.py", FAILING)
    shell.file("f.yml", f'failing:\n  "*": {RETRY}\n')
    shell.file("state/evbus/shop-app-12345678.jsonl", _record(1) + _record(2))
    assert "1 other programs have some; evbus dead --all" in shell.run("dead").stdout
    put = shell.run("put", "1", "-p", "f.yml", "--plugin-dirs", "plugins")
    assert put.returncode == 1
    assert shell.state.name.startswith(f"evbus-{shell.folder.name[:40].strip('._')}-")
    assert str(shell.state) in put.stderr
    assert "failing.failing.*" in shell.run("dead").stdout
    rows = [line.split()[:2] for line in shell.run("dead", "--all").stdout.splitlines()[2:]]
    folder = shell.folder / "state" / "evbus"
    assert rows == [[str(shell.state), "1"], [str(folder / "shop-app-12345678.jsonl"), "2"]]
    assert shell.run("dead", "d.jsonl", "--all").returncode == 2
    assert "file.file.one" in shell.run("dead", "--dead-store", folder / "shop-app-12345678.jsonl").stdout


def test_a_dead_store_that_cannot_be_written_is_told_at_the_start_and_by_check(shell: Shell) -> None:
    shell.file("state", "")
    done = shell.run("put", "1", "-p", "p.yml")
    assert done.returncode == 0
    assert "dead events will be lost: cannot write" in done.stderr
    checked = shell.run("check", "-p", "p.yml")
    assert checked.returncode == 0
    assert "warning: dead events will be lost: cannot write" in checked.stdout
    assert "a part of its path is a file, not a folder" in checked.stdout


async def test_what_a_lane_puts_back_leaves_room_for_others_and_stays_in_the_store(tmp_path: Path) -> None:
    store, had = tmp_path / "d.jsonl", list[Delivery]()
    store.write_text("".join(map(_record, range(5))))

    def take(delivery: Delivery) -> None:
        had.append(delivery)
        asyncio.get_running_loop().call_soon(lambda: delivery.reject(requeue=True))

    replay = cli_replay.Replay(store, {"file.file.one": (take, 1)})
    await asyncio.wait_for(replay.run(), 20)
    await asyncio.sleep(0)
    assert (replay.offered, replay.finish(0), replay.kept) == (5, "", {cli_replay.STOPPED: 5})
    assert len(had) == len(store.read_text().splitlines()) == 5


async def test_a_lane_that_ends_too_late_changes_nothing(tmp_path: Path) -> None:
    store, had = tmp_path / "d.jsonl", list[Delivery]()
    store.write_text(_record(1))

    replay = cli_replay.Replay(store, {"file.file.one": (had.append, 1000)})
    await replay.run()
    assert replay.finish(0) == ""
    had[0].ack()
    assert store.read_text() == _record(1)
