"""Links: a profile in use for requests and replies, over a plugin that a test scripts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from evbus.engine.call.requests import RequestLink, find
from evbus.engine.core.endpoint import Endpoint, Plugin
from evbus.engine.core.settings import DeliverySettings
from evbus.errors import ConnectFailed, DeliveryError, DeliveryTimeout, ProfileError, Rejected, Unavailable
from evbus.types import Envelope
from tests.evbus.kit import WAIT
from tests.evbus.rig import failure

EVENT = Envelope("here", "sum", b"[1,2]", {"a": "b"})


def profile(
    name: str = "sums", provider: str = "wire", plugin: str | Plugin = "wire", **more: Any
) -> Endpoint:
    if isinstance(plugin, str):
        plugin = Plugin(plugin)
    data = {"password": "hunter22", "url": "wire://user:hunter33@host/"}
    routing_key = more.get("routing_key")
    return Endpoint(plugin, provider, name, data, None, DeliverySettings(), routing_key, f"{provider}.{name}")


class Noting:
    """What a plugin does, noted; `opens` and `answers` are what `open` and `request` await."""

    def __init__(self, opens: Any = None, answers: Any = None, replies: Any = None) -> None:
        self.calls: list[Any] = []
        self._opens, self._answers, self._replies = opens, answers, replies

    def link(self, **more: Any) -> RequestLink:
        functions = {"open": self.open, "close": self.close, "request": self.request, "reply": self.reply}
        return RequestLink(profile(plugin=Plugin("wire", functions=functions), **more))

    async def open(self, ctx: Any) -> str:
        self.calls.append("open")
        if self._opens is not None:
            await self._opens()
        return "state"

    async def close(self, ctx: Any) -> None:
        self.calls.append(("close", ctx.state))

    async def request(self, ctx: Any, event: Envelope, seconds: float) -> Envelope:
        self.calls.append((ctx.state, event.routing_key, event.body))
        assert 0 < seconds <= WAIT
        if self._answers is not None:
            await self._answers()
        return Envelope("sums", "", b"3")

    async def reply(self, ctx: Any, address: str, event: Envelope) -> None:
        self.calls.append((ctx.state, address, event.body))
        if self._replies is not None:
            await self._replies()


def raising(*problems: BaseException | None) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a coroutine function that raises these one after another, the last again and again."""
    left = list(problems)

    async def run() -> None:
        problem = left.pop(0) if len(left) > 1 else left[0]
        if problem is not None:
            raise problem

    return run


async def never() -> None:
    await asyncio.Event().wait()


async def test_the_first_request_opens_the_plugin_and_the_end_closes_it() -> None:
    plugin = Noting()
    link = plugin.link()
    assert repr(link) == "<Link wire.sums not open yet>"

    assert (await link.request(EVENT, 5)).body == b"3"
    await link.reply("there", EVENT)
    await link.open()
    assert repr(link) == "<Link wire.sums open>"
    await link.close()
    await link.close()
    assert repr(link) == "<Link wire.sums closed>"
    for late in (link.request(EVENT, 5), link.reply("there", EVENT), link.open()):
        with pytest.raises(Unavailable, match="wire profile 'sums': it was closed"):
            await late
    assert plugin.calls == [
        "open",
        ("state", "sum", b"[1,2]"),
        ("state", "there", b"[1,2]"),
        ("close", "state"),
    ]


async def test_the_profile_s_template_makes_the_routing_key_of_a_request_and_not_of_a_reply() -> None:
    plugin = Noting()

    link = plugin.link(routing_key="rpc.{routing_key}")
    await link.request(EVENT, 5)
    await link.close()
    assert plugin.calls[1] == ("state", "rpc.sum", b"[1,2]")


async def test_all_who_need_it_wait_for_the_same_opening_and_nobody_s_end_disturbs_it() -> None:
    gate = asyncio.Event()
    plugin = Noting(opens=gate.wait)
    link = plugin.link()
    tasks = [asyncio.ensure_future(link.request(EVENT, 5)) for _ in range(3)]
    with pytest.raises(DeliveryTimeout, match="wire profile 'sums': no reply came within 0.01 s"):
        await link.request(EVENT, 0.01)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    gate.set()
    assert [(await task).body for task in tasks[1:]] == [b"3", b"3"]
    assert plugin.calls.count("open") == 1
    await link.close()


