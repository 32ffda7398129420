#!/usr/bin/env bash
# uvloop makes no timer of a delay below half a millisecond: call_later(0.0004, f) is call_soon(f). So `f` runs without any pause,
# before what was called soon after it, and what call_later and call_at return is a Handle without when(). asyncio's own loop
# waits, runs `f` behind all that is ready, and returns a TimerHandle, as its documentation promises. Whoever asks the handle
# of a nearly due deadline for its time fails with an AttributeError, and a pause of 0.4 ms between two tries is none.
#
# Seen with CPython 3.11.7 and uvloop 0.23.0:
#
#     asyncio: TimerHandle, soon, later
#     uvloop: Handle, later, soon
#     uvloop: 'uvloop.loop.Handle' object has no attribute 'when'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install uvloop==0.23.0
"$work/venv/bin/python" - >"$work/found" <<'END'
import asyncio

import uvloop

async def main(name):
    loop, order = asyncio.get_running_loop(), []
    handle = loop.call_later(0.0004, order.append, "later")
    loop.call_soon(order.append, "soon")
    await asyncio.sleep(0.1)
    print(f"{name}: {type(handle).__name__}, {', '.join(order)}")
    try:
        handle.when()
    except AttributeError as exc:
        print(f"{name}: {exc}")

for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(name))
END
cat "$work/found"
python3 - "$work/found" <<'END'
import sys

with open(sys.argv[1]) as file:
    found = file.read().splitlines()
assert found == [
    "asyncio: TimerHandle, soon, later",
    "uvloop: Handle, later, soon",
    "uvloop: 'uvloop.loop.Handle' object has no attribute 'when'",
], found
END
