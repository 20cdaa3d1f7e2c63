"""Root's files in the service's directories are the service's."""

import os
from pathlib import Path

import pytest

from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.contents.cache_directory import catalog_path, exclusive
from sysbackup.disk.ownership import leave_to_owner
from sysbackup.formats.run_result import RunResult
from sysbackup.service import history
from tests.support import backups
from tests.support.clock import START

SERVICE = 4711

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def test_what_root_makes_in_the_services_directories_is_the_services(tmp_path: Path) -> None:
    """Lock, catalog with the files beside it, and history: after a run by root the service can go on."""
    config = backups.configured(tmp_path)
    for place in (config.cache, config.state):
        place.mkdir()
        os.chown(place, SERVICE, SERVICE)
    with exclusive(config.cache), SqliteCatalog(catalog_path(config.cache)):
        owners = {path.name: path.stat().st_uid for path in config.cache.iterdir()}
    ended = RunResult(outcome="failed", exit_code=1, host="alpha", run=None, started=START, finished=START, reason="")
    history.remember(config, ended)
    owners |= {path.name: path.stat().st_uid for path in config.state.iterdir()}
    assert owners.keys() >= {"run.lock", "catalog.sqlite", "catalog.sqlite-wal", "history.jsonl"}
    assert set(owners.values()) == {SERVICE}


def test_what_somebody_else_has_put_there_is_not_given_away(tmp_path: Path) -> None:
    """Another name of a file of root's, or a FIFO: whose directory it is could have anything that way."""
    mine, place = tmp_path / "mine", tmp_path / "service"
    mine.write_text("root's")
    place.mkdir()
    os.link(mine, place / "history.jsonl")
    os.mkfifo(place / "fifo")
    os.chown(place, SERVICE, SERVICE)
    for name in ("history.jsonl", "fifo"):
        fd = os.open(place / name, os.O_RDWR)
        try:
            leave_to_owner(fd, place)
        finally:
            os.close(fd)
        assert (place / name).stat().st_uid == 0
    mine.unlink()  # now it has one name
    fd = os.open(place / "history.jsonl", os.O_RDWR)
    try:
        leave_to_owner(fd, place)
    finally:
        os.close(fd)
    assert (place / "history.jsonl").stat().st_uid == SERVICE


def test_in_a_directory_of_its_own_root_keeps_them(tmp_path: Path) -> None:
    """Nothing changes hands there."""
    with (tmp_path / "file").open("w") as file:
        leave_to_owner(file.fileno(), tmp_path)
        assert os.fstat(file.fileno()).st_uid == 0
