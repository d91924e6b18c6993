"""For how long a service wants to be left alone, in every form in which services say it."""

import math
from datetime import timedelta
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.providers.retry_after import LONGEST, retry_after

NOW = 1_445_412_480.0  # the instant of DATE
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
IN_90_S = "Wed, 21 Oct 2015 07:29:30 GMT"


def wait(headers: dict[str, str], status: int = 429, now: float = NOW) -> float | None:
    return retry_after(headers, status=status, now=now)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17", 17.0),
        (" 17 ", 17.0),
        ("007", 7.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("2.", 2.0),
        ("2s", 2.0),
        ("1500ms", 1.5),
        ("1.5s", 1.5),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("20µs", 20e-6),
        ("20μs", 20e-6),  # the other mu
        ("7us", 7e-6),
        ("80ns", 80e-9),
        (IN_90_S, 90.0),
        ("Wednesday, 21-Oct-15 07:29:30 GMT", 90.0),
        ("Wed Oct 21 07:29:30 2015", 90.0),
        ("Wed, 21 Oct 2015 09:29:30 +0200", 90.0),
        ("Wed, 21 Oct 2015 07:29:30 -0000", 90.0),
    ],
)
def test_retry_after_is_read_in_every_form(text: str, seconds: float) -> None:
    assert wait({"Retry-After": text}) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["86401", "90000s", "25h", "1" + "0" * 30, "9" * 5_000, "Fri, 31 Dec 9999 23:59:59 GMT"],
    ids=lambda text: text[:12],
)
def test_more_than_a_day_is_a_day(text: str) -> None:
    assert wait({"Retry-After": text}) == LONGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0s",
        "0.0",
        "-1",
        "-1s",
        "+5",
        "nan",
        "inf",
        "Infinity",
        "1e3",
        "0x10",
        "1_000",
        "1,5",
        "17, 20",
        "٣",  # a digit, but none of HTTP's
        "soon",
        "5 s",
        "s",
        "5d",
        "5 minutes",
        "1m" * 200,
        "Wed, 21 Oct 2015",
        "Wed, 41 Oct 2015 07:29:30 GMT",
        "Wed, 21 Oct 99999 07:29:30 GMT",
        "2115-10-21T07:29:30Z",
        DATE,
        "Wed, 21 Oct 2015 07:27:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
    ],
)
def test_nonsense_zero_and_the_past_count_as_not_said(text: str) -> None:
    assert wait({"Retry-After": text}) is None


def test_without_a_header_nothing_is_said() -> None:
    assert wait({}) is None
    assert wait({"Date": DATE, "content-type": "application/json"}) is None


def test_names_of_headers_are_read_in_any_case() -> None:
    assert wait({"RETRY-AFTER": "3"}) == 3.0
    assert wait({"retry-after": "3"}) == 3.0
    assert wait({"Retry-AFTER-Ms": "3000"}) == 3.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After-Ms": "1500"}, 1.5),
        ({"Retry-After-Ms": "0.5"}, 0.0005),
        ({"Retry-After-Ms": "1500ms"}, 1.5),
        ({"Retry-After-Ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After-Ms": "soon", "Retry-After": "2"}, 2.0),
        ({"Retry-After-Ms": "0", "Retry-After": "2"}, 2.0),
        ({"Retry-After-Ms": "-5", "Retry-After": "2"}, 2.0),
        ({"Retry-After-Ms": "9" * 400}, LONGEST),
    ],
)
def test_milliseconds_come_first_because_seconds_are_the_same_rounded(
    headers: dict[str, str], seconds: float
) -> None:
    assert wait(headers) == pytest.approx(seconds)


@pytest.mark.parametrize("skew", [-86_400.0 * 400, -3_600.0, 0.0, 3_600.0])
def test_a_date_counts_from_the_services_own_date_whatever_our_clock_says(skew: float) -> None:
    assert wait({"Retry-After": IN_90_S, "Date": DATE}, now=NOW + skew) == 90.0


@pytest.mark.parametrize("date", ["", "yesterday", "Wed, 21 Oct"])
def test_a_date_counts_from_our_clock_where_the_service_shows_none(date: str) -> None:
    assert wait({"Retry-After": IN_90_S, "Date": date}, now=NOW + 30) == 60.0


# -- limits that are used up -----------------------------------------------------------------------------------


