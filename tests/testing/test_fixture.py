"""The fixture ``event_bus`` in test files as users write them, which pytest runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import evbus.testing  # noqa: F401 - what is loaded already is not loaded again in every run

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]

#: Without plugins that take a second to be loaded.
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
SHOP = """
    from dataclasses import dataclass
    from evbus.api import event

    @event()
    @dataclass
    class OrderPlaced:
        order_id: str
        total: float

    @event()
    @dataclass
    class OrderBilled:
        order_id: str
"""
BILLING = """
    from evbus.api import event_listener
    from shop import OrderBilled, OrderPlaced

    @event_listener(OrderPlaced)
    async def on(hub, event: OrderPlaced):
        if event.total < 0:
            raise ValueError("no such total")
        await hub.event.init.send(OrderBilled(event.order_id), profile="mail")
"""
OPTIONS = """
    import pytest

    @pytest.fixture
    def event_bus_options():
        return {"plugin_dirs": "plugins", "profiles": {"internal": {"default": {}, "mail": {}}}}
"""
HEAD = """
    import pytest
    from shop import OrderBilled, OrderPlaced
"""


@pytest.fixture
def run(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> Run:
    """Return ``run(test_file)``, which runs a test file of a shop with a listener; installed or not."""
    pytester.makepyfile(shop=SHOP)
    pytester.makeconftest(OPTIONS)
    folder = pytester.mkdir("plugins")
    folder.chmod(0o755)
    (folder / "listener").mkdir(mode=0o755)
    written = pytester.makepyfile(billing=BILLING)
    written.chmod(0o644)
    written.rename(folder / "listener" / "billing.py")
    installed = request.config.pluginmanager.has_plugin("evbus")
    plugin = [] if installed else ["-p", "evbus._pytest"]

    def run(text: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(test_shop=HEAD + text)
        # Installed editable, the project lists its tests among its files, and they are imported here already.
        imported = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        return pytester.runpytest_inprocess(*QUICK, "-W", imported, *plugin, *args)

    return run


def said(result: pytest.RunResult, *lines: str) -> None:
    """Assert that these lines stand one after another in what pytest has written."""
    result.stdout.fnmatch_lines(["*" + line.replace("[", "[[]") for line in lines], consecutive=True)


def test_plain_and_asynchronous_tests_pass_without_any_other_plugin(run: Run) -> None:
    result = run("""
    async def test_async(event_bus):
        await event_bus.hub.event.init.send(OrderPlaced("A-1", 9.5))
        assert await event_bus.expect(OrderBilled, lambda event: event.order_id == "A-1")
        await event_bus.handled(OrderPlaced, listener="billing")

    def test_plain(event_bus):
        event_bus.hub.evbus.broker.put_nowait("OrderPlaced", OrderPlaced("A-1", 9.5))
        assert event_bus.expect(OrderBilled) == OrderBilled("A-1")

    @pytest.mark.parametrize("number", [1, 2])
    class TestOrders:
        async def test_async(self, event_bus, number):
            await event_bus.send(OrderPlaced(f"A-{number}", 1))
            assert (await event_bus.expect(OrderBilled)).order_id == f"A-{number}"

        def test_plain(self, number, event_bus):
            event_bus.send(OrderPlaced(f"A-{number}", 1))
            assert event_bus.expect(OrderBilled).order_id == f"A-{number}"
    """)
    result.assert_outcomes(passed=6)


def test_nothing_is_left_for_the_next_test(run: Run) -> None:
    result = run("""
    HUBS = []

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_plain(event_bus, number):
        assert event_bus.hub not in HUBS
        HUBS.append(event_bus.hub)
        assert event_bus.recorded == []
        event_bus.fail("mail", times=1)
        event_bus.subscribe(OrderBilled, HUBS.append, name="mine")
        event_bus.send(OrderPlaced("A-1", 1))
        event_bus.settle()
        assert event_bus.sent() == [OrderPlaced("A-1", 1), OrderBilled("A-1")]
    """)
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(("kind", "wait"), [("async def", "await "), ("def", "")])
def test_a_listener_that_fails_is_never_silent(run: Run, kind: str, wait: str) -> None:
    result = run(f"""
    {kind} test_it(event_bus):
        {wait}event_bus.send(OrderPlaced("A-1", -1))

    {kind} test_looked_at(event_bus):
        {wait}event_bus.send(OrderPlaced("A-1", -1))
        {wait}event_bus.settle()
        assert "no such total" in str(event_bus.dead[0])

    {kind} test_wanted(event_bus):
        event_bus.fail(listener="billing", error=KeyError("x"), times=None)
        {wait}event_bus.send(OrderPlaced("A-1", 1))
    """)
    result.assert_outcomes(passed=2, failed=1)
    said(
        result,
        "_ test_it _*",
        "the test left a dead letter that it neither looked at (dead) nor wanted (fail):",
        "the listener billing gave up OrderPlaced(order_id='A-1', total=-1.0) after 3 attempts: "
        "ValueError: no such total",
        "Traceback (most recent call last):",
        '  File "*plugins/listener/billing.py", line 7, in on',
        '    raise ValueError("no such total")',
        "ValueError: no such total",
    )
    result.stdout.no_fnmatch_line("*_listening.py*line*")


@pytest.mark.parametrize(("kind", "wait"), [("async def", "await "), ("def", "")])
def test_what_was_not_sent_is_told_where_it_is_expected(run: Run, kind: str, wait: str) -> None:
    result = run(f"""
    {kind} test_it(event_bus):
        {wait}event_bus.send(OrderPlaced("A-1", 1))
        {wait}event_bus.expect(OrderBilled, lambda event: event.order_id == "A-2", timeout=0.1)
    """)
    result.assert_outcomes(failed=1)
    said(
        result,
        f'>       {wait}event_bus.expect(OrderBilled, lambda event: event.order_id == "A-2", timeout=0.1)',
        "AssertionError: no OrderBilled that meets the condition was sent within 0.1 s; what was sent:",
        "E         OrderPlaced(order_id='A-1', total=1.0)",
        "E         OrderBilled(order_id='A-1') to 'mail'",
        "",
        "test_shop.py:*: AssertionError",
    )


def test_a_test_that_fails_by_itself_says_its_own(run: Run) -> None:
    result = run("""
    async def test_it(event_bus):
        await event_bus.send(OrderPlaced("A-1", -1))
        await event_bus.settle()
        assert event_bus.sent(OrderBilled)
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E       assert []*", "*Captured log*", "*the listener billing gave up OrderPlaced*"]
    )


