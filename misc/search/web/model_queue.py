"""Requests that wait for the model, which works on one at a time, on all searches that wait at a time."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from misc.search.web.refusals import RefusedError
from misc.search.web.schema import SearchAnswer, SearchRequest
from misc.search.web.searching import Outcome

T = TypeVar("T")
MAX_WAITING = 1024  # texts and images that wait for the model
MAX_BATCH = 64  # searches
TIME_LIMIT = 20.0  # seconds, waiting included


class ModelQueue:
    """One thread for the model.

    Args:
        answer_all: answers several searches, each by an answer or by the error to raise.
    """

    def __init__(self, answer_all: Callable[[Sequence[SearchRequest]], Sequence[Outcome]]) -> None:
        self._answer_all = answer_all
        self._thread = ThreadPoolExecutor(1, "model")
        self._searches: deque[tuple[SearchRequest, Future[SearchAnswer]]] = deque()
        self._num_waiting = 0

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """The answer to a search; raises RefusedError if the server is busy."""
        future: Future[SearchAnswer] = Future()
        with self._counted(1 + len(request.texts) + len(request.without)):
            self._searches.append((request, future))
            self._thread.submit(self._answer_waiting)
            return await _within_limit(asyncio.wrap_future(future))

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` returns in the thread of the model; raises RefusedError if the server is busy."""
        with self._counted(1):
            loop = asyncio.get_running_loop()
            return await _within_limit(loop.run_in_executor(self._thread, work, *arguments))

    def close(self) -> None:
        """Answer no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _counted(self, number: int) -> Iterator[None]:
        if self._num_waiting + number > MAX_WAITING:
            raise RefusedError(503, "The server is busy: too many searches are waiting; try again")
        self._num_waiting += number
        try:
            yield
        finally:
            self._num_waiting -= number

    def _answer_waiting(self) -> None:
        taken = [self._searches.popleft() for _ in range(min(MAX_BATCH, len(self._searches)))]
        batch = [(request, future) for request, future in taken if future.set_running_or_notify_cancel()]
        if not batch:  # an earlier call has answered all
            return
        try:
            answers = self._answer_all([request for request, _ in batch])
        except Exception as error:
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


async def _within_limit(future: "asyncio.Future[T]") -> T:
    try:
        return await asyncio.wait_for(future, TIME_LIMIT)
    except asyncio.TimeoutError as error:
        raise RefusedError(503, f"There was no answer within {TIME_LIMIT:.0f} seconds; try again") from error
