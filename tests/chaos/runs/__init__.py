"""Each run proves one bar: ``run(node, folder, **sizes)`` returns its figures."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos._run import Run
from tests.chaos.runs.bridge import bridge
from tests.chaos.runs.cancellations import bar_17
from tests.chaos.runs.deploy import deploy
from tests.chaos.runs.kills import bar_1, bar_3
from tests.chaos.runs.neighbours import bar_14
from tests.chaos.runs.pauses import bar_9, bar_10, bar_11
from tests.chaos.runs.refusals import bar_12, bar_13
from tests.chaos.runs.registry import registry
from tests.chaos.runs.restarts import bar_24
from tests.chaos.runs.slow import bar_26
from tests.chaos.runs.survival import survival
from tests.chaos.runs.threads import bar_16

__all__ = ["BARS"]

BARS: dict[str, Callable[..., Run]] = {
    "1": bar_1,
    "3": bar_3,
    "9": bar_9,
    "10": bar_10,
    "11": bar_11,
    "12": bar_12,
    "13": bar_13,
    "14": bar_14,
    "16": bar_16,
    "17": bar_17,
    "24": bar_24,
    "26": bar_26,
    "survival": survival,
    "bridge": bridge,
    "deploy": deploy,
    "registry": registry,
}
