"""Connections that end: uvicorn's, with limits of their number, and of the time that a client may take."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 600  # above this they are closed at once; uvicorn answers 503 from `MAX_ANSWERED`
MAX_ANSWERED = 500
PATIENCE = 10.0  # seconds for the headers of a request, and for its body, and
MIN_RATE = 50_000  # bytes a second in addition, for uploads over slow networks,
MAX_COUNTED = 20_000_000  # bytes of which are counted at most
MAX_STALL = 30.0  # seconds in which a client reads nothing of an answer


class BoundedConnection(H11Protocol):
    """A connection of uvicorn that is closed when a request does not arrive, or an answer is not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._arriving: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a request has arrived."""
        if self._arriving is None:
            self._expect_request()
        self._num_received += len(data)
        super().data_received(data)
        is_between = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if is_between or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._arriving.cancel()
            self._arriving = None

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(MAX_STALL, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()

    def _expect_request(self) -> None:
        self._started, self._num_received = self.loop.time(), 0
        self._arriving = self.loop.call_later(PATIENCE, self._end_if_late)

    def _end_if_late(self) -> None:
        deadline = self._started + PATIENCE + min(self._num_received, MAX_COUNTED) / MIN_RATE
        left = deadline - self.loop.time()
        if left > 0:
            self._arriving = self.loop.call_later(left, self._end_if_late)
        else:
            self.transport.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._arriving, self._stalled):
            if timer:
                timer.cancel()
