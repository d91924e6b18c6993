"""`python -m worker` is `chat-worker`."""

import sys
from importlib.util import find_spec

# Looked for before anything is done: the commands load them only once they need them.
_NEEDED = ("aiohttp", "structlog", "typer")


def main() -> None:
    """Run `chat-worker`; without the packages that it needs, say how to get them."""
    try:
        for package in _NEEDED:
            if find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
        from worker.cli import app
    except KeyboardInterrupt:  # while the packages load
        sys.exit(130)
    except ModuleNotFoundError as error:
        sys.exit(f"chat-worker: {error.name} is not installed; run: pip install 'chatrelay[worker]'")
    app(prog_name="chat-worker")


if __name__ == "__main__":
    main()
