"""What every transport does, each at its real broker; ``table.py`` says which there are and what they can."""

import pytest

# Here, as others import these before the conftest.py of this folder is read.
pytest.register_assert_rewrite("tests.transports.asking", "tests.transports.kit", "tests.transports.table")
