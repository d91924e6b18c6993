"""Which provider a job goes to, what it is asked with, and what a job may not set."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import aiohttp
import pytest

from producer import Chunk, Done, JobFailed, Producer
from producer.wire.job import Job
from tests.conftest import StartWorker
from tests.support.foreign import Bare, Gated, Leaky, Reciter, Resting, Unclosable
from worker.providers.base import AsyncGeneratorProvider, Messages, Part
from worker.providers.continuation import Continuation
from worker.providers.errors import BadRequest
from worker.providers.kinds import KINDS, load_class
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.provider import GUARDED, Provider, Timeouts
from worker.providers.registry import NoProvider, Registry

SECRET = "hunter2-is-no-good-key"


def job(**fields: Any) -> Job:
    body = {
        "id": "j1",
        "queue": "default",
        "created_at": 1,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }
    return Job.model_validate(body)


def provider(name: str, *models: str, cls: type[Any] = Reciter, **more: Any) -> Provider:
    given = {"url": f"https://{name}.example", "working": True, **more}
    return Provider(name, "echo", cls, models=models, **given)


REGISTRY = Registry(
    [
        provider("tired", "llama-3", "small", working=False),
        provider("keyless", "llama-3", cls=OpenAICompatible, key_variable="LLAMA_KEY"),
        provider("first", "llama-*", "small-?"),
        provider("second", "llama-3", "gpt-[34]*"),
    ]
)


# -- matching --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"provider": "second"}, "second"),
        ({"provider": "second", "model": "whatever"}, "second"),
        ({"provider": ["second", "first"]}, "second"),
        ({"provider": ["tired", "second"]}, "second"),
        ({"provider": ["nobody", "keyless", "tired", "first"]}, "first"),
        ({"model": "llama-3"}, "first"),
        ({"model": "llama-70b"}, "first"),
        ({"model": "small-1"}, "first"),
        ({"model": "gpt-4o"}, "second"),
    ],
)
def test_a_job_goes_to_the_first_usable_provider(fields: dict[str, Any], name: str) -> None:
    assert REGISTRY.candidates(job(**fields))[0].name == name


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        (
            {"provider": "nobody"},
            "unknown_provider",
            ["'nobody'", "tired, keyless, first, second"],
        ),
        (
            {"provider": "tired"},
            "provider_not_working",
            ["'tired'", "https://tired.example", "working: first, second"],
        ),
        ({"provider": "keyless"}, "missing_key", ["'keyless'", "LLAMA_KEY", "working: first, second"]),
        (
            {"provider": ["tired", "nobody", "keyless"]},
            "provider_not_working",
            ["'tired'", "'nobody'", "'keyless'"],
        ),
        (
            {"model": "unheard-of"},
            "no_provider_for_model",
            ["'unheard-of'", "first (llama-*, small-?)", "second (llama-3, gpt-[34]*)"],
        ),
        ({"model": "LLAMA-3"}, "no_provider_for_model", ["'LLAMA-3'"]),
        ({"model": "small"}, "no_provider_for_model", ["'small'", "'tired'", "working: first, second"]),
        ({}, "no_provider", ["neither a provider nor a model", "tired, keyless, first, second"]),
    ],
)
def test_without_a_usable_provider_the_candidates_are_named(
    fields: dict[str, Any], code: str, named: list[str]
) -> None:
    with pytest.raises(NoProvider) as caught:
        REGISTRY.candidates(job(**fields))
    assert caught.value.code == code
    assert [text for text in named if text not in caught.value.message] == []
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"provider": "second"}, ["second"]),
        ({"provider": ["second", "first"]}, ["second", "first"]),
        ({"provider": ["first", "second", "first"]}, ["first", "second"]),
        ({"provider": ["nobody", "second", "keyless", "tired", "first", "second"]}, ["second", "first"]),
        ({"provider": ["first"], "model": "gpt-4o"}, ["first"]),
        ({"model": "llama-3"}, ["first"]),  # second serves it too, but nobody has said that it may
    ],
)
def test_a_list_is_tried_along_in_the_jobs_order_each_once(fields: dict[str, Any], names: list[str]) -> None:
    assert [candidate.name for candidate in REGISTRY.candidates(job(**fields))] == names


def test_a_long_list_is_forgotten_with_its_job() -> None:
    """What a job names is its own affair, and may be a megabyte."""
    registry = Registry(REGISTRY)
    tracemalloc.start()
    try:
        for number in range(5):
            names = [f"{number}-{nobody:0100}" for nobody in range(1000)]
            assert [found.name for found in registry.candidates(job(provider=[*names, "first"]))] == ["first"]
        del names
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


def test_a_name_that_stands_twice_is_complained_about_once() -> None:
    with pytest.raises(NoProvider) as caught:
        REGISTRY.candidates(job(provider=["nobody", "nobody"]))
    assert caught.value.message.count("'nobody'") == 1


def test_a_worker_without_providers_says_that_there_are_none() -> None:
    for fields in ({"provider": "x"}, {}, {"model": "m"}):
        with pytest.raises(NoProvider):
            Registry([]).candidates(job(**fields))


def test_a_key_makes_a_provider_usable() -> None:
    registry = Registry([provider("x", cls=OpenAICompatible, key_variable="K", api_key=SECRET)])
    assert registry.candidates(job(provider="x"))[0].name == "x"


def test_a_provider_that_needs_no_key_is_usable_without_one() -> None:
    registry = Registry([provider("x", cls=Reciter, key_variable="K")])
    assert registry.candidates(job(provider="x"))[0].name == "x"


# -- what is asked ---------------------------------------------------------------------------------------------


class Recording(AsyncGeneratorProvider):
    """One of ours, that keeps what it was called with."""

    working = True
    calls: ClassVar[list[dict[str, Any]]] = []

    @classmethod
    def create_async_generator(
        cls, model: str, messages: Messages, proxy: str | None = None, **options: Any
    ) -> AsyncIterator[Part]:
        cls.calls.append({"model": model, "messages": messages, "proxy": proxy, **options})
        return _nothing()


class ForeignRecording:
    """Somebody else's, that keeps what it was called with."""

    calls: ClassVar[list[dict[str, Any]]] = []

    @classmethod
    def create_async_generator(cls, model: str, messages: Messages, **options: Any) -> AsyncIterator[str]:
        cls.calls.append({"model": model, "messages": messages, **options})
        return _nothing()


