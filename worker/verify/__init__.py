"""Proof: workers are killed, frozen and cut off, and a checker that trusts nobody reads what came of it.

The one room of the worker that uses the client, because it stands where a caller stands.
"""