def test_what_does_not_end_and_what_never_came_is_told(run: Run) -> None:
    result = run("""
    import asyncio

    @pytest.mark.event_bus(settle_timeout=0.1)
    async def test_hangs(event_bus):
        async def hangs(event):
            await asyncio.get_running_loop().create_future()

        event_bus.subscribe(OrderPlaced, hangs)
        await event_bus.send(OrderPlaced("A-1", 1))

    def test_idle(event_bus):
        event_bus.fail("mail")

    def test_unknown(event_bus):
        event_bus.fail("mial")
    """)
    result.assert_outcomes(failed=3)
    said(result, "the bus did not settle within 0.1 s: the listener hangs is not done with 1 event")
    said(
        result,
        "the destination 'mail' was to fail with Unavailable('mail is down'), but nothing came to it: "
        "nothing was sent",
    )
    said(
        result,
        "E       ValueError: there is no profile 'mial' on this bus; did you mean 'mail'?; give it one: *",
    )


def test_options_come_from_the_project_and_from_markers(run: Run) -> None:
    result = run(
        """
    pytestmark = pytest.mark.event_bus(max_body=100)

    def test_project(event_bus):
        event_bus.fail("mail").mend()
        event_bus.put("n", "x" * 50, profile="mail")

    @pytest.mark.event_bus(max_body=10, profiles={"internal": {"default": {}, "other": {}}})
    def test_marker(event_bus):
        with pytest.raises(Exception, match="more than the 10 that the option max_body allows"):
            event_bus.put("n", "x" * 50)
        event_bus.fail("other")
        event_bus.put("n", 1, profile="other")

    @pytest.mark.event_bus({})
    def test_wrong(event_bus):
        pass

    @pytest.mark.event_bus(max_bdy=10)
    def test_typing_error(event_bus):
        pass
    """,
        "--strict-markers",
    )
    result.assert_outcomes(passed=1, failed=1, errors=2)
    said(result, "the destination 'mail' was to fail with *, but nothing came to it: what was sent:")
    said(result, "write @pytest.mark.event_bus(profiles=...), with names")
    said(result, "SettingsError: evbus.max_bdy: there is no such option; did you mean 'max_body'?")


