"""What conftest.py promises to tests that use brokers."""

from __future__ import annotations

import pytest

from tests import conftest


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
