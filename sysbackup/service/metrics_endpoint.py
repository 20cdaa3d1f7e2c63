"""
Metrics over HTTP: `GET /metrics` and nothing else, on the daemon's own loop.

Bounded against clients that are many, slow or silent; whatever they do, the
daemon goes on. No thread, so nothing is left behind when it ends.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()

AT_ONCE = 16
"""Connections served at the same time; more are closed at once."""

WITHIN = 10.0
"""Seconds from a connection's beginning to its end, whichever side is slow."""

_HEAD_BYTES = 8 << 10

# https://prometheus.io/docs/instrumenting/exposition_formats/
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_WORDS = "text/plain; charset=utf-8"


class MetricsEndpoint:
    """Where Prometheus asks. It listens nowhere until it is told to."""

    def __init__(self, exposition: Callable[[], Awaitable[bytes]]) -> None:
        self._exposition = exposition
        self._address: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self, address: tuple[str, int] | None) -> None:
        """Listen there and nowhere else. Where that cannot be done, log why; the next call tries again."""
        if address == self._address and self._server is not None:
            return
        await self.close()
        self._address = address
        if address is None:
            return
        try:
            self._server = await asyncio.start_server(self._serve, *address, limit=_HEAD_BYTES)
        except OSError as exc:
            reason = f"{exc.strerror or exc}; backups go on without it, and a reload tries it again"
            log.error("metrics.unserved", address=_shown(address), reason=reason)
        else:
            log.info("metrics.served", address=_shown(address))

    async def close(self) -> None:
        """Listen no more, and drop whoever is connected."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        serving = [*self._serving]
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._server is None or len(self._serving) >= AT_ONCE:
            writer.transport.abort()
            return
        self._serving.add(task)
        try:
            async with asyncio.timeout(WITHIN):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, EOFError):
            return  # the client is gone, or might as well be
        except asyncio.CancelledError:
            return  # `close` waits for us; nobody else does
        except Exception:  # a mistake of ours here must not end backups
            log.exception("metrics.failed")
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", _WORDS, b"too much\n")
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", _WORDS, b"this is not HTTP/1.1\n")
        method, target, _ = words
        if target.partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", _WORDS, b"there is only /metrics\n")
        if method != b"GET":
            return _response("405 Method Not Allowed", _WORDS, b"there is only GET\n", "Allow: GET\r\n")
        return _response("200 OK", _TEXT, await self._exposition())


def _response(status: str, kind: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
