"""`sysbackup demo`, as somebody runs it who has just installed it."""

import fcntl
import http.client
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sysbackup.demo.comparing import Comparison
from sysbackup.demo.embedded import embedded_s3

ROOT = Path(__file__).parents[2]
NOBODY = "65534"
HOUR = 3600 * 10**9

# Each of these would lead a client away from the demo's own server, or keep it from starting.
MISLEADING = {
    "AWS_PROFILE": "nobody-has-this",
    "AWS_ACCESS_KEY_ID": "AKIAWRONG",
    "AWS_SECRET_ACCESS_KEY": "wrong",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "AWS_CA_BUNDLE": "/nonexistent",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "http_proxy": "http://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "ALL_PROXY": "http://127.0.0.1:1",
    "MOTO_S3_CUSTOM_ENDPOINTS": "http://127.0.0.1:1",
    "SYSBACKUP_CONFIG_DIR": "/nonexistent",
    "CACHE_DIRECTORY": "/nonexistent",
}


@dataclass
class Desk:
    """Where a demo is run: its temporary directory, and a mark by which its processes are known."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "100",  # room enough for the longest path of a test in one line
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "DEMO_MARK": str(self.home),
        }

    @property
    def temporary(self) -> Path:
        return self.home / "tmp"

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "sysbackup", "demo", *map(str, arguments)]

    def run(
        self, *arguments: str | Path, prefix: Sequence[str] = (), **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, *self.command(*arguments)],
            cwd=self.home,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=120,
        )

    def left(self) -> list[str]:
        """Files in the temporary directory, and processes, that a demo left behind."""
        mark = f"DEMO_MARK={self.home}".encode()
        found = os.listdir(self.temporary)
        for number in filter(str.isdigit, os.listdir("/proc")):
            try:
                environ = Path("/proc", number, "environ").read_bytes()
            except OSError:
                continue
            if mark in environ.split(b"\0"):
                found.append(f"process {number}")
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """A small tree."""
    made = tmp_path / "subject"
    (made / "inner").mkdir(parents=True)
    (made / "inner" / "file").write_text("contents\n")
    (made / "empty").touch()
    (made / "link").symlink_to("inner/file")
    os.link(made / "inner" / "file", made / "hard")
    return made


def words(text: str) -> str:
    """A text without its line breaks, which depend on a terminal's width."""
    return " ".join(text.split())


def test_without_arguments_it_shows_a_backup_that_withstands_an_attack(desk: Desk) -> None:
    """Of /etc, whatever the environment says of AWS and proxies: backed up, attacked, restored, compared."""
    (desk.home / ".aws").mkdir()
    (desk.home / ".aws" / "config").write_text("[[[ broken\n")
    ended = desk.run(**MISLEADING)
    assert (ended.returncode, ended.stderr) == (0, "")
    told = words(ended.stdout)
    assert "Delete it: refused 403 AccessDenied: Access Denied" in told
    assert "Delete it, bypassing governance locks: refused 403 AccessDenied" in told
    assert "Access Denied because object protected by object lock" in told
    assert "a delete marker hides the manifest" in told
    assert "byte by byte: the same" in told
    assert "it wrote has the SHA-256 that the manifest names" in told
    assert "All as promised" in told
    assert "\x1b" not in ended.stdout
    assert not desk.left()


def test_the_configuration_shown_is_for_the_path_that_was_named(desk: Desk, subject: Path) -> None:
    """A relative path and one through a link are taken for what they lead to."""
    (desk.home / "way").symlink_to(subject)
    ended = desk.run("way")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"find {subject} -xdev" in words(ended.stdout)
    assert not desk.left()


def test_a_file_alone_will_do(desk: Desk, subject: Path) -> None:
    """PATH may be a file."""
    ended = desk.run(subject / "inner" / "file")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "holds 1 entry, 9 B" in words(ended.stdout)
    assert "All as promised" in words(ended.stdout)


