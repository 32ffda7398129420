"""Typed events over each transport."""

import pytest

# What a test that a class inherits asserts is shown like any other's.
pytest.register_assert_rewrite("tests.event.transports.behaviour")
