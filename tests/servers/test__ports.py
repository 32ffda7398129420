from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import _ports
from tests.servers._ports import HOST, free_ports

ROOT = Path(__file__).parent.parent.parent
OTHER = """
import sys
from tests.servers import _ports
_ports.RANGE = range(*map(int, sys.argv[1:]))
print(*_ports.free_ports(1))
"""


def test_no_port_is_given_twice_neither_here_nor_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = free_ports(1)
    monkeypatch.setattr(_ports, "RANGE", range(first, first + 1))
    with pytest.raises(OSError, match="no 1 free ports"):
        free_ports(1)
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(first), str(first + 1)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "no 1 free ports" in done.stderr


def test_a_port_that_is_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as used:
        used.bind((HOST, 0))
        port = used.getsockname()[1]
        monkeypatch.setattr(_ports, "RANGE", range(port, port + 1))
        with pytest.raises(OSError, match="no 1 free ports"):
            free_ports(1)
