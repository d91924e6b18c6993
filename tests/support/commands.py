"""Command lines as the real programs read them, without running anything."""

import os
from collections.abc import Mapping
from typing import Any

import pytest
from typer.main import get_command

from producer.cli import app as producer_app
from worker.cli import app as worker_app

APPS = {"chat-worker": worker_app, "chat-producer": producer_app}


def parse(argv: list[str], environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The parameters that the real command reads from the command line and the variables; it raises, or has them."""
    for name in [name for name in os.environ if name.startswith("CHAT_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    program, *arguments = argv
    command: Any = get_command(APPS[program])
    context = command.make_context(program, list(arguments))
    while hasattr(command, "resolve_command"):  # a group, such as `chat-producer dead`
        name, command, arguments = command.resolve_command(context, arguments)
        context = command.make_context(name, list(arguments), parent=context)
    return dict(context.params)
