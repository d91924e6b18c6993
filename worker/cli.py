"""`chat-worker`: arguments and environment in, exit status out."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from pydantic import ValidationError

from producer.connection import Url
from producer.connection.embedded import NoEmbeddedServer, start_or_join
from producer.wire.job import explain
from producer.wire.keys import Keys, is_name
from producer.wire.lifetimes import RETENTION_MS
from worker import logs
from worker.providers.registry import Provider, Registry
from worker.providers_file import ConfigError, load_registry
from worker.settings import Settings, default_name
from worker.verify.cli import verify
from worker.worker import Worker

logger = structlog.get_logger("chatrelay")

app = typer.Typer(
    help="Answer chat jobs: take them from Redis, ask the provider, publish what it says.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(verify)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class LogLevel(StrEnum):
    """How much is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(StrEnum):
    """How it is written."""

    auto = "auto"
    console = "console"
    json = "json"


RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis",
        envvar="CHAT_REDIS_URL",
        help="redis://, rediss:// or unix:// URL. Without one, an embedded server is started, or joined.",
        show_default="embedded",
    ),
]
QueueOption = Annotated[
    list[str] | None,
    typer.Option(
        envvar="CHAT_QUEUE",
        metavar="NAME[,WEIGHT]",
        help="Queue to serve; repeatable (in CHAT_QUEUE: separated by blanks). With weights, one of 4 has its turn "
        "four times as often as one of 1.",
        show_default="default",
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict", envvar="CHAT_STRICT", help="Serve a queue only while those named before it are empty."
    ),
]
MaxDeadOption = Annotated[int, typer.Option(envvar="CHAT_MAX_DEAD", help="Dead letters that a queue keeps.")]
MaxWaitOption = Annotated[
    float,
    typer.Option(
        envvar="CHAT_MAX_WAIT", help="Seconds for which a job may be put off by providers that ask for it."
    ),
]
ConcurrencyOption = Annotated[int, typer.Option(envvar="CHAT_CONCURRENCY", help="Jobs at the same time.")]
NameOption = Annotated[
    str | None,
    typer.Option(envvar="CHAT_NAME", help="This worker's name in events and logs.", show_default="host-pid"),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="CHAT_CONFIG", help="TOML file of named providers.", show_default="built-in ones"
    ),
]
PrefixOption = Annotated[str, typer.Option(envvar="CHAT_PREFIX", help="First part of every key.")]
GraceOption = Annotated[
    float, typer.Option(envvar="CHAT_GRACE", help="Seconds to finish running jobs after SIGTERM.")
]
LeaseOption = Annotated[
    float,
    typer.Option(envvar="CHAT_LEASE", help="Seconds after which a silent worker's jobs may be taken over."),
]
SweepOption = Annotated[
    float, typer.Option(envvar="CHAT_SWEEP", help="Seconds between two looks for such jobs.")
]
BackoffOption = Annotated[
    float,
    typer.Option(envvar="CHAT_BACKOFF", help="Longest pause in seconds before a first retry; it doubles."),
]
RetentionOption = Annotated[
    float, typer.Option(envvar="CHAT_RETENTION", help="Seconds for which an ended job can be read.")
]
LogLevelOption = Annotated[LogLevel, typer.Option(envvar="CHAT_LOG_LEVEL")]
LogFormatOption = Annotated[LogFormat, typer.Option(envvar="CHAT_LOG_FORMAT")]


@app.command()
def run(
    redis_url: RedisOption = None,
    queue: QueueOption = None,
    strict: StrictOption = False,
    concurrency: ConcurrencyOption = 64,
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
) -> None:
    """Take jobs and answer them until SIGTERM or Ctrl-C; a second one stops at once."""
    logs.set_up(log_level, log_format)
    early_stop = _note_early_signals()
    registry = _registry(config)
    logs.hide(secret for provider in registry for secret in provider.secrets)
    with _redis(redis_url) as url:
        settings = _settings(
            redis_url=url,
            prefix=prefix,
            **_queues(queue or ["default"]),
            strict=strict,
            concurrency=concurrency,
            name=name or default_name(),
            grace=grace,
            lease=lease,
            sweep=sweep,
            backoff=backoff,
            max_wait=max_wait,
            max_dead=max_dead,
            retention=retention,
        )
        _run_loop(Worker(settings, registry), early_stop)


@app.command()
def providers(config: ConfigOption = None) -> None:
    """List the providers that this worker has. Of a key it only says whether it is there."""
    rows = [("NAME", "KIND", "WORKING", "KEY", "URL", "MODELS"), *(_row(p) for p in _registry(config))]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[5]]).rstrip())


def _row(provider: Provider) -> tuple[str, str, str, str, str, str]:
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


def _registry(config: Path | None) -> Registry:
    try:
        return load_registry(config)
    except ConfigError as error:
        raise _usage(str(error)) from None


@contextmanager
def _redis(url: str | None) -> Iterator[str]:
    if url is not None:
        try:
            Url(url)
        except ValueError as error:
            raise _usage(str(error)) from None
        yield url
        return
    try:
        server = start_or_join()
    except NoEmbeddedServer as error:
        raise _usage(str(error)) from None
    doing = "started, and its data ends with it" if server.started_here else "joined"
    logger.info(
        "no --redis given, so there is an embedded server", url=server.url, server=server.kind, was=doing
    )
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


def _settings(**values: Any) -> Settings:
    try:
        Keys(values["prefix"])
        if wrong := [queue for queue in values["queues"] if not is_name(queue)]:
            raise ValueError(f"queue {wrong[0]!r}: use letters, digits and ._:@/+=- (at most 128)")
        return Settings(**values)
    except ValidationError as error:
        raise _usage(explain(error)) from None
    except ValueError as error:
        raise _usage(str(error)) from None


def _usage(message: str) -> typer.Exit:
    typer.echo(f"chat-worker: {message}", err=True)
    return typer.Exit(2)


def _note_early_signals() -> threading.Event:
    """Until the loop listens, a signal is only noted: an exception anywhere would leave behind what was started."""
    noted = threading.Event()
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: noted.set())
    return noted


def _run_loop(worker: Worker, early_stop: threading.Event) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, worker.stop)
        if early_stop.is_set():
            worker.stop()
        await worker.run()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
