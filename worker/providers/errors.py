"""How a provider can fail.

    ProviderError
    ├── Unreachable      no connection: refused, name not found, TLS, proxy
    ├── TimedOut         the connection, or the answer, took too long
    ├── Refused          the service says no (4xx): asking again gives the same
    │   ├── RateLimited  429: ask again later
    │   └── Unauthorized 401, 402, 403, or no quota left: an operator must mend the key or the account
    ├── Broken           the service failed (409, 425, 498, 5xx), or said so inside its stream
    │   └── Overloaded   503 or 529 that says when to ask again
    ├── NotAStream       200, but a web page or something else that is no answer
    ├── Cut              the answer ended before its end mark
    ├── Endless          the answer is longer than any: an operator must look at the service
    └── BadRequest       the job asks for something this provider cannot do

The class decides what follows, never the text. ``code`` is what a reader of the job sees, ``retry_after`` for how
long the service asks to be left alone.
"""

from typing import ClassVar


class ProviderError(Exception):
    """An attempt at a provider failed; the message is fit for the job's reader and holds no secret.

    ``status`` is the service's HTTP status, where one came. ``retry_after`` is in seconds, above zero; None where
    the service did not say.
    """

    code: ClassVar[str] = "provider_error"

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after = retry_after


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
    """The service answered 429: too many calls for now."""

    code = "rate_limited"


class Unauthorized(Refused):
    """The service does not accept the key, or the account behind it: nothing helps until an operator mends that."""

    code = "unauthorized"


class Broken(ProviderError):
    """The service answered with 409, 425, 498 or a 5xx status, or reported an error inside its stream.

    An error inside the stream that names a status is the one which that status stands for.
    """

    code = "upstream_error"


class Overloaded(Broken):
    """The service answered 503 or 529, and said when to ask again: ``retry_after`` is set."""

    code = "overloaded"


class NotAStream(ProviderError):
    """The service answered 200 with something that is not the stream its protocol promises."""

    code = "not_a_stream"


class Cut(ProviderError):
    """The answer ended before its end mark."""

    code = "cut"


class Endless(ProviderError):
    """The answer is longer than any is: once more it would fill Redis once more."""

    code = "endless"


class BadRequest(ProviderError):
    """The job asks for something that this provider cannot do; nothing was sent."""

    code = "bad_request"
