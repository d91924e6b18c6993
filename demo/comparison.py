"""Whether what came out is what was sent: the demo's verdict."""

from collections.abc import Iterable, Mapping

from demo.jobs import Track
from demo.upstream import Sent

_QUESTION = 40  # characters of a question that are enough to know it by
_CONTEXT = 12  # characters shown of both sides, from where they part


def troubles(tracks: Iterable[Track], sent: Mapping[str, Sent]) -> list[str]:
    """Return one line for every job that failed or whose text differs from what was sent; none: all is well."""
    found: list[str] = []
    for track in tracks:
        asked = track.question
        if trouble := trouble_of(track, sent.get(asked.text)):
            found.append(f"{asked.provider}: {shorten(asked.text)!r} {trouble}")
    return found


def shorten(question: str) -> str:
    """Return the beginning of a question."""
    return question if len(question) <= _QUESTION else f"{question[: _QUESTION - 1]}…"


def trouble_of(track: Track, sent: Sent | None) -> str | None:
    """Return what is wrong with one job's answer."""
    if track.trouble is not None:
        return track.trouble
    if track.total is None:
        return "has not ended"
    if not track.question.compared:
        return None
    if track.question.answer is None:  # echo: nobody is asked upstream
        return _difference("text", track.question.text, track.text)
    if sent is None:
        return "the upstream was never asked"
    text, reasoning = sent.text.decode(), sent.reasoning.decode()
    return _difference("text", text, track.text) or _difference("reasoning", reasoning, track.reasoning)


def _difference(what: str, sent: str, read: str) -> str | None:
    if sent == read:
        return None
    pairs = enumerate(zip(sent, read, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(sent), len(read)))
    there, here = sent[place : place + _CONTEXT], read[place : place + _CONTEXT]
    return (
        f"the {what} differs from character {place} on: "
        f"sent {there!r} ({len(sent)} characters in all), read {here!r} ({len(read)})"
    )
