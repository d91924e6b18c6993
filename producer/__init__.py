"""chatrelay's client: enqueue chat jobs, read their answers, from any service.

>>> async with Producer("redis://localhost") as producer:  # doctest: +SKIP
...     async for text in producer.stream("Why is the sky blue?", model="gpt-4o-mini"):
...         print(text, end="")
"""

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
