"""A file that grows by whole lines: all of a batch or nothing of it, rotated, synced and locked.

Everything here blocks and belongs to one thread at a time; see :class:`evbus.engine.kit.thread.WorkerThread`.
"""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from evbus.errors import Unavailable

__all__ = ["AppendFile", "explain"]

_log = logging.getLogger("evbus.ingress.file")

_REASONS = {
    errno.ENOSPC: "no space is left on its device",
    errno.EDQUOT: "the disk quota of its owner is used up",
    errno.EFBIG: "it may not grow any further (ulimit -f, or a limit of its file system)",
    errno.EISDIR: "it is a folder; a file is right",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EEXIST: "a part of its path is a file, not a folder",
    errno.EROFS: "its file system is read-only",
    errno.ENOENT: "a folder of its path does not exist, or it is a link to nowhere",
    errno.EMFILE: "the process has too many open files (ulimit -n)",
}
_CLOSED = -1
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def explain(path: Path, error: OSError) -> Unavailable:
    """Turn an error of the operating system about ``path`` into a sentence for the person who set it."""
    if error.errno in (errno.EACCES, errno.EPERM):
        reason = f"permission denied to user id {os.geteuid()}, which must be able to write it and its folder"
    else:
        reason = _REASONS.get(error.errno or 0) or error.strerror or type(error).__name__
    return Unavailable(f"cannot write {path}: {reason}")


