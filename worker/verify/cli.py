"""`chat-worker verify`: the faults, done to workers on the user's own server."""

import asyncio
import signal
from typing import Annotated

import typer

# What it takes is imported when it is run: `chat-worker run` starts no later because of it.

_UNUSABLE = 2


def verify(
    redis_url: Annotated[
        str | None,
        typer.Option(
            "--redis",
            envvar="CHAT_REDIS_URL",
            help="redis:// or unix:// URL. Without one, a server is started, and killed, paused and emptied as well.",
            show_default="a server of its own",
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            help="First part of every key that is made, and removed at the end.", show_default="random"
        ),
    ] = None,
    workers: Annotated[
        list[int] | None, typer.Option(help="How many workers there are; repeatable.", show_default="1, 3")
    ] = None,
) -> None:
    """Kill, freeze and cut off workers while jobs run, and check every log and reader. Exit status 1: violated.

    On a server that is given, only keys under a prefix of its own are touched, and only its own clients are troubled.
    """
    try:
        ok = asyncio.run(_verify(redis_url, prefix, workers))
    except (KeyboardInterrupt, asyncio.CancelledError):  # Ctrl-C, SIGTERM
        raise typer.Exit(130) from None
    except (
        ValueError,
        OSError,
        RuntimeError,
    ) as error:  # a bad URL, nobody there, workers that do not come up
        typer.echo(f"chat-worker: {error}", err=True)
        raise typer.Exit(_UNUSABLE) from None
    raise typer.Exit(0 if ok else 1)


async def _verify(url: str | None, prefix: str | None, sizes: list[int] | None) -> bool:
    """Run the matrix, or of it what may be done to somebody else's server; return whether nothing was violated."""
    from worker.verify import table
    from worker.verify.matrix import SIZES, check_url, run_matrix

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await check_url(url)
    violations = 0
    typer.echo(table.head())
    async for result in run_matrix(url, prefix, sizes or SIZES):
        typer.echo(table.row(result))
        violations += len(result.violations)
    typer.echo(
        f"{violations} violations" if violations else "nothing lost, nothing doubled, nobody left waiting"
    )
    return not violations
