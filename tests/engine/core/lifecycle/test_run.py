"""What a stop says."""

from __future__ import annotations

import pytest

from evbus.engine.core.lifecycle.run import Report

NOWHERE = {"unmatched": {"b": 2, "c": 1}, "hint": "; did you mean 'a'?"}
SAID = "3 events that matched no profile ('b': 2, 'c': 1; did you mean 'a'?)"


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (Report({}, "d", 0.1), "everything was delivered (0.10 s)"),
        (
            Report({}, "d", 0.1, **NOWHERE),  # type: ignore[arg-type]
            f"everything was delivered but {SAID} (0.10 s)",
        ),
        (
            Report({}, "d", 0.1, dead=1, **NOWHERE),  # type: ignore[arg-type]
            f"everything was delivered but 1 dead before the stop and {SAID}; written to d (0.10 s)",
        ),
        (
            Report({"x": 1}, "d", 0.1, **NOWHERE),  # type: ignore[arg-type]
            f"not delivered: x: 1; written to d; {SAID}",
        ),
    ],
)
def test_events_that_went_nowhere_are_not_called_delivered(report: Report, sentence: str) -> None:
    assert str(report) == sentence
