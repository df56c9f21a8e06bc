"""Answers that leave as they come, and clients that hang up before they are told all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..values.errors import SteerchatError
from .requests import BadRequest
from .shapes import event, failure

T = TypeVar("T")


async def stream(request: Request, chunks: AsyncGenerator[dict[str, Any], None]) -> Response:
    """Chunks as server-sent events. An error before the first of them has a status of its own."""
    first = await unless_gone(request, anext(chunks))

    async def lines() -> AsyncGenerator[bytes, None]:
        async with aclosing(chunks) as rest:
            yield event(first)
            try:
                async for chunk in rest:
                    yield event(chunk)
                yield event("[DONE]")
            except SteerchatError as error:
                yield event(failure(error)[1])

    return _Stream(lines(), media_type="text/event-stream")


class _Stream(StreamingResponse):
    """A stream that is closed as soon as the client hangs up, so that its rows are free at the next step."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not sending.done():
                sending.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sending
            await self.body_iterator.aclose()  # type: ignore[union-attr]  # ours is a generator


async def unless_gone(request: Request, answer: Awaitable[T]) -> T:
    """What comes, unless the client hangs up before it does."""
    working = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_hung_up(request.receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise BadRequest("the client hung up", status=499)
    finally:
        gone.cancel()
        working.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
