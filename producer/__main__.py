"""`python -m producer` is `chat-producer`."""

import sys


def main() -> None:
    """Run `chat-producer`; without the packages that it needs, say how to get them."""
    try:
        from producer.cli import app
    except ModuleNotFoundError as error:
        sys.exit(f"chat-producer: {error.name} is not installed; run: pip install 'chatrelay[cli]'")
    app(prog_name="chat-producer")


if __name__ == "__main__":
    main()
