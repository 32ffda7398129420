"""``evbus dead``: show at a glance which events were given up, and why."""

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import replay as _replay
from evbus.engine.cli import session as _session
from evbus.engine.core import dead_path as _dead_path
from evbus.engine.kit import counted as _counted
from evbus.engine.kit import paths as _paths


def store(hub, options):
    """Return the file of the dead store that the options name.

    :raises ConfigError: it was named on the command line and is not there.
    """
    name = options.get("store")
    path = _paths.expanded(name or hub.evbus.init.settings().dead_store_path(), "the dead store")
    if name and not _replay.files(path) and not _replay.asides(path):
        raise errors.ConfigError(f"there is no dead store at {path}")
    return path


async def main(hub, options):
    """Print a row for each lane: how many events, the oldest, the newest, and why the newest died."""
    if options.get("all"):
        return _all(options)
    path = hub.command.dead.store(options)
    aside = _replay.asides(path)
    lanes, unread = _replay.summaries([*aside, *_replay.files(path)])
    if not lanes and not unread:
        _output.say(f"there are no dead events in {path}\n")
        others = sum(other != path for other in _dead_path.stores())
        if others and not options.get("store"):
            _output.say(f"{others} other programs have some; evbus dead --all\n")
        return _session.EXIT.OK
    rows = [[lane.lane, _output.number(lane.events), lane.oldest, lane.newest, lane.reason] for lane in lanes]
    head = ["lane", "events", "oldest", "newest", "last reason"]
    _output.say(_output.render(head, rows, right=[1]) + "\n")
    if unread:
        _output.say(_counted.counted(unread, "line is no event", "lines are no events") + "\n")
    if aside:
        _output.say("a replay was not finished; 'evbus replay' resumes it\n")
    return _session.EXIT.OK


def _all(options):
    """Print a row for each store of a program that was told no file."""
    if options.get("store"):
        raise errors.ConfigError("give either a dead store or --all, not both")
    rows = []
    for path in _dead_path.stores():
        lanes, _ = _replay.summaries([*_replay.asides(path), *_replay.files(path)])
        if lanes:
            last = max(lanes, key=lambda lane: lane.newest)
            count = _output.number(sum(lane.events for lane in lanes))
            rows.append([str(path), count, min(lane.oldest for lane in lanes), last.newest, last.reason])
    if not rows:
        _output.say(f"there are no dead events in {_dead_path.state_folder()}\n")
        return _session.EXIT.OK
    _output.say(
        _output.render(["store", "events", "oldest", "newest", "last reason"], rows, right=[1]) + "\n"
    )
    return _session.EXIT.OK
