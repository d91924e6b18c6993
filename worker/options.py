"""What `chat-worker run` can be told: every option has a variable, and one can be said by the other."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


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
ProcessesOption = Annotated[
    int,
    typer.Option(
        envvar="CHAT_PROCESSES",
        min=1,
        help="Worker processes, kept running by a supervisor if more than one.",
    ),
]
LifelineOption = Annotated[
    bool,
    typer.Option("--lifeline", hidden=True, help="Stop when standard input ends: said by the supervisor."),
]
LogLevelOption = Annotated[LogLevel, typer.Option(envvar="CHAT_LOG_LEVEL")]
LogFormatOption = Annotated[LogFormat, typer.Option(envvar="CHAT_LOG_FORMAT")]


def as_variables(context: typer.Context) -> dict[str, str]:
    """Return what was said on the command line as the variables that say the same."""
    given = {}
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if source is not None and source.name == "COMMANDLINE" and option.envvar is not None:
            given[str(option.envvar)] = _as_text(context.params[str(option.name)])
    return given


def _as_text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
