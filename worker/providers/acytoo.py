"""Acytoo: a web chat that answered without a key. Kept for services with the same protocol."""

from collections.abc import Mapping
from typing import Any

from worker.providers.base import Messages
from worker.providers.plain_text import PlainTextProvider


class Acytoo(PlainTextProvider):
    """Its public service no longer works: give it a ``base_url``."""

    url = "https://chat.acytoo.com"
    path = "/api/completions"
    working = False
    supports_message_history = True
    supports_gpt_35_turbo = True
    models = ("gpt-3.5-turbo",)

    @classmethod
    def headers(cls, url: str) -> Mapping[str, str]:
        """Exactly these two, in lower case."""
        return {"accept": "*/*", "content-type": "application/json"}

    @classmethod
    def payload(cls, messages: Messages, temperature: float) -> dict[str, Any]:
        """The service reads its keys in this order."""
        return {
            "key": "",
            "model": "gpt-3.5-turbo",
            "messages": messages,
            "temperature": temperature,
            "password": "",
        }
