"""`chat-producer dead`: list, show, retry, drop."""

import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from producer.client import Producer
from producer.command import FAILED, JsonOption, PrefixOption, RedisOption, run
from producer.dead import DeadFilter, DeadJob
from producer.revival import Retry
from producer.status import instant
from producer.terminal import columns, in_one_line
from producer.wire.codec import WireError, unpack_map
from producer.wire.job import MAX_JOB_BYTES

dead = typer.Typer(
    help="Look at dead letters, the jobs that could not be done; give them a new life, or drop them.",
    no_args_is_help=True,
)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_REASON_CHARS = 60
_NOT_FOUND = "not found"
_DONE = frozenset({"retried", "dropped"})


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration like 90s, 15m, 2h or 7d")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


IdsArgument = Annotated[list[str] | None, typer.Argument(help="Ids of dead letters or of jobs.")]
AllOption = Annotated[bool, typer.Option("--all", help="All of them, or all that the filters leave.")]
QueueOption = Annotated[str | None, typer.Option(help="Only of this queue.", show_default="all queues")]
ProviderOption = Annotated[str | None, typer.Option(help="Only if this provider was asked last.")]
CodeOption = Annotated[str | None, typer.Option(help="Only with this code.")]
OlderOption = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than", parser=_span, metavar="DURATION", help="Only if buried so long ago: 90s, 2h, 7d."
    ),
]


