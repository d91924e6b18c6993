"""The main job: enqueued, claimed, streamed, read."""

from producer import Chunk, Done, Producer, Queued, Started
from tests.conftest import StartWorker


async def test_a_job_comes_back_chunk_by_chunk(producer: Producer, start_worker: StartWorker) -> None:
    await start_worker()
    job = await producer.enqueue("hello there", provider="echo")
    events = [event async for event in producer.subscribe(job.id)]
    attempt = events[1].id.partition("-")[0]
    assert events == [
        Queued("0-1", "default"),
        Started(f"{attempt}-0", 1, "echo", "w1", "echo", 0),
        Chunk(f"{attempt}-1", "hell"),
        Chunk(f"{attempt}-2", "o th"),
        Chunk(f"{attempt}-3", "ere"),
        Done(f"{attempt}-4", "stop", 11),
    ]
