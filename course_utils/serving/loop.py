"""The thread that owns the engine, and how asyncio and it exchange words.

An engine is not safe to touch from two threads, and a step would block the event loop. So one
thread owns it. Requests and cancellations come in through a queue that any thread may fill; between
two steps the owner reads them, and decides on admission with the scheduler's true state. What a
step gives goes back in one call (`call_soon_threadsafe`) into the queue of each job.

The prompts of a job are admitted together or not at all. The owner never waits for a reader: a slow
client holds no block longer than its answer takes to generate.

If a step fails, everybody inside gets the error, their blocks are freed, and the thread goes on.
"""

import asyncio
import logging
import queue
import threading
import time

from course_utils.serving.admission import Admission
from course_utils.serving.backends import Engine, Made
from course_utils.serving.jobs import Job, Piece, State, StoppingError

logger = logging.getLogger(__name__)


class EngineLoop:
    """Start and stop the thread; `submit` and `cancel` jobs from an event loop."""

    def __init__(self, engine: Engine, admission: Admission):
        self.engine, self.admission = engine, admission
        self.state = self._state()
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._outbox: list[tuple[Job, object]] = []
        self._owners: dict[Made, tuple[Job, int]] = {}
        self._thread: threading.Thread | None = None
        self._aio: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to serve; answers go to the event loop that runs now."""
        self._aio = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End what is inside, and wait for the thread to end. Twice does nothing."""
        self._inbox.put(None)
        while self._thread.is_alive():  # no executor: it may be gone when the process ends
            await asyncio.sleep(0.005)

    def submit(self, job: Job) -> None:
        """Ask for a job; its events tell the rest."""
        if self._stopped:
            job.events.put_nowait(StoppingError())
        self._inbox.put(job)

    def cancel(self, job: Job) -> None:
        """End a job, wherever it is; one that has ended stays as it is."""
        job.cancelled = True
        self._inbox.put(job)

    def _run(self) -> None:
        while self._read_inbox():
            if self.engine.live:
                self._step()
            self._flush()
        self._stopped = True  # whoever comes later is told by `submit`
        for job in {job for job, _ in self._owners.values()} | self._left_over():
            self._end(job, StoppingError())
        self._flush()

    def _left_over(self) -> set[Job]:
        """Jobs that came, and that nobody has looked at."""
        found = set()
        while not self._inbox.empty():
            if job := self._inbox.get():
                found.add(job)
        return found

    def _read_inbox(self) -> bool:
        """Take what has come, waiting for something if there is nothing to do. False: stop."""
        wait = not self.engine.live
        while wait or not self._inbox.empty():
            if (job := self._inbox.get()) is None:
                return False
            if job.cancelled:
                self._end(job)
            else:
                self._add(job)
            wait = False
        return True

    def _add(self, job: Job) -> None:
        prompts = [ask.prompt for ask in job.asks]
        try:
            refusal = not job.admitted and self.admission.refuse(self.engine.scheduler, prompts)
            if refusal:
                self._outbox.append((job, refusal))
                return
            for index, ask in enumerate(job.asks):
                made = self.engine.add(ask.prompt, ask.params, job.arrival)
                job.made.append(made)
                self._owners[made] = (job, index)
            self._outbox.append((job, True))
        except Exception as error:  # ValueError: can never be served
            self._end(job, error)

    def _end(self, job: Job, error: Exception | None = None) -> None:
        for made in job.made:
            self._owners.pop(made, None)
            self.engine.cancel(made)
        if error:
            self._outbox.append((job, error))

    def _step(self) -> None:
        before, done = time.monotonic(), self.engine.scheduler.tokens
        try:
            updates = self.engine.step()
        except Exception as error:
            logger.exception("a step of the engine failed")
            for job in {job for job, _ in self._owners.values()}:
                self._end(job, error)
            return
        now = time.monotonic()
        self.admission.times.observe(self.engine.scheduler.tokens - done, now - before)
        for update in updates:
            self._report(update, now)

    def _report(self, update, now: float) -> None:
        made = update.generation
        job, index = self._owners[made]
        if made.finish_reason:
            del self._owners[made]
        entries = made.logprobs[len(made.logprobs) - len(update.ids) :] if made.logprobs else []
        cached = made.request.cached_tokens
        piece = Piece(
            index,
            update.text,
            tuple(update.ids),
            tuple(entries),
            made.finish_reason,
            cached,
            now,
        )
        self._outbox.append((job, piece))

    def _state(self) -> State:
        scheduler, pool = self.engine.scheduler, self.engine.scheduler.pool
        return State(
            len(scheduler.running),
            len(scheduler.waiting),
            pool.used,
            pool.cached,
            pool.free,
            scheduler.config.max_requests,
        )

    def _flush(self) -> None:
        """Show the new state, then hand over the events."""
        self.state = self._state()
        events, self._outbox = self._outbox, []
        if events and not self._aio.is_closed():
            self._aio.call_soon_threadsafe(_deliver, events)


def _deliver(events: list[tuple[Job, object]]) -> None:
    for job, event in events:
        job.events.put_nowait(event)