def test_names_cannot_command_the_terminal(desk: Desk) -> None:
    """Escape sequences and newlines in names, PATH's among them, reach the terminal as text."""
    title = b"\x1b]0;owned\x07"
    odd = os.fsencode(desk.home) + b"/it's [red]odd\n" + title + b"\xff"
    os.mkdir(odd)
    for name in (b" ", b"-rf", b"a\nb", b"\xff\xfe", title, b"[bold]x", b"$(reboot)", b"*"):
        with open(odd + b"/" + name, "wb") as file:
            file.write(name)
    os.symlink(title, odd + b"/link" + title)
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [*desk.command(), odd],
        cwd="/",
        env=desk.environ | {"TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65_536):
            shown += chunk
    except OSError:  # EIO: the other side is closed (pty(7))
        pass
    finally:
        os.close(ours)
        status = running.wait(60)
    assert status == 0, shown.decode("utf-8", "replace")
    assert b"\x1b[" in shown
    assert b"\x1b]" not in shown
    assert b"\x07" not in shown
    assert rb"[red]odd\n\x1b]0;owned\x07\xff" in shown
    assert not desk.left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_in_the_middle_it_leaves_nothing(desk: Desk, subject: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end it during a backup; files and processes are gone."""
    with (subject / "inner" / "file").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the backup waits for this file
        running = subprocess.Popen(
            desk.command(subject), cwd="/", env=desk.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("3. The backup"):
                break
        time.sleep(0.3)
        assert len(os.listdir(desk.temporary)) == 1
        running.send_signal(number)
        _, errors = running.communicate(timeout=30)
    # a closed terminal ends it in the manner of SIGTERM
    stood_for = signal.SIGTERM if number == signal.SIGHUP else number
    assert running.returncode == 128 + stood_for
    assert errors == f"sysbackup: stopped by {stood_for.name}\n"
    assert not desk.left()


def test_kept_are_the_configuration_and_what_came_back(desk: Desk, subject: Path) -> None:
    """--keep leaves both in a directory closed to others, and takes no directory that is in use."""
    kept = desk.home / "kept" / "here"
    ended = desk.run("--keep", kept, subject)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"Kept in {kept}" in words(ended.stdout)
    assert sorted(os.listdir(kept)) == ["config", "machine.txt", "restored"]
    assert kept.stat().st_mode & 0o077 == 0
    assert (kept / "restored" / subject.relative_to("/") / "inner" / "file").read_text() == "contents\n"
    assert f"find {subject}" in (kept / "config" / "pickers.d" / "files").read_text()
    again = desk.run("--keep", kept, subject)
    assert again.returncode == 2
    assert "is not empty" in again.stderr
    assert not desk.left()


def test_a_tree_that_holds_the_demo_itself_is_no_trap(desk: Desk, subject: Path) -> None:
    """Where the temporary directory lies in PATH, the demo's own files are left out."""
    ended = desk.run(desk.home)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "-prune -o -print0" in words(ended.stdout)
    assert "All as promised" in words(ended.stdout)
    assert not desk.left()


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "cannot be backed up: No such file or directory"),
        (os.mkfifo, "is neither a file nor a directory"),
        (lambda path: path.symlink_to("/proc/self/status"), "holds what the kernel makes up"),
        (_sparse, "holds more than 1.0 GiB"),
    ],
)
def test_a_path_that_cannot_be_shown_is_refused(desk: Desk, make: Callable[[Path], None], told: str) -> None:
    """What is missing, no file, made up by the kernel or very large is named in one sentence; nothing is done."""
    path = desk.home / "path"
    make(path)
    ended = desk.run(path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not desk.left()


def test_without_its_server_it_says_how_to_install_it(desk: Desk, subject: Path) -> None:
    """Where the extra `demo` is not installed, the command that installs it is the answer."""
    script = f"import sys; sys.modules['moto'] = None; sys.argv = ['sysbackup', 'demo', {str(subject)!r}]"
    ended = subprocess.run(
        [sys.executable, "-c", f"{script}; from sysbackup.cli.main import main; sys.exit(main())"],
        env=desk.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ended.returncode == 2
    assert "-m pip install 'sysbackup[demo]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not desk.left()


def test_without_find_it_says_what_is_missing(desk: Desk, subject: Path) -> None:
    """A machine without find(1) cannot run the sample picker: said at once, before anything is made."""
    ended = desk.run(subject, PATH="/nonexistent")
    assert ended.returncode == 1
    assert "install findutils" in ended.stderr
    assert not desk.left()


def test_others_on_the_machine_cannot_read_what_the_demo_stores(subject: Path) -> None:
    """The server takes requests that carry its own key, and no other."""
    with embedded_s3() as endpoint:
        place = urlsplit(endpoint.url)
        for headers in ({}, {"Authorization": "AWS4-HMAC-SHA256 Credential=DEMO/20261123/us-east-1/s3/aws4_request"}):
            connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
            try:
                connection.request("GET", "/", headers=headers)
                answer = connection.getresponse()
                body = answer.read()
            finally:
                connection.close()
            assert answer.status == 403
            assert b"<" not in body
        assert endpoint.access_key not in repr(endpoint)


@pytest.fixture
def public() -> Iterator[Desk]:
    """A desk that every user can reach."""
    made = Path(tempfile.mkdtemp(prefix="sysbackup-test-", dir="/tmp"))
    made.chmod(0o755)
    yield Desk(made)
    shutil.rmtree(made)


def _unprivileged() -> list[str]:
    """What to put before a command to run it without root's rights."""
    if os.geteuid():
        return []
    ways = [
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"],
        # Where that user cannot reach this interpreter: ourselves, without any capability.
        ["unshare", "--user", "--map-user=1000", "--map-group=1000"],
    ]
    probe = [sys.executable, "-c", "import os, sysbackup.demo.story, moto.server; assert os.geteuid()"]
    for way in ways:
        tried = subprocess.run([*way, *probe], cwd=ROOT, capture_output=True, check=False, timeout=60)
        if tried.returncode == 0:
            return way
    raise AssertionError(f"no way found to give up root's rights: {tried.stderr.decode()}")


def test_an_ordinary_user_sees_it_all_but_what_is_closed_to_them(public: Desk) -> None:
    """Without root: what may not be read is left out, counted, and no problem of the backup."""
    made = public.home / "subject"
    (made / "read-only").mkdir(parents=True)
    (made / "read-only" / "file").write_text("for all\n")
    (made / "read-only").chmod(0o555)
    (made / "secret").write_text("for nobody\n")
    (made / "secret").chmod(0)
    (made / "to-secret").symlink_to("nowhere")
    ended = public.run(made, prefix=_unprivileged())
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    told = words(ended.stdout)
    assert "1 entry not readable for this user: left out" in told
    assert "could not be backed up" not in told
    assert "byte by byte: the same" in told
    assert not public.left()


@pytest.fixture
def copy(subject: Path, tmp_path: Path) -> Path:
    """A restored tree that is as it should be; the path of the subject in it."""
    copied = tmp_path / "restored" / subject.relative_to("/")
    copied.parent.mkdir(parents=True)
    shutil.copytree(subject, copied, symlinks=True)
    (copied / "hard").unlink()
    os.link(copied / "inner" / "file", copied / "hard")
    for above in [subject.parent, *subject.parents][::-1]:
        shutil.copystat(above, tmp_path / "restored" / above.relative_to("/"))
    for path in [subject, *subject.rglob("*")]:
        shutil.copystat(path, copied / path.relative_to(subject), follow_symlinks=False)
    return copied


def differences(subject: Path, tmp_path: Path) -> list[str]:
    comparison = Comparison(os.fsencode(tmp_path / "restored"), time.time_ns() + HOUR, ())
    for _ in comparison.steps(os.fsencode(subject), b""):
        pass
    assert comparison.differing == len(comparison.differences)
    # directories above the subject change while the test makes its own
    return [d.replace(f"{subject}/", "") for d in comparison.differences if d.startswith(f"{subject}/")]


def test_equal_trees_have_no_difference(subject: Path, copy: Path, tmp_path: Path) -> None:
    """A faithful copy passes."""
    assert differences(subject, tmp_path) == []


def _unlink(copy: Path) -> None:
    (copy / "hard").unlink()
    shutil.copy2(copy / "inner" / "file", copy / "hard")


def _other_kind(copy: Path) -> None:
    (copy / "empty").unlink()
    (copy / "empty").mkdir()


def _other_target(copy: Path) -> None:
    status = (copy / "link").lstat()
    (copy / "link").unlink()
    (copy / "link").symlink_to("inner/elif")
    os.utime(copy / "link", ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)


def _other_byte(copy: Path) -> None:
    status = (copy / "inner" / "file").stat()
    (copy / "inner" / "file").write_text("contents.")
    os.utime(copy / "inner" / "file", ns=(status.st_mtime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda copy: (copy / "empty").unlink(), ["empty is missing"]),
        (lambda copy: (copy / "empty").chmod(0o600), ["empty had mode 0644, has 0600"]),
        (lambda copy: os.utime(copy / "empty", ns=(1, 1)), ["empty has another modification time"]),
        (_other_byte, ["hard has other contents", "inner/file has other contents"]),
        (_other_kind, ["empty has become something of another kind"]),
        (_other_target, ["link leads elsewhere"]),
    ],
)
def test_every_difference_is_found(
    subject: Path, copy: Path, tmp_path: Path, spoil: Callable[[Path], None], told: list[str]
) -> None:
    """The demo's own comparison notices whatever is not as it was."""
    spoil(copy)
    assert sorted(differences(subject, tmp_path)) == told


def test_a_hard_link_that_became_two_files_is_found(subject: Path, copy: Path, tmp_path: Path) -> None:
    """Names of one file must be names of one file."""
    _unlink(copy)
    found = differences(subject, tmp_path)
    assert len(found) == 1
    assert found[0].endswith("is linked to other files than before")
