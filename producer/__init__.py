"""chatrelay's client: enqueue chat jobs, read their answers, from any service.

>>> async with Producer("redis://localhost") as producer:  # doctest: +SKIP
...     async for text in producer.stream("Why is the sky blue?", model="gpt-4o-mini"):
...         print(text, end="")
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer.answer import Result, TextStream
    from producer.cancellation import Cancellation
    from producer.client import Producer
    from producer.dead import DeadFilter, DeadJob, DeadJobs
    from producer.errors import (
        AnswerRestarted,
        ChatRelayError,
        CorruptLog,
        InvalidCursor,
        InvalidJob,
        InvalidSetting,
        JobCancelled,
        JobFailed,
        JobNotFound,
        QueueFull,
        ResultTimeout,
        Unavailable,
    )
    from producer.intake import JobFields
    from producer.revival import Retry
    from producer.status import QueueInfo, Status
    from producer.subscription import Subscription
    from producer.wire.dead import AttemptError, DeadLetter
    from producer.wire.events import (
        Cancelled,
        Chunk,
        Done,
        Event,
        Failed,
        Queued,
        Reasoning,
        Started,
        ToolCall,
        Unknown,
        Usage,
        Waiting,
    )
    from producer.wire.job import Job

__all__ = [
    "AnswerRestarted",
    "AttemptError",
    "Cancellation",
    "Cancelled",
    "ChatRelayError",
    "Chunk",
    "CorruptLog",
    "DeadFilter",
    "DeadJob",
    "DeadJobs",
    "DeadLetter",
    "Done",
    "Event",
    "Failed",
    "InvalidCursor",
    "InvalidJob",
    "InvalidSetting",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobFields",
    "JobNotFound",
    "Producer",
    "QueueFull",
    "QueueInfo",
    "Queued",
    "Reasoning",
    "Result",
    "ResultTimeout",
    "Retry",
    "Started",
    "Status",
    "Subscription",
    "TextStream",
    "ToolCall",
    "Unavailable",
    "Unknown",
    "Usage",
    "Waiting",
]

# A module is loaded with the first name that is taken out of it. Whoever takes the errors, or is a worker and takes
# the contract alone, does not wait for the client; and the time that it takes is spent where it is asked for.
_HOMES = {
    "producer.answer": ("Result", "TextStream"),
    "producer.cancellation": ("Cancellation",),
    "producer.client": ("Producer",),
    "producer.dead": ("DeadFilter", "DeadJob", "DeadJobs"),
    "producer.errors": (
        "AnswerRestarted",
        "ChatRelayError",
        "CorruptLog",
        "InvalidCursor",
        "InvalidJob",
        "InvalidSetting",
        "JobCancelled",
        "JobFailed",
        "JobNotFound",
        "QueueFull",
        "ResultTimeout",
        "Unavailable",
    ),
    "producer.intake": ("JobFields",),
    "producer.revival": ("Retry",),
    "producer.status": ("QueueInfo", "Status"),
    "producer.subscription": ("Subscription",),
    "producer.wire.dead": ("AttemptError", "DeadLetter"),
    "producer.wire.events": (
        "Cancelled",
        "Chunk",
        "Done",
        "Event",
        "Failed",
        "Queued",
        "Reasoning",
        "Started",
        "ToolCall",
        "Unknown",
        "Usage",
        "Waiting",
    ),
    "producer.wire.job": ("Job",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # a checker reads the imports above, and so notices names that are not there

    def __getattr__(name: str) -> object:
        """Load what is asked for."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
