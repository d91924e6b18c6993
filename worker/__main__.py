"""`python -m worker` is `chat-worker`."""

import sys

from worker import loading


def main() -> None:
    """Run `chat-worker`; without the packages that it needs, say how to get them."""
    try:
        loading.check_packages()
        with loading.quickly():
            from worker.cli import app
    except KeyboardInterrupt:  # while the packages load
        sys.exit(130)
    except ModuleNotFoundError as error:
        sys.exit(f"chat-worker: {error.name} is not installed; run: pip install 'chatrelay[worker]'")
    app(prog_name="chat-worker")


if __name__ == "__main__":
    main()
