"""The TOML file of named providers, and the ones that are there without it.

[providers.groq]
kind = "openai"                 # echo, openai, acytoo, chatanywhere, or "module:Class"
base_url = "https://api.groq.com/openai/v1"
api_key_env = "GROQ_API_KEY"    # the name of the variable, never the key
models = ["llama-*"]            # names or patterns
working = true
timeouts = { connect = 5, first_chunk = 60, between_chunks = 30, total = 600 }
concurrency = 20                # calls at the same time in one worker …
fleet_concurrency = 50          # … and in all workers together
continuation = "ask"            # how to go on from text that stands: "ask" in words, or "prefill" the answer
options = { top_p = 0.9 }       # sent with every job
proxy = "http://proxy:3128"
allow = ["base_url"]            # what a job may set beyond ordinary options; it then brings its own api_key
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, ValidationError

from producer.wire.job import explain
from producer.wire.job_fields import Seconds
from producer.wire.keys import is_name
from worker.providers.continuation import Continuation
from worker.providers.kinds import KINDS, load_class, parameters_of, takes
from worker.providers.provider import RESERVED, Provider, Timeouts
from worker.providers.registry import Registry
from worker.toml_lines import line_of

T = TypeVar("T")


class ConfigError(ValueError):
    """The file cannot be used; one line names the file, the line in it and the reason."""


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or any(c.isspace() for c in url):
        raise ValueError("a URL that starts with http:// or https:// and names a host is expected")
    return url


HttpUrl = Annotated[str, AfterValidator(_check_url)]
Calls = Annotated[StrictInt, Field(ge=1)]


class _TimeoutsTable(BaseModel):
    # Built when there is a file to read.
    model_config = ConfigDict(extra="forbid", defer_build=True)
    connect: Seconds | None = None
    first_chunk: Seconds | None = None
    between_chunks: Seconds | None = None
    total: Seconds | None = None


class _ProviderTable(BaseModel):
    # Built when there is a file to read.
    model_config = ConfigDict(extra="forbid", defer_build=True)
    kind: str
    base_url: HttpUrl | None = None
    api_key_env: str | None = None
    models: list[str] | None = None
    working: bool | None = None
    timeouts: _TimeoutsTable = Field(default_factory=_TimeoutsTable)
    options: dict[str, Any] = Field(default_factory=dict)
    proxy: HttpUrl | None = None
    allow: frozenset[str] = frozenset()
    concurrency: Calls | None = None
    fleet_concurrency: Calls | None = None
    continuation: Continuation = "ask"


def load_registry(path: Path | None, environ: Mapping[str, str] = os.environ) -> Registry:
    """Return the providers of the file, in its order, and after them the built-in ones that it does not name.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a wrong value, a key variable that is not set; or
            ``OPENAI_BASE_URL`` is no URL.
    """
    named = [] if path is None else _read(path, environ)
    taken = {provider.name for provider in named}
    return Registry([*named, *(provider for provider in _built_in(environ) if provider.name not in taken)])


_NO_KEY = "the environment variable {} holds what no key can be: a space or the end of a line around it, say"


def _built_in(environ: Mapping[str, str]) -> list[Provider]:
    providers = [Provider(kind, kind, cls, cls.url, cls.working, cls.models) for kind, cls in KINDS.items()]
    key, url = environ.get("OPENAI_API_KEY"), environ.get("OPENAI_BASE_URL")
    if key and not _is_key(key):
        raise ConfigError(_NO_KEY.format("OPENAI_API_KEY"))
    if url:
        try:
            _check_url(url)
        except ValueError as error:  # which is not shown: it may hold a password
            raise ConfigError(f"OPENAI_BASE_URL: {error}") from None
    openai = KINDS["openai"]
    with_key = Provider(
        "openai", "openai", openai, url or openai.url, True, openai.models, "OPENAI_API_KEY", key or None
    )
    return [with_key if provider.name == "openai" else provider for provider in providers]


def _read(path: Path, environ: Mapping[str, str]) -> list[Provider]:
    text = _text_of(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    if unknown := sorted(document.keys() - {"providers"}):
        raise ConfigError(
            f"{path}:{line_of(text, unknown[:1])}: no such section: {unknown[0]!r}; use [providers.NAME]"
        )
    tables = document.get("providers", {})
    if not isinstance(tables, dict):
        raise ConfigError(
            f"{path}:{line_of(text, ['providers'])}: providers must be tables: [providers.NAME]"
        )
    return [_provider(name, table, _Place(path, text, name), environ) for name, table in tables.items()]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error


def _provider(name: str, table: Any, place: "_Place", environ: Mapping[str, str]) -> Provider:
    if not is_name(name):
        raise place.error([], f"{name!r} is no name for a provider")
    if not isinstance(table, dict):
        raise place.error([], "a table is expected: [providers.NAME]")
    if "api_key" in table:
        raise place.error(["api_key"], "a key does not belong into a file: name its variable in api_key_env")
    try:
        given = _ProviderTable.model_validate(table)
    except ValidationError as error:
        keys = [str(part) for part in error.errors()[0]["loc"]]
        raise place.error(keys, explain(error)) from error
    cls = _class_of(given.kind, place)
    _check_options(given, cls, place)
    defaults = Timeouts()
    limits = given.timeouts.model_dump(exclude_none=True)
    return Provider(
        name=name,
        kind=given.kind,
        cls=cls,
        url=given.base_url or str(getattr(cls, "url", None) or ""),
        # A class that is marked as not working works again where it is given another URL.
        working=_first(given.working, given.base_url is not None or bool(getattr(cls, "working", True))),
        models=_first(given.models, _models_of(cls, place)),
        key_variable=given.api_key_env,
        api_key=_key(given.api_key_env, place, environ),
        proxy=given.proxy,
        options=given.options,
        allowed=given.allow,
        timeouts=Timeouts(
            **{name: limits.get(name, getattr(defaults, name)) for name in Timeouts.__annotations__}
        ),
        concurrency=given.concurrency,
        fleet_concurrency=given.fleet_concurrency,
        continuation=given.continuation,
    )


def _class_of(kind: str, place: "_Place") -> type[Any]:
    if kind in KINDS:
        return KINDS[kind]
    if ":" not in kind:
        raise place.error(["kind"], f"kind {kind!r} is unknown: use {', '.join(KINDS)}, or module:Class")
    try:
        return load_class(kind)
    except ValueError as error:
        raise place.error(["kind"], str(error)) from error


def _check_options(given: _ProviderTable, cls: type[Any], place: "_Place") -> None:
    if reserved := sorted(given.options.keys() & RESERVED):
        raise place.error(
            ["options"], f"options cannot set {reserved[0]!r}: it has a key of its own, or is the job's"
        )
    for key, name in (("base_url", "base_url"), ("api_key_env", "api_key")):
        if getattr(given, key) is not None and not takes(cls, name):
            raise place.error([key], f"kind {given.kind!r} takes no {name}")
    if unknown := sorted(name for name in given.allow if name not in parameters_of(cls)):
        raise place.error(["allow"], f"kind {given.kind!r} takes no {unknown[0]!r}")


def _models_of(cls: type[Any], place: "_Place") -> tuple[str, ...]:
    models = getattr(cls, "models", None) or ()
    if isinstance(models, str) or not all(isinstance(model, str) for model in models):
        raise place.error(["kind"], f"{cls.__name__}.models must be a list of names")
    return tuple(models)


def _key(variable: str | None, place: "_Place", environ: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    if not variable.isidentifier():  # it may be the key itself: it is not shown
        raise place.error(
            ["api_key_env"], "api_key_env must be the name of an environment variable, never a key"
        )
    key = environ.get(variable)
    if not key:
        raise place.error(["api_key_env"], f"the environment variable {variable} is not set")
    if not _is_key(key):
        raise place.error(["api_key_env"], _NO_KEY.format(variable))
    return key


def _is_key(text: str) -> bool:
    """Whether it can be sent: one with the end of its line at its end, as files have it, would fail every job."""
    return text.isascii() and text.isprintable() and text.strip() == text


def _first(given: T | None, otherwise: T) -> T:
    return otherwise if given is None else given


class _Place:
    """Where in the file a provider stands, so that an error can name the line."""

    def __init__(self, path: Path, text: str, name: str) -> None:
        self._path, self._text, self._name = path, text, name

    def error(self, keys: Sequence[str], reason: str) -> ConfigError:
        line = line_of(self._text, ["providers", self._name, *keys])
        return ConfigError(f"{self._path}:{line}: [providers.{self._name}] {reason}")
