"""How a handler is called: what takes the message, what is injected, and what is refused at binding."""

import abc
import asyncio
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Optional, Protocol, TypeVar, Union
from unittest.mock import AsyncMock, MagicMock

import msgspec
import pop.hub
import pytest

from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.providers import Factory, Injector, Singleton, name_of
from evbus.engine.handling.signature import check_response, make, pending_error, read, sources
from evbus.errors import HandlerDoesNotExist, HandlerError, HandlerIsSync, HandlerSignatureError
from tests.evbus.rig import failure

if TYPE_CHECKING:
    from somewhere import Unknown

HERE = __name__
HUB = object()
REPO = object()
T = TypeVar("T")


class Message:
    pass


class Order(Message):
    pass


class Child(Order):
    pass


class Box(Generic[T]):
    pass


class IntBox(Box[int]):
    pass


class Repo:
    pass


class SqlRepo(Repo):
    pass


class Clock:
    pass


class Speaks(Protocol):
    def speak(self) -> None: ...


ORDER = Order()


def bound(plan: Any, injector: Injector) -> tuple[Any, Any]:
    values = sources(plan, injector.find, HUB)
    return make(plan, [asyncio.run(injector.fill(part)) for part in values])


def call(
    handler: Any, message: Any = Order, *, sent: Any = ORDER, provide: Any = None, **options: Any
) -> Any:
    """Bind a handler, call it with a message, and return its result."""
    injector = Injector()
    for kind, value in (provide or {}).items():
        injector.provide(kind, value)
    plan = read(handler, message=message, provided=injector.find, **options)
    return asyncio.run(_await(bound(plan, injector)[0], sent))


async def _await(function: Callable[[Any], Any], message: Any) -> Any:
    return await function(message)


def refusal(
    handler: Any, message: Any = Order, kind: type[HandlerError] = HandlerSignatureError, **options: Any
) -> str:
    """Return why a handler cannot be bound, without the names in front."""
    with pytest.raises(HandlerError) as caught:
        read(handler, message=message, **options)
    error = caught.value
    assert type(error) is kind
    assert (error.message, error.handler) == (message_name(message), options.get("name") or name_of(handler))
    assert str(error) == f"the handler {error.handler} of {error.message}: {error.reason}"
    return error.reason


# Which parameter takes the message


async def one(event):
    return event


async def nothing():
    return "nothing"


async def with_hub(hub, event):
    return hub, event


async def hub_alone(hub):
    return hub


async def hub_last(event, hub):
    return event, hub


async def hub_optional(event, hub=None):
    return event, hub


async def positional(event, /):
    return event


async def hub_positional(hub, event, /):
    return hub, event


async def keyword(*, event):
    return event


async def hub_and_keyword(hub, /, *, event):
    return hub, event


async def many(*args):
    return args


async def hub_and_many(hub, *args):
    return hub, args


async def anything(*args, **kwargs):
    return args, kwargs


async def keywords(**kwargs):
    return kwargs


async def annotated(repo, event: Order):
    return repo, event


async def annotated_base(repo, event: Message):
    return repo, event


async def annotated_union(repo, event: Union[str, Order]):  # noqa: UP007 - both ways of writing it
    return repo, event


async def annotated_optional(repo, event: Optional[Message] = None):  # noqa: UP045
    return repo, event


async def annotated_new_union(repo, event: "Repo | Order | None"):
    return repo, event


async def annotated_keyword(repo, *, event: Order):
    return repo, event


async def annotated_below(event: Child):
    return event


async def structural(event: Speaks):
    return event


async def unresolvable(event: "Unknown", repo: "Unknown" = 5):
    return event, repo


