"""What a service may have put into its JSON, taken for what it should be. Nothing here raises."""

from collections.abc import Mapping
from typing import Any


def text_in(value: object) -> str:
    """Return a string as it is, and '' for anything else."""
    return value if isinstance(value, str) else ""


def spoken_in(value: object) -> str:
    """Return a string as it is, a number as a text, and '' for anything else.

    Cloudflare's Workers AI sends a token that looks like a number as one (https://github.com/cloudflare/ai/issues/651).
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return text_in(value)


def mapping_in(value: object) -> Mapping[str, Any]:
    """Return a map as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def mappings_in(value: object) -> list[Mapping[str, Any]]:
    """Return the maps of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def whole(text: str) -> str:
    """Join split surrogate pairs; a half without its other half becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
