"""What can happen to an answer on its way: another one in its place, or the server's own with something wrong in it."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum


class Fault(Enum):
    """What happens to a request, or to its answer."""

    DENIED = "answered with 403 before the server sees it"
    BUSY = "answered with 503 before the server sees it"
    ERROR_200 = "answered with status 200 and an error in the body, before the server sees it"
    EMPTY = "answered with an empty 200, before the server sees it"
    HTML = "answered with 200 and a page, before the server sees it"
    XHTML = "answered with 200 and a page that parses as XML, before the server sees it"
    JSON = "answered with 200 and JSON, before the server sees it"
    CHUNKED = "answered with 200 and chunks that are none, before the server sees it"
    DENIED_HTML = "answered with 403 and a page, before the server sees it"
    BROKEN_HTML = "answered with 500 and a page, before the server sees it"
    GONE_HTML = "answered with 404 and a page, before the server sees it"
    MOVED = "answered with 301 to where nothing is, before the server sees it"
    AWAY = "answered with 307 to where nothing is, before the server sees it"
    SHUT = "not answered: the connection is closed before the server sees it"
    STALLED = "taken, but neither passed on nor answered"
    LOST = "done by the server, but its answer gets lost"
    BEHEADED = "done by the server, but the connection breaks in the middle of the answer's head"
    CUT = "answered, but the connection breaks in the middle of the body"
    TRUNCATED = "done by the server, but its answer lacks the second half of the body and is whole by its length"
    GARBLED = "done by the server, but its answer's body is noise in its second half"
    EARLIER = "done by the server, but answered with what it said to the request before"
    OTHER_VERSION = "done by the server, but its answer names other versions"
    NO_VERSION = "done by the server, but its answer names no version"
    OTHER_ETAG = "done by the server, but its answer tells the ETag of something else"
    NO_ETAG = "done by the server, but its answer tells no ETag"
    OTHER_CHECKSUM = "done by the server, but its answer tells the checksum of something else"
    DISORDERED = "done by the server, but its answer lists everything backwards"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status line and headers, each with its line's end, and the body."""

    head: bytes
    body: bytes

    def __bytes__(self) -> bytes:
        return self.head + b"\r\n" + self.body

    def with_body(self, body: bytes) -> "Answer":
        """The same with another body, whole by its length; as it is where it has none, as HEAD's has."""
        if not self.body:
            return self
        return Answer(re.sub(rb"(?im)^content-length:[^\r\n]*", b"Content-Length: %d" % len(body), self.head), body)


def _canned(status: str, body: bytes, *headers: str) -> Answer:
    kind = "text/html" if body.startswith(b"<!DOCTYPE") else "application/xml"
    length = () if any(h.startswith("Transfer-Encoding") for h in headers) else (f"Content-Length: {len(body)}",)
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *length, "Connection: close", *headers]
    return Answer("".join(f"{line}\r\n" for line in lines).encode(), body)


_HTML = b"<!DOCTYPE html><html><body>Please sign in<br></body></html>"
_NOWHERE = "Location: http://127.0.0.1:9/"

INSTEAD: Mapping[Fault, Answer] = {
    Fault.DENIED: _canned(
        "403 Forbidden",
        b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized</Message></Error></ErrorResponse>",
    ),
    Fault.BUSY: _canned(
        "503 Slow Down",
        b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    ),
    Fault.ERROR_200: _canned(
        "200 OK",
        b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>",
    ),
    Fault.EMPTY: _canned("200 OK", b""),
    Fault.HTML: _canned("200 OK", _HTML),
    Fault.XHTML: _canned("200 OK", b"<html xmlns='http://www.w3.org/1999/xhtml'><body>Welcome</body></html>"),
    Fault.JSON: _canned("200 OK", b'{"status": "ok"}'),
    Fault.CHUNKED: _canned("200 OK", b"zz\r\nno chunk at all\r\n", "Transfer-Encoding: chunked"),
    Fault.DENIED_HTML: _canned("403 Forbidden", _HTML),
    Fault.BROKEN_HTML: _canned("500 Internal Server Error", _HTML),
    Fault.GONE_HTML: _canned("404 Not Found", _HTML),
    Fault.MOVED: _canned("301 Moved Permanently", _HTML, _NOWHERE),
    Fault.AWAY: _canned("307 Temporary Redirect", _HTML, _NOWHERE),
}
"""What is answered in the server's place, which never sees the request."""


