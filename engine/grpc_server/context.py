"""A handler's context as grpc.aio has it, as far as it says nothing to the client at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

import grpc

from engine.grpc_server.metadata import Metadata, Metadatum

BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}


class Context(grpc.aio.ServicerContext[Any, Any]):
    """What a handler asks of its call, and with what it wants to end it.

    grpc.aio's stubs say otherwise in places; this returns what grpc.aio itself does.
    """

    def __init__(self, metadata: tuple[Metadatum, ...], peer: str) -> None:
        self.ended = False
        # Nobody waits for it any more.
        self.left = False
        self._metadata = metadata
        self._peer = peer
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Metadata = ()
        self._callbacks: list[Callable[[Any], None]] = []

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with this status; always raises grpc.aio.AbortError."""
        self.set_code(code)
        self._details = details
        if self._code is grpc.StatusCode.OK:
            self._code, self._details = grpc.StatusCode.UNKNOWN, "abort called with OK"
        if trailing_metadata:
            self._trailing = trailing_metadata
        raise grpc.aio.AbortError("the call was aborted")

    async def abort_with_status(self, status: Any) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> Metadata:  # type: ignore[override]
        return self._trailing

    def invocation_metadata(self) -> tuple[Metadatum, ...]:  # type: ignore[override]
        return self._metadata

    def set_code(self, code: grpc.StatusCode | int) -> None:
        self._code = BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN) if isinstance(code, int) else code

    def code(self) -> grpc.StatusCode | None:  # type: ignore[override]
        return self._code

    def set_details(self, details: str) -> None:
        self._details = details

    def details(self) -> str:
        return self._details

    def peer(self) -> str:
        return self._peer

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def cancelled(self) -> bool:
        return self.left

    def done(self) -> bool:
        return self.ended

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.ended:
            callback(self)
        else:
            self._callbacks.append(callback)

    def set_compression(self, compression: grpc.Compression) -> None:
        """Allows it; responses are sent as they are all the same."""

    def disable_next_message_compression(self) -> None:
        """They never are."""
