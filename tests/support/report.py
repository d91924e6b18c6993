"""What a test run tells at its end besides passed and failed: lines, in sections."""

from collections import defaultdict

SECTIONS: dict[str, list[str]] = defaultdict(list)


def tell(section: str, line: str) -> None:
    SECTIONS[section].append(line)
