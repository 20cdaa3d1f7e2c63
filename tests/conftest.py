"""Fixtures that every folder of tests may use: servers started once, fresh buckets."""

import functools
import logging
import os
from collections.abc import Iterator
from typing import Any

import botocore.loaders
import botocore.session
import pytest
import structlog
import uvloop
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from sysbackup.pipeline import file_facts
from tests.support.servers import Bucket, InMemory, OnServer, Server, moto_server, rgw_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lengthy tests first, the others in their order."""
    items.sort(key=lambda item: item.get_closest_marker("lengthy") is None)


# Of these each test goes to the next worker that is free; of all other files one worker runs all, and what these set up
# for a module (a machine that boots, a server) is set up once.
_APART = (
    *("test_answers.py", "test_attacked.py", "test_flipped_bits.py", "test_recovery_memory.py"),
    *("test_signals_any_time.py", "test_spoiled_runs.py", "test_unprintable.py"),
)


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.endswith(_APART) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling | None:
    """Who runs what with `--dist loadfile`."""
    return _Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def descriptions_read_once() -> Iterator[None]:
    """botocore reads its description of S3 once, not for each client: that took longer than most tests of a store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command, and a program's first connection, set up the log of their process: each test finds it untouched."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all workers of pytest-xdist, each of which has its own folder beside the others'."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with rgw_server(tmp_path_factory.mktemp("rgw"), shared / "ceph") as server:
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


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as left alone at once: what was written before a run has not changed since."""
    monkeypatch.setattr(file_facts, "_SETTLED", 0)
