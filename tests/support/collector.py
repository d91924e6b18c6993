"""What is kept alive by nothing but itself."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collector() -> Iterator[None]:
    """Let nothing be freed in this block but what nobody refers to any more, not even itself."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
