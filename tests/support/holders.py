"""Who holds which entry, as the group knows it."""

from redis.asyncio import Redis

from producer.wire.keys import GROUP, Keys


async def holders(redis: Redis, keys: Keys) -> dict[str, str]:
    """The consumer of each entry that was handed out, by the entry's id."""
    pending = await redis.xpending_range(keys.jobs("default"), GROUP, "-", "+", 1000)
    return {one["message_id"].decode(): one["consumer"].decode() for one in pending}