async def defaults(event, retries=3, *, clock="clock"):
    return event, retries, clock


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (one, ORDER),
        (nothing, "nothing"),
        (with_hub, (HUB, ORDER)),
        (hub_alone, HUB),
        (hub_last, (ORDER, HUB)),
        (hub_optional, (ORDER, HUB)),
        (positional, ORDER),
        (hub_positional, (HUB, ORDER)),
        (keyword, ORDER),
        (hub_and_keyword, (HUB, ORDER)),
        (many, (ORDER,)),
        (hub_and_many, (HUB, (ORDER,))),
        (anything, ((ORDER,), {})),
        (annotated_below, ORDER),
        (structural, ORDER),
        (unresolvable, (ORDER, 5)),
        (defaults, (ORDER, 3, "clock")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_message_goes_where_it_belongs(handler: Any, expected: Any) -> None:
    assert call(handler) == expected


@pytest.mark.parametrize(
    "handler",
    [
        annotated,
        annotated_base,
        annotated_union,
        annotated_optional,
        annotated_new_union,
        annotated_keyword,
    ],
    ids=lambda value: value.__name__,
)
def test_the_parameter_annotated_as_the_message_takes_it(handler: Any) -> None:
    assert call(handler, given={"repo": REPO}) == (REPO, ORDER)


def test_a_method_without_a_parameter_for_its_object_is_refused() -> None:
    class Keywords:
        async def handle(**message: Any) -> None: ...

    class Nothing:
        async def __call__() -> None: ...

    class Star:
        async def handle(*everything: Any) -> Any:
            return everything[1]

    for kind, method in ((Keywords, "handle"), (Nothing, "__call__")):
        assert refusal(kind) == (
            f"its {method} has no parameter for its object; write {method}(self, message)"
        )
    assert call(Star) is ORDER


def test_keywords_alone_take_no_message() -> None:
    assert refusal(keywords) == (
        "it takes keywords alone, and would be called without the message; write a parameter for it, or none "
        "at all"
    )
    assert call(keywords, given={"repo": REPO}) == {"repo": REPO}


async def two(first, second):
    return first, second


async def two_positional(first, second, /):
    return first, second


async def two_keywords(*, first, second):
    return first, second


@pytest.mark.parametrize("handler", [two, two_positional, two_keywords], ids=lambda value: value.__name__)
def test_argname_names_the_parameter(handler: Any) -> None:
    assert call(handler, argname="first", given={"second": REPO}) == (ORDER, REPO)
    assert call(handler, argname="second", given={"first": REPO}) == (REPO, ORDER)


def test_argname_goes_before_annotations_and_the_name_hub() -> None:
    assert call(annotated, argname="repo", given={"event": REPO}) == (ORDER, REPO)
    assert call(hub_alone, argname="hub") is ORDER


@pytest.mark.parametrize("handler", [two, two_positional, two_keywords], ids=lambda value: value.__name__)
def test_without_a_hint_the_first_that_is_not_given_takes_it(handler: Any) -> None:
    assert call(handler, given={"second": REPO}) == (ORDER, REPO)
    assert call(handler, given={"first": REPO}) == (REPO, ORDER)


def test_given_values_before_more_arguments_go_in_by_position() -> None:
    async def handler(repo, *events):
        return repo, events

    assert call(handler, given={"repo": REPO}) == (REPO, (ORDER,))


def test_a_parameter_that_no_message_can_be_is_left_to_injection() -> None:
    async def handler(repo: Repo, event):
        return repo, event

    async def alone(repo: Repo):
        return repo

    assert call(handler, provide={Repo: REPO}) == (REPO, ORDER)
    assert call(alone, provide={Repo: REPO}) is REPO


def test_a_default_that_no_message_can_be_stays() -> None:
    async def handler(limit: int = 10):
        return limit

    assert call(handler) == 10


def test_a_string_is_taken_by_str_or_by_the_first() -> None:
    async def handler(repo, event: str):
        return repo, event

    async def typed(event: dict):
        return event

    assert call(handler, "order.placed", sent="order.placed", given={"repo": REPO}) == (REPO, "order.placed")
    assert call(typed, "order.placed", sent={}) == {}


def test_a_parametrized_base_is_the_message() -> None:
    async def handler(repo, box: Box[int]):
        return repo, box

    box = IntBox()
    assert call(handler, IntBox, sent=box, given={"repo": REPO}) == (REPO, box)


def test_a_message_defined_in_a_function_is_known_to_annotations_in_strings() -> None:
    class Local:
        pass

    async def handler(repo: "Unknown", event: "Local | None"):
        return repo, event

    sent = Local()
    assert call(handler, Local, sent=sent, given={"repo": REPO}) == (REPO, sent)


# What may be a handler


class Called:
    async def __call__(self, event, repo=None):
        return event, repo


class Handles:
    async def handle(self, event):
        return event


class Collects:
    def __init__(self):
        self.events = []

    async def handle(self, event):
        return event

    async def add_event(self, event):
        self.events.append(event)

    async def dump_events(self):
        return self.events

    async def __call__(self):
        raise AssertionError


class Both:
    async def handle(self):
        raise AssertionError

    async def __call__(self, event):
        return event


class Half:
    def __call__(self):
        raise AssertionError

    async def handle(self, event):
        return event


class Methods:
    async def bound(self, event):
        return event

    @classmethod
    async def of_class(cls, event):
        return event

    @staticmethod
    async def static(event):
        return event


class StaticHandle:
    @staticmethod
    async def handle(event):
        return event


class ClassHandle:
    @classmethod
    async def handle(cls, event):
        return event


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


class Decorator:
    def __init__(self, function):
        functools.update_wrapper(self, function)

    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)


