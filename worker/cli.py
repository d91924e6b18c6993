"""`chat-worker`: arguments and environment in, exit status out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
import typer

from producer.connection.url import Url
from producer.wire.keys import Keys, is_name
from producer.wire.lifetimes import RETENTION_MS
from worker import loading, logs
from worker.lifeline import MARGIN, before_a_forced_end
from worker.options import (
    BackoffOption,
    ConcurrencyOption,
    ConfigOption,
    GraceOption,
    LeaseOption,
    LifelineOption,
    LogFormat,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    MaxDeadOption,
    MaxWaitOption,
    NameOption,
    PrefixOption,
    ProcessesOption,
    QueueOption,
    RedisOption,
    RetentionOption,
    StrictOption,
    SweepOption,
    as_variables,
)
from worker.signals import note_early_signals, run_until_stopped
from worker.verify.cli import verify

# What a worker works with is imported when there is one: a supervisor, and whoever asks for help, needs none of it.
if TYPE_CHECKING:
    from worker.providers.provider import Provider
    from worker.providers.registry import Registry
    from worker.settings import Settings

logger = structlog.get_logger("chatrelay")

app = typer.Typer(
    help="Answer chat jobs: take them from Redis, ask the provider, publish what it says.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(verify)


@app.command()
def run(
    context: typer.Context,
    redis_url: RedisOption = None,
    queue: QueueOption = None,
    strict: StrictOption = False,
    concurrency: ConcurrencyOption = 64,
    processes: ProcessesOption = 1,
    name: NameOption = None,
    config: ConfigOption = None,
    prefix: PrefixOption = "chat",
    grace: GraceOption = 30.0,
    lease: LeaseOption = 15.0,
    sweep: SweepOption = 5.0,
    backoff: BackoffOption = 1.0,
    max_wait: MaxWaitOption = 86_400.0,
    max_dead: MaxDeadOption = 10_000,
    retention: RetentionOption = RETENTION_MS / 1000,
    log_level: LogLevelOption = LogLevel.info,
    log_format: LogFormatOption = LogFormat.auto,
    lifeline: LifelineOption = False,
) -> None:
    """Take jobs and answer them until SIGTERM or Ctrl-C; a second one stops at once."""
    logs.set_up(log_level, log_format)
    early_stop = note_early_signals()
    # A supervisor looks at the file, so that what is wrong there is said once; without one, there is nothing to see.
    registry = _registry(config) if processes == 1 or config else None
    with _redis(redis_url) as url:
        settings = _settings(
            redis_url=url,
            prefix=prefix,
            **_queues(queue or ["default"]),
            strict=strict,
            concurrency=concurrency,
            name=f"{name}-{processes}" if name and processes > 1 else name or None,
            grace=grace,
            lease=lease,
            sweep=sweep,
            backoff=backoff,
            max_wait=max_wait,
            max_dead=max_dead,
            retention=retention,
        )
        if processes > 1:
            variables = {**as_variables(context), "CHAT_REDIS_URL": url}
            _supervise(processes, name, variables, grace, early_stop)
        _work(settings, registry or _registry(config), early_stop, lifeline=lifeline)


@app.command()
def providers(config: ConfigOption = None) -> None:
    """List the providers that this worker has. Of a key it only says whether it is there."""
    rows = [("NAME", "KIND", "WORKING", "KEY", "URL", "MODELS"), *(_row(p) for p in _registry(config))]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[5]]).rstrip())


def _row(provider: "Provider") -> tuple[str, str, str, str, str, str]:
    if provider.key_variable is None:
        key = "-"
    else:
        key = f"{provider.key_variable} {'present' if provider.api_key else 'missing'}"
    working = "yes" if provider.working else "no"
    return (
        provider.name,
        provider.kind,
        working,
        key,
        provider.shown_url or "-",
        ", ".join(provider.models) or "-",
    )


# -- what it is told -------------------------------------------------------------------------------------------


def _registry(config: Path | None) -> "Registry":
    with loading.quickly():
        from worker.providers_file import ConfigError, load_registry

    try:
        registry = load_registry(config)
    except ConfigError as error:
        raise _usage(str(error)) from None
    logs.hide(secret for provider in registry for secret in provider.secrets)
    return registry


@contextmanager
def _redis(url: str | None) -> Iterator[str]:
    if url is not None:
        try:
            Url(url)
        except ValueError as error:
            raise _usage(str(error)) from None
        yield url
        return
    from producer.connection.embedded import NoEmbeddedServer, start_or_join

    try:
        server = start_or_join()
    except NoEmbeddedServer as error:
        raise _usage(str(error)) from None
    doing = "started, and its data ends with it" if server.started_here else "joined"
    logger.info(
        "no --redis given, so there is an embedded server", url=server.url, server=server.kind, was=doing
    )
    before_a_forced_end(server.stop)
    try:
        yield server.url
    finally:
        server.stop()


def _queues(given: list[str]) -> dict[str, Any]:
    """Read ``name,weight`` as names and weights."""
    weights = {}
    for text in given:
        name, comma, weight = text.partition(",")
        if comma and not (weight.isascii() and weight.isdigit()):
            raise _usage(
                f"queue {text!r}: behind the comma a weight is expected, a whole number from 1 to 1000"
            )
        weights[name] = int(weight) if comma else 1
    return {"queues": tuple(weights), "weights": weights}


def _settings(**values: Any) -> "Settings":
    with loading.quickly():
        from pydantic import ValidationError

        from producer.wire.job import explain
        from worker.settings import Settings

    try:
        Keys(values["prefix"])
        if wrong := [queue for queue in values["queues"] if not is_name(queue)]:
            raise ValueError(f"queue {wrong[0]!r}: use letters, digits and ._:@/+=- (at most 128)")
        return Settings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise _usage(explain(error)) from None
    except ValueError as error:
        raise _usage(str(error)) from None


def _usage(message: str) -> typer.Exit:
    typer.echo(f"chat-worker: {message}", err=True)
    return typer.Exit(2)


# -- what it does with it --------------------------------------------------------------------------------------


def _work(settings: "Settings", registry: "Registry", early_stop: threading.Event, *, lifeline: bool) -> None:
    with loading.quickly():
        from worker.worker import Worker

    if lifeline:
        logs.sign(settings.name)
    orphaned_for = settings.grace + MARGIN if lifeline else None
    run_until_stopped(Worker(settings, registry), early_stop, fast=True, orphaned_for=orphaned_for)


def _supervise(
    processes: int, name: str | None, variables: dict[str, str], grace: float, early_stop: threading.Event
) -> NoReturn:
    from worker.supervisor import Supervisor, launches

    supervisor = Supervisor(launches(name or None, variables), processes, grace)
    raise typer.Exit(run_until_stopped(supervisor, early_stop, fast=False))
