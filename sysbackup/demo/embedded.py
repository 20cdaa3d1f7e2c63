"""
The embedded S3 server: moto's, in this process, on the loopback, for us alone.

moto takes anybody's requests. While the demo runs as root it holds copies of
root's files, so each request must carry the access key that was made for this
one server: other users of the machine do not know it, and what we send over
the loopback they cannot see.
"""

import hmac
import logging
import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sysbackup.errors import SysbackupError, UsageError

REGION = "us-east-1"

_Answer = Iterable[bytes]
_Application = Callable[[dict[str, Any], Callable[..., Any]], _Answer]

# Where a request names its key: Authorization: AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/s3/aws4_request, …
# (S3 API Reference, "Authenticating Requests: Using the Authorization Header").
_CREDENTIAL = re.compile(r"Credential=([^/,]+)/")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server listens, and the one key that it takes."""

    url: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


@contextmanager
def environment_of_its_own() -> Iterator[None]:
    """
    Take out of the environment, for a while, all that could lead to AWS or past the server.

    AWS's and moto's own variables, and proxies; the AWS configuration files of
    whoever runs this are out of reach too.
    """
    before = dict(os.environ)
    for name in before:
        if name.upper().startswith(("AWS_", "BOTO", "MOTO_", "TEST_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        os.environ[name] = os.devnull
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    # moto holds objects below this size in memory, larger ones in unnamed files
    os.environ["MOTO_S3_DEFAULT_KEY_BUFFER_SIZE"] = str(256 << 10)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def embedded_s3() -> Iterator[Endpoint]:
    """
    An empty S3 server on a free port of 127.0.0.1; what it is given is gone with it.

    `UsageError` where the extra that brings it is not installed.
    """
    logger = logging.getLogger("werkzeug")
    level = logger.level
    # werkzeug would log each request on standard error
    logger.setLevel(logging.CRITICAL)
    try:
        make_server, application, handler = _parts()
        key = "DEMO" + secrets.token_hex(12).upper()
        with _listening() as listening:
            # It takes a descriptor of its own: where it could not bind, it would end the process.
            server = make_server(
                "127.0.0.1", 0, _guarded(application, key), threaded=True, request_handler=handler,
                fd=listening.fileno(),
            )  # fmt: skip
            port = listening.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="embedded S3", daemon=True)
        thread.start()
        try:
            yield Endpoint(f"http://127.0.0.1:{port}", key, secrets.token_hex(20))
        finally:
            server.shutdown()
            thread.join()
    finally:
        logger.setLevel(level)


def _parts() -> tuple[Callable[..., Any], _Application, type]:
    """What makes a server, moto's application, and what takes a request apart for it."""
    try:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server
    except ImportError as error:
        raise UsageError(
            f"the demo's own S3 server is not installed (no module {error.name}). Install it with: "
            f"{sys.executable} -m pip install 'sysbackup[demo]' (in a checkout: '.[demo]')"
        ) from error
    return make_server, DomainDispatcherApplication(create_backend_app), MotoRequestHandler


def _listening() -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        # without a loopback one can bind to its address all the same, and nobody gets through
        socket.create_connection(listening.getsockname(), timeout=5).close()
    except OSError as error:
        listening.close()
        raise SysbackupError(
            f"the demo's own S3 server cannot be reached on 127.0.0.1: {error.strerror}. "
            "Is the loopback up? (ip link set lo up)"
        ) from error
    return listening


def _guarded(application: _Application, key: str) -> _Application:
    """The application behind a door that opens to requests made with `key` alone."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> _Answer:
        named = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        if named is not None and hmac.compare_digest(named[1].encode(), key.encode()):
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"this server belongs to one run of: sysbackup demo\n"]

    return guarded