@dead.command("list")
def list_(
    queue: QueueOption = None,
    provider: ProviderOption = None,
    code: CodeOption = None,
    older_than: OlderOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the oldest.")] = 1000,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """List dead letters, the oldest first."""

    async def work(producer: Producer) -> None:
        found = await producer.dead(queue, limit=limit, provider=provider, code=code, older_than=older_than)
        if as_json:
            for letter in found:
                typer.echo(json.dumps(_fields(letter)))
        else:
            typer.echo(_table(found))

    run(work, redis_url, prefix)


@dead.command()
def show(
    ids: Annotated[list[str], typer.Argument(help="Ids of dead letters or of jobs.")],
    queue: QueueOption = None,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Show all that is known of dead letters: how each attempt failed, and the job itself."""

    async def work(producer: Producer) -> None:
        found = await producer.find_dead(*ids, queue=queue)
        for letter in found:
            fields = _fields(letter) | _job_in(letter)
            typer.echo(json.dumps(fields, default=str) if as_json else _described(fields))
        if missing := _missing(ids, found):
            for id_ in missing:
                typer.echo(f"chat-producer: no dead letter {id_!r}", err=True)
            raise typer.Exit(FAILED)

    run(work, redis_url, prefix)


@dead.command()
def retry(
    ids: IdsArgument = None,
    everything: AllOption = False,
    queue: QueueOption = None,
    provider: ProviderOption = None,
    code: CodeOption = None,
    older_than: OlderOption = None,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Give dead letters' jobs a new life under the same ids: they are in their queues again."""
    filters = DeadFilter(provider=provider, code=code, older_than=older_than)
    chosen = _Chosen(ids or [], queue, filters, everything=everything)

    async def retry_one(producer: Producer, letter: DeadJob) -> str:
        outcome = await producer.retry_dead(letter)
        return "already known" if outcome is Retry.KNOWN else outcome.value

    run(lambda producer: _to_each(producer, chosen, retry_one, as_json=as_json), redis_url, prefix)


@dead.command()
def drop(
    ids: IdsArgument = None,
    everything: AllOption = False,
    queue: QueueOption = None,
    provider: ProviderOption = None,
    code: CodeOption = None,
    older_than: OlderOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before dropping all.")] = False,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    prefix: PrefixOption = "chat",
) -> None:
    """Delete dead letters, and the jobs in them, for good."""
    filters = DeadFilter(provider=provider, code=code, older_than=older_than)
    chosen = _Chosen(ids or [], queue, filters, everything=everything)
    if everything and not yes and sys.stdin is not None and sys.stdin.isatty():
        typer.confirm("Drop all of these dead letters for good?", abort=True, err=True)

    async def drop_one(producer: Producer, letter: DeadJob) -> str:
        return "dropped" if await producer.drop_dead(letter) else Retry.GONE.value

    run(lambda producer: _to_each(producer, chosen, drop_one, as_json=as_json), redis_url, prefix)


# -- which, and what becomes of them ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chosen:
    """The dead letters that a command is to work on: by their ids, or by what they are like."""

    ids: list[str]
    queue: str | None
    filters: DeadFilter
    everything: bool

    def __post_init__(self) -> None:
        filtered = any(value is not None for value in self.filters.values())
        if self.ids and (filtered or self.everything):
            raise typer.BadParameter("ids and --all or filters do not go together")
        if not (self.ids or filtered or self.everything or self.queue):
            raise typer.BadParameter("name ids, or --all, or filters")

    async def of(self, producer: Producer) -> AsyncIterator[DeadJob | str]:
        """Yield each of them; an id that names none comes as it is."""
        if not self.ids:
            async for letter in producer.each_dead(self.queue, **self.filters):
                yield letter
            return
        found = await producer.find_dead(*self.ids, queue=self.queue)
        for id_, count in Counter(letter.id for letter in found).items():
            if count > 1 and id_ in self.ids:
                raise typer.BadParameter(f"{id_} stands in {count} queues: say which with --queue")
        for letter in found:
            yield letter
        for id_ in _missing(self.ids, found):
            yield id_


async def _to_each(
    producer: Producer,
    chosen: _Chosen,
    act: Callable[[Producer, DeadJob], Awaitable[str]],
    *,
    as_json: bool,
) -> None:
    """Act on each, say what became of them, and exit with 1 if that was not what was asked for."""
    outcomes: Counter[str] = Counter()
    async for item in chosen.of(producer):
        if isinstance(item, str):
            outcome, named = _NOT_FOUND, {"id": item}
        else:
            outcome = await act(producer, item)
            named = {"id": item.id, "job_id": item.job_id, "queue": item.queue}
        outcomes[outcome] += 1
        if as_json:
            typer.echo(json.dumps(named | {"outcome": outcome}))
        elif outcome not in _DONE:
            typer.echo(f"{in_one_line(named['id'])}: {outcome}", err=True)
    if not as_json:
        typer.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none")
    if outcomes.keys() - _DONE:
        raise typer.Exit(FAILED)


def _missing(ids: list[str], found: list[DeadJob]) -> list[str]:
    known = {id_ for letter in found for id_ in (letter.id, letter.job_id)}
    return [id_ for id_ in dict.fromkeys(ids) if id_ not in known]


# -- how they look ---------------------------------------------------------------------------------------------


def _fields(letter: DeadJob) -> dict[str, Any]:
    told = letter.letter
    return {
        "id": letter.id,
        "queue": letter.queue,
        "buried_at": letter.buried_at.isoformat(),
        "job_id": told.job_id,
        "code": told.code,
        "reason": told.reason,
        "attempts": told.attempts,
        "provider": told.provider,
        "errors": [error.body() for error in told.errors],
        "entry": told.entry,
        "worker": told.worker,
    }


def _job_in(letter: DeadJob) -> dict[str, Any]:
    """The job as it stood in the queue; bytes that are none, in hex."""
    try:
        return {"job": unpack_map(letter.letter.job, max_bytes=MAX_JOB_BYTES)}
    except WireError:
        return {"job_hex": letter.letter.job.hex()}


def _table(found: list[DeadJob]) -> str:
    rows: list[tuple[str, ...]] = [("ID", "JOB", "QUEUE", "CODE", "ATTEMPTS", "AGE", "REASON")]
    for letter in found:
        told = letter.letter
        reason = in_one_line(told.reason)
        cut = reason if len(reason) <= _REASON_CHARS else f"{reason[: _REASON_CHARS - 1]}…"
        cells = (letter.id, told.job_id or "-", letter.queue, told.code or "-", str(told.attempts))
        rows.append((*map(in_one_line, cells), _age(letter.buried_at), cut))
    return columns(*rows)


def _described(fields: dict[str, Any]) -> str:
    lines = [
        f"{name:10} {in_one_line(str(value)) or '-'}"
        for name, value in fields.items()
        if name not in {"errors", "job"}
    ]
    for error in fields["errors"]:
        when = instant(error["at"])
        at = "-" if when is None else when.isoformat(timespec="milliseconds")
        told = f"attempt {error['number']} {error['provider'] or '-'} {error['code']}: {error['message']}"
        lines.append(f"{'error':10} {at} {in_one_line(told)}")
    if "job" in fields:
        lines.append(json.dumps(fields["job"], indent=2, default=str))
    return "\n".join(lines)


def _age(instant: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - instant).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
