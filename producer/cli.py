"""`chat-producer`: send, watch, status, cancel, queues, dead.

Exit status: 0 done, 1 failed, 2 usage, 3 no Redis, 130 interrupted.
"""

import json
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from producer.cancellation import Cancellation
from producer.client import Producer
from producer.command import FAILED, USAGE, JsonOption, PrefixOption, RedisOption, plain, run
from producer.dead_cli import dead
from producer.errors import JobNotFound, ResultTimeout
from producer.intake import JobFields
from producer.printing import print_answer
from producer.terminal import columns, in_one_line

app = typer.Typer(
    help="Enqueue chat jobs and read their answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(dead, name="dead")


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
    delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="No worker takes it before this has passed.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="ISO8601", help="No worker takes it before this instant.")
    ] = None,
    max_queue_length: Annotated[
        int | None,
        typer.Option(
            envvar="CHAT_MAX_QUEUE_LENGTH", min=1, help="Refuse to send if the queue holds so many jobs."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Wait for the answer; otherwise print the job's id.")] = True,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Send a job and print its answer as it comes."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": _standard_input() if text == "-" else text})
    fields: JobFields = {
        "provider": provider,
        "model": model,
        "queue": queue,
        "id": job_id,
        "options": _options(option or []),
        "delay": delay,
        "at": _instant(at),
    }

    async def work(producer: Producer) -> None:
        job = await producer.enqueue(messages, **fields)
        if follow:
            typer.echo(f"job {job.id}", err=True)
            await print_answer(producer, job.id, None, as_json=as_json)
        else:
            typer.echo(json.dumps({"id": job.id}) if as_json else job.id)

    run(work, redis_url, prefix, max_queue_length)


@app.command()
def watch(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after this event's id.")] = None,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Print a job's answer, from its beginning, while it runs or after its end."""
    run(lambda producer: print_answer(producer, job, after, as_json=as_json), redis_url, prefix)


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
            typer.echo(json.dumps(fields, default=plain))
            return
        for name, value in fields.items():
            typer.echo(f"{name:12} {'-' if value is None else in_one_line(str(plain(value)))}")

    run(work, redis_url, prefix)


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until a running job has ended.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long --wait waits.")] = 10.0,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Cancel a job: a waiting one never starts, a running one closes its upstream.

    Prints cancelled, requested (a worker runs it and was told), already finished, or not found (exit status 1).
    """

    def say(outcome: str) -> None:
        typer.echo(json.dumps({"id": job, "outcome": outcome}) if as_json else outcome)

    async def work(producer: Producer) -> None:
        try:
            say((await producer.cancel(job, wait=timeout if wait else None)).value)
        except JobNotFound:
            say("not found")
            raise typer.Exit(FAILED) from None
        except ResultTimeout:
            say(Cancellation.REQUESTED.value)
            raise

    run(work, redis_url, prefix)


@app.command()
def queues(as_json: JsonOption = False, redis_url: RedisOption = None, prefix: PrefixOption = "chat") -> None:
    """List the queues: what waits, what runs, the oldest job's age, the workers, what is delayed, what is dead."""

    async def work(producer: Producer) -> None:
        found = await producer.queues()
        if as_json:
            for queue in found:
                typer.echo(json.dumps(asdict(queue)))
            return
        rows: list[tuple[str, ...]] = [
            ("QUEUE", "LENGTH", "IN FLIGHT", "OLDEST", "WORKERS", "DELAYED", "DEAD")
        ]
        for queue in found:
            age = "-" if queue.oldest_age is None else f"{queue.oldest_age:.1f} s"
            dead_letters = f"{queue.dead} ({queue.dropped} dropped)" if queue.dropped else str(queue.dead)
            numbers = (queue.length, queue.in_flight, age, queue.workers, queue.delayed, dead_letters)
            rows.append((queue.name, *map(str, numbers)))
        typer.echo(columns(*rows))

    run(work, redis_url, prefix)


# -- arguments -------------------------------------------------------------------------------------------------


def _standard_input() -> str:
    if sys.stdin is None:
        typer.echo("chat-producer: standard input is closed", err=True)
        raise typer.Exit(USAGE)
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
        except ValueError:  # also a number of too many digits
            options[key] = value
    return options


def _instant(text: str | None) -> datetime | None:
    """Read ``2026-01-31T08:00:00Z``; without a time zone it would be an instant only on this machine."""
    if text is None:
        return None
    with suppress(ValueError):
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return instant
    raise typer.BadParameter(f"{text!r} is not an instant like 2026-01-31T08:00:00Z", param_hint="--at")
