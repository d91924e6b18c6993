"""Log lines for people at a terminal, JSON for machines everywhere else; secrets in neither."""

import logging
import sys
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from worker.providers.redaction import redact

_secrets: set[str] = set()
_signature: dict[str, str] = {}


def set_up(level: str, log_format: str) -> None:
    """Send all log lines to standard error. ``log_format``: ``console``, ``json``, or ``auto`` for either."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    as_json = log_format == "json" or (log_format == "auto" and not is_terminal)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=is_terminal)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            _signed,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Before the renderers, whose own way of showing an exception would show local variables as well.
            structlog.processors.format_exc_info,
            _without_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # It writes a line and its end in one go: the lines of several processes that share the output stay whole.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )


class _Unfailing:
    """A file for lines that may be lost: a full disk, or a reader that died, is no reason to give jobs up.

    None stands for a standard error that was closed when the process began.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.write(text)

    def flush(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.flush()


def hide(secrets: Iterable[str]) -> None:
    """Never show any of ``secrets`` in a log line: what others raise is logged, and may hold them."""
    _secrets.update(secrets)


def sign(worker: str) -> None:
    """From now on, name this worker in every line: several share an output."""
    _signature["worker"] = worker


def _signed(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.update(_signature)
    return event


def _without_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: redact(value, _secrets) if isinstance(value, str) else value for key, value in event.items()}
