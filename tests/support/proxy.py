"""An HTTP proxy in front of a server that misbehaves when told to: answers lost, cut short, or never given."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.spoiling import INSTEAD, SPOILED, Answer, Fault, parsed

__all__ = ["Fault", "Proxy", "proxying"]

_REMEMBERED = 1 << 16  # answers above this size are not given a second time


@dataclass(slots=True)
class _Plan:
    pattern: re.Pattern[str]
    fault: Fault
    numbers: frozenset[int]
    seen: int = 0


@dataclass(slots=True)
class Proxy:
    """
    `url` is where to go; `heads` the request line and headers of each request that came; `bodies` short ones.

    `earlier` is the last answer that was passed on as it was.
    """

    url: str
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    earlier: Answer | None = None
    _plans: list[_Plan] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, pattern: str, fault: Fault, *numbers: int) -> None:
        """Do `fault` to requests whose request line matches, the so-many-th of them (from 1; default: the first)."""
        self._plans.append(_Plan(re.compile(pattern), fault, frozenset(numbers or (1,))))

    def forgive(self) -> None:
        """Pass everything on as it is again."""
        with self._turn:
            self._plans.clear()

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
    if fault is Fault.SHUT:
        return
    if fault is not None and fault in INSTEAD:
        client.sendall(bytes(INSTEAD[fault]))
        return
    with socket.create_connection(target, timeout=60) as server:
        line, _, headers = head.partition("\r\n")
        headers = re.sub(r"(?im)^connection:.*\r\n", "", headers)
        server.sendall(f"{line}\r\nConnection: close\r\n{headers}".encode("latin-1") + body)
        if fault is None or fault is Fault.CUT:
            _pass_on(server, client, proxy, fault)
        else:
            _spoil(server, client, proxy, fault)


def _spoil(server: socket.socket, client: socket.socket, proxy: Proxy, fault: Fault) -> None:
    """Take the server's whole answer, and pass on what the fault leaves of it."""
    raw = b"".join(iter(lambda: server.recv(65536), b""))
    if fault is Fault.LOST:
        return
    answer = parsed(raw)
    if fault is Fault.BEHEADED:
        client.sendall(answer.head[: len(answer.head) // 2])
    elif fault is Fault.EARLIER:
        client.sendall(bytes(proxy.earlier or answer))
    else:
        client.sendall(bytes(SPOILED[fault](answer)))


def _pass_on(server: socket.socket, client: socket.socket, proxy: Proxy, fault: Fault | None) -> None:
    receive: Callable[[int], bytes] = server.recv
    answer = b""
    while b"\r\n\r\n" not in answer and (data := receive(65536)):
        answer += data
    head, _, start = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    left = None if length is None else int(length[1]) // (2 if fault is Fault.CUT else 1)
    kept = [answer]
    client.sendall(head + b"\r\n\r\n" + start[:left])
    left = None if left is None else left - len(start)
    while (left is None or left > 0) and (data := receive(65536)):
        client.sendall(data[:left])
        left = None if left is None else left - len(data)
        kept.append(data if sum(map(len, kept)) < _REMEMBERED else b"")
    if fault is None and sum(map(len, kept)) < _REMEMBERED:
        proxy.earlier = parsed(b"".join(kept))


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
