"""The bar of the registry, short and without times; ``python -m tests.chaos registry`` is the full run."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.runs.registry import registry
from tests.servers import _consul


def test_calls_go_on_without_consul_and_servers_that_fall_silent_or_die_get_none(tmp_path: Path) -> None:
    agent = "double" if _consul.missing() else "consul"
    run = registry(None, tmp_path, agent=agent, down=1.0, ttl=4.0, calls=150, rate=50, deadline=4.0)
    assert not run.missed, run.line()
