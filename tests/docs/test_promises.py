"""What several pages promise, they promise in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

SUM = "accepted = delivered + dead + dropped + queued + in flight"


@pytest.mark.parametrize("page", ["README.rst", "docs/stats.rst", "docs/reliability.rst"])
def test_there_is_one_sum_of_what_was_accepted(page: str) -> None:
    words = " ".join((ROOT / page).read_text().split())
    assert SUM in words
    # And no other: each that begins so goes on so.
    assert words.count("accepted = ") == words.count(SUM)
