"""Lines in a file: all of a batch or nothing of it, whatever the disk and other people do."""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.kit.append import AppendFile
from evbus.errors import Unavailable
from tests.evbus.rig import failure

LOGGER = "evbus.ingress.file"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.jsonl"


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., AppendFile]]:
    files = []

    def make(**options: object) -> AppendFile:
        file = AppendFile(path, **options)  # type: ignore[arg-type]
        files.append(file)
        return file

    yield make
    for file in files:
        file.close()


Make = Callable[..., AppendFile]


def lines(*numbers: int) -> list[bytes]:
    return [b"%04d\n" % number for number in numbers]


def fail_with(number: int) -> Callable[..., int]:
    def fail(*_args: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def test_lines_are_appended_in_one_write(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    path.write_bytes(b"old\n")
    assert make().write(lines(1, 2, 3)) == (3, None)
    assert sizes == [15]
    assert path.read_bytes() == b"old\n0001\n0002\n0003\n"


def test_nothing_to_write_is_fine(make: Make, path: Path) -> None:
    assert make().write([]) == (0, None)
    assert path.read_bytes() == b""


def test_short_writes_are_completed(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    assert make().write(lines(1, 2)) == (2, None)
    assert path.read_bytes() == b"0001\n0002\n"


def test_folders_are_created_and_the_mode_is_exact_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "b" / "c" / "x"
    old = os.umask(0o077)
    try:
        file = AppendFile(path, mode=0o640)
        file.write(lines(1))
        file.close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT])
def test_a_partial_write_is_taken_back(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    file = make()
    file.write(lines(1))
    real = os.write
    calls = 0

    def partly(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real(fd, data[:7])
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", partly)
        done, problem = file.write(lines(2, 3))
    assert done == 0
    assert str(path) in str(problem)
    assert isinstance(problem, Unavailable)
    assert path.read_bytes() == b"0001\n"
    assert file.write(lines(2, 3)) == (2, None)
    assert path.read_bytes() == b"0001\n0002\n0003\n"


def test_a_torn_line_that_could_not_be_cut_off_is_cut_off_before_the_next(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = make()
    file.write(lines(1))
    real = os.write

    def partly(fd: int, data: bytes) -> int:
        if len(data) <= 7:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, data[:7])

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail_with(errno.EIO))
        patch.setattr(os, "write", partly)
        assert file.write(lines(2, 3))[0] == 0
        assert file.write(lines(2, 3))[0] == 0
    assert path.read_bytes() == b"0001\n0002\n00"
    assert caplog.messages == [f"{path} may end in a torn line: Input/output error"]
    assert file.write(lines(2, 3)) == (2, None)
    assert path.read_bytes() == b"0001\n0002\n0003\n"


FULL = """
import pathlib, resource, sys
from evbus.engine.kit.append import AppendFile
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
file = AppendFile(pathlib.Path(sys.argv[1]))
line = b"x" * 299 + b"\\n"
first = file.write([line] * 2)
second = file.write([line] * 2)
third = file.write([line])
file.close()
print(first, second[0], third[0], second[1])
"""


def test_a_file_at_its_size_limit_keeps_whole_lines_only(path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.stdout == f"(2, None) 0 1 cannot write {path}: {EFBIG}\n"
    assert path.read_bytes() == (b"x" * 299 + b"\n") * 3


EFBIG = "it may not grow any further (ulimit -f, or a limit of its file system)"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_whole_lines_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"b" * 32 * 1024)
    path = small_disk / "a"
    file = AppendFile(path, sync=0.0)
    batch = [b"%04d" % number + b"x" * 995 + b"\n" for number in range(10)]
    written = 0
    while not (outcome := file.write(batch))[1]:
        written += outcome[0]
    assert "no space is left" in str(outcome[1])
    assert outcome[0] == 0
    assert path.read_bytes() == b"".join(batch) * (written // 10)
    ballast.unlink()
    assert file.write(batch) == (10, None)
    assert path.read_bytes() == b"".join(batch) * (written // 10 + 1)
    file.close()


def test_after_a_crash_the_next_line_begins_anew_with_one_warning(
    make: Make, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"0001\n00")
    file = make()
    file.write(lines(2))
    file.write(lines(3))
    assert path.read_bytes() == b"0001\n00\n0002\n0003\n"
    assert [record.name for record in caplog.records] == [LOGGER]
    assert caplog.messages == [f"{path} ended in the middle of a line; the next event begins a new one"]


@given(
    sizes=st.lists(st.lists(st.integers(1, 30), max_size=6), max_size=8),
    max_size=st.integers(1, 60),
    keep=st.integers(0, 3),
)
def test_rotation_never_splits_a_line_or_loses_one_that_may_be_kept(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], max_size: int, keep: int
) -> None:
    path = tmp_path_factory.mktemp("r") / "a"
    dropped: list[bytes] = []

    def on_drop(file: io.BufferedReader) -> None:
        dropped.append(file.read())

    file = AppendFile(path, max_size=max_size, keep=keep, on_drop=on_drop)
    number, everything = 0, b""
    for batch in sizes:
        made = []
        for size in batch:
            made.append(b"%d" % (number % 10) * size + b"\n")
            number += 1
        everything += b"".join(made)
        assert file.write(made) == (len(made), None)
    file.close()
    kept = [path.with_name(f"a.{number}") for number in range(keep, 0, -1)] + [path]
    parts = [*dropped, *(part.read_bytes() for part in kept if part.exists())]
    assert b"".join(parts) == everything
    for part in parts:
        assert part.count(b"\n") <= 1 or len(part) <= max_size
    assert len(list(path.parent.iterdir())) <= keep + 1


def test_a_folder_that_forbids_renaming_lets_the_file_grow_and_tries_again(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = make(max_size=10, keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_with(errno.EACCES))
        for number in range(4):
            assert file.write(lines(number)) == (1, None)
    assert caplog.messages == [f"{path} cannot be rotated and grows on: Permission denied"]
    assert path.read_bytes() == b"".join(lines(0, 1, 2, 3))
    file.write(lines(4))
    assert path.with_name("a.jsonl.1").read_bytes() == b"".join(lines(0, 1, 2, 3))
    assert path.read_bytes() == b"0004\n"


def test_what_was_written_before_a_rotation_failed_is_counted(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make(max_size=10)
    file.write([])
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail_with(errno.EMFILE))
        done, problem = file.write(lines(1, 2, 3, 4))
    assert done == 2
    assert "too many open files" in str(problem)
    assert file.write(lines(3, 4)) == (2, None)
    assert path.with_name("a.jsonl.1").read_bytes() == b"".join(lines(1, 2))
    assert path.read_bytes() == b"".join(lines(3, 4))


@pytest.mark.parametrize("recreate", [False, True])
def test_a_file_taken_away_from_outside_is_made_again(make: Make, path: Path, recreate: bool) -> None:
    file = make()
    file.write(lines(1))
    path.rename(path.with_name("moved"))
    if recreate:
        path.touch()
    file.write(lines(2))
    assert path.with_name("moved").read_bytes() == b"0001\n"
    assert path.read_bytes() == b"0002\n"
    path.unlink()
    file.write(lines(3))
    assert path.read_bytes() == b"0003\n"


def test_a_file_emptied_from_outside_is_written_on(make: Make, path: Path) -> None:
    file = make()
    file.write(lines(1, 2))
    os.truncate(path, 0)
    file.write(lines(3))
    assert path.read_bytes() == b"0003\n"


def test_a_link_stays_a_link_when_its_file_is_rotated(tmp_path: Path, path: Path) -> None:
    real = tmp_path / "real"
    path.symlink_to(real)
    file = AppendFile(path, max_size=5)
    assert file.write(lines(1, 2)) == (2, None)
    file.close()
    assert path.is_symlink()
    assert real.read_bytes() == b"0002\n"
    assert (tmp_path / "real.1").read_bytes() == b"0001\n"


def test_a_link_that_is_pointed_elsewhere_is_followed(tmp_path: Path, path: Path, make: Make) -> None:
    path.symlink_to(tmp_path / "day1")
    file = make()
    assert file.write(lines(1)) == (1, None)
    path.unlink()
    path.symlink_to(tmp_path / "day2")
    assert file.write(lines(2)) == (1, None)
    assert (tmp_path / "day1").read_bytes() == b"0001\n"
    assert (tmp_path / "day2").read_bytes() == b"0002\n"


def test_a_second_writer_is_refused_and_may_follow_the_first(make: Make, path: Path) -> None:
    first, second = make(), make()
    first.write(lines(1))
    done, problem = second.write(lines(2))
    assert done == 0
    assert str(problem) == (
        f"{path} is already written by another profile or process; give each of them a path of its own"
    )
    with pytest.raises(Unavailable, match="already written"):
        second.open()
    first.close()
    assert second.write(lines(2)) == (1, None)
    assert path.read_bytes() == b"0001\n0002\n"


def test_a_file_system_without_locks_is_warned_of_once(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fcntl.flock", fail_with(errno.ENOLCK))
    file = make(max_size=5)
    assert file.write(lines(1, 2)) == (2, None)
    assert caplog.messages == [f"{path} cannot be locked (No locks available); nobody else may write it"]


def count_fsync(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: seen.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
    )
    return seen


def test_never_syncs_never(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_fsync(monkeypatch)
    file = make(max_size=5)
    file.write(lines(1, 2))
    assert file.tick() is None
    file.close()
    assert seen == []


def test_batch_syncs_each_file_and_each_new_name(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_fsync(monkeypatch)
    file = make(sync=0.0, max_size=10)
    file.write(lines(1, 2))
    file.write(lines(3))
    assert seen == ["folder", "file", "folder", "file"]


def test_seconds_sync_when_they_are_over_and_at_the_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_fsync(monkeypatch)
    now = 100.0
    monkeypatch.setattr("evbus.engine.kit.append.time.monotonic", lambda: now)
    file = make(sync=5.0)
    assert file.tick() is None
    file.write(lines(1))
    now = 102.0
    file.write(lines(2))
    assert file.tick() == 3.0
    now = 105.0
    assert file.tick() is None
    assert seen == ["folder", "file"]
    file.write(lines(3))
    file.close()
    assert seen == ["folder", "file", "file"]


def test_a_failed_fsync_ends_the_file_until_it_is_opened_again(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = make(sync=0.0)
    file.write(lines(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_with(errno.EIO))
        assert file.write(lines(2))[0] == 0
    assert "fsync" in caplog.messages[0]
    for _ in range(2):
        done, problem = file.write(lines(2))
        assert done == 0
        assert "an fsync failed" in str(problem)
    assert repr(file) == f"<AppendFile {path} broken>"
    file.open()
    assert file.write(lines(2)) == (1, None)
    assert path.read_bytes() == b"0001\n0002\n"


def test_a_failed_fsync_in_the_background_is_told_to_the_next_writer(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = make(sync=1e-9)
    file.write(lines(1))
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    assert file.tick() is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "an fsync failed" in str(file.write(lines(2))[1])


def test_a_failed_fsync_at_the_end_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendFile(path, sync=60.0)
    file.write(lines(1))
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    with pytest.raises(Unavailable, match="Input/output error"):
        file.close()
    assert repr(file) == f"<AppendFile {path} broken>"


@pytest.mark.parametrize("kind", ["folder", "under a file", "pipe", "device"])
def test_a_path_that_is_no_file_is_told_in_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "under a file":
        path.touch()
        path = path / "y" / "z"
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    special = "it is a pipe, socket or device, not a file; for standard output there is the provider console"
    expected = {
        "folder": "it is a folder; a file is right",
        "under a file": "a part of its path is a file, not a folder",
    }.get(kind, special)
    assert failure(Unavailable, AppendFile(path).open) == f"cannot write {path}: {expected}"


def test_a_missing_permission_is_told_with_the_path(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", fail_with(errno.EACCES))
    assert failure(Unavailable, make().open).startswith(
        f"cannot write {path}: permission denied to user id {os.geteuid()}"
    )