def blocking(event):
    return event


@functools.wraps(blocking)
async def made_async(*args):
    return blocking(*args)


@pytest.mark.parametrize(
    "handler",
    [
        Methods().bound,
        Methods.of_class,
        Methods.static,
        vars(Methods)["static"],
        Handles,
        Handles(),
        Collects,
        Collects(),
        Both,
        Both(),
        Half,
        Half(),
        StaticHandle,
        StaticHandle(),
        ClassHandle,
        ClassHandle(),
        functools.partial(one),
        decorated(one),
        decorated(decorated(one)),
        Decorator(one),
        made_async,
        functools.partial(decorated(one)),
    ],
)
def test_functions_methods_objects_classes_and_what_wraps_them_are_handlers(handler: Any) -> None:
    assert call(handler) is ORDER


def test_wrapped_handlers_are_given_what_they_take() -> None:
    for handler in (decorated(two), Decorator(two), functools.partial(two)):
        assert call(handler, given={"second": REPO}) == (ORDER, REPO)
    assert call(Called(), given={"repo": REPO}) == (ORDER, REPO)


async def wants_repo(event, repo: Repo):
    return event, repo


@pytest.mark.parametrize(
    ("handler", "options", "expected"),
    [
        (functools.partial(two, REPO), {}, (REPO, ORDER)),
        (functools.partial(two, first=REPO), {}, (REPO, ORDER)),
        (functools.partial(two, second=REPO), {}, (ORDER, REPO)),
        (functools.partial(two, first=1), {"given": {"first": REPO}}, (REPO, ORDER)),
        (functools.partial(wants_repo, repo=REPO), {"provide": {Repo: 1}}, (ORDER, REPO)),
    ],
    ids=["by position", "first", "second", "given again", "provided"],
)
def test_what_a_partial_holds_is_settled(handler: Any, options: Any, expected: Any) -> None:
    assert call(handler, **options) == expected


def test_a_mock_is_called_itself() -> None:
    mock = AsyncMock(return_value=5)
    assert call(mock) == 5
    mock.assert_awaited_once_with(ORDER)


def test_a_handler_whose_signature_cannot_be_read_is_given_the_message() -> None:
    class Opaque:
        __signature__ = "none"

        async def __call__(self, *args, **kwargs):
            return args, kwargs

    assert call(Opaque(), given={"repo": REPO}) == ((ORDER,), {"repo": REPO})


