"""Run bars of the reliability list in full: ``python -m tests.chaos 1``, ``python -m tests.chaos all``.

Each bar starts a broker of its own and prints one line of JSON; the exit code is 1 when a bar was missed.
"""

from __future__ import annotations

import argparse
import inspect
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos._run import Run
from tests.chaos._transport import TRANSPORTS
from tests.chaos.runs import BARS
from tests.chaos.runs.registry import AGENTS
from tests.servers._rabbitmq import RabbitMQ
from tests.servers._versions import VERSIONS

CHOICES = {"transport": list(TRANSPORTS), "agent": list(AGENTS)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("bar", nargs="+", choices=[*BARS, "all"], help="which ones")
    parser.add_argument(
        "--rabbitmq", choices=VERSIONS, default=VERSIONS[0], help="the RabbitMQ to run them on (%(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and journals")
    named, rest = parser.parse_known_args()
    bars = list(BARS) if "all" in named.bar else named.bar
    missed = 0
    for bar in bars:
        settings = _settings(parser, BARS[bar], rest)
        missed += _run(BARS[bar], settings, rabbitmq=named.rabbitmq, keep=named.keep)
    return min(missed, 1)


def _settings(parser: argparse.ArgumentParser, bar: Callable[..., Run], rest: list[str]) -> dict[str, Any]:
    """Return what ``--name value`` says of the bar's own numbers."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(bar).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    own = argparse.ArgumentParser(prog=f"{parser.prog} {bar.__name__}", description=bar.__doc__)
    for name, default in known.items():
        option = f"--{name.replace('_', '-')}"
        own.add_argument(option, type=type(default), default=default, choices=CHOICES.get(name))
    return vars(own.parse_args(rest))


def _run(bar: Callable[..., Run], settings: dict[str, Any], *, rabbitmq: str, keep: bool) -> bool:
    """Run one bar; return whether it was missed."""
    folder = Path(tempfile.mkdtemp(prefix="evbus-chaos-"))
    begun = time.monotonic()
    via = TRANSPORTS[str(settings.get("transport", "amqp"))]
    if missing := via.missing(rabbitmq):
        print(missing, file=sys.stderr)  # noqa: T201
        return True
    try:
        with via.node(rabbitmq) as node:
            node.start(folder / "broker")
            run = bar(node, folder / "program", **settings)
            if isinstance(node, RabbitMQ):
                run.note(rabbitmq=".".join(map(str, node.version)))
    except Exception:
        traceback.print_exc()
        print(f"{bar.__name__} failed; its files are in {folder}", file=sys.stderr)  # noqa: T201
        return True
    run.note(seconds=round(time.monotonic() - begun, 1))
    print(run.line(), flush=True)  # noqa: T201
    bad = bool(run.missed or run.slow)
    if keep or bad:
        print(f"files: {folder}", file=sys.stderr)  # noqa: T201
    else:
        shutil.rmtree(folder)
    return bad


if __name__ == "__main__":
    sys.exit(main())
