"""An LLM service on loopback that does what a job's prompt says, and keeps its own record of it."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from aiohttp import web

from worker.verify.facts import Call

_RETRY_AFTER = 1  # seconds
_END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@dataclass(frozen=True, slots=True)
class Plan:
    """What the upstream is to do for one job; it goes there as the job's prompt.

    ``pace``: seconds between two chunks. ``faults``: what goes wrong in the first, second … call: ``hang``, ``cut``
    (both half-way), ``429``, ``500`` or nothing. ``always``: what goes wrong in every further one. ``padding``: how
    many characters are added to each chunk.
    """

    job: str
    chunks: int = 30
    pace: float = 0.02
    faults: tuple[str, ...] = ()
    always: str = ""
    padding: int = 0

    def prompt(self) -> str:
        """Return the plan as the text of a message."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, prompt: str) -> Self:
        """Return the plan that `prompt` wrote."""
        fields = json.loads(prompt)
        return cls(**{**fields, "faults": tuple(fields["faults"])})

    def fault_of(self, call: int) -> str:
        """Return what goes wrong in the call of this number, counted from 1; '' for nothing."""
        return self.faults[call - 1] if call <= len(self.faults) else self.always

    def text_of(self, call: int) -> list[str]:
        """Return the chunks of this call: no two calls of any two jobs have one in common."""
        filling = "." * self.padding
        return [f"{self.job}.{call}.{n}{'é😀' if n % 7 == 3 else ''}{filling} " for n in range(self.chunks)]


@dataclass(slots=True)
class CallRecord:
    """One call, while it runs and afterwards. Times are seconds, monotonic."""

    number: int
    fault: str
    began_at: float
    pieces: list[str] = field(default_factory=list)
    is_whole: bool = False
    failed_at: float | None = None
    ended_at: float | None = None
    closed_by_caller: bool = False

    def fact(self) -> Call:
        """Return it as a fact."""
        return Call(self.number, "".join(self.pieces), self.is_whole, self.ended_at is not None)


class Upstream:
    """The service: ``async with`` it, and it is at ``url``."""

    def __init__(self) -> None:
        self.url = ""
        self._calls: dict[str, list[CallRecord]] = {}
        self._open: set[str] = set()
        self.calls_seen = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        # With its handler cancelled, a call ends here at the moment in which the caller hangs up.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True, keepalive_timeout=3600
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def calls(self, job_id: str) -> Sequence[CallRecord]:
        """Return the calls for one job, in the order in which they came."""
        return self._calls.get(job_id, ())

    def open_calls(self) -> list[str]:
        """Return which calls are being served, also for jobs that were forgotten."""
        return sorted(self._open)

    def forget(self, job_id: str) -> None:
        """Drop the record of a job that was checked."""
        self._calls.pop(job_id, None)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        plan = Plan.read(body["messages"][0]["content"])
        try:
            with self._recorded(plan) as call:
                if call.fault in ("429", "500"):
                    call.failed_at = time.monotonic()
                    return _refusal(int(call.fault))
                return await _stream(request, plan, call)
        except ConnectionError:
            return web.Response()  # nobody is there to read it

    @contextlib.contextmanager
    def _recorded(self, plan: Plan) -> Iterator[CallRecord]:
        calls = self._calls.setdefault(plan.job, [])
        number = len(calls) + 1
        call = CallRecord(number, plan.fault_of(number), time.monotonic())
        calls.append(call)
        self.calls_seen += 1
        title = f"call {number} of job {plan.job}"
        self._open.add(title)
        try:
            yield call
        except (asyncio.CancelledError, ConnectionError):
            call.closed_by_caller = True
            raise
        finally:
            call.ended_at = time.monotonic()
            self._open.discard(title)


async def _stream(request: web.Request, plan: Plan, call: CallRecord) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    async for text in _paced(plan, call):
        call.pieces.append(
            text
        )  # before it is sent: what a caller got was sent, whatever happens to this call
        await response.write(_event(text))
    if call.fault:
        call.failed_at = time.monotonic()
        await _go_wrong(request, call.fault)
        return response
    call.is_whole = True  # before it is sent, as above; taken back if it was not
    try:
        await response.write(_END)
    except ConnectionError:
        call.is_whole = False
        raise
    await response.write_eof()
    return response


async def _paced(plan: Plan, call: CallRecord) -> AsyncIterator[str]:
    chunks = plan.text_of(call.number)
    for text in chunks[: len(chunks) // 2] if call.fault else chunks:
        await asyncio.sleep(plan.pace)
        yield text


async def _go_wrong(request: web.Request, fault: str) -> None:
    if fault == "hang":
        await asyncio.Event().wait()  # until the caller hangs up
    elif fault == "cut" and request.transport is not None:
        request.transport.abort()


def _event(text: str) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


def _refusal(status: int) -> web.Response:
    headers = {"Retry-After": str(_RETRY_AFTER)} if status == 429 else {}
    return web.json_response({"error": {"message": "as planned"}}, status=status, headers=headers)