class AppendFile:
    """Lines appended to ``path``, opened at the first write unless :meth:`open` was called before.

    :param path: absolute; folders that are missing are created with ``folder_mode``.
    :param max_size: bytes before the file is renamed to ``path.1`` and begun anew; 0 for never.
    :param keep: how many renamed files are kept; ``path.1`` is the newest.
    :param sync: seconds that a line may wait for fsync; 0 for before :meth:`write` returns; None for
        never: the operating system writes when it likes, and a power cut may take the last lines.
    :param mode: permissions of files that are created.
    :param lock_timeout: seconds to wait for another writer to let go of the file.
    :param on_drop: called with the oldest file, open for reading, after ``keep`` made it go.
    :param on_rotate: called when the file was renamed and is begun anew, with how many lines of those
        being written are in the renamed one.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_size: int = 0,
        keep: int = 1,
        sync: float | None = None,
        mode: int = 0o600,
        folder_mode: int = 0o777,
        lock_timeout: float = 0.0,
        on_drop: Callable[[io.BufferedReader], None] | None = None,
        on_rotate: Callable[[int], None] | None = None,
    ) -> None:
        self.path = path
        self._max_size = max_size
        self._keep = keep
        self._sync = sync
        self._mode = mode
        self._folder_mode = folder_mode
        self._lock_timeout = lock_timeout
        self._on_drop = on_drop
        self._on_rotate = on_rotate
        self._target = path
        self._fd = _CLOSED
        self._newline_first = False
        self._torn: int | None = None
        self._dirty_since: float | None = None
        self._broken = False
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        state = "broken" if self._broken else "closed" if self._fd == _CLOSED else "open"
        return f"<AppendFile {self.path} {state}>"

    def open(self) -> None:
        """Open and lock the file, creating it when it is not there.

        :raises Unavailable: a sentence with the path.
        """
        try:
            self._release()
            self._open()
        except OSError as exc:
            raise explain(self.path, exc) from exc
        self._broken = False

    def try_out(self) -> None:
        """See whether the file could be written, as far as that can be seen without making or changing it.

        :raises Unavailable: a sentence with the path.
        """
        target = Path(os.path.realpath(self.path))
        try:
            if target.exists():
                fd = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY)
                try:
                    self._refuse_special(os.fstat(fd))
                finally:
                    os.close(fd)
                return
            folder = next(parent for parent in target.parents if os.path.lexists(parent))
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "")
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, "")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "")
        except OSError as exc:
            raise explain(self.path, exc) from exc

    def write(self, lines: Sequence[bytes]) -> tuple[int, Unavailable | None]:
        """Append lines, each with its line break; return how many are in the file, and why not all.

        What is not counted left nothing behind: a write that failed or was cut short is taken back.
        """
        done = 0
        try:
            self._make_ready()
            while done < len(lines):
                count = self._room_for(lines, done)
                self._append(b"".join(lines[done : done + count]))
                done += count
        except Unavailable as exc:
            return done, exc
        except OSError as exc:
            return done, explain(self.path, exc)
        return done, None

    def tick(self) -> float | None:
        """Sync what has waited long enough; return the seconds until the next time, None for no need."""
        if not self._sync or self._dirty_since is None:
            return None
        left = self._dirty_since + self._sync - time.monotonic()
        if left > 0:
            return left
        try:
            self._fsync()
        except OSError:
            # Told in the log, and to whoever writes next.
            return None
        return None

    def close(self) -> None:
        """Sync what is not yet, unless fsync is never, and let go of the file.

        :raises Unavailable: the last lines could not be synced.
        """
        try:
            if self._dirty_since is not None:
                self._fsync()
        except OSError as exc:
            raise explain(self.path, exc) from exc
        finally:
            self._release()

    def _make_ready(self) -> None:
        if self._broken:
            raise Unavailable(
                f"{self.path} is not written any more: an fsync failed, and what it held may be lost; "
                "look at the disk, then start again"
            )
        if self._fd == _CLOSED:
            self._open()
        elif self._moved():
            self._leave_moved()
            self._open()
        elif self._torn is not None:
            os.ftruncate(self._fd, self._torn)
            self._torn = None

    def _moved(self) -> bool:
        """Say whether the path no longer leads to the file that is open (logrotate, rm, another link)."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._fd))

    def _leave_moved(self) -> None:
        if self._torn is not None:
            self._undo(self._torn)
        if self._dirty_since is not None:
            self._fsync()
        self._release()

    def _room_for(self, lines: Sequence[bytes], start: int) -> int:
        """Count the lines of ``lines[start:]`` that go into the file as it is, rotating it when none does."""
        size = os.fstat(self._fd).st_size
        if not self._max_size:
            return len(lines) - start
        room, count = self._max_size - size, 0
        while start + count < len(lines) and len(lines[start + count]) <= room:
            room -= len(lines[start + count])
            count += 1
        if count:
            return count
        if size and self._rotate(start):
            return self._room_for(lines, start)
        # A line longer than max_size has a file of its own; a file that cannot be renamed grows on.
        return 1 if not size else len(lines) - start

    def _append(self, data: bytes) -> None:
        good = os.fstat(self._fd).st_size
        view = memoryview(b"\n" + data if self._newline_first else data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            if self._sync == 0:
                self._fsync()
        except OSError:
            self._undo(good)
            raise
        self._newline_first = False
        if self._sync and self._dirty_since is None:
            self._dirty_since = time.monotonic()

    def _undo(self, good: int) -> None:
        """Cut off what a failed write left; when even that fails, it is tried before the next write."""
        self._torn = good
        try:
            os.ftruncate(self._fd, good)
        except OSError as exc:
            self._warn("undo", f"{self.path} may end in a torn line: {exc.strerror}")
        else:
            self._torn = None

    def _fsync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as exc:
            # Linux marks the pages that it could not write as clean, so the next fsync would report
            # success for data that is gone. One failure is therefore the end of this file.
            self._broken = True
            _log.error("fsync of %s failed (%s): lines written before may be lost", self.path, exc.strerror)
            raise
        finally:
            self._dirty_since = None

    def _rotate(self, done: int) -> bool:
        """Rename the file out of the way and begin a new one; False when renaming failed."""
        if self._dirty_since is not None:
            self._fsync()
        try:
            self._shift()
        except OSError as exc:
            self._warn("rotate", f"{self.path} cannot be rotated and grows on: {exc.strerror}")
            return False
        self._warned.discard("rotate")
        if self._on_rotate is not None:
            self._on_rotate(done)
        self._release()
        self._open()
        return True

    def _shift(self) -> None:
        first = self._target
        names = [first, *(first.with_name(f"{first.name}.{number}") for number in range(1, self._keep + 1))]
        # Only up to the first gap: after a renaming that failed half-way, trying again gives up nothing more.
        gap = next((number for number in range(1, len(names)) if not os.path.lexists(names[number])), None)
        if gap is None:
            self._drop(names[-1])
            gap = self._keep
        for number in range(gap, 0, -1):
            names[number - 1].replace(names[number])

    def _drop(self, path: Path) -> None:
        if self._on_drop is None:
            path.unlink()
            return
        with path.open("rb") as file:
            path.unlink()
            self._on_drop(file)

    def _open(self) -> None:
        self._target = Path(os.path.realpath(self.path))
        self._target.parent.mkdir(mode=self._folder_mode, parents=True, exist_ok=True)
        fd = self._open_locked()
        size = os.fstat(fd).st_size
        # A line without its end is what a crash or a full disk left behind; what follows must not join it.
        self._newline_first = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        self._fd = fd
        self._torn = None
        if self._newline_first:
            _log.warning("%s ended in the middle of a line; the next event begins a new one", self.path)

    def _open_locked(self) -> int:
        deadline = time.monotonic() + self._lock_timeout
        while True:
            existed = self._target.exists()
            # Not blocking: opening a named pipe must not wait for its reader.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
            fd = os.open(self._target, flags, self._mode)
            try:
                if self._take(fd, deadline):
                    if not existed:
                        # The umask took away from what the profile asks for.
                        os.fchmod(fd, self._mode)
                        if self._sync is not None:
                            self._sync_folder()
                    return fd
            except BaseException:
                os.close(fd)
                raise
            # The writer that had the lock before us rotated the file: take the new one.
            os.close(fd)

    def _take(self, fd: int, deadline: float) -> bool:
        """Lock the file; False when it is no longer the one at the path."""
        opened = os.fstat(fd)
        self._refuse_special(opened)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                raise Unavailable(
                    f"{self.path} is already written by another profile or process; "
                    "give each of them a path of its own"
                ) from None
            except OSError as exc:
                if exc.errno not in _NO_LOCKS:
                    raise
                self._warn("lock", f"{self.path} cannot be locked ({exc.strerror}); nobody else may write it")
            try:
                return os.path.samestat(self._target.stat(), opened)
            except FileNotFoundError:
                return False

    def _refuse_special(self, opened: os.stat_result) -> None:
        if not stat.S_ISREG(opened.st_mode):
            raise Unavailable(
                f"cannot write {self.path}: it is a pipe, socket or device, not a file; "
                "for standard output there is the provider console"
            )

    def _sync_folder(self) -> None:
        """Make the new name itself survive a power cut."""
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _release(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        self._dirty_since = None
        if fd != _CLOSED:
            os.close(fd)

    def _warn(self, about: str, message: str) -> None:
        """Log a warning once for as long as it holds."""
        if about not in self._warned:
            self._warned.add(about)
            _log.warning("%s", message)