async def _nothing() -> AsyncIterator[str]:
    for text in ():
        yield text


async def ask(asked: Provider, *, standing: str = "", **fields: Any) -> dict[str, Any]:
    """Return what the class was called with."""
    asked.cls.calls.clear()
    async with aiohttp.ClientSession() as http:
        asked.ask(job(**fields), http, standing=standing)
        (call,) = asked.cls.calls
        if "http" in call:
            assert call.pop("http") is http
    return call


async def test_a_class_of_ours_is_told_where_and_with_what_to_ask() -> None:
    asked = provider(
        "x",
        "m1",
        cls=Recording,
        api_key=SECRET,
        proxy="http://proxy:3128",
        options={"top_p": 0.9, "seed": 1},
        timeouts=Timeouts(connect=3.0),
    )
    call = await ask(asked, temperature=0.25, options={"seed": 2})
    assert call == {
        "model": "m1",
        "messages": [{"role": "user", "content": "hi"}],
        "proxy": "http://proxy:3128",
        "base_url": "https://x.example",
        "api_key": SECRET,
        "temperature": 0.25,
        "timeout": 3.0,  # the limit on connecting: the others are kept around the answer
        "top_p": 0.9,
        "seed": 2,
    }


@pytest.mark.parametrize(
    ("job", "sent"), [({}, 0.6), ({"temperature": 0}, 0), ({"options": {"temperature": 0.1}}, 0.1)]
)
async def test_what_a_job_says_of_the_temperature_goes_before_what_its_provider_does(
    job: dict[str, Any], sent: float
) -> None:
    call = await ask(provider("x", "m1", cls=Recording, options={"temperature": 0.6}), **job)
    assert call["temperature"] == sent