def test_functions_on_the_hub_have_their_hub() -> None:
    hub = pop.hub.Hub()
    seen = []

    async def handle(hub, event, repo):
        return hub, event, repo

    async def post(context):
        seen.append(context.ret)

    plain = pop.contract.ContractedAsync(hub, [], handle, "x", "handle")
    watched = pop.contract.ContractedAsync(hub, [], handle, "x", "handle")
    contract = pop.contract.ContractedAsync(hub, [], post, "x", "post", implicit_hub=False)
    watched.contract_functions["post"].append(contract)
    watched._has_contracts = True
    for handler in (plain, watched):
        assert call(handler, given={"repo": REPO}, hub_known=False) == (hub, ORDER, REPO)
        assert name_of(handler) == name_of(handle)
    assert seen == [(hub, ORDER, REPO)]
    static = pop.contract.ContractedAsync(hub, [], one, "x", "one", implicit_hub=False)
    assert call(static) is ORDER
    sync = pop.contract.Contracted(hub, [], blocking, "x", "blocking")
    assert refusal(sync, kind=HandlerIsSync).startswith("it is a plain function")


SYNC = (
    "is a plain function, and handlers are asynchronous; write `async def`, and run blocking code with "
    "`await asyncio.to_thread(...)`"
)


class SyncCall:
    def __call__(self, event):
        return event


class SyncHandle:
    def handle(self, event):
        return event


@pytest.mark.parametrize(
    ("handler", "what"),
    [
        (blocking, "it"),
        (lambda event: one([event]), "it"),
        (functools.partial(blocking), "it"),
        (decorated(blocking), "it"),
        (print, "it"),
        (SyncCall, "its __call__"),
        (SyncCall(), "its __call__"),
        (SyncHandle, "its handle"),
        (SyncHandle(), "its handle"),
        (MagicMock(), "its __call__"),
    ],
)
def test_a_plain_function_is_refused_with_the_hint(handler: Any, what: str) -> None:
    assert refusal(handler, kind=HandlerIsSync) == f"{what} {SYNC}"


async def yields(event):
    yield event


class Yields:
    async def handle(self, event):
        yield event


@pytest.mark.parametrize(
    ("handler", "what"), [(yields, "it"), (functools.partial(yields), "it"), (Yields, "its handle")]
)
def test_an_async_generator_has_a_sentence_of_its_own(handler: Any, what: str) -> None:
    assert refusal(handler) == (
        f"{what} is an async generator, and a handler ends with one result; write `return` in place of "
        "`yield`, and send events for the rest"
    )


def test_none_is_no_handler() -> None:
    assert (
        failure(HandlerDoesNotExist, read, None, message=Order)
        == "None was bound to Order; bind an `async def` function"
    )


@pytest.mark.parametrize("handler", [5, "handler", object(), Order, vars(Methods)["of_class"]])
def test_what_cannot_be_called_is_told_both_ways(handler: Any) -> None:
    assert refusal(handler) == (
        "it is no `async def` function and has neither `async def __call__` nor `async def handle`; "
        "write one of them"
    )


def test_a_handler_that_was_called_already_is_refused() -> None:
    coroutine = one(ORDER)
    assert refusal(coroutine) == "it was called already; bind the function itself, without parentheses"
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_method_without_its_object_is_refused() -> None:
    assert refusal(Methods.bound) == (
        "it is a method without its object; bind the method of an object, or the class"
    )


@pytest.mark.parametrize("message", [None, 5, "", Order(), Box[int], Order | Child])
def test_a_message_is_a_class_or_a_string(message: Any) -> None:
    assert failure(HandlerSignatureError, read, one, message=message) == (
        f"a message is a class or a string that is not empty, not {message!r}; bind one of those"
    )


