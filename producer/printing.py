"""A job's answer on standard output: as text, or as one event a line."""

import json
import sys

from producer.answer import TextStream, check_done
from producer.client import Producer
from producer.errors import AnswerRestarted
from producer.terminal import escaped, harmless, in_one_line
from producer.wire.events import Done


async def print_answer(producer: Producer, job_id: str, after: str | None, *, as_json: bool) -> None:
    """Print the answer as it comes.

    Raises:
        JobFailed, JobCancelled: it ended without a whole answer.
        AnswerRestarted: it began again after a part of it was given to a file or a pipe.
        BrokenPipeError: nobody reads standard output any more.
    """
    if as_json:
        await _print_events(producer, job_id, after)
    else:
        await _print_text(producer.text(job_id, after, on_restart=_begin_again))


async def _print_events(producer: Producer, job_id: str, after: str | None) -> None:
    subscription = producer.subscribe(job_id, after)
    while events := await subscription.read():
        for event in events:
            sys.stdout.write(escaped(json.dumps(event.body(), ensure_ascii=False)) + "\n")
        sys.stdout.flush()
    check_done(job_id, subscription.end)


async def _print_text(text: TextStream) -> None:
    last = "\n"
    try:
        async for last in text:
            sys.stdout.write(harmless(last))
            sys.stdout.flush()
    finally:
        if not last.endswith("\n"):
            sys.stdout.write("\n")
        sys.stdout.flush()  # here, where a reader that has gone is noticed, and not at the interpreter's exit
    if isinstance(text.end, Done) and text.end.finish_reason != "stop":
        _aside(f"finished: {in_one_line(text.end.finish_reason)}")


def _begin_again(keeps: int) -> None:
    if not sys.stdout.isatty():  # what a file or a pipe was given cannot be taken back: never just go on
        raise AnswerRestarted("", keeps)
    _aside(f"the answer began again; {keeps} characters stand")


def _aside(text: str) -> None:
    sys.stderr.write(f"-- {text} --\n")
