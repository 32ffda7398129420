"""The fixtures ``transport`` and ``bus``: tests run over each transport that can what they are about.

Those of a bus run within the process as well, unless they are about something that only a broker can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers._versions import VERSIONS
from tests.transports.listening import Bus, InProcess
from tests.transports.table import TRANSPORTS, Deaf, Place, Transport


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "can(*features, every=False, case=''): the transports that can it, or are called so; `every` version "
        "of them; once for each of the cases in a column of the table",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"transport", "bus"} & set(metafunc.fixturenames):
        return
    marker = metafunc.definition.get_closest_marker("can")
    features, options = (marker.args, marker.kwargs) if marker else ((), {})
    entries: list[Transport | None] = [
        one
        for one in TRANSPORTS
        if (one.usual or options.get("every"))
        and one.can.union(["broker", one.broker, one.kit.provider]).issuperset(features)
    ]
    if "bus" in metafunc.fixturenames and not options and {"copies"}.issuperset(features):
        entries.append(None)
    names, values = ["at"], [[one] for one in entries]
    if column := options.get("case"):
        names, values = (
            ["at", "case"],
            [[one, case] for one in entries if one for case in getattr(one, column)],
        )
    metafunc.parametrize(names, values, indirect=["at"], ids=_id, scope="session")


def _id(value: object) -> str | None:
    if value is None:
        return "internal"
    if isinstance(value, Deaf):
        return f"{value.pattern} {value.said}"
    return str(value) if isinstance(value, Transport) else None


@pytest.fixture(scope="session")
def at(request: pytest.FixtureRequest) -> tuple[Transport, Any] | None:
    """Return a transport and its broker, which is started before the tests that want it begin."""
    if request.param is None:
        return None
    broker = request.param.broker
    if broker in VERSIONS:
        return request.param, request.getfixturevalue("rabbitmqs")(broker)
    return request.param, request.getfixturevalue(broker)


@pytest.fixture
def transport(at: tuple[Transport, Any], unique: str) -> Place:
    """Return a place for the test: a transport at its broker, with a queue."""
    return Place(*at, unique)


@pytest.fixture
def bus(
    at: tuple[Transport, Any] | None, unique: str, tmp_path: Path, proxy: Callable[..., Any]
) -> Iterator[Bus]:
    """Yield what the processes of a test have in common; a test that looks at no dead letters has none."""
    made = Bus(unique, tmp_path, proxy).at(Place(*at, unique)) if at else InProcess(unique, tmp_path, proxy)
    yield made
    assert made.looked or not made.dead()


@pytest.fixture(scope="session", params=["rabbitmq", "activemq"])
def spare(request: pytest.FixtureRequest) -> Any:
    """Return what is behind `broken`; tests ask for that one."""
    return request.getfixturevalue(f"spare_{request.param}_of_the_run")


@pytest.fixture
def broken(spare: Any) -> Any:
    """Return one running broker after another to kill, mended before the next test."""
    return spare.mend()