def _halved(answer: Answer) -> Answer:
    return answer.with_body(answer.body[: len(answer.body) // 2])


def _garbled(answer: Answer) -> Answer:
    half = len(answer.body) // 2
    return answer.with_body(answer.body[:half] + os.urandom(len(answer.body) - half))


def _told(header: str, element: str, change: Callable[[bytes], bytes | None]) -> Callable[[Answer], Answer]:
    """What changes a value wherever an answer tells it, by a header or in elements; None takes it away."""
    in_head = re.compile(rb"(?im)^(%s: *)([^\r\n]*)\r\n" % re.escape(header.encode()))
    in_body = re.compile(rb"<%(n)s>([^<]*)</%(n)s>" % {b"n": element.encode()})

    def line(found: re.Match[bytes]) -> bytes:
        value = change(found[2])
        return b"" if value is None else found[1] + value + b"\r\n"

    def tagged(found: re.Match[bytes]) -> bytes:
        value = change(found[1])
        return b"" if value is None else b"<%s>%s</%s>" % (element.encode(), value, element.encode())

    def changed(answer: Answer) -> Answer:
        is_xml = answer.body.lstrip().startswith(b"<")
        answer = replace(answer, head=in_head.sub(line, answer.head))
        return answer.with_body(in_body.sub(tagged, answer.body)) if is_xml else answer

    return changed


def _other(value: bytes) -> bytes:
    return value[1:] + value[:1]


def _of_something_else(answer: Answer) -> Answer:
    checksum = base64.b64encode(hashlib.sha256(b"something else").digest())
    answer = _told("x-amz-checksum-sha256", "ChecksumSHA256", lambda _: checksum)(answer)
    if b"x-amz-checksum-sha256:" in answer.head.lower() or answer.body:
        return answer
    return replace(answer, head=answer.head + b"x-amz-checksum-sha256: %s\r\n" % checksum)


_LISTED = re.compile(rb"<(Contents|Version)>.*?</\1>", re.DOTALL)


def _backwards(answer: Answer) -> Answer:
    entries = [found[0] for found in _LISTED.finditer(answer.body)]
    return answer.with_body(_LISTED.sub(lambda _: entries.pop(), answer.body))


SPOILED: Mapping[Fault, Callable[[Answer], Answer]] = {
    Fault.TRUNCATED: _halved,
    Fault.GARBLED: _garbled,
    Fault.OTHER_VERSION: _told("x-amz-version-id", "VersionId", _other),
    Fault.NO_VERSION: _told("x-amz-version-id", "VersionId", lambda _: None),
    Fault.OTHER_ETAG: _told("etag", "ETag", lambda _: b'"%s"' % hashlib.md5(b"something else").hexdigest().encode()),
    Fault.NO_ETAG: _told("etag", "ETag", lambda _: None),
    Fault.OTHER_CHECKSUM: _of_something_else,
    Fault.DISORDERED: _backwards,
}
"""What happens to the server's own answer."""


def parsed(raw: bytes) -> Answer:
    """An answer as it came over a connection that was closed after it; its chunks joined."""
    head, _, body = raw.partition(b"\r\n\r\n")
    chunked = re.compile(rb"(?im)^transfer-encoding: *chunked[^\r\n]*$")
    if chunked.search(head):
        body = _joined(body)
        head = chunked.sub(b"Content-Length: %d" % len(body), head)
    return Answer(head + b"\r\n", body)


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        body, chunks = body + chunks[:length], chunks[length + 2 :]
    return body
