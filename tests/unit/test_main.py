"""How the command ends: its exit statuses and what it says."""

import asyncio
import os
import signal
from pathlib import Path

import click
import pytest
import uvloop

from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.main import group, invoke
from sysbackup.concurrency import event_loop
from sysbackup.errors import AccessDenied, BusyError, ConfigError, StoreUnavailable, SysbackupError


@pytest.fixture
def ends_with(monkeypatch: pytest.MonkeyPatch) -> object:
    """Adds a command `try-it` that does what it is told, and runs it."""

    def prepare(action: object) -> int:
        @click.command("try-it")
        def command() -> object:
            assert callable(action)
            return action()

        monkeypatch.setitem(group.commands, "try-it", command)
        return invoke(["try-it"])

    return prepare


def raising(error: BaseException) -> object:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status"),
    [(SysbackupError("it broke"), 1), (BusyError("it broke"), 75), (AccessDenied("it broke"), 77)],
)
def test_an_error_is_one_line_and_its_exit_status(
    ends_with: object, capsys: pytest.CaptureFixture[str], error: SysbackupError, status: int
) -> None:
    """No traceback for what is expected."""
    assert callable(ends_with)
    assert ends_with(raising(error)) == status
    assert capsys.readouterr() == ("", "sysbackup: it broke\n")


def test_each_mistake_of_the_configuration_has_its_line(ends_with: object, capsys: pytest.CaptureFixture[str]) -> None:
    """All at once."""
    assert callable(ends_with)
    assert ends_with(raising(ConfigError(["one is wrong", "two is wrong"]))) == 78
    assert capsys.readouterr().err == "sysbackup: one is wrong\nsysbackup: two is wrong\n"


def test_errors_that_come_together_are_all_told(ends_with: object, capsys: pytest.CaptureFixture[str]) -> None:
    """A TaskGroup's are a group; the first decides about the exit status."""
    assert callable(ends_with)
    errors = ExceptionGroup("tasks", [AccessDenied("no"), ExceptionGroup("more", [StoreUnavailable("gone")])])
    assert ends_with(raising(errors)) == 77
    assert capsys.readouterr().err == "sysbackup: no\nsysbackup: gone\n"


@pytest.mark.parametrize("grouped", [False, True])
def test_anything_else_is_a_bug_with_a_traceback_and_no_local_variables(
    ends_with: object, capsys: pytest.CaptureFixture[str], grouped: bool
) -> None:
    """What was asked for, where it happened, and not what was in the variables."""
    assert callable(ends_with)

    def action() -> None:
        secret = "-".join(["hunter", "2"])
        error = LookupError(len(secret))
        raise ExceptionGroup("tasks", [SysbackupError("no"), error]) if grouped else error

    assert ends_with(action) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "LookupError: 8" in said
    assert "sysbackup: this is a bug" in said.splitlines()[-1]
    assert "hunter-2" not in said


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (3, 3), (0, 0)])
def test_a_command_returns_its_exit_status(ends_with: object, returned: int | None, status: int) -> None:
    """3: the manifest is written, some sources had problems."""
    assert callable(ends_with)
    assert ends_with(lambda: returned) == status


def test_a_command_may_end_through_its_context(ends_with: object) -> None:
    """As is click's way."""
    assert callable(ends_with)
    assert ends_with(lambda: click.get_current_context().exit(3)) == 3


def test_ctrl_c_is_130(ends_with: object, capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell has it."""
    assert callable(ends_with)
    assert ends_with(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.strip() == "sysbackup: stopped by SIGINT"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_cancel_what_runs_and_let_it_clean_up(
    ends_with: object, capsys: pytest.CaptureFixture[str], number: signal.Signals, status: int
) -> None:
    """Then the command ends with the status that shells give to that signal."""
    assert callable(ends_with)
    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("yes")

    assert ends_with(lambda: event_loop.run(work())) == status
    assert cleaned == ["yes"]
    assert capsys.readouterr().err == f"sysbackup: stopped by {number.name}\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_ends_well_in_spite_of_a_signal_has_ended_well() -> None:
    """A backup whose manifest is stored is not called stopped."""

    async def work() -> str:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return "stored"
        return "not cancelled"

    assert event_loop.run(work()) == "stored"


def test_commands_run_under_uvloop() -> None:
    """And get their result back."""

    async def which() -> type:
        return type(asyncio.get_running_loop())

    assert event_loop.run(which()) is uvloop.Loop


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such"], "There is no command 'no-such'"),
        (["chekc-config"], "Did you mean check-config?"),
        (["--log-level", "loud", "list"], "'loud' is not one of"),
        (["--nothing"], "No such option"),
    ],
)
def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    """With how it is used."""
    assert invoke(arguments) == 2
    said = capsys.readouterr().err
    assert "Usage: sysbackup" in said
    assert words in said


def test_a_connection_that_breaks_is_not_passed_over_in_silence(
    ends_with: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """click ends quietly on any EPIPE; only that of our own output is no news."""
    assert callable(ends_with)
    assert ends_with(raising(BrokenPipeError(32, "Broken pipe"))) == 1
    assert "closed by its other end" in capsys.readouterr().err


def test_options_before_the_command_reach_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory is absolute, whatever was given."""

    @click.command("where")
    @pass_invocation
    def command(frame: Invocation) -> None:
        click.echo(frame.directory)

    monkeypatch.setitem(group.commands, "where", command)
    monkeypatch.chdir(tmp_path)
    assert invoke(["--config-dir", "there", "where"]) == 0
    monkeypatch.setenv("SYSBACKUP_CONFIG_DIR", "/from/environment")
    assert invoke(["where"]) == 0
    monkeypatch.delenv("SYSBACKUP_CONFIG_DIR")
    assert invoke(["where"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/there", "/from/environment", "/etc/backup"]