# Classes


class Built:
    def __init__(self, repo, hub=None, *, retries=3, clock: Clock | None = None):
        self.made = repo, hub, retries, clock

    async def __call__(self, event, repo: SqlRepo | None = None):
        return self.made, event, repo


@dataclass
class DataBuilt:
    repo: "Repo"
    unknown: "Unknown" = 5

    async def handle(self, event):
        return self.repo, self.unknown, event


class StructBuilt(msgspec.Struct):
    repo: "Repo"

    async def handle(self, event):
        return self.repo, event


class NewBuilt:
    def __new__(cls, repo):
        built = super().__new__(cls)
        built.repo = repo
        return built

    async def handle(self, event):
        return self.repo, event


class AnyBuilt:
    def __init__(self, **kwargs):
        self.kwargs = kwargs

    async def handle(self, event):
        return self.kwargs, event


class PositionalBuilt:
    def __init__(self, repo, /):
        raise AssertionError

    async def handle(self):
        raise AssertionError


GIVEN = {"repo": REPO, "retries": 5}


@pytest.mark.parametrize(
    ("handler", "given", "options", "expected"),
    [
        (Built, GIVEN, {}, ((REPO, HUB, 5, None), ORDER, None)),
        (Built, GIVEN, {"provide": {Clock: 1, SqlRepo: 2}}, ((REPO, HUB, 5, 1), ORDER, 2)),
        (Built, GIVEN, {"hub_known": False}, ((REPO, None, 5, None), ORDER, None)),
        (Built, {**GIVEN, "hub": 7}, {}, ((REPO, 7, 5, None), ORDER, None)),
        (AnyBuilt, GIVEN, {}, (GIVEN, ORDER)),
        (NewBuilt, {"repo": REPO}, {}, (REPO, ORDER)),
    ],
    ids=["given", "provided", "no hub", "another hub", "any keyword", "__new__"],
)
def test_a_class_is_built_with_what_is_given_and_its_method_gets_the_message(
    handler: Any, given: Any, options: Any, expected: Any
) -> None:
    assert call(handler, given=given, **options) == expected


@pytest.mark.parametrize(
    ("handler", "expected"), [(DataBuilt, (REPO, 5, ORDER)), (StructBuilt, (REPO, ORDER))]
)
def test_constructor_arguments_are_injected_by_annotation(handler: Any, expected: Any) -> None:
    assert call(handler, provide={Repo: REPO}) == expected


def test_a_class_is_built_each_time_it_is_made() -> None:
    plan = read(Collects, message=Order)
    values = sources(plan, Injector().find)
    (_, first), (_, second) = make(plan, values), make(plan, values)
    assert isinstance(first, Collects)
    assert first is not second
    assert plan.collects
    assert not read(Half, message=Order).collects


def test_the_owner_is_the_object_whose_method_handles() -> None:
    for handler in (Handles(), Called(), Collects()):
        assert bound(read(handler, message=Order), Injector())[1] is handler
    assert bound(read(one, message=Order), Injector())[1] is None
    assert bound(read(Methods().bound, message=Order), Injector())[1] is None


@pytest.mark.parametrize(
    ("handler", "given", "reason"),
    [
        (Built, {}, "its constructor needs 'repo'; give that when binding (repo=...)"),
        (
            Built,
            {"repo": 1, "retris": 2},
            "its constructor has no parameter 'retris'; did you mean 'retries'?",
        ),
        (Handles, {"repo": 1}, "its constructor has no parameter 'repo'; bind it without"),
        (
            Built,
            {"repo": 1, "event": 2},
            "its constructor has no parameter 'event'; known: clock, repo, retries",
        ),
        (
            PositionalBuilt,
            {"repo": 1},
            (
                "its constructor's parameter 'repo' is positional-only, and classes are built with keywords; "
                "remove the `/` from the signature"
            ),
        ),
    ],
)
def test_what_a_constructor_cannot_take_or_lacks_is_named(handler: Any, given: Any, reason: str) -> None:
    assert refusal(handler, given=given) == reason


