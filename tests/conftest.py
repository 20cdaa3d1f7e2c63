"""Fixtures that every folder of tests may use: servers started once, fresh buckets."""

from collections.abc import Iterator

import pytest
import uvloop

from tests.servers import Bucket, InMemory, OnServer, Server, moto_server, rgw_server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rgw_server(tmp_path_factory.mktemp("rgw")) as server:
        yield server


@pytest.fixture(params=["moto", "rgw"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each server in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def served(server: Server) -> OnServer:
    """A fresh bucket on each server in turn."""
    return uvloop.run(server.bucket())


@pytest.fixture(params=["memory", "memory that locks no multipart upload", "moto", "rgw"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """A fresh bucket on everything that passes for a store, in turn."""
    if request.param.startswith("memory"):
        return InMemory(multipart_locks=request.param == "memory")
    server: Server = request.getfixturevalue(request.param)
    return uvloop.run(server.bucket())
