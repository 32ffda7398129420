"""POP sees the rooms, and no engine: neither as a room, nor as a plugin of one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pop.hub
import pytest

import evbus
from evbus.engine.core.plugins.installed import new_hub

ENGINES = Path(evbus.__file__).parent / "engine"


def merged_by_an_application() -> Any:
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus")
    return hub


@pytest.mark.parametrize("make", [new_hub, merged_by_an_application])
def test_an_engine_is_no_plugin(make: Any) -> None:
    hub = make()
    plugins = [plugin for room in hub.evbus.init.plugins().values() for plugin in room]
    assert len(plugins) > 20
    assert [plugin.file for plugin in plugins if ENGINES in Path(plugin.file).parents] == []
    assert not hasattr(hub, "engine")
    # POP loads each file under a name that is made of its path: that of an engine is its own.
    again = [
        name
        for name, module in list(sys.modules.items())
        if ENGINES in Path(getattr(module, "__file__", None) or "/").parents
        and not name.startswith("evbus.engine")
    ]
    assert again == []
