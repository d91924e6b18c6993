"""The golden vectors, as test parameters."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "vectors"

Case = dict[str, Any]


def load(name: str, part: str) -> list[Case]:
    """Return the cases of one part of a file, ``accepted`` or ``refused``; ``data`` holds the bytes."""
    cases = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))[part]
    return [case | ({"data": bytes.fromhex(case["hex"])} if "hex" in case else {}) for case in cases]


def each(name: str, part: str, *, canonical: bool = False) -> pytest.MarkDecorator:
    """Run a test on every such case, as the parameter ``case``."""
    cases = [case for case in load(name, part) if case.get("canonical", True) or not canonical]
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases])


def one(name: str, case_name: str) -> Case:
    """Return the accepted case of that name."""
    return next(case for case in load(name, "accepted") if case["name"] == case_name)
