"""The providers that this worker has, by name, and which of them a job goes to."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from producer.wire.job import Job
from worker.providers.provider import Provider

_MOST_NAMES_KEPT = 8
"""A job that names more providers is looked at for itself: a thousand such lists may take gigabytes."""


class NoProvider(Exception):
    """No provider can take the job; ``code`` is for programs, the message names the candidates."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Registry:
    """All providers, in the order in which a model is looked for."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers = {provider.name: provider for provider in providers}
        # Jobs name few providers and models, again and again.
        self._usable = lru_cache(maxsize=1024)(self._find_usable)
        self._first_serving = lru_cache(maxsize=1024)(self._find_serving)

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._providers.values())

    def candidates(self, job: Job) -> Sequence[Provider]:
        """Return the providers that may be asked, best first, each once, and at least one.

        Of a list it is each usable one, in the job's order. Without any name it is the first that serves the model,
        and no other: a model of the same name elsewhere need not be the same.

        Raises:
            NoProvider: its name is unknown, it is not working or lacks its key, or nobody serves the model.
        """
        if job.provider:
            names = [job.provider] if isinstance(job.provider, str) else job.provider
            find = self._usable if len(names) <= _MOST_NAMES_KEPT else self._find_usable
            return find(*names)
        if job.model is None:
            raise NoProvider(
                "no_provider", f"the job names neither a provider nor a model; there are: {self._all()}"
            )
        return [self._first_serving(job.model)]

    def _find_usable(self, *names: str) -> Sequence[Provider]:
        found: list[Provider] = []
        troubles: list[NoProvider] = []
        for name in dict.fromkeys(names):
            provider = self._providers.get(name)
            trouble = self._trouble(name, provider)
            if trouble is not None:
                troubles.append(trouble)
            elif provider is not None:
                found.append(provider)
        if not found:
            raise NoProvider(troubles[0].code, "; ".join(trouble.message for trouble in troubles))
        return found

    def _find_serving(self, model: str) -> Provider:
        serving = [provider for provider in self._providers.values() if provider.serves(model)]
        for provider in serving:
            if self._trouble(provider.name, provider) is None:
                return provider
        if serving:
            reasons = [str(self._trouble(provider.name, provider)) for provider in serving]
            raise NoProvider("no_provider_for_model", f"model {model!r}: {'; '.join(reasons)}")
        served = "; ".join(f"{p.name} ({', '.join(p.models)})" for p in self._providers.values() if p.models)
        raise NoProvider(
            "no_provider_for_model", f"no provider here serves model {model!r}; served are: {served}"
        )

    def _trouble(self, name: str, provider: Provider | None) -> NoProvider | None:
        if provider is None:
            return NoProvider(
                "unknown_provider", f"provider {name!r} is unknown here; there are: {self._all()}"
            )
        if not provider.working:
            text = f"provider {name!r} ({provider.shown_url}) is marked as not working; working: {self._working()}"
            return NoProvider("provider_not_working", text)
        if provider.lacks_key:
            text = f"provider {name!r} needs a key: set {provider.key_variable} where the worker runs"
            return NoProvider("missing_key", f"{text}; working: {self._working()}")
        return None

    def _all(self) -> str:
        return ", ".join(self._providers) or "none"

    def _working(self) -> str:
        usable = [p.name for p in self._providers.values() if p.working and not p.lacks_key]
        return ", ".join(usable) or "none"