async def test_an_opening_that_fails_is_told_to_each_who_waits_and_tried_again_by_the_next() -> None:
    plugin = Noting(opens=raising(ConnectFailed("nothing listens there"), None))

    link = plugin.link()
    problems = await asyncio.gather(*[link.request(EVENT, 5) for _ in range(2)], return_exceptions=True)
    assert [(type(each), str(each)) for each in problems] == [(ConnectFailed, "nothing listens there")] * 2
    assert problems[0] is not problems[1]
    assert (await link.request(EVENT, 5)).body == b"3"
    await link.close()


async def test_an_opening_that_takes_for_ever_ends_with_the_link() -> None:
    plugin = Noting(opens=never)

    link = plugin.link()
    asking = asyncio.ensure_future(link.request(EVENT, WAIT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await link.close()
    with pytest.raises(Unavailable, match="it was closed"):
        await asking
    assert plugin.calls == ["open"]


async def test_a_plugin_that_forgets_its_deadline_is_reminded_of_it() -> None:
    link = Noting(answers=never).link()
    with pytest.raises(DeliveryTimeout) as caught:
        await link.request(EVENT, 0.01)
    assert str(caught.value) == "wire profile 'sums': no reply came within 0.01 s"
    assert caught.value.seconds == 0.01
    await link.close()


@pytest.mark.parametrize("problem", [Rejected("never"), Unavailable("down"), DeliveryError("refused")])
async def test_what_a_plugin_says_reaches_who_asks(problem: DeliveryError) -> None:
    link = Noting(answers=raising(problem), replies=raising(problem)).link()
    for asking in (link.request(EVENT, 5), link.reply("there", EVENT)):
        with pytest.raises(type(problem)) as caught:
            await asking
        assert caught.value is problem
    await link.close()


async def test_what_a_plugin_raises_by_mistake_has_no_secrets_in_it(caplog: pytest.LogCaptureFixture) -> None:
    problem = OSError("no\nuser hunter22 at wire://user:hunter33@host/")
    said = "wire profile 'sums': the plugin failed: OSError: no\\nuser *** at wire://***@host/"

    with caplog.at_level(logging.INFO):
        for link in (Noting(opens=raising(problem)).link(), Noting(answers=raising(problem)).link()):
            with pytest.raises(DeliveryError) as caught:
                await link.request(EVENT, 5)
            assert str(caught.value).replace("user:***@", "***@") == said
            assert caught.value.__suppress_context__
            await link.close()
    assert "hunter" not in caplog.text


async def test_a_plugin_that_cancels_itself_fails_and_cancels_nobody_else() -> None:
    link = Noting(answers=raising(asyncio.CancelledError())).link()
    with pytest.raises(DeliveryError, match="cancelled from within"):
        await link.request(EVENT, 5)
    await link.close()


# Finding the profile


def able(name: str, *names: str) -> Plugin:
    plugin = Noting()
    return Plugin(name, functions={each: getattr(plugin, each) for each in names})


PLUGINS = [
    able("wire", "request", "reply"),
    able("radio", "request", "reply"),
    able("file"),
    able("http", "request"),
]


def test_a_profile_is_found_by_its_name_or_with_its_provider() -> None:
    one, other = profile(), profile("sums", "radio", "radio")
    assert find([one], PLUGINS, "sums") is one
    assert find([one, other], PLUGINS, "radio.sums") is other
    # What can bring no reply is not meant.
    assert find([one, profile("sums", "file", "file")], PLUGINS, "sums") is one
    http = profile("sums", "http", "http")
    assert find([http], PLUGINS, "sums") is http
    assert find([one, http], PLUGINS, "sums", replies=True) is one


@pytest.mark.parametrize(
    ("wanted", "replies", "said"),
    [
        ("sum", False, "there is no profile 'sum' for requests; did you mean 'sums'?"),
        ("sums", False, "several profiles are called 'sums'; say wire.sums or radio.sums"),
        (
            "out",
            False,
            "file.out: the plugin 'file' cannot bring replies back; those that can: http, radio, wire",
        ),
        ("hook", True, "http.hook: the plugin 'http' cannot send replies; those that can: radio, wire"),
    ],
)
def test_a_profile_that_is_not_found_is_told_in_a_sentence(wanted: str, replies: bool, said: str) -> None:
    profiles = [
        profile(),
        profile("sums", "radio", "radio"),
        profile("out", "file", "file"),
        profile("hook", "http", "http"),
    ]
    assert failure(ProfileError, find, profiles, PLUGINS, wanted, replies=replies) == said
