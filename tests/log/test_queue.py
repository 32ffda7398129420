"""hub.log.queue: log records on the bus, before, while and after it runs."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.evbus.kit import WAIT, new_hub, running, write

CONF = {
    "log_level": "info",
    "log_fmt_console": "[%(levelname)s] %(message)s",
    "log_datefmt": "%H:%M",
    "log_handler_options": [],
}


def set_up(hub: Any, *options: str, level: str = "info") -> None:
    """Set logging up as ``hub.pop.config.load`` does with ``--log-plugin=queue``."""
    hub.pop.sub.add(dyne_name="log")
    hub.pop.sub.add(pypath="pop_config.render", subname="render")
    hub.log.queue.setup({**CONF, "log_level": level, "log_handler_options": list(options)})


def drained(hub: Any, key: str = "log") -> list[dict[str, str]]:
    queue = hub.ingress.internal.QUEUE.get(key)
    return [json.loads(queue.get_nowait()) for _ in range(queue.qsize())] if queue else []


def run(hub: Any, during: Any = None, contexts: Any = None) -> None:
    async def main() -> None:
        async with running(hub, contexts or {"internal": {"logger": {}}}):
            if during is not None:
                await during()

    asyncio.run(main())


def test_records_from_before_the_loop_runs_are_delivered(hub: Any) -> None:
    set_up(hub)
    logging.getLogger("app").info("early")
    run(hub)
    (body,) = drained(hub)
    assert (body["message"], body["level"], body["module"]) == ("early", "INFO", "test_queue")
    assert len(body["timestamp"]) == len("12:34")


def test_a_queue_handler_of_ones_own_takes_the_wrapper_that_pop_evbus_has(hub: Any) -> None:
    hub.pop.sub.add(dyne_name="log")
    handler = logging.handlers.QueueHandler(hub.log.queue.wrapper(profile="logger", routing_key="trail"))
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("app")
    logger.addHandler(handler)
    try:
        logger.warning("by %s", "hand")
    finally:
        logger.removeHandler(handler)
    run(hub)
    (body,) = drained(hub, "trail")
    assert body["message"] == "WARNING by hand"


def test_the_console_has_the_records_as_well(hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(hub)
    logging.getLogger("app").info("seen")
    assert "[INFO] seen" in capsys.readouterr().err


def test_profile_and_routing_key_come_from_the_options(hub: Any) -> None:
    set_up(hub, "profile=audit", "routing_key=trail")
    logging.getLogger("app").info("x")
    run(hub, contexts={"internal": {"audit": {}}})
    assert [body["message"] for body in drained(hub, "trail")] == ["x"]


def test_each_level_has_a_key_of_its_own_and_records_say_where_they_are_from(hub: Any) -> None:
    set_up(hub, "routing_key=log.{level}")
    logging.getLogger("app.shop").warning("late", extra={"tenant": "acme"})
    run(hub)
    (body,) = drained(hub, "log.warning")
    assert (body["logger"], body["extra"]) == ("app.shop", {"tenant": "acme"})
    assert body["time"].endswith("+00:00")


@pytest.mark.parametrize(
    ("level", "messages"), [("warning", ["w"]), ("20", ["i", "w"]), (" DEBUG ", ["d", "i", "w"])]
)
def test_the_level_decides(hub: Any, level: str, messages: list[str]) -> None:
    set_up(hub, level=level)
    logger = logging.getLogger("app")
    logger.debug("d")
    logger.info("i")
    logger.warning("w")
    run(hub)
    assert [body["message"] for body in drained(hub) if len(body["message"]) == 1] == messages


def test_records_from_other_threads_are_delivered_in_each_threads_order(hub: Any) -> None:
    set_up(hub)

    async def during() -> None:
        def work(name: str) -> None:
            for number in range(50):
                logging.getLogger("app").info("%s %d", name, number)

        await asyncio.gather(*(asyncio.to_thread(work, name) for name in "abcd"))

    run(hub, during)
    messages = [body["message"] for body in drained(hub)]
    for name in "abcd":
        assert [one for one in messages if one.startswith(name)] == [
            f"{name} {number}" for number in range(50)
        ]


async def test_records_from_while_the_bus_stops_are_delivered(tmp_path: Path) -> None:
    text = """
        import logging


        async def publish(hub, ctx, body):
            await hub.ingress.GATE.wait()
            logging.getLogger("app").info("said while the bus drains: %s", hub.evbus.ENGINE.state.value)
    """
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", ingress__talker=text)])
    set_up(hub)

    hub.ingress.GATE = asyncio.Event()
    task = asyncio.ensure_future(hub.evbus.init.start({"internal": {"logger": {}}, "talker": {"other": {}}}))
    await asyncio.wait_for(hub.evbus.init.join(), WAIT)
    hub.evbus.broker.put_nowait(body=1, profile="other")
    stop = asyncio.ensure_future(hub.evbus.init.stop())
    asyncio.get_running_loop().call_soon(hub.ingress.GATE.set)
    await asyncio.wait_for(stop, WAIT)
    await asyncio.wait_for(task, WAIT)
    assert [body["message"] for body in drained(hub)] == ["said while the bus drains: draining"]


def test_a_record_after_the_bus_stopped_harms_nobody(hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(hub)
    run(hub)
    logging.getLogger("app").info("late")
    assert capsys.readouterr().err.splitlines()[-1] == "[INFO] late"


def test_a_failing_destination_of_the_log_does_not_feed_itself(tmp_path: Path) -> None:
    text = "async def publish(hub, ctx, body):\n    raise ConnectionError('refused')\n"
    root = write(tmp_path / "plugins", ingress__down=text)
    hub = new_hub(plugin_dirs=[root], dead_store=tmp_path / "dead.jsonl")
    set_up(hub)
    delivery = {"retry": {"attempts": 3, "min": 0.001, "max": 0.001}}

    async def during() -> None:
        logging.getLogger("app").info("one")

    run(hub, during, {"down": {"logger": {"delivery": delivery}}})
    found = hub.evbus.stats.snapshot()
    assert (found["bus"]["accepted"], found["lanes"]["down.down.logger"]["dead"]) == (1, 1)


def test_a_contract_that_is_loaded_later_sees_the_events_of_the_log(tmp_path: Path) -> None:
    contract = "def pre_put_nowait(hub, ctx):\n    vars(hub.evbus)['SEEN'] = [ctx.kwargs['profile']]\n"
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", evbus__contracts__broker=contract)])
    set_up(hub)
    hub.evbus.init.settings()
    logging.getLogger("app").info("x")
    assert hub.evbus.SEEN == ["logger"]


PROGRAM = """
    import asyncio, json, logging, sys
    import pop.hub

    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus")
    sys.argv = ["prog"] + sys.argv[1:]
    hub.pop.config.load(["pop_config"], cli="pop_config", parse_cli=True)
    logging.getLogger("app").warning("from the program")
    hub.log.error("from the hub")

    async def main():
        task = asyncio.ensure_future(hub.evbus.init.start({"internal": {"*": {}}}))
        await hub.evbus.init.join()
        await hub.evbus.init.stop()
        await task
        for key, queue in hub.ingress.internal.QUEUE.items():
            while not queue.empty():
                print(key, queue.get_nowait().decode())

    asyncio.run(main())
"""


def program(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    root = Path(__file__).parent.parent.parent
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_pop_config_sets_the_plugin_up(tmp_path: Path) -> None:
    done = program(
        tmp_path, "--log-plugin=queue", "--log-level=warning", "--log-handler-options", "routing_key=trail"
    )
    assert done.returncode == 0, done.stderr
    events = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert {key for key, _ in events} == {"trail"}
    assert [json.loads(body)["message"] for _, body in events] == ["from the program", "from the hub"]
    assert "from the program" in done.stderr


def test_a_wrong_option_is_said(tmp_path: Path) -> None:
    done = program(tmp_path, "--log-plugin=queue", "--log-handler-options", "routing_kee=trail")
    assert "log_handler_options: there is no option 'routing_kee'; did you mean 'routing_key'?" in done.stderr
