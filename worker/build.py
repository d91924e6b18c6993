"""How this worker was built: its modules as they are written, or the busiest of them as machine code."""

from pathlib import Path

from worker import writer


def is_compiled() -> bool:
    """Whether the modules that jobs and chunks pass through were compiled (``pyproject.toml`` names them)."""
    return Path(writer.__file__).suffix != ".py"
