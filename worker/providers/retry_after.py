"""When a service asks to be left alone, for how long: read off the headers of its answer. Pure, never raises.

The sources:

- RFC 9110, 10.2.3: ``Retry-After`` is a whole number of seconds, or an HTTP date (5.6.7 has three forms of those).
- OpenAI's own client (openai-python, ``_base_client.py``) takes ``retry-after-ms`` first, because ``retry-after`` is
  the same time rounded, allows decimals, and goes by its own backoff where the time said is not above zero.
- OpenAI's guide to rate limits ("Rate limits in headers"): ``x-ratelimit-remaining-requests`` and ``-tokens`` are
  counts, ``x-ratelimit-reset-…`` are durations as Go writes them (``1s``, ``6m0s``). Groq and others send the same.
- Gateways write units where the RFC has none (``1500ms``, ``2s``), which Go's ``time.ParseDuration`` explains.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST = 86_400.0  # seconds: whoever says more is taken to mean a day

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(_NUMBER)
_PIECE = re.compile(rf"({_NUMBER})(h|ms|us|µs|μs|ns|m|s)")
_DURATION = re.compile(rf"(?:{_PIECE.pattern})+")
_MAX_LENGTH = 100  # characters that a header worth reading can have

_MS = 0.001
_SECONDS_IN = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": _MS, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}

_LIMITS = ("requests", "tokens")


def retry_after(headers: Mapping[str, str], *, status: int, now: float) -> float | None:
    """Return for how many seconds the service wants no call; None where it does not say, or says nonsense.

    What is returned is above zero and at most `LONGEST`. Zero and the past count as not said: a service that
    refuses and at once wants the next call leaves the wait to the caller.

    Args:
        headers: of the response, under names in any case.
        status: of the response; limits that are used up tell something only about a 429.
        now: seconds since 1970, for an HTTP date in a response that names no ``Date`` of its own.
    """
    by_name = {name.lower(): value.strip() for name, value in headers.items()}
    seconds = _said(by_name, now)
    if seconds is None and status == 429:
        seconds = _until_reset(by_name)
    return seconds


def _said(headers: Mapping[str, str], now: float) -> float | None:
    exact = usable(_span(headers.get("retry-after-ms", ""), unit=_MS))
    if exact is not None:
        return exact
    value = headers.get("retry-after", "")
    seconds = _span(value, unit=1.0)
    return usable(_until(value, headers.get("date", ""), now) if seconds is None else seconds)


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """Return when the last limit that is used up is refilled."""
    used_up = [limit for limit in _LIMITS if headers.get(f"x-ratelimit-remaining-{limit}") == "0"]
    spans = (_span(headers.get(f"x-ratelimit-reset-{limit}", ""), unit=1.0) for limit in used_up)
    return usable(max((span for span in spans if span is not None), default=None))


def _span(text: str, *, unit: float) -> float | None:
    """Return the seconds in a bare number of ``unit`` seconds each, or in a duration as Go writes it."""
    if _PLAIN.fullmatch(text):
        return float(text) * unit
    if len(text) <= _MAX_LENGTH and _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS_IN[of] for number, of in _PIECE.findall(text))
    return None


def _until(text: str, date: str, now: float) -> float | None:
    """Return the seconds to an HTTP date, by the service's own clock where it shows one: ours may be wrong."""
    instant = _instant(text)
    if instant is None:
        return None
    shown = _instant(date)
    return instant - (now if shown is None else shown)


def _instant(text: str) -> float | None:
    if len(text) > _MAX_LENGTH:
        return None
    try:
        instant = parsedate_to_datetime(text)
        # The asctime form names no zone: all HTTP dates are in UTC.
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # all of which the parser is known for
        return None


def usable(seconds: float | None) -> float | None:
    """Return what can be waited for: above zero and at most `LONGEST`; None for all else, such as no number."""
    return min(seconds, LONGEST) if seconds is not None and seconds > 0 else None