def test_fixtures_of_the_project_use_the_bus(run: Run) -> None:
    result = run("""
    @pytest.fixture
    def shop(event_bus):
        event_bus.subscribe(OrderBilled, lambda event: None, name="audit", profile="mail")
        yield event_bus
        assert event_bus.sent(OrderPlaced)

    async def test_async(shop):
        await shop.send(OrderPlaced("A-1", 1))
        await shop.handled(OrderBilled, listener="audit", timeout=20)

    def test_plain(shop):
        shop.send(OrderPlaced("A-1", 1))
        shop.handled(OrderBilled, listener="audit", timeout=20)

    @pytest.fixture
    def filled(event_bus):
        event_bus.put_nowait("OrderPlaced", OrderPlaced("A-1", 1))

    async def test_before_the_start(filled, event_bus):
        assert event_bus.sent(OrderPlaced) == [OrderPlaced("A-1", 1)]
        await event_bus.handled(OrderPlaced, listener="billing")

    @pytest.fixture
    def early(event_bus):
        pytest.raises(Exception, event_bus.settle().send, None).match("starts and ends with the test")

    async def test_early(early):
        pass
    """)
    result.assert_outcomes(passed=4)


RUNNER = """
    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(pyfuncitem):
        function = pyfuncitem.obj
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
"""


def test_another_plugin_may_run_the_test_in_a_loop_of_its_own(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        OPTIONS
        + "\n    import asyncio\n"
        + RUNNER
        + """
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(function(**arguments))
        finally:
            loop.close()
        return True
    """
    )
    result = run("""
    async def test_well(event_bus):
        await event_bus.send(OrderPlaced("A-1", 1))
        await event_bus.expect(OrderBilled)

    async def test_badly(event_bus):
        await event_bus.send(OrderPlaced("A-1", -1))
    """)
    result.assert_outcomes(passed=1, failed=1)
    said(result, "the test left a dead letter that it neither looked at (dead) nor wanted (fail):")


def test_a_loop_that_is_not_of_asyncio_is_refused(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(OPTIONS + RUNNER + "        function(**arguments).send(None)\n")
    result = run("""
    async def test_it(event_bus):
        await event_bus.send(OrderPlaced("A-1", 1))
    """)
    result.assert_outcomes(failed=1)
    said(result, "the bus runs in asyncio, and this test in another event loop; run it in asyncio's")


def test_a_listener_that_cannot_be_loaded_is_told_with_its_place(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "plugins" / "listener" / "billing.py").write_text("import nothing_of_this_name\n")
    result = run("""
    async def test_it(event_bus):
        pass

    def test_plain(event_bus):
        pass
    """)
    # An editable installation that lists its tests makes pytest warn of modules that are imported already.
    assert result.parseoutcomes().keys() - {"warnings"} == {"failed", "errors"}
    said(result, "PluginError: listener.billing (*billing.py:1): *No module named 'nothing_of_this_name'")


def test_who_does_not_use_it_does_not_pay_for_it(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
    import sys

    def test_it():
        loaded = [name for name in sys.modules if name.split(".")[0] in ("evbus", "pop", "msgspec")]
        assert sorted(loaded) == ["evbus", "evbus._pytest"]
    """)
    result = pytester.runpytest_subprocess(*QUICK, "-p", "evbus._pytest", "-p", "no:evbus")
    result.assert_outcomes(passed=1)
