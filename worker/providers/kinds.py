"""The classes that call services: ours by their kind, others by their path; and which arguments one takes."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from worker.providers.acytoo import Acytoo
from worker.providers.base import AsyncGeneratorProvider
from worker.providers.chatanywhere import ChatAnywhere
from worker.providers.echo import Echo
from worker.providers.openai_compatible import OpenAICompatible

KINDS: Mapping[str, type[AsyncGeneratorProvider]] = {
    "echo": Echo,
    "openai": OpenAICompatible,
    "acytoo": Acytoo,
    "chatanywhere": ChatAnywhere,
}


def parameters_of(cls: type[Any]) -> Mapping[str, inspect.Parameter]:
    """Return what ``create_async_generator`` declares, by name."""
    return _parameters(cls.create_async_generator)


@lru_cache(maxsize=256)  # reading a signature takes longer than all else that precedes a call
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def takes(cls: type[Any], name: str) -> bool:
    """Whether the class takes an argument of this name, be it because it takes any, as only foreign ones do."""
    parameters = parameters_of(cls)
    if name in parameters:
        return True
    return cls not in KINDS.values() and any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def load_class(path: str) -> type[Any]:
    """Return the provider class at ``module:Class``.

    Raises:
        ValueError: there is none, or it has not the shape of a provider.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name or module_name.startswith("."):
        raise ValueError(f"{path!r} is not of the form module:Class")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # the module is not ours: importing it may raise anything
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"no provider class at {path!r}: {why}") from error
    if not inspect.isclass(cls):
        raise ValueError(f"{path!r} is no class")
    if not callable(getattr(cls, "create_async_generator", None)):
        raise ValueError(f"{path!r} has no classmethod create_async_generator, so it is no provider")
    return cls
