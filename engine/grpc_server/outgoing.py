"""What calls have to say, until it is on its way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import ngh2

from engine.grpc_server.metadata import Field

if TYPE_CHECKING:
    from engine.grpc_server.call import Call

# What a stream may have written and its client not yet allowed; more waits in the handler.
MAX_UNSENT_BYTES: Final = 16_384


class Outgoing:
    """Hands responses to HTTP/2, and tells calls when there is room for more."""

    def __init__(self, http: ngh2.Connection) -> None:
        self._http = http
        # Calls that wait for room; streams to be reset once their answer is written.
        self._crowded: set[Call] = set()
        self._unfinished: set[int] = set()
        # Bytes of responses: all that were put here, and those that went out or were given up.
        # Whoever waits is looked at when more have gone, or when it is new.
        self._put = 0
        self._gone = 0
        self._stirred = False
        self._look = False

    def put(
        self,
        stream_id: int,
        headers: Sequence[Field] | None,
        data: bytes,
        trailers: Sequence[Field] | None,
    ) -> None:
        """Any of the three, in this order; trailers are the end."""
        http = self._http
        try:
            if headers is not None:
                if trailers is not None and not data:
                    http.send_response(stream_id, [*headers, *trailers], end_stream=True)
                    return
                http.send_response(stream_id, headers)
            if data:
                http.send_data(stream_id, data)
                self._put += len(data)
            if trailers is not None:
                http.send_trailers(stream_id, trailers)
        except (ngh2.StreamProtocolError, ngh2.ConnectionStateError):
            # Nobody is there to read it: the event that tells so is among those to come.
            pass

    def has_room(self, call: Call) -> bool:
        """Whether it may write; if not, it is told when it may."""
        if self._http.queued_body_size(call.stream_id) <= MAX_UNSENT_BYTES:
            return True
        self._crowded.add(call)
        self._stirred = True
        return False

    def forget(self, call: Call) -> None:
        """It waits for room no more."""
        self._crowded.discard(call)

    def await_end(self, stream_id: int) -> None:
        """Its client still sends; it is told to stop when it has its answer."""
        self._unfinished.add(stream_id)
        self._stirred = True

    def ended(self, stream_id: int) -> None:
        """Its client has stopped."""
        self._unfinished.discard(stream_id)

    def waiting(self) -> int:
        """Bytes of responses that cannot go out yet."""
        return self._http.queued_body_size()

    def take(self) -> bytes:
        """What can go out now. Raises ngh2.NGH2Error."""
        data = self._http.data_to_send()
        gone = self._put - self.waiting()
        self._look = self._stirred or gone != self._gone
        self._gone, self._stirred = gone, False
        if self._look and self._unfinished:
            data += self._reset_answered()
        return data

    def _reset_answered(self) -> bytes:
        answered = [one for one in self._unfinished if not self._http.queued_body_size(one)]
        if not answered:
            return b""
        self._unfinished.difference_update(answered)
        # Unless the connection ends anyhow.
        with suppress(ngh2.ConnectionStateError):
            for stream_id in answered:
                self._http.reset_stream(stream_id, ngh2.ErrorCode.NO_ERROR)
        return self._http.data_to_send()

    def make_room(self) -> None:
        """After `take`: tell calls that waited for room and now have it."""
        if not self._look:
            return
        for call in [*self._crowded]:
            if self._http.queued_body_size(call.stream_id) <= MAX_UNSENT_BYTES:
                self._crowded.discard(call)
                call.has_room()
