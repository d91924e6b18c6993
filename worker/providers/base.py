"""The shape of a provider, and the parts that its answer is made of."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from worker.providers.errors import BadRequest

Message = Mapping[str, Any]
Messages = Sequence[Message]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning, kept apart from its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One complete call of a tool; ``arguments`` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted by the service; ``other`` holds what else it counts, as it names it."""

    input_tokens: int
    output_tokens: int
    other: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the model stopped, in the service's word: ``stop``, ``length``, ``tool_calls`` …"""

    reason: str


Part = str | Reasoning | ToolCall | Usage | Finish
"""What a provider yields: a chunk of the answer's text, or one of the typed parts."""


class AsyncGeneratorProvider(ABC):
    """A chat service whose answer arrives in chunks.

    Any class with these attributes and this classmethod works, whether it derives from this one or not;
    the shape is the one that gpt4free made common.
    """

    url: ClassVar[str] = ""
    working: ClassVar[bool] = False
    supports_message_history: ClassVar[bool] = False
    supports_gpt_35_turbo: ClassVar[bool] = False
    needs_auth: ClassVar[bool] = False
    models: ClassVar[Sequence[str]] = ()
    """Names or ``fnmatch`` patterns of the models served."""

    @classmethod
    @abstractmethod
    def create_async_generator(
        cls,
        model: str,
        messages: Messages,
        proxy: str | None = None,
        timeout: float = 120,
        temperature: float = 0.5,
        **options: Any,
    ) -> AsyncIterator[Part]:
        """Ask the service and return its answer as it arrives.

        Args:
            model: name of the model, as the service knows it.
            messages: the conversation in the OpenAI chat format.
            proxy: URL of an HTTP proxy to go through.
            timeout: seconds that the service may take to accept the connection.
            temperature: 0 to 2.
            options: whatever else this kind of service understands.

        Raises:
            ProviderError: while iterating; its class says what went wrong.
        """


def content_text(content: object) -> str:
    """Return the text of a message's ``content``: the string itself, or its text parts joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "".join(text for text in texts if isinstance(text, str))


def refuse_options(provider: str, options: Mapping[str, object]) -> None:
    """Raise BadRequest when options are given that the provider does not know; None counts as not given."""
    if unknown := sorted(name for name, value in options.items() if value is not None):
        raise BadRequest(f"{provider} does not understand: {', '.join(unknown)}")
