"""Asking systemd when a timer will elapse: a program in its place says what systemd 252 was heard to say."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sysbackup.programs import timers
from tests.support.backups import program


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Has `systemctl` do what a script does, and asks it."""

    def prepare(script: str) -> datetime | None:
        program(tmp_path / "bin", "systemctl", f"#!/bin/sh\n{script}\n")
        return timers.next_elapse("sysbackup.timer")

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(timers, "_BOOTED", str(tmp_path))
    return prepare


def test_the_instant_is_read_in_utc(said: object) -> None:
    """Whatever zone the machine is in: systemctl is asked in UTC, and for that timer alone."""
    assert callable(said)
    found = said('[ "$LC_ALL$TZ$4" = CUTCsysbackup.timer ] && echo "Tue 2026-11-24 05:32:01 UTC"')
    assert found == datetime(2026, 11, 24, 5, 32, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "script",
    [
        "echo",
        "echo n/a",
        'echo "Tue 2026-11-24 05:32:01 CET"',
        'echo "Tue 2026-13-24 05:32:01 UTC"',
        'echo "Tue 2026-11-24 05:32:01 UTC"; exit 1',
        "echo no bus >&2; exit 1",
        "printf '\\377\\n'",
    ],
)
def test_anything_else_is_not_known(said: object, script: str) -> None:
    """A timer that is not there or not started, another form, a failure."""
    assert callable(said)
    assert said(script) is None


def test_one_that_does_not_answer_is_not_waited_for(said: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status must answer where systemd hangs."""
    assert callable(said)
    monkeypatch.setattr(timers, "_WITHIN", 0.2)
    assert said("exec sleep 600") is None


def test_without_systemd_it_is_not_asked(said: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A systemctl may be installed where another init runs."""
    assert callable(said)
    monkeypatch.setattr(timers, "_BOOTED", str(tmp_path / "nothing"))
    assert said('echo "Tue 2026-11-24 05:32:01 UTC"') is None
