"""How long what a job made stays in Redis, in ms. Every key of a job has a TTL at every moment."""

UNCONFIRMED_MS = 60_000
"""A job whose producer may have died between accepting and queueing it."""

UNFINISHED_MS = 7 * 24 * 3_600_000
"""A job that waits or runs; counted anew from each claim."""

RETENTION_MS = 3_600_000
"""After the end, for readers who come late. Each worker can set its own."""
