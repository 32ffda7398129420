"""How much work something is, in instructions: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

__all__ = ["steps"]


def steps(run: Callable[[], object]) -> int:
    """Return how many instructions of Python ``run()`` takes, with all that it calls in this thread."""
    return _monitored(run) if sys.version_info >= (3, 12) else _traced(run)


def _monitored(run: Callable[[], object]) -> int:
    """Count by sys.monitoring: from 3.12 on a trace function misses what a function does the first time."""
    count, here = 0, threading.get_ident()
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    tool, event = 4, monitoring.events.INSTRUCTION

    def instruction(_code: CodeType, _offset: int) -> None:
        nonlocal count
        count += threading.get_ident() == here

    monitoring.use_tool_id(tool, "steps")
    try:
        monitoring.register_callback(tool, event, instruction)
        monitoring.set_events(tool, event)
        run()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    return count


def _traced(run: Callable[[], object]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count
