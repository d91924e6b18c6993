"""What the commands of `chat-producer` share: options, the way to Redis, and how they end."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer

from producer.client import Producer
from producer.connection.embedded import NoEmbeddedServer, find
from producer.errors import (
    AnswerRestarted,
    ChatRelayError,
    InvalidCursor,
    InvalidJob,
    InvalidSetting,
    Unavailable,
)
from producer.terminal import in_one_line, take_any_text

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis",
        envvar="CHAT_REDIS_URL",
        help="redis://, rediss:// or unix:// URL.",
        show_default="the embedded server of a running chat-worker",
    ),
]
PrefixOption = Annotated[str, typer.Option(envvar="CHAT_PREFIX", help="First part of every key.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON value a line.")]


def run(
    work: Callable[[Producer], Awaitable[None]],
    redis_url: str | None,
    prefix: str,
    max_queue_length: int | None = None,
) -> None:
    """Do the work with a client, and exit with the status that says how it ended."""

    async def main() -> None:
        try:
            url = redis_url or find()
        except NoEmbeddedServer as error:
            raise Unavailable(str(error)) from error
        if url is None:
            raise Unavailable(
                "no Redis given: set --redis or CHAT_REDIS_URL, or start `chat-worker run` on this machine"
            )
        async with Producer(url, prefix=prefix, max_queue_length=max_queue_length) as producer:
            await work(producer)

    take_any_text()
    with _exit_status():
        asyncio.run(main())


@contextmanager
def _exit_status() -> Iterator[None]:
    try:
        yield
    except (InvalidJob, InvalidCursor, InvalidSetting) as error:
        raise _exit(error, USAGE) from None
    except Unavailable as error:
        raise _exit(error, UNREACHABLE) from None
    except AnswerRestarted:
        text = "the answer began again after a part of it was written; `chat-producer watch` reads it whole"
        raise _exit(text, FAILED) from None
    except ChatRelayError as error:
        raise _exit(error, FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # whoever read our output has gone: nothing more can be said
        _drop_output()
        raise typer.Exit(FAILED) from None
    except OSError as error:  # of standard output: a full disk
        _drop_output()
        raise _exit(error, FAILED) from None


def _drop_output() -> None:
    """Let what is still buffered go nowhere: the interpreter would try once more to write it, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit(error: Exception | str, code: int) -> typer.Exit:
    typer.echo(f"chat-producer: {in_one_line(str(error))}", err=True)
    return typer.Exit(code)


def plain(value: Any) -> Any:
    """Return what JSON has no form for as text."""
    return value.isoformat() if isinstance(value, datetime) else value
