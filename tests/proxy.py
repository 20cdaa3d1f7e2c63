"""An HTTP proxy in front of a server that misbehaves when told to: answers lost, cut short, or never given."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_DENIED = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized</Message></Error></ErrorResponse>"
_ERROR_200 = (
    b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>"
)

_HTML = b"<!DOCTYPE html><html><body>Please sign in<br></body></html>"


class Fault(Enum):
    """What happens to a request."""

    DENIED = "answered with 403 before the server sees it"
    BUSY = "answered with 503 before the server sees it"
    ERROR_200 = "answered with status 200 and an error in the body, before the server sees it"
    EMPTY = "answered with an empty 200, before the server sees it"
    HTML = "answered with 200 and a page, before the server sees it"
    XHTML = "answered with 200 and a page that parses as XML, before the server sees it"
    JSON = "answered with 200 and JSON, before the server sees it"
    DENIED_HTML = "answered with 403 and a page, before the server sees it"
    BROKEN_HTML = "answered with 500 and a page, before the server sees it"
    GONE_HTML = "answered with 404 and a page, before the server sees it"
    LOST = "done by the server, but its answer gets lost"
    CUT = "answered, but the connection breaks in the middle of the body"
    STALLED = "taken, but neither passed on nor answered"


_ANSWERS = {
    Fault.DENIED: ("403 Forbidden", _DENIED),
    Fault.BUSY: ("503 Slow Down", _SLOW_DOWN),
    Fault.ERROR_200: ("200 OK", _ERROR_200),
    Fault.EMPTY: ("200 OK", b""),
    Fault.HTML: ("200 OK", _HTML),
    Fault.XHTML: ("200 OK", b"<html xmlns='http://www.w3.org/1999/xhtml'><body>Welcome</body></html>"),
    Fault.JSON: ("200 OK", b'{"status": "ok"}'),
    Fault.DENIED_HTML: ("403 Forbidden", _HTML),
    Fault.BROKEN_HTML: ("500 Internal Server Error", _HTML),
    Fault.GONE_HTML: ("404 Not Found", _HTML),
}


@dataclass(slots=True)
class _Plan:
    pattern: re.Pattern[str]
    fault: Fault
    numbers: frozenset[int]
    seen: int = 0


@dataclass(slots=True)
class Proxy:
    """`url` is where to go; `heads` the request line and headers of each request that came; `bodies` short ones."""

    url: str
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    _plans: list[_Plan] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, pattern: str, fault: Fault, *numbers: int) -> None:
        """Do `fault` to requests whose request line matches, the so-many-th of them (from 1; default: the first)."""
        self._plans.append(_Plan(re.compile(pattern), fault, frozenset(numbers or (1,))))

    def count(self, pattern: str) -> int:
        """How many requests came whose request line matches."""
        return sum(1 for head in self.heads if re.search(pattern, head.split("\r\n", 1)[0]))

    def take(self, head: str) -> Fault | None:
        """Note a request; what shall happen to it."""
        line = head.split("\r\n", 1)[0]
        with self._turn:
            self.heads.append(head)
            for plan in self._plans:
                if plan.pattern.search(line):
                    plan.seen += 1
                    if plan.seen in plan.numbers:
                        return plan.fault
        return None


@contextmanager
def proxying(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A proxy in front of the server at the URL `upstream`, for the time of the block; with `tls` it ends TLS."""
    parts = urlsplit(upstream)
    target = (parts.hostname or "127.0.0.1", parts.port or 80)
    done = threading.Event()
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        proxy = Proxy(f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            while True:
                client, _ = listener.accept()
                if done.is_set():
                    client.close()
                    return
                thread = threading.Thread(target=_serve, args=(client, target, proxy, done, tls))
                threads.append(thread)
                thread.start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield proxy
        finally:
            done.set()
            with closing(socket.create_connection(listener.getsockname())):
                accepting.join()
            for thread in threads:
                thread.join()


def _serve(
    client: socket.socket, target: tuple[str, int], proxy: Proxy, done: threading.Event, tls: ssl.SSLContext | None
) -> None:
    """One request of one connection, which is closed after it."""
    client.settimeout(60)
    with client:
        try:
            with tls.wrap_socket(client, server_side=True) if tls else client as channel:
                head, begun = _head(channel)
                if head:
                    _answer(channel, head, begun, target, proxy, done)
        except (ConnectionError, TimeoutError, ssl.SSLError):
            return  # the client went away, as cancelled tests do, or does not trust us


def _answer(
    client: socket.socket, head: str, begun: bytes, target: tuple[str, int], proxy: Proxy, done: threading.Event
) -> None:
    fault = proxy.take(head)
    if fault is Fault.STALLED:
        proxy.stalled.set()
        done.wait(60)
        return
    body = _body(client, head, begun)
    if len(body) < 4096:
        proxy.bodies.append(body)
    if fault in _ANSWERS:
        client.sendall(_response(*_ANSWERS[fault]))
        return
    with socket.create_connection(target, timeout=60) as server:
        line, _, headers = head.partition("\r\n")
        headers = re.sub(r"(?im)^connection:.*\r\n", "", headers)
        server.sendall(f"{line}\r\nConnection: close\r\n{headers}".encode("latin-1") + body)
        _pass_on(server, client, fault)


def _pass_on(server: socket.socket, client: socket.socket, fault: Fault | None) -> None:
    receive: Callable[[int], bytes] = server.recv
    answer = b""
    while b"\r\n\r\n" not in answer and (data := receive(65536)):
        answer += data
    head, _, start = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    left = None if length is None else int(length[1]) // (2 if fault is Fault.CUT else 1)
    if fault is Fault.LOST:
        while receive(65536):
            pass
        return
    client.sendall(head + b"\r\n\r\n" + start[:left])
    left = None if left is None else left - len(start)
    while (left is None or left > 0) and (data := receive(65536)):
        client.sendall(data[:left])
        left = None if left is None else left - len(data)


def _head(client: socket.socket) -> tuple[str, bytes]:
    """The head of a request with its empty line ("" where none came), and what of the body came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := client.recv(65536)):
            return "", b""
        data += more
    head, _, begun = data.partition(b"\r\n\r\n")
    return head.decode("latin-1") + "\r\n\r\n", begun


def _body(client: socket.socket, head: str, begun: bytes) -> bytes:
    length = re.search(r"(?im)^content-length: *(\d+)", head)
    wanted = int(length[1]) if length else 0
    chunks, got = [begun], len(begun)
    while got < wanted:
        if not (more := client.recv(min(1 << 20, wanted - got))):
            raise ConnectionError("the client broke off")
        chunks.append(more)
        got += len(more)
    return b"".join(chunks)


def _response(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
