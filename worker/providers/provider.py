"""A provider under its name: a class, how to reach its service, and what a job may say about that."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from producer.wire.job import Job
from worker.providers.base import AsyncGeneratorProvider, Part
from worker.providers.continuation import Continuation, continued
from worker.providers.errors import BadRequest
from worker.providers.kinds import parameters_of, takes
from worker.providers.openai_compatible import OpenAICompatible

GUARDED = frozenset(
    {
        "api_base",
        "api_endpoint",
        "api_key",
        "api_url",
        "auth",
        "azure_endpoint",
        "base_url",
        "client",
        "cookies",
        "endpoint",
        "endpoint_url",
        "extra_headers",
        "headers",
        "host",
    }
    | {
        "http",
        "messages",
        "model",
        "proxies",
        "proxy",
        "session",
        "ssl",
        "timeout",
        "url",
        "verify",
        "ws_url",
    }
)
"""Options that decide where a request goes and with whose leave, by the names that classes give them.

A job may set none of them unless its provider's table allows it.
"""

_DESTINATIONS = GUARDED - {"api_key", "messages", "model", "timeout"}
_ACCOUNTS = _DESTINATIONS | {"api_key"}

RESERVED = GUARDED | {"stream"}
"""Options that no table of a provider sets for all jobs."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The four limits of an attempt, in seconds."""

    connect: float = 10.0
    first_chunk: float = 120.0
    between_chunks: float = 60.0
    total: float = 900.0


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider under its name: a kind of service, and how to reach this one."""

    name: str
    kind: str
    cls: type[Any]
    """An `AsyncGeneratorProvider`, or any class of that shape."""
    url: str = field(repr=False)  # may hold a password
    working: bool
    models: Sequence[str]
    key_variable: str | None = None
    api_key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    allowed: frozenset[str] = frozenset()
    timeouts: Timeouts = field(default_factory=Timeouts)
    concurrency: int | None = None
    """Calls at the same time in one worker; None: as many as there are jobs."""
    fleet_concurrency: int | None = None
    """Calls at the same time in all workers together; None: as many as there are jobs."""
    continuation: Continuation = "ask"
    """How it is brought to go on from text that stands."""
    _is_ours: bool = field(init=False, repr=False, compare=False)
    """Whether the class derives from `AsyncGeneratorProvider`."""
    _default_model: str = field(init=False, repr=False, compare=False)
    _arguments: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once, and not for each job.
        object.__setattr__(self, "_is_ours", issubclass(self.cls, AsyncGeneratorProvider))
        object.__setattr__(self, "_default_model", _first_name(self.models))
        object.__setattr__(self, "_arguments", self._own_arguments())

    @property
    def shown_url(self) -> str:
        """The URL without what may be secret: user name, password and query."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def can_go_on(self) -> bool:
        """Whether it looks at more than the last message, so that it can be asked to go on from a text."""
        return bool(getattr(self.cls, "supports_message_history", False))

    @property
    def is_limited(self) -> bool:
        """Whether its calls have to wait for places."""
        return self.concurrency is not None or self.fleet_concurrency is not None

    @property
    def lacks_key(self) -> bool:
        """Whether the service wants a key and the worker has none."""
        return (
            bool(getattr(self.cls, "needs_auth", False))
            and self.key_variable is not None
            and not self.api_key
        )

    @property
    def secrets(self) -> Iterator[str]:
        """What must show nowhere: the key, and the passwords in URLs."""
        urls = (urlsplit(url) for url in (self.url, self.proxy) if url)
        yield from filter(None, [self.api_key, *(parts.password for parts in urls)])

    def serves(self, model: str) -> bool:
        """Whether ``model`` is one of its models."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def model_for(self, job: Job) -> str:
        """Return the model to ask for: the job's, else the provider's first one, if that is a name."""
        return self._default_model if job.model is None else job.model

    def timeouts_for(self, job: Job) -> Timeouts:
        """Return the limits: the job's own, and where it names none, the provider's."""
        if not job.timeouts.model_fields_set:
            return self.timeouts
        return Timeouts(**{**_as_dict(self.timeouts), **job.timeouts.model_dump(exclude_none=True)})

    def is_the_jobs(self, job: Job) -> bool:
        """Whether the job chose where it asks, or with which key: what is said there is said to this job alone."""
        return bool(job.options) and not _ACCOUNTS.isdisjoint(job.options)

    def ask(self, job: Job, http: aiohttp.ClientSession, *, standing: str = "") -> AsyncIterator[Part]:
        """Return the answer to ``job`` as it will arrive; nothing is sent before the first step.

        ``standing`` is the beginning of the answer that a reader has already: then only the rest is asked for.

        Raises:
            BadRequest: the job sets an option that it may not set here, or names no model where one is needed.
        """
        if job.options and (refused := sorted((job.options.keys() & GUARDED) - self.allowed)):
            raise BadRequest(f"provider {self.name!r} does not let a job set: {', '.join(refused)}")
        arguments = self._arguments_for(job, http)
        messages = continued(job.messages, standing, self.continuation) if standing else job.messages
        try:
            parts: AsyncIterator[Part] = self.cls.create_async_generator(
                self._model(job), messages, **arguments
            )
        except StopIteration as error:  # a compiled coroutine would return, where any other says this
            raise RuntimeError("it raised StopIteration") from error
        return parts

    def _arguments_for(self, job: Job, http: aiohttp.ClientSession) -> dict[str, Any]:
        """Return what the class is told about this job, as far as it takes that."""
        arguments = {**self._arguments}
        timeouts = self.timeouts_for(job)
        # A foreign class takes its timeout for the whole answer.
        arguments["timeout"] = timeouts.connect if self._is_ours else timeouts.total
        if "http" in arguments:
            arguments["http"] = http
        if not _DESTINATIONS.isdisjoint(job.options):  # allowed, but our key goes nowhere that a job chooses
            arguments.pop("api_key", None)
        own = {} if job.temperature is None else {"temperature": job.temperature}
        return {**arguments, **self.options, **own, **job.options}

    def _own_arguments(self) -> Mapping[str, Any]:
        """Return what the class is told about every job, as far as it takes that; the session is still to come."""
        arguments: dict[str, Any] = {"proxy": self.proxy}
        # A foreign class knows its own URL, and how to connect.
        is_its_own = not self._is_ours and self.url == (getattr(self.cls, "url", None) or "")
        if self.url and not is_its_own and takes(self.cls, "base_url"):
            arguments["base_url"] = self.url
        if self.api_key and takes(self.cls, "api_key"):
            arguments["api_key"] = self.api_key
        if self._is_ours and "http" in parameters_of(self.cls):
            arguments["http"] = None
        return arguments

    def _model(self, job: Job) -> str:
        model = self.model_for(job)
        if not model and issubclass(self.cls, OpenAICompatible):
            raise BadRequest(f"provider {self.name!r} serves several models: the job must name one")
        return model


def _first_name(models: Sequence[str]) -> str:
    """Return the first model, if it is one and no pattern; '' otherwise."""
    first = next(iter(models), "")
    is_name = isinstance(first, str) and not any(mark in first for mark in "*?[")
    return first if is_name else ""


def _as_dict(timeouts: Timeouts) -> dict[str, float]:
    return {name: getattr(timeouts, name) for name in Timeouts.__dataclass_fields__}
