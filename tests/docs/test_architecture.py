"""The picture of the architecture is drawn from the code, and the page names what is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/architecture.rst").read_text()


@pytest.fixture
def architecture() -> Any:
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs/architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_the_code(architecture: Any) -> None:
    picture = architecture.drawn()
    assert picture == architecture.PICTURE.read_text(), "draw it again: python docs/architecture.py"


def test_every_box_stands_above_what_it_imports(architecture: Any) -> None:
    found = architecture.arrows()
    storeys = architecture.floors(found)
    level = {box: number for number, boxes in enumerate(storeys) for box in boxes}
    assert set(level) == set(found)
    assert all(level[box] < level[below] for box in found for below in found[box])
    assert storeys[-1] == ["engine/kit"]


def test_a_station_that_is_gone_is_told(architecture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "WAY", [("evbus/broker.py", "post", "")])
    with pytest.raises(LookupError, match=r"there is no post in evbus/broker\.py"):
        architecture.stations()


def test_the_page_names_files_and_folders_that_exist() -> None:
    named = re.findall(r"``((?:engine|docs|tests)/[\w/.]*\w)(?:/\.\.\.)?``", PAGE)
    assert len(named) > 15
    there = {name for name in named if (ROOT / name).exists() or (ROOT / "evbus" / name).exists()}
    assert set(named) - there == set()


def test_the_words_are_few() -> None:
    words = PAGE.split("The words\n")[1].splitlines()
    assert len([line for line in words if line and not line.startswith((" ", "-"))]) <= 25
