"""Texts that a protocol cannot carry."""

from __future__ import annotations

from evbus.engine.wire.base.profile import unfit


def test_only_nul_and_lone_surrogates_cannot_be_carried() -> None:
    assert unfit("a\0")
    assert unfit("\ud800")
    assert not unfit("\n\r:\\\x01ü\U0001f600")
