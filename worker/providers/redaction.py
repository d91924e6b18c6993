"""Take secrets out of a text before anybody sees it."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

HIDDEN = "***"
LINE_LIMIT = 300  # characters

_WORD = r"[^\s\"',;&}]+"
_PATTERNS = (
    # Authorization: Basic dXNlcjpwYXNz, "authorization": "Bearer …"
    (
        re.compile(rf"(authorization[\"']?\s*[:=]\s*[\"']?)(?:[a-z]+\s+)?{_WORD}", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(bearer\s+)[\w.~+/=*-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    # x-api-key: …, ?api_key=…, "access_token": "…"
    (
        re.compile(rf"((?:api[-_]?key|access[-_]?token)[\"']?\s*[:=]\s*[\"']?){_WORD}", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    # Keys that are known by their look; services repeat them, sometimes starred out, in their 401 text.
    (re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w*-]{8,}"), HIDDEN),
    (re.compile(r"\bAIza[\w-]{20,}"), HIDDEN),
    (re.compile(r"(?<=://)[^/\s]+@"), f"{HIDDEN}@"),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` without the given secrets, and without anything that looks like a credential."""
    for form in sorted(_forms(secrets), key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def summary(text: str, secrets: Iterable[str] = ()) -> str:
    """Return one short printable line that stands for ``text``, without secrets."""
    secrets = tuple(secrets)
    # Twice: re-dumping JSON may undo an escape that hid a secret from the first look.
    line = redact(_first_line(redact(text, secrets)), secrets)
    return line if len(line) <= LINE_LIMIT else line[: LINE_LIMIT - 1] + "…"


def _forms(secrets: Iterable[str]) -> Iterator[str]:
    """Yield every spelling in which a secret may come back: as it is, in JSON, in a URL, in base64."""
    for secret in filter(None, secrets):
        encoded = base64.b64encode(secret.encode(errors="replace")).decode()
        yield from {secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote(secret), encoded}


def _first_line(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        pass
    else:
        text = json.dumps(value, ensure_ascii=False)
    line = next(iter(text.strip().splitlines()), "")
    # A lone surrogate or a terminal escape must not travel on in an error message.
    return "".join(c if c.isprintable() else " " for c in line).strip()
