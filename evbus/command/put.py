"""``evbus put``: put one event and deliver it."""

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.kit import redact as _redact


async def main(hub, options):
    """Put the event that the options describe; succeed when every destination has it."""
    text = options.get("body")
    try:
        line = _session.event_line(options, _session.standard_input() if text == "-" else text)
    except errors.PayloadError as exc:
        _output.tell(f"evbus: {_redact.one_line(exc)}")
        return _session.EXIT.REFUSED
    hub.event.LOCAL = True
    profiles = await hub.command.init.contexts(options)
    intake = hub.command.init.intake()

    async def produce():
        problem = await intake.take(line)
        if problem:
            _output.tell(f"evbus: {problem}")

    end = await hub.command.init.deliver(options, profiles, produce)
    return _session.exit_code(end, intake.refused)
