"""What is sent to a service, checked before it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from yarl import URL

from worker.providers.errors import BadRequest, ProviderError
from worker.providers.redaction import redact, summary

_ENCODER = json.JSONEncoder(allow_nan=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and what must not show in an error. Its repr tells nothing that could be secret."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    proxy: str | None = field(default=None, repr=False)
    connect_timeout: float = 10.0  # seconds: name lookup, TCP, proxy and TLS together
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def host(self) -> str:
        """The service's host, with its port when that is not the usual one."""
        return URL(self.url).host_port_subcomponent or ""

    def error(self, kind: type[ProviderError], text: str, **details: Any) -> ProviderError:
        """Make an error whose text holds none of this request's secrets."""
        return kind(redact(text, self._all_secrets()), **details)

    def summary(self, text: str) -> str:
        """Return one short line that stands for ``text``, without secrets."""
        return summary(text, self._all_secrets())

    def _all_secrets(self) -> tuple[str, ...]:
        urls = (URL(self.url), URL(self.proxy or ""))
        credentials = [(url.user or "", url.password) for url in urls if url.password]
        return (*self.secrets, *(password for _, password in credentials), *map(":".join, credentials))


def json_body(payload: Mapping[str, Any]) -> bytes:
    """Return ``payload`` as the bytes of a JSON body.

    Raises:
        BadRequest: something in it has no JSON form.
    """
    try:
        return _ENCODER.encode(payload).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the request cannot be written as JSON: {summary(str(error))}") from error


def check(request: Request) -> None:
    """Refuse what aiohttp would answer with a bare ValueError, or with the whole URL in its text.

    Raises:
        BadRequest: that is the case.
    """
    url = _usable_url(request.url, "base URL")
    if request.proxy is not None:
        _usable_url(request.proxy, "proxy URL")
    for name, value in request.headers.items():
        if not (value.isascii() and value.isprintable()):
            raise BadRequest(f"the value of the header {name} holds a character that no header may hold")
    if (url.user or url.password) and "Authorization" in request.headers:
        raise BadRequest("the base URL holds a user or password, but this request has its own Authorization")


@lru_cache(maxsize=256)  # what is refused raises, and so is not kept
def _usable_url(text: str, name: str) -> URL:
    try:
        url = URL(text)
        (url.host or "").encode("idna")
    except ValueError:
        # Not chained: the text of the cause may hold the URL, and that a password.
        raise BadRequest(f"the {name} is not a valid URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadRequest(f"the {name} must start with http:// or https:// and name a host")
    return url