def test_the_method_of_a_class_gets_nothing_by_keyword() -> None:
    class Handler:
        def __init__(self, repo):
            raise AssertionError

        async def handle(self, event, repo):
            raise AssertionError

    assert refusal(Handler, given={"repo": 1}).startswith("ambiguous argument: 'event' or 'repo' could take")


def test_a_class_that_cannot_be_built_is_refused() -> None:
    class Abstract(abc.ABC):
        @abc.abstractmethod
        async def handle(self, event): ...

        @abc.abstractmethod
        async def other(self): ...

    class Spoken(Protocol):
        async def handle(self, event): ...

    assert refusal(Abstract) == (
        "it leaves out 'handle' and 'other' and cannot be built; bind a class that has every method"
    )
    assert refusal(Spoken) == "it is a protocol and cannot be built; bind a class that has every method"


# What is injected


def test_providers_make_what_is_given() -> None:
    async def handler(event, repo, clock):
        return repo, clock

    async def make_clock():
        return Clock()

    repo, clock = call(handler, given={"repo": Singleton["repo":Repo], "clock": Factory["clock":make_clock]})
    assert (type(repo), type(clock)) == (Repo, Clock)


def test_parameters_are_injected_by_annotation() -> None:
    async def handler(event: Order, repo: Repo, *, clock: "Clock | None" = None, retries: int = 3):
        return event, repo, clock, retries

    assert call(handler, provide={SqlRepo: REPO}) == (ORDER, REPO, None, 3)
    assert call(handler, provide={SqlRepo: REPO, Clock: 1}) == (ORDER, REPO, 1, 3)
    assert call(handler, provide={Repo: 1, Clock: 1}, given={"repo": REPO}) == (ORDER, REPO, 1, 3)
    assert call(handler, provide={Repo: Singleton["r" : lambda: REPO], int: 5}) == (ORDER, REPO, None, 5)


def test_positional_only_parameters_behind_the_message_are_injected_too() -> None:
    async def handler(event, repo: Repo | None = None, clock: Clock | None = None, /, *more):
        return event, repo, clock, more

    assert call(handler, provide={Clock: 1}) == (ORDER, None, 1, ())
    assert call(handler, provide={Repo: 1}) == (ORDER, 1, None, ())
    assert call(handler) == (ORDER, None, None, ())


def test_more_keywords_go_to_a_handler_that_takes_any() -> None:
    async def handler(event, **kwargs):
        return event, kwargs

    assert call(handler, given={"repo": REPO}) == (ORDER, {"repo": REPO})
    assert call(keyword_and_more, given={"repo": REPO}) == (ORDER, {"repo": REPO})


async def keyword_and_more(*, event, **kwargs):
    return event, kwargs


async def waits_for(event: Order, repo: Repo, clock: Clock | None = None):
    return event, repo, clock


def test_a_type_may_be_provided_after_the_binding() -> None:
    injector = Injector()
    plan = read(waits_for, message=Order, provided=injector.find)
    assert [(want.parameter, want.annotation) for want in plan.pending] == [("repo", Repo)]
    injector.provide(Repo, REPO)
    injector.provide(Clock, 1)
    assert asyncio.run(_await(bound(plan, injector)[0], ORDER)) == (ORDER, REPO, 1)
    assert read(waits_for, message=Order, provided=injector.find).pending == ()


def test_a_type_that_was_never_provided_is_named_at_the_start() -> None:
    plan = read(waits_for, message=Order)
    with pytest.raises(HandlerSignatureError) as caught:
        sources(plan, Injector().find)
    (want,) = plan.pending
    assert str(caught.value) == str(pending_error(plan, want))
    assert str(caught.value) == (
        f"the handler {HERE}.waits_for of Order: nothing is provided for 'repo', a Repo; provide that type "
        "before the start, or give it when binding (repo=...), or name the message's parameter with "
        "argname=..."
    )


