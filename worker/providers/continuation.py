"""How a model is brought to go on with an answer whose beginning stands already. Pure."""

from typing import Literal

from worker.providers.base import Messages

Continuation = Literal["ask", "prefill"]
"""``ask`` in words, which any chat model understands; or ``prefill`` the answer, which is exact, but only with
services that go on from a last message of the assistant rather than refuse it or answer it."""

GO_ON = (
    "Your last answer was cut off. Go on exactly where it stops, in mid-word if need be: your text will be put "
    "directly behind it. Repeat nothing of it, and say nothing about it or about this request."
)


def continued(messages: Messages, text: str, how: Continuation) -> Messages:
    """Return the conversation that makes the model go on from ``text``; ``messages`` stay as they are."""
    begun = {"role": "assistant", "content": text}
    if how == "prefill":
        return [*messages, begun]
    return [*messages, begun, {"role": "user", "content": GO_ON}]
