"""`python -m producer` is `chat-producer`."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run `chat-producer`; without the packages that it needs, say how to get them."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - closed before we started; for good
    try:
        from producer.cli import app
    except KeyboardInterrupt:  # while the packages load
        sys.exit(130)
    except ModuleNotFoundError as error:
        sys.exit(f"chat-producer: {error.name} is not installed; run: pip install 'chatrelay[cli]'")
    app(prog_name="chat-producer")


if __name__ == "__main__":
    main()