def limits(requests: tuple[str, str] | None = None, tokens: tuple[str, str] | None = None) -> dict[str, str]:
    """Headers of what remains and of when it resets, for each of the two limits."""
    return {
        f"x-ratelimit-{what}-{limit}": value
        for limit, said in (("requests", requests), ("tokens", tokens))
        if said is not None
        for what, value in zip(("remaining", "reset"), said, strict=True)
    }


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (limits(("0", "1s"), ("149984", "6m0s")), 1.0),
        (limits(("59", "1s"), ("0", "6m0s")), 360.0),
        (limits(("0", "1s"), ("0", "6m0s")), 360.0),
        (limits(("0", "2m59.56s"), ("0", "7.66s")), 179.56),
        (limits(("0", "250ms")), 0.25),
        (limits(tokens=("0", "58")), 58.0),
        (limits(("0", "soon"), ("0", "7.66s")), 7.66),
        (limits(("0", "48h")), LONGEST),
    ],
)
def test_the_limit_that_is_refilled_last_decides(headers: dict[str, str], seconds: float) -> None:
    assert wait(headers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "headers",
    [
        limits(("59", "1s"), ("149984", "6m0s")),
        limits(("", "1s"), ("zero", "6m0s")),
        limits(("0", ""), ("0", "-1s")),
        limits(("0", "0s")),
        {"x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-remaining-requests": "0"},
    ],
)
def test_a_limit_that_is_not_used_up_or_names_no_time_says_nothing(headers: dict[str, str]) -> None:
    assert wait(headers) is None


def test_limits_only_stand_in_for_a_retry_after_that_is_not_there() -> None:
    used_up = limits(("0", "6m0s"))
    assert wait({**used_up, "Retry-After": "3"}) == 3.0
    assert wait({**used_up, "Retry-After-Ms": "3"}) == 0.003
    assert wait({**used_up, "Retry-After": "soon"}) == 360.0


@pytest.mark.parametrize("status", [200, 401, 503, 529])
def test_limits_explain_a_429_and_nothing_else(status: int) -> None:
    assert wait(limits(("0", "6m0s")), status) is None
    assert wait({"Retry-After": "3"}, status) == 3.0


# -- whatever comes --------------------------------------------------------------------------------------------

NAMES = (
    "Retry-After",
    "Retry-After-Ms",
    "Date",
    *limits(("", ""), ("", "")),
)
NUMBERS = st.floats().map(str) | st.integers().map(str) | st.decimals().map(str)
PIECES = st.sampled_from(
    ["Wed", ",", " ", "21", "Oct", "2015", "07:28", ":00", "GMT", "-", "+0100", "m", "s", "."]
)
TEXTS = st.one_of(
    st.text(max_size=120),
    NUMBERS,
    st.builds("{}{}".format, NUMBERS, st.sampled_from(["s", "ms", "m", "h", "ns", "d"])),
    st.floats(-6e10, 2.5e11).map(lambda at: formatdate(at, usegmt=True)),
    st.lists(PIECES, max_size=12).map("".join),
)


@settings(max_examples=500, deadline=timedelta(seconds=5))
@given(
    headers=st.dictionaries(st.sampled_from(NAMES), TEXTS),
    status=st.sampled_from([429, 503]),
    now=st.floats(0, 4e9),
)
def test_whatever_a_service_says_is_nothing_or_a_time_up_to_a_day(
    headers: dict[str, str], status: int, now: float
) -> None:
    seconds = retry_after(headers, status=status, now=now)
    assert seconds is None or (math.isfinite(seconds) and 0 < seconds <= LONGEST)


@settings(deadline=timedelta(seconds=5))
@given(st.dictionaries(st.text(max_size=30), st.text(max_size=30)))
def test_headers_of_others_say_nothing(headers: dict[str, str]) -> None:
    ours = {name.lower() for name in NAMES}
    others = {name: value for name, value in headers.items() if name.lower() not in ours}
    assert retry_after(others, status=429, now=NOW) is None


@settings(deadline=timedelta(seconds=5))
@given(st.integers(1, 86_400))
def test_seconds_milliseconds_and_dates_agree(seconds: int) -> None:
    forms = [
        {"Retry-After": str(seconds)},
        {"Retry-After": f"{seconds}s"},
        {"Retry-After-Ms": str(seconds * 1000)},
        {"Retry-After": formatdate(NOW + seconds, usegmt=True), "Date": DATE},
        limits(("0", f"{seconds}s")),
    ]
    assert [wait(form) for form in forms] == [pytest.approx(seconds)] * len(forms)