def test_a_constructors_type_may_be_pending_too() -> None:
    assert [want.parameter for want in read(DataBuilt, message=Order).pending] == ["repo"]


def test_several_provided_types_that_would_do_name_the_handler() -> None:
    injector = Injector()
    injector.provide(SqlRepo, 1)
    injector.provide(type("OtherRepo", (Repo,), {}), 2)
    assert refusal(waits_for, provided=injector.find).startswith("several types are provided for Repo: ")


# What is refused


def typed_twice() -> Any:
    async def handler(old: Order, new: Order):
        raise AssertionError

    return handler


def wants_int() -> Any:
    async def handler(event: Order, limit: int):
        raise AssertionError

    return handler


def wrong_type() -> Any:
    async def handler(event: dict):
        raise AssertionError

    return handler


@pytest.mark.parametrize(
    ("handler", "options", "reason"),
    [
        (
            two,
            {},
            (
                "ambiguous argument: 'first' or 'second' could take the message; name the one that does with "
                "argname='first', and give the rest when binding (second=...)"
            ),
        ),
        (
            typed_twice(),
            {},
            (
                "ambiguous argument: 'old' and 'new' are all annotated as the message; name the one with "
                "argname='old', and give the rest when binding (new=...)"
            ),
        ),
        (
            two,
            {"argname": "second"},
            (
                "ambiguous argument: nothing is given for 'first'; give that when binding (first=...), or "
                "name the message's parameter with argname='first'"
            ),
        ),
        (
            wants_int(),
            {},
            (
                "ambiguous argument: nothing is given for 'limit'; give that when binding (limit=...), or "
                "name the message's parameter with argname='limit'"
            ),
        ),
        (
            wrong_type(),
            {},
            (
                "ambiguous argument: 'event' is annotated dict, which no Order is; if it takes the message, "
                "say argname='event', else give it when binding (event=...)"
            ),
        ),
        (
            two,
            {"argname": "secnd"},
            "it has no parameter 'secnd' to take the message; did you mean 'second'?",
        ),
        (
            nothing,
            {"argname": "event"},
            "it has no parameter 'event' to take the message; bind it without argname",
        ),
        (
            many,
            {"argname": "args"},
            "it has no parameter 'args' to take the message; bind it without argname",
        ),
        (one, {"given": {"evnt": 1}}, "it has no parameter 'evnt'; bind it without"),
        (two, {"given": {"secnd": 1}}, "it has no parameter 'secnd'; did you mean 'second'?"),
        (nothing, {"given": {"repo": 1}}, "it has no parameter 'repo'; bind it without"),
        (
            two,
            {"argname": "first", "given": {"first": 1}},
            (
                "'first' takes the message and cannot be given when binding; leave it out, or name another "
                "parameter with argname=..."
            ),
        ),
        (
            annotated,
            {"given": {"event": 1}},
            (
                "'event' takes the message and cannot be given when binding; leave it out, or name another "
                "parameter with argname=..."
            ),
        ),
        (
            with_hub,
            {"hub_known": False},
            "it takes a hub, and there is none here; give one when binding (hub=...)",
        ),
        (
            two,
            {"given": {"second": Singleton}},
            'Singleton alone makes nothing; write second=Singleton["name": function]',
        ),
        (
            Built,
            {"given": {"repo": Factory}},
            'Factory alone makes nothing; write repo=Factory["name": function]',
        ),
        (
            one,
            {"name": "shop.handler.place", "argname": "x"},
            "it has no parameter 'x' to take the message; known: event",
        ),
    ],
)
def test_what_is_not_clear_or_cannot_be_called_is_refused(handler: Any, options: Any, reason: str) -> None:
    assert refusal(handler, **options) == reason


