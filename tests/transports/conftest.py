"""The fixture ``transport``: a test that asks for it runs over each transport that can what it is about."""

from __future__ import annotations

from typing import Any

import pytest

from tests.servers._versions import VERSIONS
from tests.transports.table import TRANSPORTS, Place, Transport

pytest.register_assert_rewrite("tests.transports.asking", "tests.transports.kit", "tests.transports.table")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "can(*features, every=False, case=''): the transports that can it; `every` version of them; once for "
        "each of the cases in a column of the table",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transport" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("can")
    features, options = (marker.args, marker.kwargs) if marker else ((), {})
    entries = [
        one for one in TRANSPORTS if (one.usual or options.get("every")) and one.can.issuperset(features)
    ]
    names, values = ["at"], [[one] for one in entries]
    if column := options.get("case"):
        names, values = ["at", "case"], [[one, case] for one in entries for case in getattr(one, column)]
    metafunc.parametrize(names, values, indirect=["at"], ids=_id, scope="session")


def _id(value: object) -> str | None:
    return str(value) if isinstance(value, Transport) else None


@pytest.fixture(scope="session")
def at(request: pytest.FixtureRequest) -> tuple[Transport, Any]:
    """Return a transport and its broker, which is started before the tests that want it begin."""
    broker = request.param.broker
    if broker in VERSIONS:
        return request.param, request.getfixturevalue("rabbitmqs")(broker)
    return request.param, request.getfixturevalue(broker)


@pytest.fixture
def transport(at: tuple[Transport, Any], unique: str) -> Place:
    """Return a place for the test: a transport at its broker, with a queue."""
    return Place(*at, unique)


@pytest.fixture(scope="session", params=["rabbitmq", "activemq"])
def spare(request: pytest.FixtureRequest) -> Any:
    """Return what is behind `broken`; tests ask for that one."""
    return request.getfixturevalue(f"spare_{request.param}_of_the_run")


@pytest.fixture
def broken(spare: Any) -> Any:
    """Return one running broker after another to kill, mended before the next test."""
    return spare.mend()
