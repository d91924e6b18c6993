"""How a provider can fail.

    ProviderError
    ├── Unreachable      no connection: refused, name not found, TLS, proxy
    ├── TimedOut         the connection, or the answer, took too long
    ├── Refused          the service says no (4xx): asking again gives the same
    │   └── RateLimited  429: ask again later
    ├── Broken           the service failed (5xx), or said so inside its stream
    ├── NotAStream       200, but a web page or something else that is no answer
    ├── Cut              the answer ended before its end mark
    └── BadRequest       the job asks for something this provider cannot do

The class decides what follows, never the text. ``code`` is what a reader of the job sees.
"""

from typing import ClassVar


class ProviderError(Exception):
    """An attempt at a provider failed; the message is fit for the job's reader and holds no secret."""

    code: ClassVar[str] = "provider_error"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Unreachable(ProviderError):
    """No connection: refused, unknown host name, TLS or proxy trouble."""

    code = "unreachable"


class TimedOut(ProviderError):
    """The service was too slow; the message says in which phase, and after how many seconds."""

    code = "timeout"


class Refused(ProviderError):
    """The service answered with a 4xx status."""

    code = "refused"


class RateLimited(Refused):
    """The service answered 429; ``retry_after`` is the raw header value, when it sent one."""

    code = "rate_limited"

    def __init__(self, message: str, *, status: int = 429, retry_after: str | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class Broken(ProviderError):
    """The service answered with a 5xx status, or reported an error inside its stream."""

    code = "upstream_error"


class NotAStream(ProviderError):
    """The service answered 200 with something that is not the stream its protocol promises."""

    code = "not_a_stream"


class Cut(ProviderError):
    """The answer ended before its end mark."""

    code = "cut"


class BadRequest(ProviderError):
    """The job asks for something that this provider cannot do; nothing was sent."""

    code = "bad_request"
