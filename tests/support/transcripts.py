"""What a reader is told, in a form in which a test can write it down."""

import asyncio

from producer import Event, Producer
from producer.wire.events import (
    Cancelled,
    Chunk,
    Done,
    EventId,
    Failed,
    Reasoning,
    Started,
    ToolCall,
    Waiting,
)

PATIENCE = 10.0  # seconds after which a fact that did not come is a failed test


async def events_of(producer: Producer, job_id: str, after: str | None = None) -> list[Event]:
    """Every event to the terminal one."""
    async with asyncio.timeout(PATIENCE):
        return [event async for event in producer.subscribe(job_id, after)]


async def starts_of(producer: Producer, job_id: str) -> list[Started]:
    """Every beginning of an attempt."""
    return [event for event in await events_of(producer, job_id) if isinstance(event, Started)]


def attempt_of(event: Event) -> int:
    """The server's time at the attempt's claim, in ms."""
    return EventId.parse(event.id).attempt


async def transcript(producer: Producer, job_id: str, after: str | None = None) -> list[str]:
    """Every event to the terminal one, each as a few words."""
    return [in_words(event) for event in await events_of(producer, job_id, after)]


def in_words(event: Event) -> str:
    """An event as a few words: ``started 2 a``, ``+text``, ``waiting retry``, ``done 4`` …"""
    match event:
        case Started(number=number, provider=provider, keeps=keeps):
            return f"started {number} {provider}" + (f" keeps {keeps}" if keeps else "")
        case Chunk(text=text):
            return f"+{text}"
        case Reasoning(text=text):
            return f"~{text}"
        case ToolCall(call=call):
            return f"calls {call['name']}"
        case Failed(code=code, attempts=attempts):
            return f"failed {code} {attempts}"
        case Waiting(reason=more) | Done(chars=more) | Cancelled(reason=more):
            return f"{event.type} {more}"
    return event.type


async def until_it_waits(producer: Producer, job_id: str) -> Waiting:
    """Return what its readers are told once the job is put off."""
    async with asyncio.timeout(PATIENCE):
        async for event in producer.subscribe(job_id):
            if isinstance(event, Waiting):
                return event
    raise AssertionError("it never waited")
