import math

import pytest

from worker.providers.base import Finish, Messages
from worker.providers.echo import Echo
from worker.providers.errors import BadRequest

from .protocols import collect

HELLO: Messages = [
    {"role": "user", "content": "Before."},
    {"role": "user", "content": "Grüß 🙂 שלום"},
    {"role": "assistant", "content": "After."},
]


async def test_says_the_last_user_message_back_in_pieces() -> None:
    assert await collect(Echo.create_async_generator("echo", HELLO)) == [
        "Grüß",
        " 🙂 ש",
        "לום",
        Finish("stop"),
    ]


async def test_joins_the_text_parts_of_a_message() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {}},
        {"type": "text", "text": "b"},
    ]
    answer = Echo.create_async_generator("echo", [{"role": "user", "content": parts}])
    assert await collect(answer) == ["ab", Finish("stop")]


@pytest.mark.parametrize("content", ["", None, []])
async def test_an_empty_message_gives_an_empty_answer(content: object) -> None:
    answer = Echo.create_async_generator("echo", [{"role": "user", "content": content}])
    assert await collect(answer) == [Finish("stop")]


async def test_the_size_of_a_piece_can_be_chosen() -> None:
    answer = Echo.create_async_generator(
        "echo", [{"role": "user", "content": "abc"}], chunk_size=1, delay=0.001
    )
    assert await collect(answer) == ["a", "b", "c", Finish("stop")]


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "x"}]])
async def test_without_a_user_message_there_is_nothing_to_say(messages: Messages) -> None:
    with pytest.raises(BadRequest, match="no message with the role user"):
        await collect(Echo.create_async_generator("echo", messages))


@pytest.mark.parametrize("size", [0, -1, 1.5, "4", True, None, 1_048_577])
async def test_a_chunk_size_out_of_range_is_refused_by_name(size: int) -> None:
    with pytest.raises(BadRequest, match="chunk_size must be a whole number from 1 to 1048576"):
        await collect(Echo.create_async_generator("echo", HELLO, chunk_size=size))


@pytest.mark.parametrize("delay", [-0.1, 61, math.nan, math.inf, "1", False, None])
async def test_a_delay_out_of_range_is_refused_by_name(delay: float) -> None:
    with pytest.raises(BadRequest, match="delay must be a number of seconds from 0 to 60"):
        await collect(Echo.create_async_generator("echo", HELLO, delay=delay))


async def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(BadRequest, match=r"^Echo does not understand: a, b$"):
        await collect(Echo.create_async_generator("echo", HELLO, b=1, a=2))