def test_a_given_value_settles_which_of_two_messages_is_meant() -> None:
    async def handler(old: Order, new: Order):
        return old, new

    assert call(handler, given={"old": REPO}) == (REPO, ORDER)


# The call


@pytest.mark.parametrize("handler", [one, positional, many, Methods().bound])
def test_a_handler_that_takes_only_the_message_is_called_itself(handler: Any) -> None:
    assert bound(read(handler, message=Order), Injector())[0] is handler


def test_what_stands_before_the_message_is_called_by_c() -> None:
    assert type(bound(read(with_hub, message=Order), Injector())[0]) is functools.partial


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (one, ("position", "event", (), ())),
        (nothing, ("nothing", "", (), ())),
        (keyword, ("keyword", "event", (), ())),
        (many, ("position", "", (), ())),
        (with_hub, ("position", "event", ("hub",), ())),
        (defaults, ("position", "event", (), ("retries",))),
    ],
)
def test_a_plan_says_how_the_message_goes_in(handler: Any, expected: Any) -> None:
    plan = read(handler, message=Order)
    names = [tuple(name for name, _ in part) for part in (plan.before, plan.after)]
    assert (plan.way, plan.argument, *names) == expected


def test_what_is_shown_of_a_plan_holds_no_given_value() -> None:
    plan = read(two, message=Order, given={"second": "s3cret"})
    assert repr(plan) == f"<Plan Order -> {HERE}.two first by position>"
    assert repr(plan.call) == "<Inputs ['second']>"
    assert repr(sources(plan, Injector().find)) == "<Values init=[] call=['second']>"
    assert repr(read(hub_last, message="order").call) == "<Inputs ['hub']>"
    assert "s3cret" not in f"{plan!r} {plan.call!r}"


def test_names_of_messages() -> None:
    assert message_name(Order) == "Order"
    assert message_name("order.placed") == "order.placed"


# The result


def returning(annotation: Any) -> Any:
    async def handler(event):
        raise AssertionError

    handler.__annotations__["return"] = annotation
    return handler


NEVER = [
    (None, "NoneType"),
    (int, "int"),
    (Repo, "Repo"),
    (Repo | None, f"{HERE}.Repo | None"),
    ("Repo", "Repo"),
]
MAYBE = [
    Order,
    Child,
    Message,
    Order | None,
    Repo | Child,
    "Order",
    "Unknown",
    Any,
    object,
    list[Order],
    T,
    NoReturn,
    Speaks,
]


@pytest.mark.parametrize(("annotation", "written"), NEVER)
def test_a_result_that_is_never_the_response_event_is_refused(annotation: Any, written: str) -> None:
    handler = returning(annotation)
    assert failure(HandlerSignatureError, check_response, read(handler, message=Message), Order) == (
        f"the handler {name_of(handler)} of Message: it returns {written}, which is never the response_event "
        "Order; return that, or bind it without response_event"
    )


@pytest.mark.parametrize("annotation", MAYBE)
def test_a_result_that_may_be_the_response_event_is_taken(annotation: Any) -> None:
    check_response(read(returning(annotation), message=Message), Order)
    check_response(read(one, message=Message), Order)


def test_of_several_response_events_one_is_enough() -> None:
    check_response(read(returning(Order), message=Message), (Repo, Order))
    with pytest.raises(HandlerSignatureError, match="never the response_event Repo or Clock; return that"):
        check_response(read(returning(Order), message=Message), (Repo, Clock))


@pytest.mark.parametrize("response_event", ["Order", 5, (), (Order, "x"), [Order], Order | Child])
def test_a_response_event_is_a_class_or_several(response_event: Any) -> None:
    assert failure(HandlerSignatureError, check_response, read(one, message=Message), response_event) == (
        f"the handler {HERE}.one of Message: response_event must be a class or a tuple of classes, not "
        f"{response_event!r}"
    )
