"""Commands as the bytes that are sent; hiredis packs them."""

import hiredis

Arg = str | bytes | int


def pack(*args: Arg) -> bytes:
    """Return a command as the bytes that are sent."""
    return pack_words(args)


def pack_words(words: tuple[Arg, ...]) -> bytes:
    """Return the command of these words as the bytes that are sent. A number takes longer than its text would."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed
