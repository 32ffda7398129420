"""The environments of the peers: one each below .bench/, so that none changes another's versions."""

from __future__ import annotations

import subprocess
import sys
import venv
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a peer shares with evbus has the versions of evbus; what it has alone, those of bench.txt.
PINS = (ROOT / "requirements/base.txt", ROOT / "requirements/bench.txt")
# What is installed for a peer, where that is more than its name says.
INSTALL = {
    "evbus-pika": ["evbus-pika", "pop-evbus"],
    "FastStream": ["faststream[rabbit,nats]", "msgspec"],
    "aspyx-event": ["aspyx-event", "fastapi"],  # which it imports, and does not ask for
    "grpcio": ["grpcio", "protobuf"],
    "fastapi": ["fastapi", "uvicorn", "httptools", "aiohttp"],
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@cache
def python_of(peer: str) -> str:
    """Return the interpreter of the peer's environment; make it when it is missing or has other pins."""
    folder = ROOT / ".bench" / f"{peer}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python, stamp = folder / "bin/python", folder / ".installed"
    # Who needs older versions of what evbus has as well has a file of its own.
    own = ROOT / f"requirements/{peer}.txt"
    files = (own,) if own.exists() else PINS
    lines = [line for file in files for line in file.read_text().splitlines()]
    pins = "\n".join(line for line in lines if line and not line.startswith("#"))
    if not stamp.exists() or stamp.read_text() != pins:
        say(f"installing {peer} into {folder.relative_to(ROOT)}")
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        limits = [part for file in files for part in ("--constraint", file)]
        subprocess.run([*pip, *INSTALL.get(peer, [peer]), *limits], check=True)
        stamp.write_text(pins)
    return str(python)


@cache
def title_of(peer: str) -> str:
    """Return the peer's name with the version that is installed."""
    code = f"from importlib.metadata import version; print(version({peer!r}))"
    done = subprocess.run([python_of(peer), "-I", "-c", code], capture_output=True, text=True, check=True)
    return f"{peer} {done.stdout.strip()}"
