"""What conftest.py promises to tests that use brokers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest
from tests.servers import _rabbitmq4
from tests.servers._rabbitmq import RabbitMQ


def test_names_are_unique(unique: str, request: pytest.FixtureRequest) -> None:
    assert unique.startswith("test-")
    assert len(unique) == len("test-3f2a9c10")


@pytest.mark.parametrize(
    ("variable", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_missing_broker_skips_here_and_fails_in_ci(
    variable: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", variable)
    with pytest.raises(outcome, match="install the package"):
        conftest._need("install the package")


def test_a_broker_that_is_there_is_no_reason_to_skip() -> None:
    conftest._need("")


def test_each_version_is_what_it_says(
    each_rabbitmq: RabbitMQ, unique: str, request: pytest.FixtureRequest
) -> None:
    label = request.node.callspec.params["each_rabbitmq"]
    assert each_rabbitmq.version[:2] == tuple(map(int, label.partition("-")[0].split(".")))
    told = each_rabbitmq.api("GET", "overview")["rabbitmq_version"]
    assert told == ".".join(map(str, each_rabbitmq.version))
    if label.endswith("-denied"):
        with pytest.raises(OSError, match="transient_nonexcl_queues"):
            each_rabbitmq.declare_queue(unique, durable=False)
    else:
        each_rabbitmq.declare_queue(unique, durable=False)
        each_rabbitmq.delete_queue(unique)


def test_a_version_that_is_not_there_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rabbitmq4, "SERVERS", tmp_path)
    with pytest.raises(pytest.skip.Exception, match=r"`\.ci/rabbitmq 4\.3` fetches it"):
        conftest.RabbitMQs(lambda _: pytest.fail("it is started"))("4.3")
