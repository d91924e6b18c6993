"""The contract between producers, workers and readers: names, jobs and events as bytes. No I/O.

- :mod:`~producer.wire.keys`: every Redis name, spelled once.
- :mod:`~producer.wire.codec`: bounded msgpack.
- :mod:`~producer.wire.job`: what is asked.
- :mod:`~producer.wire.job_fields`: what the fields of a job may hold.
- :mod:`~producer.wire.events`: what happened.
- :mod:`~producer.wire.frames`: the bytes that carry events.

``docs/wire.md`` says the same for those who write in another language.
"""