async def test_a_foreign_class_gets_what_was_set_up_for_it_and_nothing_that_only_ours_understand() -> None:
    call = await ask(provider("x", "m1", cls=ForeignRecording, api_key=SECRET), model="m2")
    assert call == {
        "model": "m2",
        "messages": [{"role": "user", "content": "hi"}],
        "proxy": None,
        "base_url": "https://x.example",
        "api_key": SECRET,
        "timeout": 900.0,  # all that it knows of time
    }


@pytest.mark.parametrize("cls", [Recording, ForeignRecording])
@pytest.mark.parametrize(("how", "roles"), [("ask", ["assistant", "user"]), ("prefill", ["assistant"])])
async def test_for_the_rest_of_an_answer_the_text_that_stands_goes_along(
    cls: type[Any], how: Continuation, roles: list[str]
) -> None:
    asked = provider("x", "m1", cls=cls, continuation=how)
    first, begun, *more = (await ask(asked, standing="Once up"))["messages"]
    assert first == {"role": "user", "content": "hi"}
    assert begun == {"role": "assistant", "content": "Once up"}
    assert [begun["role"], *(message["role"] for message in more)] == roles


async def test_asking_for_the_rest_leaves_the_job_as_it_is() -> None:
    asked, theirs = provider("x", "m1", cls=Recording), job()
    async with aiohttp.ClientSession() as http:
        asked.ask(theirs, http, standing="Once up")
    assert theirs == job()


async def test_our_key_goes_nowhere_that_a_job_chooses() -> None:
    asked = provider("x", "m1", cls=Recording, api_key=SECRET, allowed=frozenset({"base_url"}))
    call = await ask(asked, options={"base_url": "https://elsewhere.example"})
    assert call["base_url"] == "https://elsewhere.example"
    assert SECRET not in str(call)


async def test_the_jobs_own_timeouts_come_before_the_providers() -> None:
    asked = provider("x", cls=Recording, timeouts=Timeouts(1.0, 2.0, 3.0, 4.0))
    timeouts = {"connect": 9.0, "total": 8.0}
    assert asked.timeouts_for(job(timeouts=timeouts)) == Timeouts(9.0, 2.0, 3.0, 8.0)
    assert (await ask(asked, timeouts=timeouts))["timeout"] == 9.0


@pytest.mark.parametrize(
    ("models", "model", "expected"),
    [(("m1", "m2"), None, "m1"), (("m-*", "m2"), None, ""), ((), None, ""), (("m1",), "other", "other")],
)
def test_the_first_model_that_is_a_name_is_the_default(
    models: tuple[str, ...], model: str | None, expected: str
) -> None:
    assert provider("x", *models).model_for(job(model=model)) == expected


async def test_a_service_of_many_models_must_be_told_which() -> None:
    asked = provider("x", "gpt-*", cls=OpenAICompatible, api_key=SECRET)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(BadRequest, match="the job must name one"):
            asked.ask(job(), http)


# -- G12 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", sorted(GUARDED))
@pytest.mark.parametrize("cls", [Recording, ForeignRecording])
async def test_g12_a_job_may_not_set_where_a_request_goes(option: str, cls: type[Any]) -> None:
    with pytest.raises(BadRequest, match=f"'x' does not let a job set: {option}"):
        await ask(provider("x", cls=cls), options={option: "https://evil.example", "top_p": 1})
    assert cls.calls == []


