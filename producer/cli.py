"""`chat-producer`: send, watch, status, cancel, queues. Exit status: 0 done, 1 failed, 2 usage, 3 no Redis, 130."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

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
from producer.printing import print_answer

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    help="Enqueue chat jobs and read their answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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


@app.command()
def send(
    text: Annotated[str, typer.Argument(help="What to ask; - reads standard input.")],
    provider: Annotated[str | None, typer.Option(envvar="CHAT_PROVIDER", help="Provider's name.")] = None,
    model: Annotated[str | None, typer.Option(envvar="CHAT_MODEL", help="Model's name.")] = None,
    system: Annotated[str | None, typer.Option(help="System message to put first.")] = None,
    queue: Annotated[str, typer.Option(envvar="CHAT_QUEUE", help="Queue to put the job on.")] = "default",
    job_id: Annotated[
        str | None, typer.Option("--id", help="Your own id: sent twice, it is one job.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="K=V", help="Option for the provider; repeatable.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Wait for the answer; otherwise print the job's id.")] = True,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Send a job and print its answer as it comes."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": _standard_input() if text == "-" else text})
    options = _options(option or [])

    async def work(producer: Producer) -> None:
        job = await producer.enqueue(
            messages, provider=provider, model=model, queue=queue, id=job_id, options=options
        )
        if follow:
            typer.echo(f"job {job.id}", err=True)
            await print_answer(producer, job.id, None, as_json=as_json)
        else:
            typer.echo(json.dumps({"id": job.id}) if as_json else job.id)

    _run(work, redis_url, prefix)


@app.command()
def watch(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after this event's id.")] = None,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Print a job's answer, from its beginning, while it runs or after its end."""
    _run(lambda producer: print_answer(producer, job, after, as_json=as_json), redis_url, prefix)


@app.command()
def status(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Print what is known of a job."""

    async def work(producer: Producer) -> None:
        fields = asdict(await producer.status(job))
        if as_json:
            typer.echo(json.dumps(fields, default=_plain))
            return
        for name, value in fields.items():
            typer.echo(f"{name:12} {'-' if value is None else _plain(value)}")

    _run(work, redis_url, prefix)


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Cancel a job: a waiting one never starts, a running one closes its upstream."""

    async def work(producer: Producer) -> None:
        outcome = await producer.cancel(job)
        typer.echo(json.dumps({"id": job, "outcome": outcome.value}) if as_json else outcome.value)

    _run(work, redis_url, prefix)


@app.command()
def queues(as_json: JsonOption = False, redis_url: RedisOption = None, prefix: PrefixOption = "chat") -> None:
    """List the queues: what waits, what runs, the oldest job's age, the workers."""

    async def work(producer: Producer) -> None:
        found = await producer.queues()
        if as_json:
            for queue in found:
                typer.echo(json.dumps(asdict(queue)))
            return
        table = Table("QUEUE", "LENGTH", "IN FLIGHT", "OLDEST", "WORKERS", box=None)
        for queue in found:
            age = "-" if queue.oldest_age is None else f"{queue.oldest_age:.1f} s"
            table.add_row(queue.name, str(queue.length), str(queue.in_flight), age, str(queue.workers))
        Console().print(table)

    _run(work, redis_url, prefix)


# -- edges -----------------------------------------------------------------------------------------------------


def _run(work: Callable[[Producer], Awaitable[None]], redis_url: str | None, prefix: str) -> None:
    async def main() -> None:
        try:
            url = redis_url or find()
        except NoEmbeddedServer as error:
            raise Unavailable(str(error)) from error
        if url is None:
            raise Unavailable(
                "no Redis given: set --redis or CHAT_REDIS_URL, or start `chat-worker run` on this machine"
            )
        async with Producer(url, prefix=prefix) as producer:
            await work(producer)

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
    typer.echo(f"chat-producer: {error}", err=True)
    return typer.Exit(code)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        typer.echo(
            f"chat-producer: standard input is not UTF-8: {error.reason} at byte {error.start}", err=True
        )
        raise typer.Exit(USAGE) from None


def _options(pairs: list[str]) -> dict[str, Any]:
    """Read ``k=v``: the value is JSON where it is, text otherwise."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not of the form K=V", param_hint="--option")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
