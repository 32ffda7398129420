"""``evbus dead``: show at a glance which events were given up, and why."""

import pathlib
import sys

from evbus import errors
from evbus.command import _replay, _session, _table


def store(hub, options):
    """Return the file of the dead store that the options name.

    :raises ConfigError: it was named on the command line and is not there.
    """
    name = options.get("store")
    path = pathlib.Path(name).expanduser() if name else hub.evbus.init.settings().dead_store_path()
    if name and not _replay.files(path) and not _replay.asides(path):
        raise errors.ConfigError(f"there is no dead store at {path}")
    return path


async def main(hub, options):
    """Print a row for each lane: how many events, the oldest, the newest, and why the newest died."""
    path = hub.command.dead.store(options)
    aside = _replay.asides(path)
    lanes, unread = _replay.summaries([*aside, *_replay.files(path)])
    if not lanes and not unread:
        sys.stdout.write(f"there are no dead events in {path}\n")
        return _session.EXIT.OK
    rows = [[lane.lane, _table.number(lane.events), lane.oldest, lane.newest, lane.reason] for lane in lanes]
    head = ["lane", "events", "oldest", "newest", "last reason"]
    sys.stdout.write(_table.render(head, rows, right=[1]) + "\n")
    if unread:
        sys.stdout.write(f"{_table.number(unread)} lines are no events\n")
    if aside:
        sys.stdout.write("a replay was not finished; 'evbus replay' resumes it\n")
    return _session.EXIT.OK