async def test_g12_a_job_may_set_what_its_provider_allows_and_no_more() -> None:
    asked = provider("x", cls=Recording, allowed=frozenset({"proxy", "headers"}))
    call = await ask(asked, options={"proxy": "http://other:1", "headers": {"x": "y"}})
    assert call["proxy"] == "http://other:1"
    assert call["headers"] == {"x": "y"}
    with pytest.raises(BadRequest, match=r"does not let a job set: base_url$"):
        await ask(asked, options={"proxy": "http://other:1", "base_url": "https://evil.example"})


def test_g12_a_provider_shows_neither_its_key_nor_its_proxy_nor_a_password_in_its_url() -> None:
    shown = provider("x", api_key=SECRET, proxy=f"http://me:{SECRET}@proxy:1")
    assert SECRET not in repr(shown)
    assert SECRET not in str(shown)
    assert SECRET not in repr(list(Registry([shown])))
    assert SECRET not in repr(provider("x", url=f"https://me:{SECRET}@x.example"))
    assert SECRET not in repr(provider("x", options={"headers": {"authorization": SECRET}}))


def test_g12_the_message_about_a_resting_provider_holds_no_password_of_its_url() -> None:
    registry = Registry([provider("x", "m", url=f"https://me:{SECRET}@x.example/v1", working=False)])
    for fields in ({"provider": "x"}, {"model": "m"}):
        with pytest.raises(NoProvider) as caught:
            registry.candidates(job(**fields))
        assert SECRET not in caught.value.message
        assert "x.example/v1" in caught.value.message


# -- classes by module:Class -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Reciter, Unclosable, Resting, Bare, Gated, Leaky])
def test_a_class_of_the_shape_is_found_by_its_path(cls: type[Any]) -> None:
    assert load_class(f"tests.support.foreign:{cls.__name__}") is cls


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_module_here:Class", "no_such_module_here"),
        ("tests.support.foreign:Missing", "Missing"),
        ("tests.support.foreign:NoProvider", "create_async_generator"),
        ("tests.support.foreign:", "tests.support.foreign:"),
        (":Class", ":Class"),
        ("..support.foreign:Reciter", "..support.foreign"),
        ("tests.support.breaks_on_import:Class", "breaks when it is imported"),
    ],
)
def test_what_is_no_provider_class_is_refused_with_its_path(path: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        load_class(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_built_in_kind_has_the_shape() -> None:
    for kind, cls in KINDS.items():
        assert load_class(f"{cls.__module__}:{cls.__name__}") is cls, kind


@pytest.mark.parametrize(
    ("cls", "texts"),
    [(Reciter, ["m ", "hello ", "merry "]), (Unclosable, ["one ", "two ", "three"]), (Bare, ["bare"])],
)
async def test_a_foreign_class_answers_jobs(
    producer: Producer, start_worker: StartWorker, cls: type[Any], texts: list[str]
) -> None:
    found = load_class(f"tests.support.foreign:{cls.__name__}")
    await start_worker(Registry([provider("theirs", cls=found, options={"mood": "merry"})]))
    sent = await producer.enqueue("hello", provider="theirs", model="m")
    async with asyncio.timeout(10):
        events = [event async for event in producer.subscribe(sent.id)]
    assert [event.text for event in events if isinstance(event, Chunk)] == texts
    assert isinstance(events[-1], Done)
    assert events[-1].chars == len("".join(texts))


async def test_a_foreign_class_that_breaks_fails_its_job_and_its_words_stay_in_the_log(
    producer: Producer, start_worker: StartWorker
) -> None:
    await start_worker(Registry([provider("theirs", cls=Leaky)]))
    sent = await producer.enqueue("hello", provider="theirs", model="m")
    with pytest.raises(JobFailed) as caught:
        await producer.result(sent.id, timeout=10)
    assert caught.value.code == "provider_crashed"
    assert "RuntimeError" in caught.value.message
    assert "hunter2" not in caught.value.message
    assert caught.value.text == "half an "
