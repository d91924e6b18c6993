"""Providers: how an LLM service is asked and how its answer is read. They know HTTP, never Redis."""
