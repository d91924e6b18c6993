"""The demo: chat jobs through a real stream, two workers and HTTP providers, shown live. Run `python -m demo`."""
