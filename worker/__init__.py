"""chatrelay's worker: takes chat jobs from Redis, asks providers, publishes what they answer."""
